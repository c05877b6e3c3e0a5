"""What the campaigns share: a trial and its outcome, and the command line in a child with a project of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.tiny_project import make_project

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "soak"
"""Profile of `small_project`, and the name of its run."""
SMALL = """
atlas:
  scenes: 200
  seed: 0
  size: 64
all:
  bootstrap: 20
  examples: 1
"01":
  csv: data/atlas/soak/atlas.csv
"02":
  min_samples_per_cell: 20
"03":
  epochs: 1
  unfreeze_layers: 1
  batch_size: 32
"04":
  epochs: 2
  batch_size: 64
"05":
  epochs: 2
  variants: [concept_only]
"""
"""As little of everything as the pages take."""
KEPT = ("01", "02", "03", "04", "05")
"""Notebooks of `small_project`: those that prepare, train and predict; what the others measure nobody needs later."""

_TRACEBACK = re.compile(r'Traceback \(most recent call last\)|^\s+File ".+", line \d+, in ', re.MULTILINE)


@dataclass(frozen=True)
class Trial:
    """One thing that was tried.

    Attributes:
        what: what was tried, in words; its kind stands before the first colon.
        held: whether the promise held.
        seen: exit code and the sentence, or what went wrong.
    """

    what: str
    held: bool
    seen: str

    @property
    def kind(self) -> str:
        """By what the trials of a campaign are counted."""
        return self.what.partition(":")[0]


@dataclass(frozen=True)
class Said:
    """How a command ended: its status (128 more than the signal that ended it) and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The last line of the error stream."""
        return (self.err.strip().splitlines() or [""])[-1]

    def __str__(self) -> str:
        return f"exit {self.code}: {self.sentence[:400]}"


def has_traceback(text: str) -> bool:
    """Whether somebody at the command line was shown a bare traceback, of a program or of a cell."""
    return bool(_TRACEBACK.search(text))


def _hear() -> None:
    """Let a child hear what is ignored by whoever runs this in the background or under `nohup`."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@dataclass(frozen=True)
class Project:
    """A project with folders of its own for data, reports and temporary files, whose processes can be told by them.

    Attributes:
        folder: the project.
        inside: words before each command, which let it see the disks of a campaign.
    """

    folder: Path
    inside: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)  # environment

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    @property
    def scratch(self) -> Path:
        return self.folder / "tmp"

    @property
    def environment(self) -> dict[str, str]:
        """That of its processes."""
        roots = {"ROOT": self.folder, "DATA": self.data, "REPORTS": self.reports}
        for place in (self.data, self.reports, self.scratch):
            place.mkdir(parents=True, exist_ok=True)
        own = {f"GEOCBM_{name}": str(place) for name, place in roots.items()}
        own |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(self.scratch)}
        return os.environ | own | self.extra

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command line; see `begin`."""
        return self.begin("-m", "geocbm", *arguments)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Begin a Python in a session of its own; its output goes to files in the project's folder."""
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            return subprocess.Popen(
                [*self.inside, sys.executable, *words],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
                preexec_fn=_hear,
            )

    def said(self, process: subprocess.Popen[str], limit: float = 3600) -> Said:
        """Wait for a command that was begun.

        Raises:
            subprocess.TimeoutExpired: it was killed after `limit` seconds.
        """
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        texts = [(self.folder / name).read_text(errors="replace") for name in ("out", "err")]
        return Said(code if code >= 0 else 128 - code, *texts)

    def geocbm(self, *arguments: str, limit: float = 3600) -> Said:
        """Carry out one command line."""
        return self.said(self.start(*arguments), limit)


def small_project(folder: Path) -> Project:
    """The notebooks from the table to the answers, with so little data that their kernels take longest to start."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for file in (folder / "notebooks").glob("[0-9]*_*"):
        if not file.name.startswith(KEPT):
            file.unlink()
    chain = folder / "notebooks" / "chain.toml"
    head, *stages = chain.read_text().split("[[stage]]")
    kept = [stage for stage in stages if stage.partition('"')[2].startswith(KEPT)]
    chain.write_text("[[stage]]".join([head, *kept]))
    (folder / "notebooks" / "params" / f"{PROFILE}.yaml").write_text(SMALL)
    return Project(folder)


def two_pages(folder: Path) -> Project:
    """The chain of two notebooks without a model that the tests of the chain have."""
    make_project(folder)
    (folder / "notebooks" / "params" / f"{PROFILE}.yaml").write_text('"01":\n  seconds: 1.0\n')
    return Project(folder)


class Lost(Exception):
    """A call in another process came to no end, and why."""


class Elsewhere:
    """Calls a function with a path in another process, which a file may end.

    Args:
        work: the function, of a module.
        seconds: that a call may take.
        prepare: called once in each new process.
    """

    def __init__(self, work: Callable[[str], Any], seconds: float, prepare: Callable[[], None] | None = None) -> None:
        self.work, self.seconds, self.prepare = work, seconds, prepare
        self.pool: ProcessPoolExecutor | None = None

    def __call__(self, path: Path) -> Any:
        """What the function returns; `Lost` where its process died or took too long."""
        self.pool = self.pool or ProcessPoolExecutor(1, get_context("spawn"), self.prepare)
        try:
            return self.pool.submit(self.work, str(path)).result(timeout=self.seconds)
        except BrokenProcessPool:
            self.pool = None
            raise Lost("the process died") from None
        except TimeoutError:
            self.close()
            raise Lost(f"no end within {self.seconds} seconds") from None

    def close(self) -> None:
        """End the process."""
        if self.pool is not None:
            for process in list((self.pool._processes or {}).values()):
                process.kill()
            self.pool.shutdown(wait=True, cancel_futures=True)
            self.pool = None
