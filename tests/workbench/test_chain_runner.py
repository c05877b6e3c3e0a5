"""The chain over two small notebooks: what runs, what is skipped, and what is said of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from geocbm import cli
from geocbm.errors import MissingInputError, ParameterError, UserError
from geocbm.files import engine, owners, paths, read_json
from geocbm.workbench import chain, process, sync
from geocbm.workbench.chain import Request, run_chain

ROOT = Path(__file__).parents[2]
Run = Callable[..., int]


@pytest.fixture
def run(project: Path, in_process: None) -> Run:
    def call(*settings: str, profile: str = "smoke", **more: object) -> int:
        return run_chain(Request(profile=profile, settings=settings, no_render=True, **more))  # type: ignore[arg-type]

    return call


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The progress lines of a call, without the notebooks' own prints."""
    return [
        line for line in capsys.readouterr().out.splitlines() if "ran: " in line or "skipped" in line or "[0" in line
    ]


def reasons(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """For each stage why it ran, or "unchanged"."""
    found = []
    for line in capsys.readouterr().out.splitlines():
        if "(ran: " in line:
            found.append(line.split("(ran: ")[1].rstrip(")"))
        elif "skipped (unchanged)" in line:
            found.append("unchanged")
    return found


def test_a_second_run_skips_everything_and_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert reasons(capsys) == ["never ran to its end"] * 2
    assert run() == 0
    assert reasons(capsys) == ["unchanged", "unchanged"]


def test_the_engine_reaches_the_notebooks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = process.run_limited, []

    def spied(command: list[str], cwd: Path, environment: dict[str, str], *rest: Any) -> process.Outcome:
        seen.append(environment.get(engine.ENGINE))
        return whole(command, cwd, environment, *rest)

    monkeypatch.setattr(process, "run_limited", spied)
    monkeypatch.setenv(engine.ENGINE, "loky:3")
    assert run() == 0 and run(force=True, engine="loky:2") == 0
    assert seen == ["loky:3"] * 2 + ["loky:2"] * 2


def test_a_page_that_became_two_has_a_letter_behind_its_number(
    run: Run, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project / "notebooks"
    source = (folder / "02_total.py").read_text().replace('"02_total"', '"01b_total"')
    (folder / "01b_total.py").write_text(source)
    (folder / "02_total.py").unlink()
    (folder / "chain.toml").write_text((folder / "chain.toml").read_text().replace("02_total", "01b_total"))
    assert run("01b.factor=3") == 0
    assert json.loads((project / "data" / "runs" / "smoke" / "total.json").read_text()) == 9
    capsys.readouterr()
    assert run("01b.factor=2", only=("01b",)) == 0
    assert reasons(capsys) == ["parameter factor changed 3.0 -> 2.0"]
    assert run(grid=("01b.factor=2,4",)) == 0
    assert paths.run_folder("smoke-factor-4").joinpath("records", "01b.json").is_file()
    assert cli.main(["sync", "01b"]) == 0 and (folder / "01b_total.ipynb").is_file()
    assert [path.name for path in sync.sources()] == ["01_numbers.py", "01b_total.py"]


def test_what_a_notebook_remarks_is_said_on_the_terminal(
    run: Run, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = project / "notebooks" / "01_numbers.py"
    source.write_text(source.read_text().replace("nb.finish()", 'nb.remark("nothing was learned")\nnb.finish()'))
    run()
    assert "     beware: nothing was learned\n" in capsys.readouterr().out
    run()
    assert "beware" not in capsys.readouterr().out  # nothing ran


def test_a_changed_parameter_runs_its_stage_and_what_depends_on_it(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    capsys.readouterr()
    run("factor=2")
    assert reasons(capsys) == ["unchanged", "parameter factor changed 1.0 -> 2.0"]
    run("factor=2", "01.count=5")
    assert reasons(capsys) == ["parameter count changed 3 -> 5", "input numbers.json changed"]
    # The same numbers come out again: what depends on them need not run.
    run("factor=2", "01.count=5", "seconds=0.01")
    assert reasons(capsys) == ["parameter seconds changed 0.0 -> 0.01", "unchanged"]


def test_prose_and_comments_do_not_count_but_code_does(
    run: Run, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    script = project / "notebooks" / "01_numbers.py"
    text = script.read_text()
    script.write_text(
        text.replace("The first page", "Prose: it").replace("import json\n", "import json  # a comment\n")
    )
    capsys.readouterr()
    run()
    assert reasons(capsys) == ["unchanged", "unchanged"]
    script.write_text(text.replace("range(count)", "range(0, count)"))
    run()
    assert reasons(capsys) == ["code of the notebook changed", "unchanged"]


def test_outputs_must_still_be_what_was_written(run: Run, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    (project / "data/runs/smoke/numbers.json").write_text("[1]")
    capsys.readouterr()
    run()
    assert reasons(capsys) == ["output numbers.json was changed since", "unchanged"]
    (project / "reports/smoke/02_total.ipynb").unlink()
    run()
    assert reasons(capsys) == ["unchanged", "output 02_total.ipynb is missing"]


def test_force_only_and_from(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    capsys.readouterr()
    run(only=("02",), force=True)
    assert reasons(capsys) == ["forced"]
    run(start="02")
    assert reasons(capsys) == ["unchanged"]
    with pytest.raises(ParameterError, match="exclude one another"):
        run(only=("02",), start="01")
    with pytest.raises(ParameterError, match="there is no stage '09'; the stages are: 01 numbers, 02 total"):
        run(only=("09",))


def test_a_stage_without_its_inputs_names_the_command(run: Run) -> None:
    with pytest.raises(MissingInputError, match="make it with: geocbm run --profile smoke --run smoke --from 01"):
        run(only=("02",))


def test_a_failing_stage_stops_the_chain(run: Run, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    capsys.readouterr()
    assert run("fail=bug", "factor=2") == 1
    told = capsys.readouterr()
    assert "[02]" not in told.out and "geocbm: 01_numbers: ValueError: the bug of the test" in told.err
    report = project / "reports" / "smoke"
    assert (report / "01_numbers.failed.ipynb").is_file() and not list(report.glob(".*"))
    manifest = read_json(report / "manifest.json")["stages"]["01"]
    assert manifest["status"] == "failed" and "the bug of the test" in manifest["error"]
    assert run() == 0
    assert reasons(capsys) == ["never ran to its end", "unchanged"]
    assert not (report / "01_numbers.failed.ipynb").exists()


def test_a_users_error_is_one_sentence(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fail=input") == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("geocbm: 01_numbers: 'absent.json' of run 'smoke' is not there yet; make it with:")
    assert "MissingInputError" not in told[0] and len(told) == 2


def test_a_notebook_that_breaks_its_promise_has_failed(
    run: Run, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = project / "notebooks" / "01_numbers.py"
    script.write_text(script.read_text().replace("nb.finish()", "pass"))
    assert run() == 1
    assert "without writing records/01.json" in capsys.readouterr().err


def test_nothing_starts_when_a_name_or_value_is_wrong(run: Run, project: Path) -> None:
    for text, message in [
        ("cuont=3", "did you mean 'count'"),
        ("02.count=3", "02_total has no parameter 'count'"),
        ("count=many", "count='many' does not fit: it takes int"),
        ("run=x", "name the run with --run"),
        ("count", "write --set name=value"),
        ("07.count=1", "there is no stage '07'"),
    ]:
        with pytest.raises(ParameterError, match=message):
            run(text)
    with pytest.raises(ParameterError, match="there is no profile 'huge'; the profiles are: demo, smoke"):
        run(profile="huge")
    assert not (project / "data").exists() and not (project / "reports").exists()


def test_a_profile_has_its_own_folders_and_values(run: Run, project: Path) -> None:
    run(profile="demo")
    assert json.loads((project / "data/runs/demo/total.json").read_text()) == (0 + 1 + 2 + 3) * 2
    assert not (project / "data/runs/smoke").exists()


def test_a_grid_takes_over_what_is_the_same(run: Run, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    capsys.readouterr()
    assert run(grid=("02.factor=1,2",)) == 0
    told = capsys.readouterr().out
    assert told.count("taken over from run smoke") == 3 and told.count("running") == 1
    assert json.loads((project / "data/runs/smoke-factor-2/total.json").read_text()) == 6
    assert json.loads((project / "data/runs/smoke/total.json").read_text()) == 3
    run(grid=("02.factor=1,2",))
    assert "running" not in capsys.readouterr().out


def test_a_recipe_is_a_run_of_its_own_that_takes_over_what_is_the_same(
    run: Run, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "notebooks" / "recipes").mkdir()
    (project / "notebooks" / "recipes" / "triple.yaml").write_text("02:\n  factor: 3\n")
    run(profile="demo")
    capsys.readouterr()
    run(profile="demo", recipe="triple")
    told = capsys.readouterr().out
    assert "taken over from run demo" in told and told.count("running") == 1
    assert json.loads((project / "data/runs/demo-triple/total.json").read_text()) == (0 + 1 + 2 + 3) * 3
    run("02.factor=5", profile="demo", recipe="triple", run="mine")
    assert json.loads((project / "data/runs/mine/total.json").read_text()) == (0 + 1 + 2 + 3) * 5
    (project / "notebooks" / "params" / "demo.yaml").write_text("recipe: triple\n")
    run(profile="demo")
    assert json.loads((project / "data/runs/demo/total.json").read_text()) == (0 + 1 + 2) * 3
    with pytest.raises(ParameterError, match="there is no recipe 'double'; the recipes are: triple"):
        run(recipe="double")
    (project / "notebooks" / "recipes" / "wrong.yaml").write_text("02:\n  fctor: 3\n")
    with pytest.raises(
        ParameterError, match=r"recipe 'wrong': 02_total has no parameter 'fctor'; did you mean 'factor'"
    ):
        run(recipe="wrong")


def test_a_dry_run_says_why_and_does_nothing(run: Run, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(dry_run=True)
    told = lines(capsys)
    assert "never ran to its end" in told[0] and "(after 01)" in told[1]
    assert not (project / "data").exists()
    run()
    capsys.readouterr()
    run("count=4", dry_run=True)
    told = lines(capsys)
    assert "would run   (parameter count changed 3 -> 4)" in told[0] and "may run" in told[1] and "if 01" in told[1]


def test_provenance_holds_no_folder_of_this_machine(run: Run, project: Path) -> None:
    run()
    for file in (project / "reports/smoke").iterdir():
        assert str(project) not in file.read_text(), file.name
    stamp = read_json(project / "reports/smoke/02_total.ipynb")["metadata"]["geocbm"]
    assert stamp["parameters"] == {"run": "smoke", "factor": 1.0} and stamp["inputs"]["numbers.json"]
    assert stamp["libraries"]["numpy"] and stamp["sources"]["geocbm.workbench.notebook"]
    assert read_json(project / "reports/smoke/metrics.json") == {"numbers.count": 3, "total.value": 3.0}


def test_a_page_or_manifest_that_is_lost_is_made_again(
    in_process: None, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geocbm.workbench import report

    reports = project / "reports"
    pages = [reports / name for name in ("smoke/01_numbers.html", "smoke/index.html", "index.html", "_assets/site.css")]

    def render(_run: str) -> Path:
        for page in pages:
            page.parent.mkdir(exist_ok=True)
            page.write_text("whole")
        rendered.append(1)
        return pages[1]

    rendered: list[int] = []
    monkeypatch.setattr(report, "render_run", render)
    monkeypatch.setattr(report, "render_site", lambda: reports / "index.html")
    assert run_chain(Request(profile="smoke")) == 0 and len(rendered) == 1
    manifest = read_json(reports / "smoke/manifest.json")
    for number, page in enumerate(pages, 2):
        page.unlink()
        assert run_chain(Request(profile="smoke")) == 0 and len(rendered) == number and page.exists()
    (reports / "smoke/manifest.json").unlink()
    assert run_chain(Request(profile="smoke")) == 0 and len(rendered) == 5
    again = read_json(reports / "smoke/manifest.json")["stages"]["01"]
    assert again["seconds"] == manifest["stages"]["01"]["seconds"] and again["outputs"]
    monkeypatch.setattr(report, "render_site", lambda: 1 / 0)
    (reports / "smoke/.made.json").unlink()  # killed before the mark was there
    for number in (6, 7):
        with pytest.raises(ZeroDivisionError):
            run_chain(Request(profile="smoke"))
        assert len(rendered) == number


@pytest.mark.parametrize("what", ["truncated", "noise", "null", "list", "deep", "folder", "nulls", "numbers"])
def test_a_damaged_note_of_the_chain_is_made_again_or_one_sentence(run: Run, project: Path, what: str) -> None:
    run("count=5")
    notes = [*project.glob("data/runs/smoke/**/*.json"), *project.glob("reports/**/*.json")]
    notes = [path for path in notes if path.name not in ("numbers.json", "total.json")]
    assert {"01.json", "command.json", "manifest.json", "metrics.json"} <= {path.name for path in notes}
    for path in notes:
        whole = path.read_bytes()
        if what == "folder":
            path.unlink()
            path.mkdir()
        elif what in ("nulls", "numbers"):  # an object with its names, and something else behind each
            path.write_text(json.dumps(dict.fromkeys(json.loads(whole), None if what == "nulls" else 3)))
        else:
            damaged = {"truncated": whole[: len(whole) // 2], "noise": b"\xff\x00" * 20, "deep": b"[" * 200_000}
            path.write_bytes(damaged.get(what, b"null" if what == "null" else b"[1]"))
        with suppress(UserError):
            run("count=5")
        if path.is_dir():
            path.rmdir()
        assert run("count=5") == 0
        if path.name != "command.json":  # its readers do without; the next stage that runs writes it
            assert isinstance(read_json(path), dict)


def test_two_chains_do_not_write_the_same_run(run: Run) -> None:
    with (
        owners.only_one(paths.run_folder("smoke") / owners.LOCK, "run 'smoke'"),
        pytest.raises(ParameterError, match="run 'smoke' is being made by another process"),
    ):
        run()


def test_downstream_follows_files_through_the_stages(project: Path) -> None:
    stages = chain.read_chain()
    assert stages.downstream("01") == {"01", "02"}
    assert stages.downstream("02") == {"02"}


@pytest.mark.chain
def test_with_kernels_a_timeout_and_a_users_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = os.environ | {"GEOCBM_ROOT": str(project), "PYTHONPATH": str(ROOT)}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "geocbm",
            "run",
            "--profile",
            "smoke",
            "--no-render",
            "--only",
            "01",
            *arguments,
        ]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=200)

    fine = call()
    assert fine.returncode == 0 and "(ran: never ran to its end)" in fine.stdout, fine.stderr
    executed = read_json(project / "reports/smoke/01_numbers.ipynb")
    printed = [output["text"] for cell in executed["cells"] for output in cell.get("outputs", []) if "text" in output]
    assert ["some: holds\n", "few: holds\n"] in printed
    assert str(project) not in json.dumps(executed)
    wrong = call("--set", "fail=input")
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr
    assert wrong.stderr.startswith("geocbm: 01_numbers: 'absent.json' of run 'smoke' is not there yet")
    slow = call("--set", "seconds=60", "--timeout", "2")
    assert slow.returncode == 1 and "took more than 2" in slow.stderr


def test_pages_are_rendered_when_something_ran_and_only_then(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from geocbm.workbench import report

    told: list[object] = []

    def render(name: str) -> Path:
        index = paths.report_folder(name) / "index.html"
        index.write_text("")
        told.append(f"rendered {name}")
        return index

    monkeypatch.setattr(report, "render_run", render)
    monkeypatch.setattr(report, "render_site", lambda: (paths.reports_root() / "index.html").write_text(""))
    assert run_chain(Request(profile="smoke")) == 0
    assert told == ["rendered smoke"]
    assert run_chain(Request(profile="smoke")) == 0  # nothing ran, so there is nothing new to tell
    assert len(told) == 1
