"""Names of places by offline reverse geocoding, and accuracy in naming them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geocbm.geodesy import haversine_km
from geocbm.metrics.inputs import column, same_length


def places_of(lat: Any, lng: Any) -> pd.DataFrame:
    """Country, region and city of points, those of the nearest town in GeoNames' list (DECISIONS M6).

    The list's own search measures in degrees and knows no antimeridian. A point whose nearest town in that sense is
    farther away than the antimeridian is looked up from the other side too, and the nearer town in km is taken.

    Args:
        lat: `[n]` latitudes in degrees.
        lng: `[n]` longitudes in degrees.

    Returns:
        A row per point with `country`, `region` (state or province) and `city`; empty text where a coordinate is
        missing or the list knows no name.
    """
    latitude, longitude = column(lat, "lat", empty=True), column(lng, "lng", empty=True)
    same_length(lat=latitude, lng=longitude)
    import reverse_geocode

    known = np.flatnonzero(np.isfinite(latitude) & np.isfinite(longitude))
    names = np.full((len(latitude), 3), "", dtype=object)
    if len(known):
        at, east = latitude[known], (longitude[known] + 180) % 360 - 180
        found = reverse_geocode.search(np.column_stack([at, east]))
        town_lat, town_lng = (
            np.fromiter((town[key] for town in found), float, len(found)) for key in ("latitude", "longitude")
        )
        across = np.flatnonzero(np.hypot(at - town_lat, east - town_lng) > 180 - np.abs(east))
        if len(across):
            turned = np.where(east[across] > 0, -360.0, 360.0) + east[across]
            others = reverse_geocode.search(np.column_stack([at[across], turned]))
            km = haversine_km(at, east, town_lat, town_lng)
            for row, other in zip(across, others, strict=True):
                if haversine_km(at[row], east[row], other["latitude"], other["longitude"]) < km[row]:
                    found[row] = other
        for number, key in enumerate(("country", "state", "city")):
            names[known, number] = [town.get(key) or "" for town in found]
    return pd.DataFrame(names, columns=["country", "region", "city"])


def country_of(lat: Any, lng: Any) -> np.ndarray:
    """Country of each point by offline reverse geocoding, `[n]` texts, empty where a coordinate is missing."""
    return places_of(lat, lng)["country"].to_numpy()


def place_accuracy(pred_lat: Any, pred_lng: Any, true_lat: Any, true_lng: Any) -> dict[str, float]:
    """Share of predictions whose reverse-geocoded country, region and city are those of the truth (DECISIONS M6).

    A region counts only within the right country, a city only within the right region. Both sides go through the same
    geocoder, so that the spelling of a table's own country column plays no part; a missing prediction is a miss.

    Args:
        pred_lat: `[n]` predicted latitudes in degrees, NaN where there is no prediction.
        pred_lng: `[n]` predicted longitudes in degrees.
        true_lat: `[n]` true latitudes in degrees.
        true_lng: `[n]` true longitudes in degrees.

    Returns:
        `country_acc`, `region_acc` and `city_acc`, shares of all rows from 0 to 1. A true place that the list has no
        name for cannot be named right.
    """
    predicted, true = places_of(column(pred_lat, "pred_lat"), pred_lng), places_of(true_lat, true_lng)
    same_length(prediction=predicted.to_numpy(), truth=true.to_numpy())
    right = np.ones(len(true), dtype=bool)
    shares = {}
    for level in ("country", "region", "city"):
        right = right & (predicted[level] == true[level]).to_numpy() & (true[level] != "").to_numpy()
        shares[f"{level}_acc"] = float(right.mean())
    return shares


def country_accuracy(pred_lat: Any, pred_lng: Any, true_lat: Any, true_lng: Any) -> float:
    """Share of predictions, from 0 to 1, that lie in the true country by reverse geocoding of both.

    DECISIONS M6; arguments as in `place_accuracy`.
    """
    return place_accuracy(pred_lat, pred_lng, true_lat, true_lng)["country_acc"]
