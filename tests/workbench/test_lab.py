"""A notebook opened without a run looks at the newest finished one, through a copy that may be changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import atomic_path, paths, write_json
from geocbm.run import open_run
from geocbm.workbench import lab
from geocbm.workbench.parameters import Parameter

CELL = "run: str = ''  # name\nepochs: int = 15  # passes\nlr: float = 0.1  # rate\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GEOCBM_REPORTS", str(tmp_path / "reports"))
    monkeypatch.delenv("GEOCBM_RUN", raising=False)
    return tmp_path


def finished(project: Path, run: str, when: int) -> Path:
    """A run with predictions and a page, made at a time; notebook 04 had epochs 20 where its cell said 15."""
    folder = project / "data" / "runs" / run
    (folder / "stamps").mkdir(parents=True)
    (folder / "predictions.parquet").write_text(run)
    os.utime(folder / "predictions.parquet", (when, when))
    stamp = {"key": {"parameters": {"run": run, "epochs": 20, "lr": 0.1}}, "outputs": {}}
    (folder / "stamps" / "04.json").write_text(json.dumps(stamp))
    page = project / "reports" / run
    page.mkdir(parents=True)
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": CELL.splitlines(keepends=True)}
    (page / "04_stage1_concepts.ipynb").write_text(json.dumps({"cells": [cell]}))
    return folder


def test_the_newest_finished_run_is_taken_and_a_choice_is_kept(project: Path) -> None:
    with pytest.raises(MissingInputError, match="geocbm run"):
        lab.chosen_run()
    finished(project, "old", 1_000)
    finished(project, "new", 2_000)
    (project / "data" / "runs" / "begun").mkdir()
    lab.open_copy("new")
    assert paths.finished_runs() == ["new", "old"] and lab.chosen_run() == "new"
    assert open_run().name == "new"
    (project / "data" / "runs" / ".lab.json").write_text(json.dumps({"run": "old"}))
    assert lab.chosen_run() == "old"
    (project / "data" / "runs" / ".lab.json").write_text(json.dumps({"run": "gone"}))
    assert lab.chosen_run() == "new"


def test_a_folder_that_no_run_can_be_called_after_is_passed_over(project: Path) -> None:
    """A file manager calls what it copies `demo (copy)`, and JupyterLab leaves `.ipynb_checkpoints`."""
    finished(project, "demo", 1_000)
    for name in ("demo (copy)", ".ipynb_checkpoints", "-x", "x" * 81):
        finished(project, name, 2_000)
    assert paths.finished_runs() == ["demo"] and lab.chosen_run() == "demo" and open_run().name == "demo"
    with pytest.raises(ParameterError, match=r"there is no run 'another'; runs: demo$"):
        open_run("another")


def test_a_copy_shares_its_files_until_one_is_written(project: Path) -> None:
    source = finished(project, "demo", 1_000)
    assert lab.open_copy("demo") == "demo-lab"
    copy = source.with_name("demo-lab")
    assert (copy / "predictions.parquet").samefile(source / "predictions.parquet")
    with atomic_path(copy / "predictions.parquet") as file:
        file.write_text("mine")
    assert (source / "predictions.parquet").read_text() == "demo"
    assert lab.open_copy("demo") == "demo-lab" and (copy / "predictions.parquet").read_text() == "mine"


def test_a_copy_follows_its_run_unless_it_was_changed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = finished(project, "demo", 1_000)
    copy = source.with_name("demo-lab")
    lab.open_copy("demo")
    with atomic_path(source / "predictions.parquet") as file:
        file.write_text("made anew")
    lab.open_copy("demo")
    assert (copy / "predictions.parquet").read_text() == "made anew"
    (copy / "mine.txt").write_text("kept")
    with atomic_path(source / "predictions.parquet") as file:
        file.write_text("a third time")
    lab.open_copy("demo")
    assert (copy / "mine.txt").exists() and "lab.reset('demo')" in capsys.readouterr().out
    lab.reset("demo")
    assert not (copy / "mine.txt").exists() and (copy / "predictions.parquet").read_text() == "a third time"


def test_a_run_of_ones_own_is_never_taken_for_a_copy(project: Path) -> None:
    finished(project, "demo", 1_000)
    own = finished(project, "demo-lab", 500)
    with pytest.raises(ParameterError, match="demo-lab"):
        lab.open_copy("demo")
    assert (own / "predictions.parquet").read_text() == "demo-lab"


def test_what_was_changed_is_published_as_a_run_of_its_own(project: Path) -> None:
    source = finished(project, "demo", 1_000)
    write_json(source / "command.json", {"command": "geocbm run --profile demo --run demo"})
    lab.open_copy("demo")
    assert open_run("demo-lab").remedy("table.parquet") == "geocbm run --profile demo --run demo-lab --from 01"
    with pytest.raises(ParameterError, match="demo"):
        lab.publish("demo", "mine")
    with pytest.raises(ParameterError, match="demo"):
        lab.publish("demo-lab", "demo")
    assert lab.publish("demo-lab", "mine") == source.with_name("mine")
    assert open_run("mine").remedy("table.parquet") == "geocbm run --profile demo --run mine --from 01"
    assert set(paths.finished_runs()) == {"demo", "mine"} and not source.with_name("demo-lab").exists()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({"epochs": 15, "lr": 0.1}, {"epochs": 20, "lr": 0.1}),  # the cell as it was: what the run was made with
        ({"epochs": 3, "lr": 0.1}, {"epochs": 3, "lr": 0.1}),  # changed in the cell, or by papermill
        ({"epochs": 15, "lr": 0.5}, {"epochs": 20, "lr": 0.5}),
    ],
)
def test_parameters_are_the_runs_unless_the_cell_was_changed(project: Path, given: dict, used: dict) -> None:
    finished(project, "demo", 1_000)
    cell = {"run": "", "epochs": 15, "lr": 0.1}
    declared = {name: Parameter(name, "", default, "") for name, default in cell.items()}
    values = lab.parameters_to_use("04_stage1_concepts", "demo", {"run": ""} | given, declared)
    assert {name: values[name] for name in used} == used
    page = project / "reports" / "demo" / "04_stage1_concepts.ipynb"
    cut = page.read_text()[:-9]
    for damaged in (cut, "3", '{"cells": 3}', '{"cells": [3]}', page.read_text().replace("15", "15 +"), None):
        page.unlink() if damaged is None else page.write_text(damaged)  # pages may be thrown away
        values = lab.parameters_to_use("04_stage1_concepts", "demo", {"run": ""} | given, declared)
        assert {name: values[name] for name in used} == used, damaged


def test_a_notebook_started_without_a_run_says_whose_copy_it_works_on(project: Path) -> None:
    finished(project, "demo", 1_000)
    code = """
from geocbm.workbench import notebook
run, epochs, batch_size, lr, bottleneck = "", 15, 256, 3e-4, "mlp"
nb = notebook.start("04_stage1_concepts", globals())
print("RUN", nb.run, nb.parameters["epochs"], epochs)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "RUN demo-lab 20 20" in done.stdout and "'demo'" in done.stdout
    environment = os.environ | {"GEOCBM_RUN": "smoke"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "RUN smoke 15 15" in done.stdout
