"""Country of a point: point in polygon with the borders of Natural Earth at 1:10 million (DECISIONS M6).

A country is what has a code in ISO 3166-1, and Kosovo (XK): French Guiana, Puerto Rico, Hong Kong, Greenland and
Svalbard count for themselves, the Canary Islands as Spain, Alaska as the United States. Disputed areas follow the
edition of Natural Earth for the point of view of Germany: Crimea is Ukraine, northern Cyprus Cyprus, Somaliland
Somalia; Kosovo, Palestine, Taiwan and Western Sahara count for themselves. Bir Tawil and the Spratly Islands have no
country. Antarctica is one "country" (AQ), whoever claims a part of it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geocbm.geodesy import EARTH_RADIUS_KM, KM_PER_DEGREE, latlng_to_cartesian

if TYPE_CHECKING:
    import shapely
    from scipy.spatial import cKDTree

COAST_KM = 50.0
"""A point in the sea belongs to the nearest coast within this distance."""

_STEPS_PER_DEGREE = 10_000  # as tools/country_borders.py writes them
_STEP_KM = 2.0  # between points of a coast, of which the nearest one is at most 10 m too far at 50 km
_POINTS_AT_ONCE = 250_000


class _Rings(NamedTuple):
    """The rings of the world's polygons."""

    codes: np.ndarray  # [n_countries] ISO 3166-1 alpha-2 codes, one of them empty (land of no country)
    country: np.ndarray  # [n_polygons] index of the code of each polygon
    rings: np.ndarray  # [n_polygons] rings of each polygon, the outer one first
    corners: np.ndarray  # [n_rings] corners of each ring
    points: np.ndarray  # [n, 2] degrees east and north, ring by ring, the first corner of each ring again as its last


@cache
def read_rings() -> _Rings:
    """Read the borders, once for each process."""
    with files("geocbm").joinpath("metrics/country_borders.npz").open("rb") as stream:
        stored = np.load(stream, allow_pickle=False)
        codes, country, rings, corners = (stored[name] for name in ("codes", "country", "rings", "corners"))
        planes = stored["steps"]  # (2, 4, n) bytes of whole numbers
    steps = np.ascontiguousarray(planes.transpose(2, 0, 1)).view("<i4")[..., 0].astype(np.int64)  # (n, 2)
    start = np.concatenate([[0], np.cumsum(corners)[:-1]])
    # The steps of each ring begin at zero.
    summed = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(steps, axis=0)])
    points = summed[1:] - np.repeat(summed[start], corners, axis=0)
    # Every ring ends where it begins.
    place = np.insert(np.arange(len(points)), start + corners, start)
    return _Rings(codes, country, rings, corners, points[place] / _STEPS_PER_DEGREE)


@cache
def _polygons() -> tuple[np.ndarray, shapely.STRtree]:
    """The polygons, x in degrees east and y in degrees north, and their search tree."""
    import shapely

    _, _, rings, corners, points = read_rings()
    ring = shapely.linearrings(points, indices=np.repeat(np.arange(len(corners)), corners + 1))
    first = np.concatenate([[0], np.cumsum(rings)[:-1]])
    polygons = np.asarray(shapely.polygons(ring[first]))
    for index in np.flatnonzero(rings > 1):
        polygons[index] = shapely.polygons(ring[first[index]], ring[first[index] + 1 : first[index] + rings[index]])
    return polygons, shapely.STRtree(polygons)


@cache
def _coasts(code: str | None = None) -> tuple[cKDTree, np.ndarray]:
    """Points at most `_STEP_KM` apart along all rings or those of a country, and the index of the code of each.

    The points are in a tree on the unit sphere.
    """
    from scipy.spatial import cKDTree

    codes, country, rings, corners, points = read_rings()
    owner = np.repeat(country, rings)
    if code is not None:
        own = codes[owner] == code
        points, corners, owner = points[np.repeat(own, corners + 1)], corners[own], owner[own]
    ring = np.repeat(np.arange(len(corners)), corners + 1)
    begin = np.flatnonzero(ring[1:] == ring[:-1])  # (edges,): the last corner of a ring begins none
    edge = points[begin + 1] - points[begin]
    km = KM_PER_DEGREE * np.hypot(edge[:, 0] * np.cos(np.deg2rad(points[begin, 1])), edge[:, 1])
    pieces = np.ceil(km / _STEP_KM).astype(int).clip(1)
    row = np.repeat(np.arange(len(begin)), pieces)
    along = (np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) / pieces[row]
    lng, lat = (points[begin][row] + along[:, None] * edge[row]).T
    # So many points make a tree in half of the time when it need not be balanced.
    tree = cKDTree(latlng_to_cartesian(lat, lng), leafsize=64, balanced_tree=False, compact_nodes=False)
    return tree, owner[ring[begin]][row]


def country_codes(lat: np.ndarray, lng: np.ndarray) -> np.ndarray:
    """ISO 3166-1 alpha-2 code of the country of each point `[n]`, degrees, the longitude in any turn.

    That of the polygon that holds the point, else of the nearest coast on the sphere within `COAST_KM`, else empty;
    empty where a coordinate is missing.
    """
    lat, lng = np.asarray(lat, dtype=np.float64), np.asarray(lng, dtype=np.float64)
    starts = range(0, max(len(lat), 1), _POINTS_AT_ONCE)
    return np.concatenate([_country_codes(*(x[at : at + _POINTS_AT_ONCE] for x in (lat, lng))) for at in starts])


def _country_codes(lat: np.ndarray, lng: np.ndarray) -> np.ndarray:
    """`country_codes` of so many points as shapely may have as objects at once."""
    codes, country = read_rings()[:2]
    found = np.full(len(lat), len(codes))  # the number behind the last is no country
    known = np.flatnonzero(np.isfinite(lat) & np.isfinite(lng))
    point, polygon = _holding(lat[known], lng[known])
    # On a border the country that comes first in the alphabet of codes has it.
    np.minimum.at(found, known[point], country[polygon])
    sea = known[found[known] == len(codes)]
    if len(sea):
        tree, owner = _coasts()
        chord = 2 * np.sin(COAST_KM / EARTH_RADIUS_KM / 2)
        nearest = tree.query(latlng_to_cartesian(lat[sea], lng[sea]), distance_upper_bound=chord)[1]
        found[sea] = np.append(owner, len(codes))[nearest]  # that behind the last is no neighbour
    return np.append(codes, "")[found]


def _holding(lat: np.ndarray, lng: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of points and of the polygons that hold them, `(pairs,)` each."""
    import shapely

    polygons, tree = _polygons()
    y, x = np.clip(lat, -90, 90), (lng + 180) % 360 - 180
    point, polygon = tree.query(shapely.points(x, y))
    shapely.prepare(polygons[np.unique(polygon)])
    inside = shapely.intersects_xy(polygons[polygon], x[point], y[point])
    return point[inside], polygon[inside]


def km_from_country(lat: np.ndarray, lng: np.ndarray, code: str) -> np.ndarray:
    """Distance of points `[n]` to the coast or border of a country, 0 inside; infinite for a code without land."""
    codes, country = read_rings()[:2]
    if code not in codes[country]:
        return np.full(len(lat), np.inf)
    chord = _coasts(code)[0].query(latlng_to_cartesian(lat, lng))[0]
    km = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1))
    point, polygon = _holding(lat, lng)
    km[point[codes[country[polygon]] == code]] = 0
    return np.asarray(km)
