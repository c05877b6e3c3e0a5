"""The command line as one types it: first steps, names of stages, choices, the table of runs, completion."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from geocbm import cli
from geocbm.errors import ParameterError
from geocbm.files import paths, write_json
from geocbm.workbench import chain, names, overview
from geocbm.workbench.chain import Request
from geocbm.workbench.parameters import Parameter, coerce
from geocbm.workbench.stages import Chain, Stage

ROOT = Path(__file__).parents[2]


def test_alone_it_says_what_one_does_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    examples = [part.split("  ")[0] for part in said.split("geocbm ")[1:]]
    for words in ("run", "run --profile smoke", "list", "predict holiday.jpg --html answer.html"):
        assert words in examples
    assert "make lab" in said and "jupyter lab" in said  # the second in a project of `geocbm init`


def test_what_is_said_is_cut_and_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "x" * 100_000]) == 2
    assert len(capsys.readouterr().err) < 4100
    assert cli._say(ParameterError("two\nlines \x1b[31m\u202e"), []) == 2
    assert capsys.readouterr().err == "geocbm: two\nlines ?[31m?\n"


@pytest.mark.parametrize(
    ("name", "number"),
    [("02", "02"), ("02_geocells", "02"), ("geocells", "02"), ("stage2", "05"), ("guide", "09"), ("06b", "06b")],
)
def test_a_stage_has_a_number_and_names(name: str, number: str) -> None:
    notebooks = ("02_geocells", "05_stage2_geolocation", "06b_uncertainty", "09_field_guide")
    assert Chain(tuple(map(Stage, notebooks))).stage(name).number == number


def test_a_name_that_fits_no_stage_or_several_is_refused() -> None:
    chain = Chain((Stage("07_interpretability"), Stage("08_interventions")))
    with pytest.raises(ParameterError, match="may be 07_interpretability or 08_interventions"):
        chain.stage("inter")
    with pytest.raises(ParameterError, match="did you mean 'interventions'"):
        chain.stage("nterventions")
    with pytest.raises(ParameterError, match="there is no stage ''"):
        chain.stage("")


def test_stages_are_named_in_options(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = ["run", "--profile", "smoke", "--dry-run"]
    assert cli.main([*dry, "--only", "numbers,02"]) == 0
    assert [line[:4] for line in capsys.readouterr().out.splitlines()] == ["[01]", "[02]"]
    assert cli.main([*dry, "--from", "total"]) == 0
    assert [line[:4] for line in capsys.readouterr().out.splitlines()] == ["[02]"]
    assert cli.main([*dry, "--set", "numbers.factor=2"]) == 2  # a parameter of the other stage
    assert "01_numbers has no parameter 'factor'" in capsys.readouterr().err
    assert cli.main([*dry, "--grid", "numbers.count=1,2"]) == 0
    assert "run smoke-count-2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("annotation", "value", "said"),
    [
        (
            "Literal['both', 'concept_only']",
            "bth",
            "one of ['both', 'concept_only'], such as 'both'; did you mean 'both'?",
        ),
        ("list[Literal['both', 'hybrid']]", "[both,hybird]", "did you mean 'hybrid'?"),
        ("Literal['mlp', 'patch'] | None", "xyz", "one of ['mlp', 'patch'] | None, such as 'both'"),
    ],
)
def test_a_wrong_choice_is_answered_with_the_choices(annotation: str, value: str, said: str) -> None:
    with pytest.raises(ParameterError) as refused:
        coerce(value, Parameter("mode", annotation, "both", ""))
    assert said in str(refused.value)
    assert ("did you mean" in str(refused.value)) is ("did you mean" in said)


@pytest.mark.parametrize(
    "text",
    [
        "05.ablation_mode=bth",
        "variants=[hybird]",
        "01.split=spacial",
        "on_bad=dorp",
        "04.bottleneck=mpl",
        "03.tracking=on",
    ],
)
def test_choices_of_the_notebooks_are_known_before_anything_runs(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GEOCBM_ROOT", str(ROOT))
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path))
    assert cli.main(["run", "--dry-run", "--set", text]) == 2
    said = capsys.readouterr()
    assert "one of [" in said.err and "did you mean" in said.err and not said.out


def test_the_runs_are_a_table_with_links(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = paths.run_folder("mine")
    write_json(run / "records" / "05.json", {"stage2.median_km": {"value": 468.4, "low": 1, "high": 2}})
    write_json(run / "stamps" / "01.json", {"profile": "demo"})
    os.utime(run / "records" / "05.json", (0, 86400 * 365))
    write_json(paths.run_folder("mine-lab") / paths.COPY_MARK, {"from": "mine"})
    page = paths.report_folder("mine") / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("")
    assert cli.main(["list"]) == 0
    title, first, second = capsys.readouterr().out.splitlines()
    assert title.split() == ["when", "run", "profile", "state", "headline", "page"]
    columns = [title.index(name) for name in ("when", "run", "profile", "state", "headline", "page")]
    own, copy = ([line[at:].split("  ")[0] for at in columns] for line in (first, second))
    assert own[0].startswith("1971-01-01") and own[1:5] == ["mine", "demo", "0 of 2 done", "median error 468 km"]
    assert own[5] == page.as_uri()
    assert copy[1:] == ["mine-lab", "?", "copy of mine, 0 of 2 done", "-", "-"]


def test_a_folder_that_no_run_can_be_called_after_is_passed_over_and_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mine", "mine (copy)", ".ipynb_checkpoints"):
        for root in (paths.data_root() / "runs", paths.reports_root()):
            (root / name / "stamps").mkdir(parents=True)
    (paths.reports_root() / "_assets").mkdir()
    assert cli.main(["list"]) == 0
    _, own, said = capsys.readouterr().out.splitlines()
    assert " mine " in own and own.count("mine") == 1
    assert said.startswith("passed over: 'data/runs/mine (copy)', 'reports/mine (copy)'; ")
    assert paths.RUN_NAMES in said and "ipynb_checkpoints" not in said and "_assets" not in said
    assert names.runs() == ["mine"]
    with pytest.raises(ParameterError, match=r"Runs: mine$"):
        chain.run_chain(Request(run="new", reuse=["other"]))


def test_without_runs_there_is_no_table(project: Path) -> None:
    assert overview.table_of_runs() == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("geocbm run --run mi", {"mine", "mine-lab"}),
        ("geocbm predict a.jpg --run ", {"mine", "mine-lab", "other"}),
        ("geocbm run --only 01,t", {"01,total"}),
        ("geocbm run --from nu", {"numbers"}),
        ("geocbm run --set nu", {"numbers."}),
        ("geocbm run --set numbers.c", {"numbers.count="}),
        ("geocbm run --profile sm", {"smoke"}),
        ("geocbm ren", {"render"}),
    ],
)
def test_a_shell_completes_names(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, offered: set[str]
) -> None:
    for name in ("mine", "mine-lab", "other"):
        paths.run_folder(name).mkdir(parents=True)
    words = line.split(" ")
    monkeypatch.setenv("_GEOCBM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit):
        cli.main([])
    assert set(capsys.readouterr().out.split()) == offered


def test_completion_waits_for_nothing_heavy() -> None:
    """A shell asks at every press of the tab key."""
    code = "import sys, geocbm.cli; print([m for m in ('torch', 'pandas', 'numpy', 'IPython') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_answers_in_sentences(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--profile", "smoke", "--set", "cuont=1"]) == 2
    assert capsys.readouterr().err.startswith(
        "geocbm: --set: the chain has no parameter 'cuont'; did you mean 'count'?"
    )
    assert cli.main(["list"]) == 0
    assert "there is no run yet" in capsys.readouterr().out
    assert cli.main(["run", "--timeout", "0"]) == 2
    assert "above 0" in capsys.readouterr().err
    assert cli.main(["run", "--engine", "spark"]) == 2
    assert capsys.readouterr().err.startswith("geocbm: --engine=spark is no engine; give loky:N")
    assert cli.main(["run", "--prfile", "smoke"]) == 2
    said = capsys.readouterr().err
    assert "--profile" in said and said.startswith("geocbm: ") and said.count("\n") == 1
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("geocbm ")


def test_a_run_that_is_nearly_one_is_asked_about(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "data" / "runs" / "demo").mkdir(parents=True)
    for command in (["predict", "a.jpg", "--run", "demoo"], ["render", "--run", "demoo"]):
        assert cli.main(command) == 2
        assert "there is no run 'demoo'; did you mean 'demo'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "run",
        "fit",
        "predict",
        "export",
        "init",
        "render",
        "list",
        "sync",
        "check",
        "data score",
        "data concepts",
        "data osv5m",
        "atlas make",
    ],
)
def test_every_command_has_help_and_no_traceback(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert f"Usage: geocbm {words}" in said and "\\b" not in said
    assert words != "run" or "\n    geocbm run --profile smoke\n" in said  # an example has a line of its own
    assert cli.main([*words.split(), "--no-such-option"]) == 2
    assert "no-such-option" in capsys.readouterr().err


def test_options_may_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    monkeypatch.setattr(chain, "run_chain", lambda request: asked.append(request) or 0)
    words = "run --set a=1 --set 06b.b=2 --grid c=1,2 --only 01,02 --only 03 --reuse x --force --dry-run --timeout 5"
    more = ["--no-render", "--run", "r", "--recipe", "seed", "--engine", "loky:2"]
    assert cli.main([*words.split(), *more]) == 0
    assert asked == [
        Request(
            recipe="seed",
            run="r",
            settings=["a=1", "06b.b=2"],
            grid=["c=1,2"],
            only=["01,02", "03"],
            reuse=["x"],
            force=True,
            dry_run=True,
            timeout=5.0,
            engine="loky:2",
            no_render=True,
        )
    ]


def test_an_atlas_does_not_replace_something_else(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "photos").mkdir()
    (project / "photos" / "a.jpg").write_text("x")
    assert cli.main(["atlas", "make", "--out", "photos", "--scenes", "5"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert cli.main(["atlas", "make", "--out", "new", "--scenes", "0"]) == 2
    assert "--scenes=0" in capsys.readouterr().err


def test_a_disk_that_was_closed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(_request: Request) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/elsewhere/reports/.half.ipynb")

    monkeypatch.setattr(chain, "run_chain", closed)
    assert cli.main(["run"]) == 2
    assert "geocbm: .half.ipynb cannot be written into /elsewhere/reports" in capsys.readouterr().err
