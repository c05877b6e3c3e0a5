"""Writing a feature store: resumable, within the disk, and reported without flooding a notebook."""

from __future__ import annotations

import copy
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from geocbm.errors import NoSpaceError
from geocbm.features.store import (
    DTYPE,
    Batches,
    FeatureStore,
    OnTheFlyFeatures,
    file_of,
    n_bytes,
    store_key,
    unique_rows,
)
from geocbm.files import read_json, write_json

Encoder = TypeVar("Encoder")

_GIGABYTE = 1e9


def open_or_write(
    encoder: Encoder,
    encode: Callable[[Encoder, np.ndarray, Sequence[str]], Batches],
    shapes: dict[str, tuple[int, ...]],
    digests: list[str],
    fingerprint: str,
    cache_dir: Path,
    max_cache_gb: float,
    progress: bool,
    lower_fingerprints: dict[str, str] | None = None,
) -> FeatureStore:
    """Open the store if it is whole, finish it if it was begun, otherwise write it.

    Args:
        encoder: what `encode` works with.
        encode: encodes the pictures in some rows into some kinds, batch by batch, in order.
        shapes: shape of one picture's features per kind.
        digests: content hash of each picture.
        fingerprint: of the weights and the preprocessing.
        cache_dir: folder of all stores.
        max_cache_gb: above this size (in 10^9 bytes) nothing is written.
        progress: print the size before, and the progress.
        lower_fingerprints: for each kind "hidden:N" the fingerprint of what lies below the last N blocks.

    Returns:
        A store on disk, or one that encodes at every read if it would be larger than `max_cache_gb`.
    """
    key = store_key(fingerprint, list(shapes), digests)
    path = cache_dir / key[:32]
    if (path / "manifest.json").is_file():
        return FeatureStore.open(path, digests, fingerprint)
    manifest = {
        "key": key,
        "fingerprint": fingerprint,
        "lower_fingerprints": lower_fingerprints or {},
        "dtype": DTYPE,
        "shapes": shapes,
        "digests": digests,
    }
    slots, n_unique = unique_rows(digests)
    total = n_unique * sum(n_bytes(shape) for shape in shapes.values())
    if total > max_cache_gb * _GIGABYTE:
        if progress:
            print(
                f"features of {n_unique} pictures would take {total / _GIGABYTE:.2f} GB, more than max_cache_gb = "
                f"{max_cache_gb:g}: they are encoded at every read"
            )
        # Training changes the encoder in place; these features stay those of the weights as they are now.
        return OnTheFlyFeatures(manifest, partial(encode, copy.deepcopy(encoder)))

    done = int(read_json(path / "progress.json")["done"]) if (path / "progress.json").is_file() else 0
    needed = total - done * (total // n_unique if n_unique else 0)
    _check_space(cache_dir, needed)
    if progress:
        begun = f", {done} of them are there already" if done else ""
        print(f"encoding {n_unique} pictures ({', '.join(shapes)}): {total / _GIGABYTE:.3f} GB{begun}")
    path.mkdir(parents=True, exist_ok=True)
    first = np.unique(slots, return_index=True)[1]  # the first picture of each content, in the order of the slots
    _write(path, shapes, n_unique, done, encode(encoder, first[done:], tuple(shapes)), progress)
    write_json(path / "manifest.json", manifest)
    (path / "progress.json").unlink(missing_ok=True)
    return FeatureStore.open(path, digests, fingerprint)


def _write(path: Path, shapes: dict[str, tuple[int, ...]], n: int, done: int, batches: Batches, progress: bool) -> None:
    """Write batch after batch behind the rows that are done; the counter follows what is safely on disk."""
    for kind, shape in shapes.items():
        file = file_of(path, kind)
        file.touch()
        os.truncate(file, n * n_bytes(shape))
    streams = {kind: file_of(path, kind).open("r+b") for kind in shapes}
    started, begun_at = time.monotonic(), done
    report = _Progress(n, done, progress)
    try:
        for batch in batches:
            size = 0
            for kind, numbers in batch.items():
                size = len(numbers)
                streams[kind].seek(done * n_bytes(shapes[kind]))
                streams[kind].write(np.ascontiguousarray(numbers).data)
                streams[kind].flush()
                os.fsync(streams[kind].fileno())
            done += size
            write_json(path / "progress.json", {"done": done})
            report.step(size)
    finally:
        report.close()
        for stream in streams.values():
            stream.close()
    if progress:
        seconds = max(time.monotonic() - started, 1e-9)
        print(f"encoded {done - begun_at} pictures in {seconds:.1f} s ({(done - begun_at) / seconds:.1f} per second)")


class _Progress:
    """A bar on a terminal; elsewhere at most a line a minute, so that a notebook is not flooded."""

    def __init__(self, n: int, done: int, shown: bool) -> None:
        self.n, self.done = n, done
        self.shown = shown
        self.last_line = time.monotonic()
        self.bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=n, initial=done, unit="picture", mininterval=0.5, leave=False)

    def step(self, size: int) -> None:
        """Count `size` more pictures."""
        self.done += size
        if self.bar is not None:
            self.bar.update(size)
        elif self.shown and time.monotonic() - self.last_line > 60:
            self.last_line = time.monotonic()
            print(f"encoded {self.done} of {self.n} pictures")

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def _check_space(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise NoSpaceError(
            f"the features need {needed / _GIGABYTE:.2f} GB but the disk has {free / _GIGABYTE:.2f} GB free; set "
            "GEOCBM_DATA to a larger disk, or lower max_cache_gb to encode at every read"
        )
