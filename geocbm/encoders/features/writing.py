"""Writing a feature store: resumable, within the disk, and divided among the processes of a launch."""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from geocbm.encoders.features.progress import DoneRows, ProgressBar, forget_progress, missing_rows, runs_of
from geocbm.encoders.features.store import (
    DTYPE,
    Batches,
    FeatureStore,
    OnTheFlyFeatures,
    file_of,
    n_bytes,
    store_key,
    unique_rows,
)
from geocbm.encoders.processes import (
    all_gather_object,
    broadcast_object,
    is_main_process,
    on_main,
    process_count,
    process_index,
    raise_together,
)
from geocbm.errors import MismatchError, NoSpaceError
from geocbm.files import write_json

Encoder = TypeVar("Encoder")

_GIGABYTE = 1e9


@dataclass(frozen=True)
class StoreContent:
    """What a store holds, before it is written.

    Attributes:
        shapes: shape of one picture's features per kind.
        digests: content hash of each picture.
        fingerprint: of the weights and the preprocessing.
        lower_fingerprints: for each kind "hidden:N" the fingerprint of what lies below the last N blocks.
    """

    shapes: dict[str, tuple[int, ...]]
    digests: list[str]
    fingerprint: str
    lower_fingerprints: dict[str, str] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """The manifest of the store, its key with it."""
        key = store_key(self.fingerprint, list(self.shapes), self.digests)
        return {"key": key, "dtype": DTYPE} | asdict(self)


def open_or_write(
    encoder: Encoder,
    encode: Callable[[Encoder, np.ndarray, Sequence[str]], Batches],
    content: StoreContent,
    cache_dir: Path,
    max_cache_gb: float,
    progress: bool,
) -> FeatureStore:
    """Open the store if it is whole, finish it if it was begun, otherwise write it.

    Several processes each encode an equal share of the missing rows into their own ranges of the files; the main one
    declares the store whole when all are done. All of them get the same store.

    Args:
        encoder: what `encode` works with.
        encode: encodes the pictures in some rows into some kinds, batch by batch, in order.
        content: what the store is to hold.
        cache_dir: folder of all stores.
        max_cache_gb: above this size (in 10^9 bytes) nothing is written.
        progress: print the size before, and the progress.

    Returns:
        A store on disk, or one that encodes at every read if it would be larger than `max_cache_gb`.
    """
    manifest, shapes, digests = content.manifest(), content.shapes, content.digests
    key = manifest["key"]
    path = cache_dir / key[:32]
    if len(set(all_gather_object(key))) > 1:
        raise MismatchError("the processes hold other weights or pictures than each other; start them all afresh")
    # Only the main process looks: on a network disk another could see an older state and go another way.
    if broadcast_object(is_main_process() and (path / "manifest.json").is_file()):
        return FeatureStore.open(path, digests, content.fingerprint)
    slots, n_unique = unique_rows(digests)
    total = n_unique * sum(n_bytes(shape) for shape in shapes.values())
    progress = progress and is_main_process()
    if total > max_cache_gb * _GIGABYTE:
        if progress:
            print(
                f"features of {n_unique} pictures would take {total / _GIGABYTE:.2f} GB, more than max_cache_gb = "
                f"{max_cache_gb:g}: they are encoded at every read"
            )
        # Training changes the encoder in place; these features stay those of the weights as they are now.
        return OnTheFlyFeatures(manifest, partial(encode, copy.deepcopy(encoder)))

    gaps = broadcast_object(runs_of(missing_rows(path, n_unique)) if is_main_process() else None)
    missing = np.concatenate([np.zeros(0, np.int64), *(np.arange(start, stop) for start, stop in gaps)])
    on_main(lambda: _check_space(cache_dir, len(missing) * (total // n_unique if n_unique else 0)))
    if progress:
        n_done = n_unique - len(missing)
        begun = f", {n_done} of them are there already" if n_done else ""
        print(f"encoding {n_unique} pictures ({', '.join(shapes)}): {total / _GIGABYTE:.3f} GB{begun}")
    on_main(lambda: _allocate(path, shapes, n_unique))
    started = time.monotonic()
    first = np.unique(slots, return_index=True)[1]  # the first picture of each content, in the order of the slots
    share = np.array_split(missing, process_count())[process_index()]
    bar = ProgressBar(n_unique, n_unique - len(missing), progress, process_count())
    raise_together(lambda: _write(path, shapes, share, encode(encoder, first[share], tuple(shapes)), bar))
    if progress:
        seconds = max(time.monotonic() - started, 1e-9)
        print(f"encoded {len(missing)} pictures in {seconds:.1f} s ({len(missing) / seconds:.1f} per second)")
    on_main(lambda: _finish(path, manifest))
    return FeatureStore.open(path, digests, content.fingerprint)


def _allocate(path: Path, shapes: dict[str, tuple[int, ...]], n: int) -> None:
    """Give every file its final size, so that each process can write its own range of it."""
    path.mkdir(parents=True, exist_ok=True)
    for kind, shape in shapes.items():
        file = file_of(path, kind)
        file.touch()
        os.truncate(file, n * n_bytes(shape))


def _write(
    path: Path, shapes: dict[str, tuple[int, ...]], rows: np.ndarray, batches: Batches, bar: ProgressBar
) -> None:
    """Write the features of ascending rows, batch by batch; the progress follows what is safely on disk.

    Args:
        path: folder of the store, its files allocated.
        shapes: shape of one picture's features per kind.
        rows: rows of the files.
        batches: their features, in this order.
        bar: counts them.
    """
    streams = {kind: file_of(path, kind).open("r+b") for kind in shapes}
    done, position = DoneRows(path, process_index()), 0
    try:
        for batch in batches:
            chosen = rows[position : position + len(next(iter(batch.values())))]
            for kind, numbers in batch.items():
                written = 0
                for start, stop in runs_of(chosen):
                    streams[kind].seek(start * n_bytes(shapes[kind]))
                    streams[kind].write(np.ascontiguousarray(numbers[written : written + stop - start]).data)
                    written += stop - start
                streams[kind].flush()
                os.fsync(streams[kind].fileno())
            done.add(chosen)
            position += len(chosen)
            bar.step(len(chosen))
    finally:
        bar.close()
        for stream in streams.values():
            stream.close()


def _finish(path: Path, manifest: dict[str, Any]) -> None:
    """Declare the store whole."""
    write_json(path / "manifest.json", manifest)
    forget_progress(path)


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
