"""The location encoder of GeoCLIP and the gallery of real places that comes with it (Vivanco et al., 2023)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geocbm.errors import MissingInputError

if TYPE_CHECKING:
    from torch import nn


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

    import torch

    with warnings.catch_warnings():
        # geoclip imports torchvision, which compiles with torch.jit and is told that this is deprecated.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        from geoclip import LocationEncoder

    encoder = LocationEncoder(from_pretrained=False)
    # weights_only restricts the reader to tensors: nothing in the file can be executed.
    weights = torch.load(_bundled("weights", "location_encoder_weights.pth"), map_location="cpu", weights_only=True)
    encoder.load_state_dict(weights)
    return encoder.requires_grad_(False).eval()


def load_gallery() -> np.ndarray:
    """Coordinates of 100,000 real places, (100000, 2) float64: latitude and longitude in degrees."""
    import pandas as pd

    table = pd.read_csv(_bundled("gps_gallery", "coordinates_100K.csv"))
    return table[["LAT", "LON"]].to_numpy(dtype=np.float64)
