"""Encoding pictures batch by batch: half precision, one set of numbers whatever is set around."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geocbm.data.images.photographs import open_picture
from geocbm.encoders import processes
from geocbm.encoders.features.store import Batches
from geocbm.errors import UserError

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder

READERS = 2
"""Threads that read and preprocess pictures."""

HALF_MAX = 65504.0
"""Largest finite number in half precision."""


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
