"""Distances and directions on a spherical Earth of radius 6371.0 km.

Every function takes NumPy arrays, Python numbers or torch tensors and answers in kind; torch is never imported here, so
that notebooks which only read tables do not pay for it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from geocbm.errors import ParameterError

EARTH_RADIUS_KM = 6371.0
KM_PER_DEGREE = EARTH_RADIUS_KM * np.pi / 180


def _library(*values: Any) -> Any:
    """Return torch if any value is a tensor, else NumPy."""
    for value in values:
        if type(value).__module__.startswith("torch"):
            import torch

            return torch
    return np


def _floats(library: Any, *values: Any) -> list[Any]:
    """Bring values to floating point arrays of one library (and one device, for tensors)."""
    if library is np:
        return [np.asarray(value, dtype=np.float64) for value in values]
    like = next(value for value in values if isinstance(value, library.Tensor))
    dtype = library.float32
    floating = [value.dtype for value in values if isinstance(value, library.Tensor) and value.is_floating_point()]
    if floating:
        dtype = functools.reduce(library.promote_types, floating)
    return [library.as_tensor(value, dtype=dtype, device=like.device) for value in values]


def haversine_km(lat1: Any, lng1: Any, lat2: Any, lng2: Any) -> Any:
    """Great-circle distance in km between points in degrees (R = 6371.0 km), whose latitudes and longitudes broadcast.

    A NumPy array or, if any argument is a tensor, a tensor; NaN where any coordinate is NaN.
    """
    library = _library(lat1, lng1, lat2, lng2)
    lat1, lng1, lat2, lng2 = (library.deg2rad(value) for value in _floats(library, lat1, lng1, lat2, lng2))
    half = (
        library.sin((lat2 - lat1) / 2) ** 2
        + library.cos(lat1) * library.cos(lat2) * library.sin((lng2 - lng1) / 2) ** 2
    )
    # Rounding can push antipodal points a hair above 1, where arcsin is NaN.
    half = library.clip(half, 0.0, 1.0)
    return 2 * EARTH_RADIUS_KM * library.arcsin(library.sqrt(half))


def latlng_to_cartesian(lat: Any, lng: Any) -> Any:
    """Unit vectors `[..., 3]` of points in degrees, of any shape (specification, section Semantic Geocells).

    (x, y, z) = (cos lat cos lng, cos lat sin lng, sin lat).
    """
    library = _library(lat, lng)
    lat, lng = (library.deg2rad(value) for value in _floats(library, lat, lng))
    parts = [library.cos(lat) * library.cos(lng), library.cos(lat) * library.sin(lng), library.sin(lat)]
    return library.stack(parts, -1)


def cartesian_to_latlng(xyz: Any) -> tuple[Any, Any]:
    """Latitude and longitude in degrees of vectors `[..., 3]` of any non-zero length; length zero gives (0, 0).

    The latitude lies in [-90, 90], the longitude in [-180, 180].
    """
    library = _library(xyz)
    (xyz,) = _floats(library, xyz)
    x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
    lat = library.rad2deg(library.arctan2(z, library.hypot(x, y)))
    lng = library.rad2deg(library.arctan2(y, x))
    return lat, lng


def spatial_blocks(lat: Any, lng: Any, block_km: float) -> np.ndarray:
    """Numbers `[n]` from 0 of the blocks of ground, of about `block_km` by `block_km`, of points `[n]` in degrees.

    The longitude may be in any turn: -180 and 180 are the same meridian. Bands of latitude are cut into as many columns
    as fit round the globe there; a side that is not above 0 is a ParameterError.
    """
    if not block_km > 0:
        raise ParameterError(f"block_km is {block_km}; give a side in km above 0, such as 1.0.")
    step = block_km / KM_PER_DEGREE
    band = np.floor((np.asarray(lat, dtype=np.float64) + 90) / step)
    middle = np.clip((band + 0.5) * step - 90, -90, 90)
    columns = np.maximum(1, np.floor(360 * np.cos(np.deg2rad(middle)) / step))
    column = np.floor((np.asarray(lng, dtype=np.float64) + 180) / 360 * columns) % columns
    block = np.unique(np.stack([band, column], axis=1), axis=0, return_inverse=True)[1]
    return block.reshape(-1).astype(np.int64)
