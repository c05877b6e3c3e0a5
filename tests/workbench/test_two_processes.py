"""Two commands that meet on one run, each a process of its own: the second is refused, and goes on once the first is
gone, however it went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tiny_project import make_project
from tiny_run import TinyRun

from geocbm.files import owners, sha256_file

ROOT = Path(__file__).parents[2]
LONG = 90.0  # seconds in which any of these commands ends
FIRST = {
    "run": ("run", "--run", "tiny", "--no-render", "--set", "seconds=600"),
    "fit": ("fit", "stage1", "--run", "tiny", "--set", "epochs=1000000", "--set", "patience=0"),
}
"""Commands that do not end by themselves."""
SECOND = {
    "run": ("run", "--run", "tiny", "--no-render"),
    "fit": ("fit", "stage1", "--run", "tiny", "--set", "epochs=1"),
}


@dataclass
class Place:
    """A run, and a project of two small pages that has a run of the same name."""

    folder: Path
    begun: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.folder / "data" / "runs" / "tiny"

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command in a session of its own."""
        roots = {"DATA": self.folder / "data", "REPORTS": self.folder / "reports"}
        roots["ROOT"] = self.folder if words[0] == "run" else ROOT  # the pages for the chain, the stages for training
        own = {f"GEOCBM_{name}": str(place) for name, place in roots.items()}
        environment = os.environ | own | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("GEOCBM_HELD", None)
        command = [sys.executable, "-m", "geocbm", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, start_new_session=True, **pipes
        )
        self.begun.append(process)
        return process

    def holder(self) -> int:
        """Number of the process whose mark is in the lock of the run; 0 as long as there is none."""
        lock = self.run / owners.LOCK
        mark = lock.read_text() if lock.exists() else ""
        return int(mark.split("-")[1]) if mark else 0

    def files(self) -> dict[str, str]:
        """Digests of what the run has."""
        found = (path for path in self.run.rglob("*") if path.is_file() and path.name != owners.LOCK)
        return {str(path): sha256_file(path) for path in found}


@pytest.fixture
def place(trained_run: TinyRun, tmp_path: Path) -> Iterator[Place]:
    """A copy of the trained run in a data root of its own; what was begun there is ended."""
    made = Place(make_project(tmp_path))
    (tmp_path / "data" / "runs").mkdir(parents=True)
    copied = trained_run.copy(tmp_path / "data" / "runs")
    copied.cache.rename(tmp_path / "data" / "cache")
    yield made
    for process in made.begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(place: Place, *processes: subprocess.Popen[str]) -> int:
    """Wait until one of some processes has the lock, or has ended; which has it."""
    end = time.monotonic() + LONG
    while place.holder() not in {process.pid for process in processes} and time.monotonic() < end:
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.05)
    return place.holder()


def refused(process: subprocess.Popen[str], holder: int, command: str) -> None:
    """Hold what a command that came second did against one sentence that names the first."""
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 2, out + err
    said = f"geocbm: run 'tiny' is being made by another process, {holder} ({command}); wait for it or choose another "
    assert err.strip() == f"{said}--run"
    assert "tiny" not in out  # nothing is reported as made


@pytest.mark.parametrize("first", FIRST)
def test_the_second_is_refused_and_goes_on_after_the_first_was_killed(place: Place, first: str) -> None:
    before = place.files()
    holding = place.begin(*FIRST[first])
    assert wait_for(place, holding) == holding.pid
    second = {name: place.begin(*words) for name, words in SECOND.items()}
    for process in second.values():
        refused(process, holding.pid, " ".join(["geocbm", *FIRST[first]]))
    assert before.items() <= place.files().items() and not (place.run / "numbers.json").exists()
    assert place.holder() == holding.pid and holding.poll() is None
    holding.send_signal(signal.SIGKILL)
    holding.wait(LONG)
    other = next(name for name in SECOND if name != first)
    begun, again = time.time_ns(), place.begin(*SECOND[other])
    out, err = again.communicate(timeout=LONG)
    assert again.returncode == 0, out + err
    made = place.run / ("stage1.safetensors" if other == "fit" else "total.json")
    assert made.stat().st_mtime_ns > begun and "Traceback" not in out + err


def test_of_two_trainings_that_begin_at_once_one_goes_on(place: Place) -> None:
    both = [place.begin(*FIRST["fit"]) for _ in range(2)]
    held = wait_for(place, *both)
    winner, loser = sorted(both, key=lambda process: process.pid != held)
    refused(loser, winner.pid, " ".join(["geocbm", *FIRST["fit"]]))
    state = place.run / "stage1.resume.safetensors"
    end = time.monotonic() + LONG
    while not state.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert state.exists() and winner.poll() is None  # one training, which is at its epochs
