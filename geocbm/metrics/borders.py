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

COAST_KM = 50.0
"""A point in the sea belongs to the nearest coast within this distance."""

_STEPS_PER_DEGREE = 10_000  # as tools/country_borders.py writes them
_EDGES_TOGETHER = 32
_PAIRS_AT_ONCE = 20_000
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
def _coasts() -> tuple[shapely.STRtree, np.ndarray, np.ndarray]:
    """All rings in chains of a few edges.

    Search tree of the chains' boxes; `[n_chains, _EDGES_TOGETHER + 1, 2]` corners in degrees, short chains filled up
    with their last one; `[n_chains]` index of the code of each.
    """
    import shapely

    _, country, rings, corners, points = read_rings()
    pieces = -(-corners // _EDGES_TOGETHER)  # chains of each ring
    ring = np.repeat(np.arange(len(corners)), pieces)
    number = np.arange(len(ring)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    rows = number[:, None] * _EDGES_TOGETHER + np.arange(_EDGES_TOGETHER + 1)
    begin = np.cumsum(corners + 1) - (corners + 1)
    chains = points[begin[ring, None] + np.minimum(rows, corners[ring, None])]
    x, y = np.ascontiguousarray(chains.T)  # (edges + 1, n_chains) each
    boxes = shapely.box(x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0))
    return shapely.STRtree(boxes), chains, np.repeat(country, rings)[ring]


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
    import shapely

    found = np.full(len(lat), -1)
    known = np.flatnonzero(np.isfinite(lat) & np.isfinite(lng))
    if not len(known):
        return np.full(len(lat), "", dtype="<U2")
    codes, country = read_rings()[:2]
    polygons, tree = _polygons()
    y, x = np.clip(lat[known], -90, 90), (lng[known] + 180) % 360 - 180
    point, polygon = tree.query(shapely.points(x, y))
    shapely.prepare(polygons[np.unique(polygon)])
    inside = shapely.intersects_xy(polygons[polygon], x[point], y[point])
    point, polygon = point[inside], polygon[inside]
    # On a border the country that comes first in the alphabet of codes has it.
    order = np.lexsort((country[polygon], point))
    point, polygon = point[order], polygon[order]
    first = np.unique(point, return_index=True)[1]
    found[known[point[first]]] = country[polygon[first]]
    sea = known[found[known] < 0]
    if len(sea):
        found[sea] = _nearest_coast(lat[sea], lng[sea])
    return np.where(found < 0, "", codes[found])


def degrees_from_country(lat: np.ndarray, lng: np.ndarray, code: str) -> np.ndarray:
    """Distance of points `[n]` to a country on the plane of degrees, 0 inside; infinite for a code without land."""
    import shapely

    codes, country = read_rings()[:2]
    own = _polygons()[0][codes[country] == code]
    if not len(own):
        return np.full(len(lat), np.inf)
    points = shapely.points((np.asarray(lng, dtype=np.float64) + 180) % 360 - 180, lat)
    nearest = shapely.STRtree(own).query_nearest(points, all_matches=False, return_distance=True)[1]
    return np.asarray(nearest)


def _nearest_coast(lat: np.ndarray, lng: np.ndarray) -> np.ndarray:
    """Index of the country of the nearest coast of each point, `[n]`; -1 where none lies within `COAST_KM`."""
    import shapely

    tree, chains, owners = _coasts()
    lng = (lng + 180) % 360 - 180
    high = np.deg2rad(np.minimum(np.abs(lat) + COAST_KM / KM_PER_DEGREE, 90))
    reach = COAST_KM / KM_PER_DEGREE * 1.01
    # The widest extent in longitude of a circle lies poleward of its centre.
    wide = np.where(np.cos(high) > 1e-3, reach / np.maximum(np.cos(high), 1e-3), 360.0)
    boxes = [shapely.box(lng + turn - wide, lat - reach, lng + turn + wide, lat + reach) for turn in (-360, 0, 360)]
    pairs = np.unique(np.concatenate([tree.query(each) for each in boxes], axis=1), axis=1)
    km, owner = np.full(len(lat), np.inf), np.full(len(lat), -1)
    for start in range(0, pairs.shape[1], _PAIRS_AT_ONCE):
        point, chain = pairs[:, start : start + _PAIRS_AT_ONCE]
        distance = _edge_km(lat[point], lng[point], chains[chain])
        order = np.lexsort((owners[chain], distance, point))
        point, chain, distance = point[order], chain[order], distance[order]
        row, first = np.unique(point, return_index=True)
        closer = distance[first] < km[row]
        km[row[closer]], owner[row[closer]] = distance[first[closer]], owners[chain[first[closer]]]
    return np.where(km <= COAST_KM, owner, -1)


def _edge_km(lat: np.ndarray, lng: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Distance in km from each point to the nearest of the edges beside it.

    Corners are drawn on a plane that keeps distance and direction from the point (azimuthal equidistant), where edges
    are straight; between neighbouring corners of a coast the difference to the great circle is a few metres. The
    corners are `[n, m, 2]` longitudes and latitudes in degrees.
    """
    eye = latlng_to_cartesian(lat, lng)  # (n, 3)
    phi, lam = np.deg2rad(lat), np.deg2rad(lng)
    east = np.stack([-np.sin(lam), np.cos(lam), np.zeros_like(lam)], axis=1)
    north = np.stack([-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)], axis=1)
    there = latlng_to_cartesian(corners[..., 1], corners[..., 0])  # (n, m, 3)
    right, up = (there * east[:, None]).sum(axis=-1), (there * north[:, None]).sum(axis=-1)
    sine = np.hypot(right, up)
    scale = EARTH_RADIUS_KM * np.arctan2(sine, (there * eye[:, None]).sum(axis=-1)) / np.maximum(sine, 1e-15)
    flat = np.stack([right, up], axis=-1) * scale[..., None]  # (n, m, 2), km
    begin, edge = flat[:, :-1], np.diff(flat, axis=1)
    length = (edge**2).sum(axis=-1)
    along = np.clip(-(begin * edge).sum(axis=-1) / np.maximum(length, 1e-12), 0, 1)
    return np.sqrt(((begin + along[..., None] * edge) ** 2).sum(axis=-1)).min(axis=1)
