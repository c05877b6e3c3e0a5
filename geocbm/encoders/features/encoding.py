"""Encoding pictures into a feature store, whole or from stored activations."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geocbm.data.images.pictures import open_picture
from geocbm.encoders.features.store import Batches, FeatureStore, known_kind
from geocbm.encoders.features.writing import StoreContent, open_or_write
from geocbm.errors import MismatchError, ParameterError, UserError

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder

READERS = 2
"""Threads that read and preprocess pictures."""

HALF_MAX = 65504.0
"""Largest finite number in half precision."""


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
    """Encode pictures once, or open what an earlier call stored.

    A call that was interrupted is resumed where its last whole batch ended.

    Args:
        encoder: frozen image encoder, on the device that computes.
        files: n picture files.
        digests: content hash of each file.
        cache_dir: folder of all stores.
        kinds: any of "pooled", "tokens", "hidden:N".
        batch_size: pictures per pass.
        max_cache_gb: above this size (in 10^9 bytes) nothing is stored and every read encodes again.
        progress: print the size before, and the progress during the encoding.

    Returns:
        The store.

    Raises:
        NoSpaceError: the disk cannot hold the store; nothing has been written.
        UserError: a picture cannot be read or gives features that are not numbers.
    """
    if len(files) != len(digests):
        raise ParameterError(f"there are {len(files)} files but {len(digests)} digests; give one digest per file")
    _check_batch_size(batch_size)
    shapes = {kind: _shape_of(encoder, kind) for kind in _checked_kinds(kinds)}

    def encode(encoder: ImageEncoder, rows: np.ndarray, wanted: Sequence[str]) -> Batches:
        return _encode_files(encoder, [files[row] for row in rows], wanted, batch_size)

    lower = {kind: encoder.lower_fingerprint(int(kind.split(":")[1])) for kind in shapes if kind.startswith("hidden:")}
    content = StoreContent(shapes, list(digests), encoder.fingerprint(), lower)
    return open_or_write(encoder, encode, content, Path(cache_dir), max_cache_gb, progress)


def re_encode(
    hidden_store: FeatureStore,
    encoder: ImageEncoder,
    top_blocks: int,
    kinds: Sequence[str] = ("pooled", "tokens"),
    cache_dir: str | Path = "data/cache",
    batch_size: int = 64,
    max_cache_gb: float = 60.0,
    progress: bool = True,
) -> FeatureStore:
    """Features of an encoder whose last blocks were trained, from the stored activations that enter them.

    Args:
        hidden_store: a store with the kind "hidden:N" for N = `top_blocks`, made before the training.
        encoder: the encoder with its trained blocks, on the device that computes.
        top_blocks: how many last blocks were trained.
        kinds: "pooled", "tokens" or both.
        cache_dir: folder of all stores.
        batch_size: pictures per pass.
        max_cache_gb: above this size nothing is stored and every read computes again.
        progress: print the size before, and the progress during the encoding.

    Returns:
        The store, under the fingerprint of the trained encoder.

    Raises:
        MismatchError: the activations were made by an encoder whose lower blocks differ.
        ParameterError: the store lacks them, or a kind is impossible.
    """
    source = known_kind(f"hidden:{top_blocks}", hidden_store.kinds)
    kinds = _checked_kinds(kinds)
    if any(kind.startswith("hidden:") for kind in kinds):
        raise ParameterError(f"kinds is {list(kinds)}; stored activations give only 'pooled' and 'tokens'")
    _check_batch_size(batch_size)
    if hidden_store.lower_fingerprints[source] != encoder.lower_fingerprint(top_blocks):
        raise MismatchError(
            f"the stored activations '{source}' were made by other lower blocks than those of '{encoder.name}'; encode "
            "the pictures again with this encoder"
        )
    shapes = {kind: _shape_of(encoder, kind) for kind in kinds}

    def encode(encoder: ImageEncoder, rows: np.ndarray, wanted: Sequence[str]) -> Batches:
        for start in range(0, len(rows), batch_size):
            hidden = hidden_store.read(source, rows[start : start + batch_size]).to(encoder.device)
            with torch.inference_mode(), _single_precision(hidden.device):
                features = encoder.upper(hidden, top_blocks)
            batch = {kind: _to_half(getattr(features, kind)) for kind in wanted}
            _check_numbers(batch, [f"row {row}" for row in rows[start : start + batch_size]], encoder.name)
            yield batch

    content = StoreContent(shapes, hidden_store.digests, encoder.fingerprint())
    return open_or_write(encoder, encode, content, Path(cache_dir), max_cache_gb, progress)


def _encode_files(encoder: ImageEncoder, files: Sequence[str | Path], kinds: Sequence[str], batch_size: int) -> Batches:
    """Encode files batch by batch while threads read the next ones."""

    def load(batch: Sequence[str | Path]) -> Tensor:
        return encoder.preprocess([open_picture(file) for file in batch])

    batches = deque(files[start : start + batch_size] for start in range(0, len(files), batch_size))
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        waiting: deque[tuple[Sequence[str | Path], Future[Tensor]]] = deque()
        try:
            while batches or waiting:
                while batches and len(waiting) <= READERS:
                    batch = batches.popleft()
                    waiting.append((batch, pool.submit(load, batch)))
                batch, future = waiting.popleft()
                features = _encode_batch(encoder, future.result().to(encoder.device), kinds)
                _check_numbers(features, [str(file) for file in batch], encoder.name)
                yield features
        finally:
            for _, future in waiting:
                future.cancel()


def _encode_batch(encoder: ImageEncoder, pixels: Tensor, kinds: Sequence[str]) -> dict[str, np.ndarray]:
    """All kinds of features of one batch; the lower blocks run once."""
    depths = sorted({int(kind.split(":")[1]) for kind in kinds if kind.startswith("hidden:")}, reverse=True)
    with torch.inference_mode(), _single_precision(pixels.device):
        deepest = depths[0] if depths else 0
        hidden = {deepest: encoder.lower(pixels, deepest)}
        for depth in depths[1:]:
            hidden[depth] = encoder.lower(pixels, depth)
        result = {f"hidden:{depth}": hidden[depth] for depth in depths}
        if "pooled" in kinds or "tokens" in kinds:
            result.update(encoder.upper(hidden[deepest], deepest)._asdict())
    return {kind: _to_half(result[kind]) for kind in kinds}


@contextmanager
def _single_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 whatever is set around, so that one key names one set of numbers.

    Mixed precision is off inside the block, and so is TF32, which cuDNN uses for convolutions unless told otherwise.
    """
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


def _check_numbers(batch: dict[str, np.ndarray], names: Sequence[str], encoder_name: str) -> None:
    """Refuse features that are not numbers; the message names the first picture."""
    for kind, numbers in batch.items():
        bad = np.isnan(numbers.reshape(len(names), -1)).any(axis=1)
        if bad.any():
            raise UserError(
                f"the {kind} features of '{names[int(bad.argmax())]}' are not numbers; the encoder '{encoder_name}' "
                "is damaged"
            )


def _to_half(numbers: Tensor) -> np.ndarray:
    """Numbers in half precision; those beyond its range are clipped, with a warning."""
    if bool((numbers.abs() > HALF_MAX).any()):
        warnings.warn(f"some features exceed {HALF_MAX:g}, the range of half precision, and are clipped", stacklevel=2)
    return numbers.clamp(-HALF_MAX, HALF_MAX).half().cpu().numpy()


def _shape_of(encoder: ImageEncoder, kind: str) -> tuple[int, ...]:
    if kind == "pooled":
        return (encoder.pooled_dim,)
    if kind == "tokens":
        return (encoder.grid[0] * encoder.grid[1], encoder.token_dim)
    return encoder.hidden_shape(int(kind.split(":")[1]))


def _checked_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Sorted kinds without repeats."""
    for kind in kinds:
        name, _, depth = kind.partition(":")
        if kind not in {"pooled", "tokens"} and not (name == "hidden" and depth.isdecimal()):
            raise ParameterError(f"the kind of features '{kind}' is unknown; use 'pooled', 'tokens' or 'hidden:N'")
    if not kinds:
        raise ParameterError("kinds is empty; use 'pooled', 'tokens' or 'hidden:N'")
    return tuple(sorted(set(kinds)))


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}; use at least 1")
