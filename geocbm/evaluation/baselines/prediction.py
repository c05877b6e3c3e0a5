"""The answers of a method, and the features it works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from geocbm.evaluation.uncertainty import PointChoice
    from geocbm.models.point_estimates import Points


@dataclass(frozen=True)
class Prediction:
    """What a method says about `[n]` photographs; None for what it does not predict.

    Attributes:
        name: short name, used in keys such as `baseline.<name>.median_km`.
        lat: latitudes in degrees.
        lng: longitudes in degrees.
        country: countries.
        meta: metas.
        detail: what was chosen for the method, such as `k = 10`, for its name on a page.
        points: places it might have answered instead, by the names of `sure.POINT_WORDS`.
        choice: which of them `lat` and `lng` are, and why.
    """

    name: str
    lat: np.ndarray | None = None
    lng: np.ndarray | None = None
    country: np.ndarray | None = None
    meta: np.ndarray | None = None
    detail: str = ""
    points: Mapping[str, Points] = field(default_factory=dict)
    choice: PointChoice | None = None


def matrix(values: Any, name: str) -> np.ndarray:
    """Bring features, also a tensor, to a finite table of float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float()
    checked = np.asarray(values, dtype=np.float32)
    if checked.ndim != 2 or not checked.size:
        raise ValueError(f"{name} must be a non-empty table of shape [n, d], its shape is {checked.shape}")
    if not np.isfinite(checked).all():
        row = int(np.flatnonzero(~np.isfinite(checked).all(axis=1))[0])
        raise ValueError(f"{name} must be finite, but row {row} is not; encode the photographs again")
    return checked
