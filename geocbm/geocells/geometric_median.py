"""Spherical mean and medoid: the middle of a set of places, as a direction or as the place nearest to the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from geocbm.geocells.building import spherical_center
from geocbm.geodesy import cartesian_to_latlng, haversine_km, latlng_to_cartesian

MOST_CANDIDATES = 1000
MOST_MEASURED = 20_000


def medoid(lat: np.ndarray, lng: np.ndarray, seed: int = 0) -> int:
    """Row of the place with the smallest median distance to all of them, of equals the smallest mean distance.

    Of places `[m]` in degrees, at least one; sought among at most `MOST_CANDIDATES`, measured on at most
    `MOST_MEASURED`.
    """
    generator = np.random.default_rng(seed)
    rows = np.arange(len(lat))
    measured = rows if len(rows) <= MOST_MEASURED else generator.choice(rows, MOST_MEASURED, replace=False)
    candidates = rows if len(rows) <= MOST_CANDIDATES else generator.choice(rows, MOST_CANDIDATES, replace=False)
    best = (np.inf, np.inf)
    found = int(candidates[0])
    for row in candidates:
        km = haversine_km(lat[row], lng[row], lat[measured], lng[measured])
        # Rounded to a metre, so that equal distances are equal in every order of the rows.
        own = (round(float(np.median(km)), 3), round(float(km.mean()), 3))
        if own < best:
            best, found = own, int(row)
    return found


def spherical_mean(lat: Any, lng: Any) -> tuple[float, float]:
    """Latitude and longitude of the normalised mean of unit vectors; right across the antimeridian and at the poles.

    Places `[m]` in degrees whose mean has no direction, such as two antipodes, have their medoid instead.
    """
    latitude, longitude = np.asarray(lat, dtype=float), np.asarray(lng, dtype=float)
    if not len(latitude):
        raise ValueError("spherical_mean needs at least one place, lat is empty")
    middle_lat, middle_lng = cartesian_to_latlng(spherical_center(latlng_to_cartesian(latitude, longitude)))
    return float(middle_lat), float(middle_lng)


def centroids(lat: np.ndarray, lng: np.ndarray, group: np.ndarray) -> dict[Any, tuple[float, float]]:
    """The spherical mean of the places `[n]` of every group `[n]`: `group -> (lat, lng)` in degrees."""
    return {name: spherical_mean(lat[group == name], lng[group == name]) for name in np.unique(group).tolist()}


def places_of_groups(group: Any, middle: dict[Any, tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude `[n]` of each row's group; NaN for a group that has none."""
    places = np.array([middle.get(name, (np.nan, np.nan)) for name in np.asarray(group).tolist()]).reshape(-1, 2)
    return places[:, 0], places[:, 1]
