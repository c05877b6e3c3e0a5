"""The moving line of a stage on a terminal, and what ends a stage that hangs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from geocbm.files import paths, write_json
from geocbm.workbench import process
from geocbm.workbench.status_line import Console, StatusLine, Stopped, last_seconds


def test_the_line_says_how_far_it_is(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    line = StatusLine("[05] stage2", "[05]", status, last=83.0)
    assert line.text(48) == "[05] 0:48 · last time 1:23 · about 35 s left"
    write_json(status, {"label": "stage2, both · epoch 7/12", "left": 20.0})
    assert line.text(48) == "[05] 0:48 · stage2, both · epoch 7/12 · last time 1:23 · about 35 s left"
    write_json(status, {"label": "encoding 4/9", "left": 300.0})  # it will take longer than last time
    assert line.text(48) == "[05] 0:48 · encoding 4/9 · last time 1:23 · about 5 min left"
    assert line.text(100) == "[05] 1:40 · encoding 4/9 · last time 1:23 · about 5 min left"
    status.write_text("{")  # half written
    assert line.text(100) == "[05] 1:40 · last time 1:23"
    assert StatusLine("[05] stage2", "[05]", status).text(100) == "[05] 1:40"


def test_on_a_terminal_it_is_rewritten_in_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "90")
    status = tmp_path / "status.json"
    line = StatusLine("[05] stage2", "[05]", status)
    write_json(status, {"label": "epoch 1/2", "left": None})
    assert line(1.0) and line(1.1) and line(2.0)
    line.end("  2.1 s  (ran: forced)")
    said = capsys.readouterr().out
    assert [part.rstrip() for part in said.split("\r")] == [
        "",
        "[05] stage2 running ...",
        "[05] 0:01 · epoch 1/2",
        "[05] 0:02 · epoch 1/2",
        "[05] stage2   2.1 s  (ran: forced)",
    ]
    monkeypatch.setenv("COLUMNS", "20")  # a line that wraps could not be rewritten
    line(1.0)
    assert capsys.readouterr().out == "\r[05] 0:01 · epoch"


def test_stages_side_by_side_share_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "41")
    console = Console()
    one, other = (StatusLine(f"[{n}] it", f"[{n}]", tmp_path / n, console=console) for n in ("06", "07"))
    one(2.0)
    other(61.0)
    one.end("done")
    other(62.0)
    console.say("     beware")
    other.end("done")
    assert [part.rstrip() for part in capsys.readouterr().out.split("\r")] == [
        "",
        "[06] it running ...",
        "[06] it running ... [07] it running ...",
        "[06] 0:02           [07] it running ...",
        "[06] 0:02           [07] 1:01",
        "[06] it done",
        "[07] 1:01",
        "[07] 1:02",
        "     beware",
        "[07] 1:02",
        "[07] it done",
    ]


def test_side_by_side_elsewhere_each_has_a_line_for_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    one, other = (StatusLine(f"[{n}] it", f"[{n}]", tmp_path / n, console=console) for n in ("06", "07"))
    one.end("1 s")
    console.say("     beware")
    other.end("2 s")
    said = "[06] it running ... \n[07] it running ... \n[06] it 1 s\n     beware\n[07] it 2 s\n"
    assert capsys.readouterr().out == said


def test_a_stage_ends_with_its_chain(tmp_path: Path) -> None:
    console = Console()
    line = StatusLine("[05]", "[05]", tmp_path / "status.json", console=console)
    console.stopped.set()
    with pytest.raises(Stopped):
        process.run_limited([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, {}, 1e9, line)


def test_elsewhere_it_has_a_beginning_and_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = StatusLine("[05] stage2", "[05]", tmp_path / "status.json")
    assert line(1.0)
    line.end("  2.1 s  (ran: forced)")
    assert capsys.readouterr().out == "[05] stage2 running ...   2.1 s  (ran: forced)\n"


def test_silence_is_what_ends_a_stage_not_length(tmp_path: Path) -> None:
    status, page = tmp_path / "status.json", tmp_path / "page.ipynb"
    line = StatusLine("[05]", "[05]", status, [page], silence=60)
    page.write_text("")
    for age, alive in ((50, True), (70, False)):
        line.alive_at = 0
        os.utime(page, (time.time() - age, time.time() - age))
        assert line(7200.0) is alive
    status.write_text("{}")  # just now
    assert line(7200.0)


@pytest.mark.parametrize(("code", "ended"), [("import time; time.sleep(60)", True), ("x = 1", False)])
def test_a_silent_process_is_ended(tmp_path: Path, code: str, ended: bool) -> None:
    line = StatusLine("[05]", "[05]", tmp_path / "status.json", silence=0.5)
    outcome = process.run_limited([sys.executable, "-c", code], tmp_path, dict(os.environ), 1e9, line)
    assert outcome.timed_out is ended and outcome.seconds < 30


def test_last_time_is_that_of_the_run_else_of_its_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOCBM_REPORTS", str(tmp_path))
    assert last_seconds("mine", "demo", "05") is None
    entries = {"mine": ("demo", 10.0), "older": ("demo", 20.0), "newer": ("demo", 30.0), "other": ("full", 40.0)}
    for age, (run, (profile, seconds)) in enumerate(entries.items()):
        stages = {"05": {"seconds": seconds}, "06": {"seconds": 5.0, "error": "it failed"}}
        write_json(paths.report_folder(run) / "manifest.json", {"profile": profile, "stages": stages})
        os.utime(paths.report_folder(run) / "manifest.json", (age, age))
    assert last_seconds("mine", "demo", "05") == 10.0
    assert last_seconds("new", "demo", "05") == 30.0
    assert last_seconds("mine", "full", "05") == 10.0  # its own, whatever the profile was then
    assert last_seconds("mine", "demo", "06") is None
