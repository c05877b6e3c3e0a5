"""Child processes: nothing outlives a limit or the chain, and what they print arrives."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_project import make_project

from geocbm.workbench import execute, process

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GEOCBM_DATA", "GEOCBM_REPORTS"):
        monkeypatch.delenv(name, raising=False)
    return make_project(tmp_path)


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


@pytest.mark.chain
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGHUP"])
def test_nothing_outlives_a_chain_that_is_killed(project: Path, signal_name: str) -> None:
    environment = os.environ | {"GEOCBM_ROOT": str(project), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "geocbm", "run", "--profile", "smoke", "--no-render", "--only", "01"]
    # Whoever runs the tests under `nohup` has the signal ignored, and every child with it.
    chain = subprocess.Popen(
        [*command, "--set", "seconds=600"],
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )

    def family(least: int, patience: float) -> list[psutil.Process]:
        """The chain's notebook process and its kernel, once there are so many."""
        for _ in range(int(patience / 0.1)):
            found = psutil.Process(chain.pid).children(recursive=True)
            if len(found) >= least:
                return found
            time.sleep(0.1)
        raise AssertionError(f"only {found} after {patience} s")

    children = family(2, 60)
    chain.send_signal(getattr(signal, signal_name))
    chain.wait(30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_threads_are_capped_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert int(process.child_environment({})["OMP_NUM_THREADS"]) <= (os.cpu_count() or 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert process.child_environment({})["OMP_NUM_THREADS"] == "7"


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
        [sys.executable, "-m", "geocbm", "list"], cwd=ROOT, env=environment, capture_output=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


def test_what_was_interrupted_shows_no_traceback(tmp_path: Path) -> None:
    ended = process.Outcome(-signal.SIGINT, 1.0, 0, False, "Traceback (most recent call last):\n  ...")
    said = execute._result(tmp_path / "absent.json", ended, None)
    assert said["message"] == "its process ended with signal 2" and not said["traceback"]
