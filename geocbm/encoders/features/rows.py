"""Rows of a feature store on disk: which are written, and writing some of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from geocbm.encoders.features.store import Batches, file_of, n_bytes
from geocbm.errors import NoSpaceError
from geocbm.files import read_json, said_when_full, said_when_unwritable, size_text, write_json

PROGRESS = "progress_{}.json"
"""File in which a process, or a range, keeps the rows that it has finished: what any of them says is done is done."""


def finished_rows(files: Iterable[Path], n: int) -> np.ndarray:
    """Which of n rows are safely on disk, `(n,)` bool, by the files in which processes keep what they have finished."""
    done = np.zeros(n, dtype=bool)
    for file in files:
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged one counts for nothing
            for start, stop in read_json(file)["done"]:
                done[start:stop] = True
    return done


def _runs(rows: np.ndarray) -> list[np.ndarray]:
    """Ascending rows cut where there is a gap."""
    return [run for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(run)]


def allocate(path: Path, shapes: Mapping[str, Sequence[int]], n: int, n_missing: int) -> None:
    """Give every file its final size, so that each process can write its own range of it.

    What the disk cannot hold is not begun.
    """
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    needed, free = n_missing * sum(map(n_bytes, shapes.values())), shutil.disk_usage(existing).free
    if needed > free:
        raise NoSpaceError(
            f"the disk of {path.parent} is full: the features need {size_text(needed)}, {size_text(free)} are free; "
            "make room, set GEOCBM_DATA to a larger disk, or lower max_cache_gb to encode at every read"
        )
    with said_when_unwritable(path):
        path.mkdir(parents=True, exist_ok=True)
        for kind, shape in shapes.items():
            file_of(path, kind).touch()
            os.truncate(file_of(path, kind), n * n_bytes(shape))


def write_rows(progress: Path, shapes: Mapping[str, Sequence[int]], n: int, rows: np.ndarray, batches: Batches) -> None:
    """Write features of ascending rows, batch by batch, beside the file `progress`, which follows what is on disk."""
    done = finished_rows([progress] if progress.is_file() else [], n)  # of an earlier process with this number
    with ExitStack() as stack:
        stack.enter_context(said_when_full(progress, len(rows) * sum(map(n_bytes, shapes.values()))))
        streams = {kind: stack.enter_context(file_of(progress.parent, kind).open("r+b")) for kind in shapes}
        for batch in batches:
            chosen, rows = np.split(rows, [len(next(iter(batch.values())))])
            for kind, numbers in batch.items():
                written = 0
                for run in _runs(chosen):
                    streams[kind].seek(int(run[0]) * n_bytes(shapes[kind]))
                    streams[kind].write(np.ascontiguousarray(numbers[written : written + len(run)]).data)
                    written += len(run)
                streams[kind].flush()
                os.fsync(streams[kind].fileno())
            done[chosen] = True
            write_json(progress, {"done": [[int(run[0]), int(run[-1]) + 1] for run in _runs(np.flatnonzero(done))]})
