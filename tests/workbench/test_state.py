"""A run that was changed outside of the chain says so wherever it is shown, with the command that makes it right."""

import json
import os
from pathlib import Path

import nbformat
import pytest

from geocbm import cli
from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import paths, read_json, run_command, write_json
from geocbm.workbench import overview, site, state
from geocbm.workbench import rerun_command as again
from geocbm.workbench.chain import Request, run_chain
from geocbm.workbench.parameters import read_cells

pytestmark = pytest.mark.usefixtures("in_process")


def run(**more: object) -> int:
    return run_chain(Request(no_render=True, **more))  # type: ignore[arg-type]


def by_hand(project: Path, name: str, **parameters: object) -> None:
    """What "Run all" in JupyterLab does, with an edited cell of parameters."""
    variables: dict[str, object] = {}
    for cell in read_cells(project / "notebooks" / f"{name}.py"):
        if cell.kind == "code":
            exec(cell.source, variables)
        if "parameters" in cell.tags:
            variables.update(parameters)


def states(run: str) -> dict[str, str]:
    return {number: each.state for number, each in state.run_states(paths.run_folder(run)).items()}


def test_another_name_of_the_run_in_a_notebook_leaves_a_mark_and_a_way_back(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only `run = "demo"` was changed: the notebook has the numbers of `smoke`."""
    run(profile="demo")
    folder = paths.run_folder("demo")
    before = json.loads((folder / "total.json").read_text())
    assert states("demo") == {"01": "done", "02": "done"} and state.remark(folder) == ""
    capsys.readouterr()
    by_hand(project, "01_numbers", run="demo")
    told = capsys.readouterr().out
    assert "Run 'demo' was made with other parameters; this notebook has count=3 instead of 4" in told
    assert "As it was: geocbm run --profile demo --run demo --from 01 ." in told
    assert "geocbm run --profile demo --run demo --set 01.count=3 --from 01" in told
    assert states("demo") == {"01": "changed by hand", "02": "stale"}
    assert overview.status("demo")["state"].tolist() == ["changed by hand", "stale"]
    assert cli.main(["list"]) == 0
    told = capsys.readouterr().out
    assert "  0 of 2 done, 1 changed by hand, 1 stale  " in told
    assert "01 changed by hand (its notebook was run with count=3 instead of 4)" in told
    assert "make it right with: geocbm run --profile demo --run demo --from 01" in told
    run(profile="demo", start="01")
    assert states("demo") == {"01": "done", "02": "done"} and state.remark(folder) == ""
    assert json.loads((folder / "total.json").read_text()) == before
    assert not list((folder / "by_hand").iterdir())


def test_the_site_marks_a_run_that_was_changed(project: Path) -> None:
    run(profile="demo")
    report = paths.report_folder("demo")
    pages = [(report / f"{name}.ipynb", nbformat.v4.new_notebook()) for name in ("01_numbers", "02_total")]

    def page() -> str:
        return site.run_index("demo", pages, {}, report)

    assert "Beware:" not in page() and 'class="card fresh"' in page()
    (report / "index.html").write_text(page())
    assert "changed or stale" not in site.site_index(paths.reports_root())
    by_hand(project, "01_numbers", run="demo")
    assert "Beware:" in page() and "geocbm run --profile demo --run demo --from 01" in page()
    assert 'class="card changed by hand"' in page() and 'class="card stale"' in page()
    assert "changed or stale" in site.site_index(paths.reports_root())


def test_the_same_parameters_by_hand_change_nothing(project: Path) -> None:
    run(profile="demo")
    by_hand(project, "01_numbers", run="demo", count=4)
    assert states("demo") == {"01": "done", "02": "done"}


def test_a_file_that_was_edited_is_no_longer_what_was_made(project: Path) -> None:
    run(profile="demo")
    (paths.run_folder("demo") / "numbers.json").write_text("[1]")
    found = state.run_states(paths.run_folder("demo"))
    assert (found["01"].state, found["01"].reason) == ("changed by hand", "numbers.json changed since")
    assert (found["02"].state, found["02"].reason) == ("stale", "made from another numbers.json")
    assert again.remedy(paths.run_folder("demo"), "02") == "geocbm run --profile demo --run demo --from 01"


def test_a_run_made_by_hand_alone_is_followed_too(project: Path) -> None:
    by_hand(project, "01_numbers", run="mine", count=5)
    by_hand(project, "02_total", run="mine", factor=3.0)
    folder = paths.run_folder("mine")
    assert states("mine") == {"01": "done", "02": "done"}
    by_hand(project, "01_numbers", run="mine", count=6)
    assert states("mine") == {"01": "done", "02": "stale"}
    command = "geocbm run --profile smoke --run mine --set 01.count=6 --set 02.factor=3.0 --from 02"
    assert state.remark(folder).endswith(command)


def test_a_stage_that_failed_is_asked_for_again_as_it_was_asked_for(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(profile="demo")
    (paths.run_folder("demo") / "numbers.json").unlink()
    with pytest.raises(MissingInputError, match=r"--from 01$"):
        run(profile="demo", only=("02",), settings=("factor=7",))
    run(profile="demo")
    assert run(profile="demo", settings=("count=9", "fail=bug")) == 1
    folder = paths.run_folder("demo")
    assert states("demo")["01"] == "stale"
    command = again.remedy(folder, "02")
    assert "--set 01.count=9" in command and command.endswith("--from 01")


WITH_OPTIONS = """
[[stage]]
notebook = "01_numbers"
reads = []
writes = ["numbers.json", "more_*"]

[[stage]]
notebook = "02_total"
reads = ["numbers.json", "more_*"]
writes = ["total.json"]
"""


@pytest.fixture
def optional(project: Path) -> Path:
    """The first notebook writes one further file for each number beyond three."""
    (project / "notebooks" / "chain.toml").write_text(WITH_OPTIONS)
    script = project / "notebooks" / "01_numbers.py"
    extra = "for number in range(3, count):\n    nb.path(f'more_{number}.txt').write_text(str(number))\nnb.finish()"
    script.write_text(script.read_text().replace("nb.finish()", extra))
    return project


def test_what_only_some_parameters_write_is_watched(optional: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = paths.run_folder("smoke")
    run(profile="smoke", settings=("count=5",))
    assert sorted(file.name for file in folder.glob("more_*")) == ["more_3.txt", "more_4.txt"]
    capsys.readouterr()
    (folder / "more_3.txt").unlink()
    run(profile="smoke", settings=("count=5",))
    assert "output more_3.txt is missing" in capsys.readouterr().out
    # One more, which this execution has not written: it would be read by what follows.
    (folder / "more_9.txt").write_text("9")
    assert states("smoke") == {"01": "changed by hand", "02": "stale"}
    run(profile="smoke", settings=("count=5",))
    assert "output more_9.txt was changed since" in capsys.readouterr().out
    (folder / "more_9.txt").unlink()
    run(profile="smoke", settings=("count=4",))
    capsys.readouterr()
    run(profile="smoke", settings=("count=4",))
    assert "running" not in capsys.readouterr().out


def test_another_run_gives_what_was_made_from_the_same(optional: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(profile="smoke", run="first", settings=("count=5",))
    capsys.readouterr()
    wanted = {"profile": "smoke", "run": "second", "settings": ("count=5", "factor=2"), "reuse": ("first",)}
    run(**wanted, dry_run=True)
    assert "[01] numbers                would be taken over from run first" in capsys.readouterr().out
    assert run(**wanted) == 0
    told = capsys.readouterr().out
    assert "[01] numbers                taken over from run first (the same key)" in told and told.count("running") == 1
    folder = paths.run_folder("second")
    assert json.loads((folder / "total.json").read_text()) == 2 * (0 + 1 + 2 + 3 + 4)
    assert (folder / "more_4.txt").read_text() == "4"
    assert read_json(paths.report_folder("second") / "manifest.json")["stages"]["01"]["status"] == "taken over"
    # Nothing is taken over that has other parameters, or was changed since.
    (paths.run_folder("first") / "more_4.txt").write_text("other")
    for settings in (("count=6",), ("count=5", "seconds=0.0")):
        capsys.readouterr()
        run(profile="smoke", run="third", settings=settings, reuse=("first",))
        assert "[01] numbers                running" in capsys.readouterr().out


def test_what_a_stage_warns_of_is_taken_over_with_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = project / "notebooks" / "01_numbers.py"
    script.write_text(script.read_text().replace("nb.finish()", "nb.remark('few numbers')\nnb.finish()"))
    run(profile="smoke", run="first")
    assert "beware: few numbers" in capsys.readouterr().out
    run(profile="smoke", run="second", reuse=("first",))
    told = capsys.readouterr().out
    assert "running" not in told and "beware: few numbers" in told


def test_a_run_that_was_taken_over_as_a_whole_knows_its_own_command(project: Path) -> None:
    run(profile="smoke", run="one", settings=("count=5",))
    run(profile="smoke", run="two", settings=("count=5",), reuse=("one",))
    folder = paths.run_folder("two")
    assert read_json(paths.report_folder("two") / "manifest.json")["stages"]["02"]["status"] == "taken over"
    assert run_command(folder, "01") == "geocbm run --profile smoke --run two --set 01.count=5 --from 01"


def test_a_run_to_reuse_must_be_there_and_another_one(project: Path) -> None:
    run(profile="smoke", run="first")
    with pytest.raises(ParameterError, match=r"--reuse frist: there is no such run; did you mean 'first'\?"):
        run(profile="smoke", run="second", reuse=("frist",))
    with pytest.raises(ParameterError, match="--reuse first is the run itself"):
        run(profile="smoke", run="first", reuse=("first",))
    assert not paths.run_folder("second").exists()


def test_a_run_of_an_older_chain_file_is_as_it_was_made(project: Path) -> None:
    """A stage that writes less and reads more than when the run was made has not been changed by anybody."""
    run(profile="demo")
    folder = paths.run_folder("demo")
    (folder / "extra.json").write_text("{}")
    os.utime(folder / "extra.json", (1, 1))
    stamp = read_json(folder / "stamps" / "01.json")
    stamp["outputs"]["gone.json"] = "digest"
    write_json(folder / "stamps" / "01.json", stamp)
    chain_file = project / "notebooks" / "chain.toml"
    chain_file.write_text(chain_file.read_text().replace('reads = ["numbers.json"]', 'reads = ["numbers.json", "ex*"]'))
    assert states("demo") == {"01": "done", "02": "done"}
    (folder / "extra.json").write_text("[]")
    assert states("demo") == {"01": "done", "02": "stale"}
