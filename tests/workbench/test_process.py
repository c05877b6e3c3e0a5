"""Child processes: nothing outlives a limit or the chain, and what they print arrives."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from geocbm.workbench import execute, process

ROOT = Path(__file__).parents[2]


def test_no_grandchild_outlives_the_limit(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    # The grandchild has a session of its own, as a kernel has.
    code = (
        "import subprocess, sys, time, pathlib\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(p.pid)); print('hello', flush=True); time.sleep(60)\n"
    )
    outcome = process.run_limited([sys.executable, "-c", code], tmp_path, dict(os.environ), 1.5)
    assert outcome.timed_out and outcome.seconds < 10 and outcome.tail == "hello\n" and outcome.peak_bytes > 2**20
    deadline = time.monotonic() + 5
    while psutil.pid_exists(int(pid.read_text())) and time.monotonic() < deadline:
        if psutil.Process(int(pid.read_text())).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    else:
        assert not psutil.pid_exists(int(pid.read_text()))


def test_threads_are_capped_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert int(process.child_environment({})["OMP_NUM_THREADS"]) <= (os.cpu_count() or 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    child = process.child_environment({})
    assert child["OMP_NUM_THREADS"] == "7"
    # Beside it MKL's own number would win, so that the chain would compute with other threads than the user's shell.
    assert "MKL_NUM_THREADS" not in child or "MKL_NUM_THREADS" in os.environ


def test_what_a_child_prints_arrives_whatever_the_console(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    outcome = process.run_limited(
        [sys.executable, "-c", "print('Muğla')"], tmp_path, process.child_environment({}), limit=60
    )
    assert "Muğla" in outcome.tail


def test_an_interrupt_while_libraries_are_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = subprocess.run(
        [sys.executable, "-m", "geocbm", "list"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


def test_what_was_interrupted_shows_no_traceback(tmp_path: Path) -> None:
    ended = process.Outcome(-signal.SIGINT, 1.0, 0, False, "Traceback (most recent call last):\n  ...")
    said = execute._result(tmp_path / "absent.json", ended, None)
    assert said["message"] == "its process ended with signal 2" and not said["traceback"]
