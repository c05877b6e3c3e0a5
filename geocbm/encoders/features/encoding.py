"""Encoding pictures in half precision, batch by batch in this process or in ranges by the workers of an engine.

A range is idempotent: its numbers go to their own place in the files of a store on a disk that all workers share, and
a batch of it that is written is not encoded again, by whichever worker. Ranges are whole numbers of batches, cut as one
process cuts them.
"""

from __future__ import annotations

import functools
import platform
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geocbm.data.images.photographs import open_picture
from geocbm.encoders import processes
from geocbm.encoders.features.rows import PROGRESS, finished_rows, write_rows
from geocbm.encoders.features.store import Batches, unique_rows
from geocbm.errors import MismatchError, MissingInputError, UserError
from geocbm.files import engine

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder

READERS = 2
"""Threads that read and preprocess pictures."""

HALF_MAX = 65504.0
"""Largest finite number in half precision."""
_MOST_BATCHES = 8
"""Of a range: what a worker that ends has begun for nothing, and how often progress is seen."""
_one_at_a_time = threading.Lock()  # a worker may have several threads, and precision is set for a whole process


def encode_files(encoder: ImageEncoder, files: Sequence[str | Path], kinds: Sequence[str], batch_size: int) -> Batches:
    """Encode files batch by batch while threads read the next ones."""

    def load(batch: Sequence[str | Path]) -> Tensor:
        return torch.cat([encoder.preprocess([open_picture(file)]) for file in batch])  # one large picture at a time

    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    for batch, pixels in processes.look_ahead(load, batches, READERS, READERS):
        features = _encode_batch(encoder, pixels.to(encoder.device), kinds)
        yield in_half(features, [str(file) for file in batch], encoder.name)


def _encode_batch(encoder: ImageEncoder, pixels: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """All kinds of features of one batch."""
    depths = sorted((int(kind.split(":")[1]) for kind in kinds if kind.startswith("hidden:")), reverse=True) or [0]
    with torch.inference_mode(), single_precision(pixels.device):
        result = {f"hidden:{depth}": encoder.lower(pixels, depth) for depth in depths}
        if "pooled" in kinds or "tokens" in kinds:
            result |= encoder.upper(result[f"hidden:{depths[0]}"], depths[0])._asdict()
    return {kind: result[kind] for kind in kinds}


@contextmanager
def single_precision(device: torch.device) -> Iterator[None]:
    """Compute without mixed precision and TF32 whatever is set around, so that one key names one set of numbers."""
    backends: Any = torch.backends
    switches = (backends.cudnn.conv, backends.cuda.matmul) if device.type == "cuda" else ()
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def in_half(features: dict[str, Tensor], names: Sequence[str], encoder_name: str) -> dict[str, np.ndarray]:
    """Features of the pictures of these names in half precision, clipped to its range; NaN raises `UserError`."""
    halves = {}
    for kind, numbers in features.items():
        if bool((numbers.abs() > HALF_MAX).any()):
            warnings.warn(
                f"some features exceed {HALF_MAX:g}, the range of half precision, and are clipped", stacklevel=2
            )
        halves[kind] = numbers.clamp(-HALF_MAX, HALF_MAX).half().cpu().numpy()
        bad = np.isnan(halves[kind].reshape(len(names), -1)).any(axis=1)
        if bad.any():
            raise UserError(
                f"the {kind} features of '{names[int(bad.argmax())]}' are not numbers; the encoder '{encoder_name}' "
                "is damaged"
            )
    return halves


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
