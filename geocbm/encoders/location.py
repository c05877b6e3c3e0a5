"""What the package of GeoCLIP brings along: encoder of places, head of pictures, gallery (Vivanco et al., 2023)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geocbm.errors import MissingInputError

if TYPE_CHECKING:
    from torch import Tensor, nn


CHUNK = 8192
"""Places that are embedded at a time."""


def _bundled(*parts: str) -> Path:
    """Path of a file inside the installed geoclip package, found without importing it."""
    spec = find_spec("geoclip")
    if spec is None or not spec.submodule_search_locations:
        raise MissingInputError("the package geoclip is not installed; install it with `pip install geoclip`")
    path = Path(next(iter(spec.submodule_search_locations))).joinpath("model", *parts)
    if not path.is_file():
        raise MissingInputError(f"the installed geoclip lacks its file {'/'.join(parts)}; install it again")
    return path


def load_location_encoder() -> nn.Module:
    """Load GeoCLIP's location encoder with its bundled weights, frozen and in evaluation mode.

    Returns:
        A module from coordinates (B, 2), latitude and longitude in degrees, float32, to embeddings (B, 512).
    """
    import warnings

    with warnings.catch_warnings():
        # geoclip imports torchvision, which compiles with torch.jit and is told that this is deprecated.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        from geoclip import LocationEncoder

    encoder = LocationEncoder(from_pretrained=False)
    encoder.load_state_dict(_bundled_weights("location_encoder_weights.pth"))
    return encoder.requires_grad_(False).eval()


def load_geoclip_head() -> nn.Module:
    """Load the two layers that bring pictures from CLIP into GeoCLIP's space of places, with bundled weights, frozen.

    Returns:
        A module from projected features `(B, 768)` of `openai/clip-vit-large-patch14` to embeddings `(B, 512)`, which
        are compared by cosine with those of `load_location_encoder`.
    """
    from torch import nn

    weights = _bundled_weights("image_encoder_mlp_weights.pth")
    inner, outer = weights["0.weight"], weights["2.weight"]  # (h, d), (512, h)
    head = nn.Sequential(
        nn.Linear(inner.shape[1], inner.shape[0]), nn.ReLU(), nn.Linear(outer.shape[1], outer.shape[0])
    )
    head.load_state_dict(weights)
    return head.requires_grad_(False).eval()


def _bundled_weights(file: str) -> dict[str, Tensor]:
    """Weights that come with geoclip; nothing in the file can be executed, for the reader is restricted to tensors."""
    import torch

    return torch.load(_bundled("weights", file), map_location="cpu", weights_only=True)


def load_gallery() -> np.ndarray:
    """Coordinates of 100,000 real places, (100000, 2) float64: latitude and longitude in degrees."""
    import pandas as pd

    table = pd.read_csv(_bundled("gps_gallery", "coordinates_100K.csv"))
    return table[["LAT", "LON"]].to_numpy(dtype=np.float64)


def location_embeddings(location_encoder: nn.Module, lat: np.ndarray, lng: np.ndarray) -> Tensor:
    """Embed coordinates once with the frozen location encoder.

    Args:
        location_encoder: module `(B, 2)` of `[lat, lng]` degrees -> `(B, g)`.
        lat: `(n,)` degrees.
        lng: `(n,)` degrees.

    Returns:
        `(n, g)` float32 on the CPU.
    """
    import torch

    coordinates = torch.from_numpy(np.stack([np.asarray(lat), np.asarray(lng)], axis=1).astype(np.float32))  # (n, 2)
    return in_chunks(location_encoder, coordinates)


def in_chunks(module: nn.Module, rows: Tensor) -> Tensor:
    """What a module gives for rows `(n, ...)`, some at a time on its device: `(n, ...)` float32 on the CPU."""
    import torch

    device = next((parameter.device for parameter in module.parameters()), rows.device)
    with torch.no_grad():
        return torch.cat([module(part.to(device)).float().cpu() for part in rows.split(CHUNK)])
