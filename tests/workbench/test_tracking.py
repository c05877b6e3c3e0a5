import os
import time
from pathlib import Path

import pytest

from geocbm.workbench import paths, tracking


@pytest.fixture
def rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the pages of one run, and a user without a key."""
    for name in ("GEOCBM_DATA", "GEOCBM_REPORTS", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GEOCBM_ROOT", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "absent"))
    monkeypatch.chdir(tmp_path)
    for name in ("mine/index.html", "mine/04_stage1.html", "_assets/plotly.min.js"):
        file = tmp_path / "reports" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}")
    (tmp_path / "reports" / "mine" / "04_stage1.ipynb").write_text("{}")
    return tmp_path


def test_the_most_public_mode_of_the_stages_decides() -> None:
    assert tracking.report_mode([{"epochs": 3}, {"tracking": "disabled"}]) == "disabled"
    assert tracking.report_mode([{}, {"tracking": "offline"}]) == "offline"
    assert tracking.report_mode([{"tracking": "offline"}, {"tracking": "online"}]) == "online"


def test_pages_and_their_assets_keep_their_relative_places(rendered: Path) -> None:
    assert sorted(tracking.report_files("mine")) == ["_assets/plotly.min.js", "mine/04_stage1.html", "mine/index.html"]


def test_without_a_tracked_stage_nothing_is_written(rendered: Path) -> None:
    assert not tracking.log_report("mine", [{"tracking": "disabled"}])
    assert not (rendered / "data").exists()


def test_an_artifact_of_the_pages_lies_below_the_run(rendered: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert tracking.log_report("mine", [{"tracking": "offline"}])
    assert sorted(path.name for path in rendered.iterdir()) == ["data", "reports"]
    folder = paths.run_folder("mine") / "wandb"
    (recorded,) = folder.glob("offline-run-*/run-*.wandb")
    for _ in range(200):  # the client's own process writes, a moment after it was told to finish
        if b"report-mine" in (content := recorded.read_bytes()):
            break
        time.sleep(0.05)
    for text in (b"report-mine", b"mine/index.html", b"_assets/plotly.min.js"):
        assert text in content, text
    kept = [file.read_text() for file in (folder / "data" / "artifacts" / "staging").iterdir()]
    assert "content of mine/index.html" in kept
    said = capfd.readouterr()
    assert said.out == "" and said.err == ""
    assert "WANDB_DATA_DIR" not in os.environ


def test_online_without_a_key_is_offline_and_a_failure_is_a_sentence(
    rendered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    modes, said = [], []

    def init(**arguments: object) -> None:
        modes.append(arguments["mode"])
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", init)
    assert not tracking.log_report("mine", [{"tracking": "online"}], said.append)
    assert modes == ["offline"]
    assert said[0].startswith("tracking offline: there is no key")
    assert said[1] == "the pages were not logged to Weights & Biases: no route to host"
