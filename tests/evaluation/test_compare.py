"""What is read of runs, their parameters and their metrics, made of small files that are known."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from run_files import METAS, N, write_manifest, write_run

from geocbm.errors import MissingInputError, ParameterError
from geocbm.evaluation.compare_runs.differences import differences
from geocbm.evaluation.compare_runs.load_runs import (
    all_metrics,
    headlines,
    learning_curves,
    overview,
    problems,
    read_runs,
    runs_to_compare,
)
from geocbm.evaluation.compare_runs.parameters import different_parameters, made_otherwise
from geocbm.files import write_json


def read(root, *names):
    return read_runs(root / "reports", root / "runs", names)


@pytest.fixture
def root(tmp_path):
    write_run(tmp_path, "first")
    write_run(tmp_path, "second", settings={"03.epochs": 4})
    return tmp_path


def test_the_asking_run_comes_first(root):
    def chosen(names, run):
        return runs_to_compare(root / "reports", root / "runs", names, run)

    assert chosen([], "second") == ["second", "first"]
    shutil.copytree(root / "runs" / "first", root / "runs" / "first (copy)")  # its name cannot be a run's
    shutil.copytree(root / "runs" / "first", root / "runs" / "first-lab")  # made to look at the run, unasked
    write_json(root / "runs" / "first-lab" / "lab.json", {"from": "first"})
    assert chosen([], "new") == ["new", "first", "second"]
    assert chosen(["first-lab"], "new") == ["new", "first-lab"]  # but it can be named
    assert chosen(["first", "first", "new"], "new") == ["new", "first"]
    assert runs_to_compare(root / "a", root / "b", [], "new") == ["new"]
    (root / "reports" / "second" / "metrics.json").unlink()
    assert chosen([], "first") == ["first", "second"]  # it still has predictions
    with pytest.raises(ParameterError, match=r"'third' has no metrics; runs with metrics: first, first-lab, second"):
        chosen(["first", "third"], "second")


def test_a_whole_run_is_read_without_a_problem(root):
    (run,) = read(root, "first")
    assert (run.profile, sorted(run.stages), run.metas, run.problems) == (
        "smoke",
        ["01", "02", "03", "04", "05"],
        METAS,
        (),
    )
    images = run.answers
    assert len(images) == N  # of the main mode alone
    np.testing.assert_allclose(images["km"], 6371 * np.pi / 180, rtol=1e-6)
    assert images["meta_right"].all()
    assert images["cell_right"].sum() == 4 * N / 20  # numbers modulo 4 and 5 agree for 4 of 20
    table = overview([run, *read(root, "new")])
    assert table.to_numpy().tolist() == [["first", "smoke", "01 02 03 04 05", 52, N, 2], ["new", "", "", 0, 0, 0]]


def test_a_missing_answer_is_as_wrong_as_an_answer_can_be(tmp_path):
    error = np.full(N, 1.0)
    error[:3] = np.nan
    write_run(tmp_path, "gaps", error)
    images = read(tmp_path, "gaps")[0].answers
    assert images["km"].iloc[:3].tolist() == pytest.approx([np.pi * 6371.0] * 3)
    assert images["geoscore"].iloc[:3].tolist() == [0, 0, 0]
    assert images["country_right"].iloc[:3].tolist() == [0, 0, 0]


def test_a_run_that_left_nothing_says_so(tmp_path):
    (run,) = read(tmp_path, "new")
    assert problems([run]) == [
        "new: no manifest.json: its parameters are not known",
        "new: no metrics.json: it has no metrics",
        "new: no predictions.parquet: Stage 2 has not run to its end",
        "new: no history of training: it has no learning curve",
    ]
    with pytest.raises(MissingInputError, match="run 'new' has no predictions; make them with: geocbm run --run new"):
        _ = run.answers


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("reports/first/manifest.json", b"{", "manifest.json cannot be read"),
        ("reports/first/manifest.json", b"[1]", "manifest.json cannot be read"),
        ("reports/first/metrics.json", b"\xff\xfe", "metrics.json cannot be read"),
        ("runs/first/predictions.parquet", b"PAR1", "predictions.parquet cannot be read"),
        ("runs/first/concepts.json", b'{"meta_to_parent": 3}', "concepts.json cannot be read"),
        ("runs/first/concept_scores.npz", b"PK\x03\x04", "concept_scores.npz cannot be read"),
        ("runs/first/history_stage1.parquet", b"", "history_stage1.parquet cannot be read"),
    ],
)
def test_a_damaged_file_costs_a_sentence_and_nothing_else(root, file, content, said):
    (root / file).write_bytes(content)
    runs = read(root, "first", "second")
    (problem,) = problems(runs)
    assert problem.startswith(f"first: {said}") and "is damaged (" in problem
    assert "make it again with: geocbm run" in problem
    assert problem.endswith("and is left out")
    differences(runs, n=50)
    assert set(learning_curves(runs)["run"]) == {"first", "second"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop(columns="true_cell"), "its column true_cell is missing"),
        (lambda table: table[~table["main"]], "it holds no test image"),
    ],
)
def test_predictions_of_another_form_cost_a_sentence(root, change, said):
    path = root / "runs" / "first" / "predictions.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    (problem,) = problems(read(root, "first"))
    assert problem.startswith("first: predictions.parquet cannot be read (") and problem.endswith(") and is left out")
    assert f"is damaged ({said}); make it again with: geocbm run --run first" in problem


def test_scores_of_another_vocabulary_are_not_taken_for_concepts(root):
    np.savez(root / "runs" / "first" / "concept_scores.npz", meta=np.zeros((N, 7)))
    (run,) = read(root, "first")
    assert "meta_right" not in run.answers
    assert "its shape is (60, 7), which does not fit the predictions" in run.problems[0]


def test_metrics_that_are_no_numbers_are_left_out(root):
    stored = {"a.b": 1.5, "c.d": {"value": 1, "low": 0, "high": 2}, "e.f": "many", "g.h": {"low": 1}, "i.j": True}
    write_json(root / "reports" / "first" / "metrics.json", stored)
    assert sorted(read(root, "first")[0].metrics) == ["a.b", "c.d"]


def test_only_parameters_that_change_an_answer_and_differ_are_listed(tmp_path):
    write_run(tmp_path, "one", settings={"04.examples": 3})
    write_run(tmp_path, "two", settings={"04.bottleneck": "patch", "05.new": 7, "05.name": ""})
    write_run(tmp_path, "three", settings={"05.name": "x" * 60})
    table = different_parameters(read(tmp_path, "one", "two", "three", "new"))
    assert list(table.columns) == ["parameter", "one", "two", "three", "new"]
    assert table.to_numpy().tolist() == [
        ["04.bottleneck", "mlp", "patch", "", "–"],
        ["05.name", "–", "(empty)", f"{'x' * 20} … {'x' * 20}", "–"],
    ]  # a parameter that one run alone has recorded cannot be compared
    assert different_parameters(read(tmp_path, "one")).empty
    assert different_parameters([]).empty


def test_a_file_of_the_same_name_and_other_content_is_a_difference(tmp_path):
    write_run(tmp_path, "one", content="a")
    write_run(tmp_path, "two", content="b")
    write_run(tmp_path, "three", content="c", settings={"01.csv": "other.csv"})
    one, two, three = read(tmp_path, "one", "two", "three")
    assert different_parameters([one, two]).to_numpy().tolist() == [["01.csv (content)", "a", "b"]]
    assert different_parameters([one, three]).to_numpy().tolist() == [["01.csv", "data/table.csv", "other.csv"]]


def test_other_code_and_stages_that_did_not_run_are_named(tmp_path):
    write_manifest(tmp_path, "one", sources={"geocbm.data": "1", "geocbm.plots": "1"}, device="cpu")
    write_manifest(tmp_path, "two", sources={"geocbm.data": "2", "geocbm.plots": "2"}, device="cuda")
    runs = read(tmp_path, "one", "two")
    del runs[1].stages["05"]
    assert made_otherwise(runs).to_numpy().tolist() == [["two", "05", "geocbm.data", "cuda instead of cpu"]]
    assert made_otherwise(runs[:1]).empty and made_otherwise([runs[0], runs[0]]).empty


def test_metrics_with_and_without_interval(root):
    write_json(root / "reports" / "second" / "metrics.json", {"stage2.cell_top1": 0.25})
    runs = read(root, "second", "first", "new")
    assert headlines(runs).to_numpy().tolist() == [
        ["second", "–", "25.0"],
        ["first", "123 [100, 150]", "–"],
        ["new", "–", "–"],
    ]
    assert all_metrics(runs).to_numpy().tolist() == [
        ["cells.n", "geocells", "–", "12", "–"],
        ["stage2.cell_top1", "cell right", "25.0 %", "–", "–"],
        ["stage2.median_km", "median error", "–", "123 km [100, 150]", "–"],
    ]
    assert list(all_metrics(read(root, "new")).columns) == ["key", "metric", "new"]
    assert list(headlines(read(root, "new")).columns) == ["run"]


def test_learning_curves_take_what_each_stage_has_measured(root):
    table = learning_curves(read(root, "first", "new"))
    assert table[table["stage"] == "Stage 2"].to_numpy().tolist() == [
        ["first", "Stage 2", "loss", 1, 2.5],
        ["first", "Stage 2", "loss", 2, 2.25],
        ["first", "Stage 2", "median error, km", 1, 900.0],
        ["first", "Stage 2", "median error, km", 2, 800.0],
    ]
    assert set(table.loc[table["stage"] == "Stage 1", "quantity"]) == {"loss"}  # the other one was not measured
    assert list(learning_curves([]).columns) == ["run", "stage", "quantity", "epoch", "value"]


def test_runs_are_compared_without_loading_torch(root):
    code = (
        "import sys, json, pathlib; from geocbm import plots; "
        "from geocbm.evaluation.compare_runs.differences import differences; "
        "from geocbm.evaluation.compare_runs.load_runs import read_runs; root = pathlib.Path(sys.argv[1]);"
        "runs = read_runs(root / 'reports', root / 'runs', ['first', 'second']);"
        "found = differences(runs, 50)['verdict'].tolist();"
        "print(json.dumps([found, 'torch' in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True).stdout
    found, torch = json.loads(out)
    assert found == ["the same on every image"] * 5
    assert not torch
