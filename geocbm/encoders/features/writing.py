"""Writing a feature store: resumable, within the disk, and divided among the processes of a launch."""

from __future__ import annotations

import copy
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from geocbm.data.images.photographs import open_picture
from geocbm.encoders import processes
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
from geocbm.errors import MismatchError, MissingInputError, NoSpaceError, ParameterError, UserError, first_line
from geocbm.files import SEAL, read_json, said_when_full, said_when_unwritable, size_text, write_json
from geocbm.files.progress import task

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder

Encoder = TypeVar("Encoder")

READERS = 2
"""Threads that read and preprocess pictures."""

HALF_MAX = 65504.0
"""Largest finite number in half precision."""

_GIGABYTE = 1e9
_PROGRESS = "progress_{}.json"
"""File in which a process keeps the ranges of rows that it has finished: what any of them says is done is done."""


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

    Raises:
        NoSpaceError: the disk cannot hold the store; nothing has been written.
        UserError: a picture cannot be read or gives features that are not numbers.
    """
    if len(files) != len(digests):
        raise ParameterError(f"there are {len(files)} files but {len(digests)} digests; give one digest per file")
    shapes = _checked_shapes(encoder, kinds, batch_size)

    def encode(encoder: ImageEncoder, rows: np.ndarray, wanted: Sequence[str]) -> Batches:
        return _encode_files(encoder, [files[row] for row in rows], wanted, batch_size)

    lower = {kind: encoder.lower_fingerprint(int(kind.split(":")[1])) for kind in shapes if kind.startswith("hidden:")}
    manifest = manifest_of(shapes, digests, encoder.fingerprint(), lower)
    return open_or_write(encoder, encode, manifest, Path(cache_dir), max_cache_gb, progress)


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
            with torch.inference_mode(), _single_precision(encoder.device):
                features = encoder.upper(hidden.to(encoder.device), top_blocks)._asdict()
            yield _in_half({kind: features[kind] for kind in wanted}, [f"row {row}" for row in part], encoder.name)

    manifest = manifest_of(shapes, hidden_store.digests, encoder.fingerprint())
    return open_or_write(encoder, encode, manifest, Path(cache_dir), max_cache_gb, progress=True)


def open_or_write(
    encoder: Encoder,
    encode: Callable[[Encoder, np.ndarray, Sequence[str]], Batches],
    manifest: dict[str, Any],
    cache_dir: Path,
    max_cache_gb: float,
    progress: bool,
) -> FeatureStore:
    """Open the store if it is whole, finish it if it was begun, otherwise write it, unless it is too large.

    Several processes each encode an equal share of the missing rows into their own ranges of the files; the main one
    declares the store whole when all are done. `encode` encodes the pictures in some rows into some kinds, in batches.
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
            stored = open_or_write(encoder, encode, part, cache_dir, max_cache_gb, progress)
            features.elsewhere = dict.fromkeys(small, stored)
        return features

    done = processes.on_main(lambda: _finished_rows(path.glob(_PROGRESS.format("*")), n))
    missing = np.flatnonzero(~processes.broadcast_object(done))
    processes.on_main(lambda: _allocate(path, shapes, n, len(missing)))
    if progress:
        begun = f", {n - len(missing)} of them are there already" if len(missing) < n else ""
        print(f"encoding {n} pictures ({', '.join(shapes)}): {gigabytes:.3f} GB{begun}")
    started = time.monotonic()
    first = np.unique(slots, return_index=True)[1]  # the first picture of each content, in the order of the slots
    share = np.array_split(missing, processes.process_count())[processes.process_index()]
    batches = _counted(encode(encoder, first[share], tuple(shapes)), n, n - len(missing), progress)
    processes.raise_together(lambda: _write(path, shapes, n, share, batches))
    if progress:
        seconds = max(time.monotonic() - started, 1e-9)
        print(f"encoded {len(missing)} pictures in {seconds:.1f} s ({len(missing) / seconds:.1f} per second)")

    def finish() -> None:
        sums = {kind: checksums(file_of(path, kind)) for kind in shapes}
        write_digests(path, manifest["digests"])
        described = {name: value for name, value in manifest.items() if name != "digests"}
        write_json(path / "manifest.json", {SEAL: "", CHECKSUMS: sums} | described)
        for file in path.glob(_PROGRESS.format("*")):
            file.unlink(missing_ok=True)

    processes.on_main(finish)
    return FeatureStore.open(path, manifest["digests"], manifest["fingerprint"])


def _fitting(shapes: dict[str, tuple[int, ...]], n: int, max_cache_gb: float) -> dict[str, tuple[int, ...]]:
    """The smallest kinds of features that n pictures may store together."""
    small: dict[str, tuple[int, ...]] = {}
    for kind, shape in sorted(shapes.items(), key=lambda each: n_bytes(each[1])):
        if n * sum(map(n_bytes, [*small.values(), shape])) <= max_cache_gb * _GIGABYTE:
            small[kind] = shape
    return small


def _is_whole(path: Path, manifest: dict[str, Any]) -> bool:
    """Whether there is a finished store; a damaged one is removed, with what is left of it, as if it never was."""
    if path.is_file():
        path.unlink()
    if not (path / "manifest.json").exists():
        return False
    try:
        FeatureStore.open(path, manifest["digests"], manifest["fingerprint"])
    except (
        MismatchError,
        MissingInputError,
    ) as problem:  # never of other pictures: its name is their hash
        warnings.warn(f"{first_line(problem)}; it is made again", stacklevel=2)
        shutil.rmtree(path)
        return False
    return True


def _finished_rows(files: Iterable[Path], n: int) -> np.ndarray:
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


def _allocate(path: Path, shapes: dict[str, tuple[int, ...]], n: int, n_missing: int) -> None:
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


def _write(path: Path, shapes: dict[str, tuple[int, ...]], n: int, rows: np.ndarray, batches: Batches) -> None:
    """Write the features of ascending rows, batch by batch; the progress follows what is safely on disk."""
    progress = path / _PROGRESS.format(processes.process_index())
    done = _finished_rows([progress] if progress.is_file() else [], n)  # of an earlier process with this number
    with ExitStack() as stack:
        stack.enter_context(said_when_full(progress, len(rows) * sum(map(n_bytes, shapes.values()))))
        streams = {kind: stack.enter_context(file_of(path, kind).open("r+b")) for kind in shapes}
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


def _counted(batches: Batches, n: int, done: int, shown: bool) -> Batches:
    """Pass batches on and say how far all processes are, as if they were equally fast."""
    with task("encoding", n, "picture", done, hidden=not shown) as encoding:
        for batch in batches:
            yield batch
            encoding.update(min(len(next(iter(batch.values()))) * processes.process_count(), n - encoding.done))


def _encode_files(encoder: ImageEncoder, files: Sequence[str | Path], kinds: Sequence[str], batch_size: int) -> Batches:
    """Encode files batch by batch while threads read the next ones."""

    def load(batch: Sequence[str | Path]) -> Tensor:
        return torch.cat([encoder.preprocess([open_picture(file)]) for file in batch])  # one large picture at a time

    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    for batch, pixels in processes.look_ahead(load, batches, READERS, READERS):
        features = _encode_batch(encoder, pixels.to(encoder.device), kinds)
        yield _in_half(features, [str(file) for file in batch], encoder.name)


def _encode_batch(encoder: ImageEncoder, pixels: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """All kinds of features of one batch."""
    depths = sorted((int(kind.split(":")[1]) for kind in kinds if kind.startswith("hidden:")), reverse=True) or [0]
    with torch.inference_mode(), _single_precision(pixels.device):
        result = {f"hidden:{depth}": encoder.lower(pixels, depth) for depth in depths}
        if "pooled" in kinds or "tokens" in kinds:
            result |= encoder.upper(result[f"hidden:{depths[0]}"], depths[0])._asdict()
    return {kind: result[kind] for kind in kinds}


@contextmanager
def _single_precision(device: torch.device) -> Iterator[None]:
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


def _in_half(features: dict[str, Tensor], names: Sequence[str], encoder_name: str) -> dict[str, np.ndarray]:
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
