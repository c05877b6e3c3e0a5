"""Which rows of a feature store are written, and how that is shown.

Each process that writes a store keeps a file of its own with the ranges it has finished. What any of these files says
is done is done, so that an interrupted encoding goes on with any number of processes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from geocbm.files import read_json, write_json

Range = tuple[int, int]
"""First row, and the row behind the last."""

_PATTERN = "progress_*.json"


class DoneRows:
    """The rows that one process has finished, and its file.

    Args:
        folder: of the store.
        process: number of the process, from 0; what an earlier process of this number finished is kept.
    """

    def __init__(self, folder: Path, process: int) -> None:
        self.path = folder / f"progress_{process}.json"
        self.ranges = _read(self.path) if self.path.is_file() else []

    def add(self, rows: np.ndarray) -> None:
        """Note ascending rows whose features are safely on disk."""
        self.ranges = _merged(self.ranges + runs_of(rows))
        write_json(self.path, {"done": self.ranges})


def missing_rows(folder: Path, n: int) -> np.ndarray:
    """Rows from 0 to n - 1 that no process has finished, ascending."""
    missing = np.ones(n, dtype=bool)
    for path in folder.glob(_PATTERN):
        for start, stop in _read(path):
            missing[start:stop] = False
    return np.flatnonzero(missing)


def forget_progress(folder: Path) -> None:
    """Remove the files of all processes, once the store is whole."""
    for path in folder.glob(_PATTERN):
        path.unlink(missing_ok=True)


def runs_of(rows: np.ndarray) -> list[Range]:
    """Cut ascending rows into ranges without gaps."""
    if len(rows) == 0:
        return []
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, cuts)]


def _read(path: Path) -> list[Range]:
    return [(int(start), int(stop)) for start, stop in read_json(path)["done"]]


def _merged(ranges: list[Range]) -> list[Range]:
    """Ranges in order, those that touch made one."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


class ProgressBar:
    """A bar on a terminal; elsewhere at most a line a minute, so that a notebook is not flooded.

    Args:
        n: pictures in all.
        done: pictures that were there before.
        shown: whether to show anything.
        processes: how many processes encode; the bar counts in steps of all of them, as if they were equally fast.
    """

    def __init__(self, n: int, done: int, shown: bool, processes: int = 1) -> None:
        self.n, self.done = n, done
        self.shown = shown
        self.processes = processes
        self.last_line = time.monotonic()
        self.bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=n, initial=done, unit="picture", mininterval=0.5, leave=False)

    def step(self, size: int) -> None:
        """Count `size` more pictures of this process."""
        size = min(size * self.processes, self.n - self.done)
        self.done += size
        if self.bar is not None:
            self.bar.update(size)
        elif self.shown and time.monotonic() - self.last_line > 60:
            self.last_line = time.monotonic()
            about = "about " if self.processes > 1 else ""
            print(f"encoded {about}{self.done} of {self.n} pictures")

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
