"""Writing a feature store: resumable, within the disk, and divided among processes or the workers of an engine."""

from __future__ import annotations

import copy
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from geocbm.encoders import processes
from geocbm.encoders.features.encoding import RangeJob, encode_files, encode_in_ranges, in_half, single_precision
from geocbm.encoders.features.rows import PROGRESS, allocate, finished_rows, write_rows
from geocbm.encoders.features.store import (
    CHECKSUMS,
    Batches,
    FeatureStore,
    OnTheFlyFeatures,
    checksums,
    file_of,
    manifest_of,
    n_bytes,
    unique_rows,
    write_digests,
)
from geocbm.errors import MismatchError, MissingInputError, ParameterError, first_line
from geocbm.files import SEAL, engine, write_json
from geocbm.files.progress import task

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder

Encoder = TypeVar("Encoder")

_GIGABYTE = 1e9


def encode_features(
    encoder: ImageEncoder,
    files: Sequence[str | Path],
    digests: Sequence[str],
    cache_dir: str | Path,
    kinds: Sequence[str] = ("pooled", "tokens"),
    batch_size: int = 64,
    max_cache_gb: float = 60.0,
    progress: bool = True,
) -> FeatureStore:
    """Encode picture files once, or open what an earlier call stored; one that was interrupted is resumed.

    The content hash of each file is its digest; kinds are "pooled", "tokens" and "hidden:N". Where they would together
    take more than `max_cache_gb` (10^9 bytes) the smallest are stored, and every read of the others encodes again.
    Under a `joblib.parallel_config`, or with an engine in the environment, what is stored is encoded in ranges by its
    workers, see `features.encoding`.

    Raises:
        NoSpaceError: the disk cannot hold the store; nothing has been written.
        UserError: a picture cannot be read or gives features that are not numbers.
    """
    if len(files) != len(digests):
        raise ParameterError(f"there are {len(files)} files but {len(digests)} digests; give one digest per file")
    shapes = _checked_shapes(encoder, kinds, batch_size)

    def encode(encoder: ImageEncoder, rows: np.ndarray, wanted: Sequence[str]) -> Batches:
        return encode_files(encoder, [files[row] for row in rows], wanted, batch_size)

    lower = {kind: encoder.lower_fingerprint(int(kind.split(":")[1])) for kind in shapes if kind.startswith("hidden:")}
    manifest = manifest_of(shapes, digests, encoder.fingerprint(), lower)

    def by_workers(path: Path, manifest: dict[str, Any], rows: np.ndarray, pictures: np.ndarray) -> Iterator[int]:
        job = RangeJob.of(path, manifest, encoder.name, batch_size)
        return encode_in_ranges(job, rows, [files[picture] for picture in pictures])

    return open_or_write(encoder, encode, manifest, Path(cache_dir), max_cache_gb, progress, by_workers)


def re_encode(
    hidden_store: FeatureStore,
    encoder: ImageEncoder,
    top_blocks: int,
    cache_dir: str | Path,
    batch_size: int = 64,
    max_cache_gb: float = 60.0,
) -> FeatureStore:
    """Pooled features and tokens of an encoder whose last blocks were trained, from the activations that enter them.

    Those are the kind "hidden:N", for N = `top_blocks`, of a store that was made before the training.

    Raises:
        MismatchError: the activations were made by an encoder whose lower blocks differ.
        ParameterError: the store lacks them.
    """
    source = f"hidden:{top_blocks}"
    hidden_store.shape(source)
    shapes = _checked_shapes(encoder, ("pooled", "tokens"), batch_size)
    if hidden_store.lower_fingerprints[source] != encoder.lower_fingerprint(top_blocks):
        raise MismatchError(
            f"the stored activations '{source}' were made by other lower blocks than those of '{encoder.name}'; encode "
            "the pictures again with this encoder"
        )

    def encode(encoder: ImageEncoder, rows: np.ndarray, wanted: Sequence[str]) -> Batches:
        parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        # Activations that are not stored are encoded by the read: pictures are opened while the encoder computes.
        for part, hidden in processes.look_ahead(partial(hidden_store.read, source), parts, 1, 1):
            with torch.inference_mode(), single_precision(encoder.device):
                features = encoder.upper(hidden.to(encoder.device), top_blocks)._asdict()
            yield in_half({kind: features[kind] for kind in wanted}, [f"row {row}" for row in part], encoder.name)

    manifest = manifest_of(shapes, hidden_store.digests, encoder.fingerprint())
    return open_or_write(encoder, encode, manifest, Path(cache_dir), max_cache_gb, progress=True)


def open_or_write(
    encoder: Encoder,
    encode: Callable[[Encoder, np.ndarray, Sequence[str]], Batches],
    manifest: dict[str, Any],
    cache_dir: Path,
    max_cache_gb: float,
    progress: bool,
    by_workers: Callable[[Path, dict[str, Any], np.ndarray, np.ndarray], Iterator[int]] | None = None,
) -> FeatureStore:
    """Open the store if it is whole, finish it if it was begun, otherwise write it, unless it is too large.

    Several processes each encode an equal share of the missing rows into their own ranges of the files; the main one
    declares the store whole when all are done. `encode` encodes the pictures in some rows into some kinds, in batches.
    Where an engine was chosen, `by_workers` has rows of the folder encoded, of the pictures of these numbers.
    """
    path, shapes = cache_dir / manifest["key"][:32], manifest["shapes"]
    if len(set(processes.all_gather_object(manifest["key"]))) > 1:
        raise MismatchError("the processes hold other weights or pictures than each other; start them all afresh")
    # Only the main process looks: on a network disk another could see an older state and go another way.
    if processes.broadcast_object(processes.is_main_process() and _is_whole(path, manifest)):
        return FeatureStore.open(path, manifest["digests"], manifest["fingerprint"])
    slots, n = unique_rows(manifest["digests"])
    gigabytes = n * sum(map(n_bytes, shapes.values())) / _GIGABYTE
    progress = progress and processes.is_main_process()
    if gigabytes > max_cache_gb:
        small = _fitting(shapes, n, max_cache_gb)
        if progress:
            live = "they" if not small else " and ".join(kind for kind in shapes if kind not in small)
            print(
                f"features of {n} pictures would take {gigabytes:.2f} GB, more than max_cache_gb = {max_cache_gb:g}: "
                f"{live} are encoded at every read"
            )
        # Training changes the encoder in place; these features stay those of the weights as they are now.
        features = OnTheFlyFeatures(manifest, partial(encode, copy.deepcopy(encoder)))
        if small:
            lower = {kind: name for kind, name in manifest["lower_fingerprints"].items() if kind in small}
            part = manifest_of(small, manifest["digests"], manifest["fingerprint"], lower)
            stored = open_or_write(encoder, encode, part, cache_dir, max_cache_gb, progress, by_workers)
            features.elsewhere = dict.fromkeys(small, stored)
        return features

    done = processes.on_main(lambda: finished_rows(path.glob(PROGRESS.format("*")), n))
    missing = np.flatnonzero(~processes.broadcast_object(done))
    processes.on_main(lambda: allocate(path, shapes, n, len(missing)))
    if progress:
        begun = f", {n - len(missing)} of them are there already" if len(missing) < n else ""
        print(f"encoding {n} pictures ({', '.join(shapes)}): {gigabytes:.3f} GB{begun}")
    started = time.monotonic()
    first = np.unique(slots, return_index=True)[1]  # the first picture of each content, in the order of the slots
    if by_workers is not None and processes.process_count() == 1 and engine.is_chosen():
        _let_work(by_workers(path, manifest, missing, first[missing]), path, n, len(missing), progress)
    else:
        share = np.array_split(missing, processes.process_count())[processes.process_index()]
        batches = _counted(encode(encoder, first[share], tuple(shapes)), n, n - len(missing), progress)
        own = path / PROGRESS.format(processes.process_index())
        processes.raise_together(lambda: write_rows(own, shapes, n, share, batches))
    if progress:
        seconds = max(time.monotonic() - started, 1e-9)
        print(f"encoded {len(missing)} pictures in {seconds:.1f} s ({len(missing) / seconds:.1f} per second)")

    processes.on_main(lambda: _finish(path, manifest))
    return FeatureStore.open(path, manifest["digests"], manifest["fingerprint"])


def _fitting(shapes: dict[str, tuple[int, ...]], n: int, max_cache_gb: float) -> dict[str, tuple[int, ...]]:
    """The smallest kinds of features that n pictures may store together."""
    small: dict[str, tuple[int, ...]] = {}
    for kind, shape in sorted(shapes.items(), key=lambda each: n_bytes(each[1])):
        if n * sum(map(n_bytes, [*small.values(), shape])) <= max_cache_gb * _GIGABYTE:
            small[kind] = shape
    return small


def _let_work(ranges: Iterator[int], path: Path, n: int, n_missing: int, shown: bool) -> None:
    """Wait until workers have written all ranges, each of which gives its number of rows, and look whether they did."""
    with task("encoding", n, "picture", n - n_missing, hidden=not shown) as encoding:
        for count in ranges:
            encoding.update(count)
    if not finished_rows(path.glob(PROGRESS.format("*")), n).all():
        raise MismatchError(f"workers wrote features elsewhere; {path} must lie on a disk that all of them share")


def _finish(path: Path, manifest: dict[str, Any]) -> None:
    """Declare a store whole."""
    sums = {kind: checksums(file_of(path, kind)) for kind in manifest["shapes"]}
    write_digests(path, manifest["digests"])
    described = {name: value for name, value in manifest.items() if name != "digests"}
    write_json(path / "manifest.json", {SEAL: "", CHECKSUMS: sums} | described)
    for file in path.glob(PROGRESS.format("*")):
        file.unlink(missing_ok=True)


def _is_whole(path: Path, manifest: dict[str, Any]) -> bool:
    """Whether there is a finished store; a damaged one is removed, with what is left of it, as if it never was."""
    if path.is_file():
        path.unlink()
    if not (path / "manifest.json").exists():
        return False
    try:
        FeatureStore.open(path, manifest["digests"], manifest["fingerprint"])
    except (MismatchError, MissingInputError) as problem:  # never of other pictures: its name is their hash
        warnings.warn(f"{first_line(problem)}; it is made again", stacklevel=2)
        shutil.rmtree(path)
        return False
    return True


def _counted(batches: Batches, n: int, done: int, shown: bool) -> Batches:
    """Pass batches on and say how far all processes are, as if they were equally fast."""
    with task("encoding", n, "picture", done, hidden=not shown) as encoding:
        for batch in batches:
            yield batch
            encoding.update(min(len(next(iter(batch.values()))) * processes.process_count(), n - encoding.done))


def _checked_shapes(encoder: ImageEncoder, kinds: Sequence[str], batch_size: int) -> dict[str, tuple[int, ...]]:
    """Shape of one picture's features per kind, the kinds sorted and without repeats."""
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}; use at least 1")
    if not kinds:
        raise ParameterError("kinds is empty; use 'pooled', 'tokens' or 'hidden:N'")
    shapes: dict[str, tuple[int, ...]] = {}
    for kind in sorted(set(kinds)):
        name, _, depth = kind.partition(":")
        if kind == "pooled":
            shapes[kind] = (encoder.pooled_dim,)
        elif kind == "tokens":
            shapes[kind] = (encoder.grid[0] * encoder.grid[1], encoder.token_dim)
        elif name == "hidden" and depth.isdecimal():
            shapes[kind] = encoder.hidden_shape(int(depth))
        else:
            raise ParameterError(f"the kind of features '{kind}' is unknown; use 'pooled', 'tokens' or 'hidden:N'")
    return shapes
