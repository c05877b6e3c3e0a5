"""Encoding in ranges: a worker process encodes some rows of a store on a disk that all workers share.

A range is idempotent: its numbers go to their own place in the files of the store, and a batch of it that is written
is not encoded again, by whichever worker. Ranges are whole numbers of batches, cut as one process cuts them.
"""

from __future__ import annotations

import functools
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.encoders.features.batches import encode_files
from geocbm.encoders.features.rows import PROGRESS, finished_rows, write_rows
from geocbm.encoders.features.store import unique_rows
from geocbm.errors import MismatchError, MissingInputError
from geocbm.files import engine

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder

_MOST_BATCHES = 8
"""Of a range: what a worker that ends has begun for nothing, and how often progress is seen."""
_one_at_a_time = threading.Lock()  # a worker may have several threads, and precision is set for a whole process


@dataclass(frozen=True)
class RangeJob:
    """What a worker must know of a store to encode any of its rows."""

    path: Path  # folder of the store, absolute
    shapes: Mapping[str, Sequence[int]]  # of one picture's features, by kind
    n: int  # rows of the store
    encoder: str  # name or absolute folder by which a worker loads it
    fingerprint: str  # of the encoder that is meant
    batch_size: int

    @classmethod
    def of(cls, path: Path, manifest: Mapping[str, Any], encoder: str, batch_size: int) -> RangeJob:
        """A job for the store of a manifest, as workers in other working folders understand it."""
        n, place = unique_rows(manifest["digests"])[1], Path(encoder)
        name = str(place.absolute()) if place.is_dir() else encoder
        return cls(path.absolute(), manifest["shapes"], n, name, manifest["fingerprint"], batch_size)


def encode_in_ranges(job: RangeJob, rows: np.ndarray, files: Sequence[str | Path]) -> Iterator[int]:
    """Encode ascending rows of a store, of these files, on the workers of the engine.

    Yields:
        The number of pictures of each range that is done, in any order.
    """
    absolute = [str(Path(file).absolute()) for file in files]
    with engine.engine_of_environment():
        per_worker = len(rows) / job.batch_size / engine.workers()
        step = job.batch_size * int(np.clip(per_worker / 4, 1, _MOST_BATCHES))
        starts = range(0, len(rows), step)
        pieces = ((job, rows[start : start + step], absolute[start : start + step]) for start in starts)
        yield from engine.in_any_order(encode_range, pieces)


def encode_range(job: RangeJob, rows: np.ndarray, files: Sequence[str]) -> int:
    """Encode ascending rows of a store, of these files, in this process; what an earlier try has written stays.

    Returns:
        The number of rows, all of which are now on disk.

    Raises:
        MissingInputError: this process does not see the store, or not a picture.
        MismatchError: it loads another encoder by the same name.
    """
    if not job.path.is_dir():
        raise MissingInputError(
            f"a worker on {platform.node()} does not see {job.path}; set GEOCBM_DATA to a disk that all workers share"
        )
    with _one_at_a_time:
        encoder = _encoder(job.encoder)
        if encoder.fingerprint() != job.fingerprint:
            raise MismatchError(
                f"a worker on {platform.node()} loads other weights as '{job.encoder}' than are meant; give it the "
                "same files and versions, or encode an encoder that was trained or made by hand without an engine"
            )
        progress = job.path / PROGRESS.format(f"from_{rows[0]}")
        left = np.flatnonzero(~finished_rows([progress], job.n)[rows]).tolist()
        batches = encode_files(encoder, [files[i] for i in left], tuple(job.shapes), job.batch_size)
        write_rows(progress, job.shapes, job.n, rows[left], batches)
    return len(rows)


@functools.lru_cache(maxsize=1)
def _encoder(name: str) -> ImageEncoder:
    from accelerate import PartialState

    from geocbm.encoders.image import load_image_encoder

    return load_image_encoder(name).to(PartialState().device)
