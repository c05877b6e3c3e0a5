"""Offsets inside a cell: from the centre of the true cell to the true place, and back (DECISIONS L11).

Three kinds: `cartesian` is the difference of unit vectors and `latlng` the difference in degrees, as the specification
writes them; `tangent` is the direction and distance on the ground, east and north, in units of the cell's own scale, so
that a street of a small cell and a valley of a large one are numbers of the same size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from geocbm.errors import ParameterError
from geocbm.geodesy import EARTH_RADIUS_KM, cartesian_to_latlng, latlng_to_cartesian

OFFSET_DIM = {"cartesian": 3, "latlng": 2, "tangent": 2}
"""Numbers of an offset of each kind."""


def offset_targets(
    centers: Tensor, lat: Tensor, lng: Tensor, kind: str = "cartesian", scale_km: Tensor | None = None
) -> Tensor:
    """Offsets `(B, 3)` or `(B, 2)` from the centres `(B, 3)` of the true cells to the true places `(B,)` in degrees.

    The kind is a key of `OFFSET_DIM`; the longitude of "latlng" goes the short way round, and "tangent" needs the scale
    `(B,)` of each cell in km.
    """
    _check(kind, scale_km)
    if kind == "latlng":
        center_lat, center_lng = cartesian_to_latlng(centers)
        return torch.stack([lat - center_lat, (lng - center_lng + 180.0) % 360.0 - 180.0], dim=-1)
    place = latlng_to_cartesian(lat, lng).to(centers.dtype)
    if kind == "cartesian":
        return place - centers
    assert scale_km is not None
    east, north = _tangent_axes(centers)
    across = torch.stack([(place * east).sum(-1), (place * north).sum(-1)], dim=-1)  # (B, 2), its length is sin(angle)
    sine = across.norm(dim=-1, keepdim=True)
    angle = torch.atan2(sine, (place * centers).sum(-1, keepdim=True))  # (B, 1) radians from the centre
    # At the centre itself the direction is arbitrary and the ratio tends to 1.
    stretch = torch.where(sine > 0, angle / sine.clamp_min(torch.finfo(sine.dtype).tiny), torch.ones_like(sine))
    return across * stretch * EARTH_RADIUS_KM / scale_km[:, None]


def decode_offsets(
    centers: Tensor, offsets: Tensor, kind: str = "cartesian", scale_km: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Move cell centres by offsets, the inverse of `offset_targets`; the answer always lies on the sphere.

    Gives `(B,)` latitudes in [-90, 90] and longitudes in [-180, 180), degrees, float32.
    """
    _check(kind, scale_km)
    centers, offsets = centers.float(), offsets.float()
    if kind == "latlng":
        lat, lng = cartesian_to_latlng(centers)
        lat, lng = lat + offsets[..., 0], lng + offsets[..., 1]
    elif kind == "cartesian":
        moved = centers + offsets
        # An offset that lands in the middle of the Earth has no direction; the centre is the answer then.
        hopeless = moved.norm(dim=-1, keepdim=True) < 1e-6
        lat, lng = cartesian_to_latlng(torch.where(hopeless, centers, moved))
    else:
        assert scale_km is not None
        east, north = _tangent_axes(centers)
        step = offsets * scale_km.float()[..., None] / EARTH_RADIUS_KM  # (B, 2) radians
        angle = step.norm(dim=-1, keepdim=True)  # (B, 1)
        direction = (step[..., :1] * east + step[..., 1:] * north) / angle.clamp_min(1e-12)
        lat, lng = cartesian_to_latlng(torch.cos(angle) * centers + torch.sin(angle) * direction)
    return lat.clamp(-90.0, 90.0), (lng + 180.0) % 360.0 - 180.0


def _tangent_axes(centers: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors to the east and to the north at unit vectors `(B, 3)`; at a pole east is the y axis."""
    x, y, z = centers.unbind(-1)
    level = torch.hypot(x, y)  # cosine of the latitude
    pole = level < 1e-9
    safe = level.clamp_min(1e-9)
    east_x = torch.where(pole, torch.zeros_like(x), -y / safe)
    east_y = torch.where(pole, torch.ones_like(x), x / safe)
    east = torch.stack([east_x, east_y, torch.zeros_like(z)], dim=-1)
    return east, functional.normalize(torch.linalg.cross(centers, east, dim=-1), dim=-1)


def _check(kind: str, scale_km: Tensor | None) -> None:
    if kind not in OFFSET_DIM:
        raise ParameterError(f"offset_kind={kind!r} is unknown; use {', '.join(map(repr, OFFSET_DIM))}")
    if kind == "tangent" and scale_km is None:
        raise ParameterError("scale_km is None; offset_kind='tangent' needs the scale of each cell in km")
