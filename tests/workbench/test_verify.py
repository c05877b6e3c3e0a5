"""`geocbm verify` computes the digests of a run again and names every file that no longer has its own."""

from pathlib import Path

import pytest

from geocbm import cli
from geocbm.files import paths, read_json, write_json
from geocbm.workbench import verify
from geocbm.workbench.chain import Request, run_chain

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def made(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the small chain, which has no feature stores."""
    monkeypatch.setattr(verify, "_check_stores", lambda run: None)
    run_chain(Request(profile="demo", no_render=True))  # type: ignore[call-arg]
    return paths.run_folder("demo")


def test_a_run_as_it_was_made_matches(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [
        entry
        for stage in read_json(paths.report_folder("demo") / "manifest.json")["stages"].values()
        for part in ("inputs", "outputs")
        for entry in stage[part]
    ]
    capsys.readouterr()
    assert cli.main(["verify", "demo"]) == 0
    assert capsys.readouterr().out == f"all {len(named) + 2} match\n"


def test_every_file_that_was_changed_is_named(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = paths.report_folder("demo")
    outputs = {name for stage in read_json(report / "manifest.json")["stages"].values() for name in stage["outputs"]}
    assert len(outputs) > 3
    for name in sorted(outputs):
        place = (report if name.endswith(".ipynb") else made) / name
        whole = place.read_bytes()
        for damage in (lambda place=place, whole=whole: place.write_bytes(whole + b" "), place.unlink):
            damage()
            capsys.readouterr()
            assert cli.main(["verify", "demo"]) == 1
            said = capsys.readouterr()
            assert f"{name} was changed" in said.err or f"{name} is missing" in said.err
            assert "mend it with: geocbm run --profile demo --run demo --from 0" in said.err
            assert "no longer match" in said.out
            place.write_bytes(whole)
    assert cli.main(["verify", "demo"]) == 0


def test_metrics_that_nobody_recorded_are_found(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = paths.report_folder("demo") / "metrics.json"
    write_json(file, read_json(file) | {"stage2.geoscore": 5000})
    assert cli.main(["verify", "demo"]) == 1
    assert "metrics.json: " in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b"[" * 100_000])
def test_without_a_manifest_there_is_one_sentence(
    made: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (paths.report_folder("demo") / "manifest.json").write_bytes(content)
    capsys.readouterr()
    assert cli.main(["verify", "demo"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
