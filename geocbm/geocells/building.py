"""Geocells of points: k-means per country, small cells merged, numbered (specification, section Semantic Geocells)."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from geocbm.errors import ParameterError
from geocbm.geocells.cells import Geocells, checked_points, grouped, rows_by_group
from geocbm.geocells.kmeans import DEGENERATE_LENGTH, cluster, nearest, spatial_order, threads
from geocbm.geodesy import cartesian_to_latlng, haversine_km, latlng_to_cartesian

SMALLEST_SCALE_KM = 1.0
MEDOID_CANDIDATES = 2000  # of the middle of a cell, on the sphere
MOST_CANDIDATES, MOST_MEASURED = 1000, 20_000  # of `medoid`

Partition = Callable[[np.ndarray, int, int], np.ndarray]


@dataclass(frozen=True)
class GeocellsConfig:
    """Settings of the geocells; the defaults are the specification's (section "Semantic Geocells").

    Attributes:
        min_samples_per_cell: a country with n training pictures gets `n // min_samples_per_cell` cells, at least one;
            k-means does not enforce that many in each.
        merge_below: cells with fewer training pictures are merged into the nearest cell of their country; 0 leaves
            them, as the specification does.
        seed: seed of k-means; the answer does not depend on the order of the samples or the number of threads.
    """

    min_samples_per_cell: int = 500
    merge_below: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("min_samples_per_cell", 1), ("merge_below", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ParameterError(f"{name} is {value!r}; give a whole number of at least {least}.")


def build_geocells(
    lat: Any,
    lng: Any,
    country: Sequence[str] | np.ndarray,
    min_samples_per_cell: int = GeocellsConfig.min_samples_per_cell,
    seed: int = GeocellsConfig.seed,
    merge_below: int = GeocellsConfig.merge_below,
    partition: Partition = cluster,
) -> Geocells:
    """Cut each country into `n // min_samples_per_cell` cells, at least one.

    A country with one cell has the normalised mean of its unit vectors as centre, or, where that mean has no direction,
    the sample with the smallest sum of distances.

    Args:
        lat: `[n]` latitudes of training samples, degrees.
        lng: `[n]` longitudes, degrees.
        country: `[n]` countries.
        min_samples_per_cell: see `GeocellsConfig`, as for the other two.
        seed: of k-means.
        merge_below: in samples.
        partition: `(points [m, 3] of one country, k, seed)` to at most k centres `[K, 3]`, all unit vectors; k-means by
            default. Samples then belong to the nearest centre of their country. Not asked for k = 1.
    """
    lat, lng = checked_points(lat, lng)
    config = GeocellsConfig(min_samples_per_cell, merge_below, seed)
    if not len(lat):
        raise ParameterError("lat is empty: geocells need at least one training sample.")
    names, group = grouped(country, len(lat))
    blank = [name for name in names if not name.strip()]
    if blank:
        raise ParameterError(f"country holds {blank[0]!r}; give every sample the name of its country.")

    def cells_of(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, centres and labels of one country."""
        rows = by_country[number]
        rows = rows[np.lexsort((lng[rows], lat[rows]))]  # an order that is a property of the points
        own = latlng_to_cartesian(lat[rows], lng[rows])  # (m, 3)
        order = spatial_order(own)
        rows, own = rows[order], own[order]
        k, seed_of_country = len(rows) // int(min_samples_per_cell), _country_seed(seed, names[number])
        centers = partition(own, k, seed_of_country) if k > 1 else spherical_center(own)[None]
        return rows, *_settled_cells(centers, own, int(merge_below))

    by_country = rows_by_group(group, len(names))
    largest_first = sorted(range(len(names)), key=lambda number: -len(by_country[number]))
    # Countries are independent, and nearly all of the work is in compiled code that lets other threads run.
    with ThreadPoolExecutor(max_workers=threads()) as pool:
        found = dict(zip(largest_first, pool.map(cells_of, largest_first), strict=True))
    in_order = [found[number] for number in range(len(names))]
    centers = np.concatenate([own for _, own, _ in in_order])  # (N, 3)
    cells_per_country = [len(own) for _, own, _ in in_order]
    sample_to_cell = np.empty(len(lat), dtype=np.int64)
    for first, (rows, own, label) in zip(np.cumsum(cells_per_country), in_order, strict=True):
        sample_to_cell[rows] = first - len(own) + label
    counts = np.bincount(sample_to_cell, minlength=len(centers))
    center_lat, center_lng = cartesian_to_latlng(centers)
    km = haversine_km(lat, lng, center_lat[sample_to_cell], center_lng[sample_to_cell])
    square = np.bincount(sample_to_cell, weights=km**2, minlength=len(centers)) / np.maximum(counts, 1)
    return Geocells(
        centers=centers,
        country=np.repeat(np.asarray(names, dtype=np.str_), cells_per_country),
        sample_to_cell=sample_to_cell,
        counts=counts,
        scale_km=np.maximum(np.sqrt(square), SMALLEST_SCALE_KM),
        settings={name: int(value) for name, value in asdict(config).items()},
    )


def _country_seed(seed: int, name: str) -> int:
    """A seed of its own for each country, so that adding a country does not move the cells of others."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{name}".encode()).digest()[:4], "little")


def _settled_cells(centers: np.ndarray, points: np.ndarray, merge_below: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres `[K, 3]` by latitude and longitude without small cells, and the cell `[n]` of each point `[n, 3]`."""
    while True:
        lat, lng = cartesian_to_latlng(centers)
        centers = centers[np.lexsort((np.round(lng, 9), np.round(lat, 9)))]
        label = nearest(centers, points)
        counts = np.bincount(label, minlength=len(centers))
        if len(centers) == 1 or counts.min() >= max(1, merge_below):
            return centers, label
        centers = _merge_small(centers, points, label, merge_below)


def spherical_center(points: np.ndarray) -> np.ndarray:
    """Normalised mean of unit vectors `[n, 3]`, or the medoid where the mean has no direction."""
    mean = points.mean(axis=0)
    length = np.linalg.norm(mean)
    if length > DEGENERATE_LENGTH:
        return mean / length
    candidates = points[:: max(1, len(points) // MEDOID_CANDIDATES)]
    sums = np.array([np.arccos(np.clip(points @ candidate, -1, 1)).sum() for candidate in candidates])
    return candidates[int(np.argmin(np.round(sums, 9)))]


def _merge_small(centers: np.ndarray, points: np.ndarray, label: np.ndarray, merge_below: int) -> np.ndarray:
    """Merge cells with fewer than `merge_below` points into the nearest cell, the smallest first.

    0 merges only those that are the `label [n]` of no point. Of the centres `[k, 3]` at least one is left; those that
    took a cell in are the centres of all their points.
    """
    k = len(centers)
    centers, alive, into = centers.copy(), np.ones(k, dtype=bool), np.arange(k)
    counts = np.bincount(label, minlength=k)
    sums = np.stack([np.bincount(label, weights=axis, minlength=k) for axis in points.T], axis=1)  # (k, 3)
    for _ in range(k - 1):
        small = int(np.argmin(np.where(alive, counts, len(points) + 1)))
        if counts[small] >= max(1, merge_below):
            break
        alive[small] = False
        target = int(np.argmax(np.where(alive, (centers * centers[small]).sum(axis=1), -np.inf)))
        into[into == small] = target
        counts[target] += counts[small]
        sums[target] += sums[small]
        length = np.linalg.norm(sums[target])
        if length > DEGENERATE_LENGTH * max(1, counts[target]):
            centers[target] = sums[target] / length
        elif counts[target]:
            centers[target] = spherical_center(points[into[label] == target])
    return centers[alive]


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
