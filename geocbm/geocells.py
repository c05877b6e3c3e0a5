"""Each country cut into cells by k-means on unit vectors (specification, section Semantic Geocells)."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import atomic_path, remake_advice
from geocbm.geodesy import cartesian_to_latlng, haversine_km, latlng_to_cartesian

SMALLEST_SCALE_KM = 1.0
DEGENERATE_LENGTH = 1e-6
MEDOID_CANDIDATES = 2000
LLOYD_LIMIT = 20_000


@dataclass(frozen=True)
class Geocells:
    """Cells numbered by country, then by latitude and longitude of the centre.

    Attributes:
        centers: `[N, 3]` unit vectors.
        country: `[N]` country of each cell.
        sample_to_cell: `[n]` cell of each point the cells were fitted on.
        counts: `[N]` points of each cell.
        scale_km: `[N]` root mean square distance of a cell's points to its centre, at least 1 km.
        settings: arguments the cells were built with.
    """

    centers: np.ndarray
    country: np.ndarray
    sample_to_cell: np.ndarray
    counts: np.ndarray
    scale_km: np.ndarray
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.centers)

    @property
    def latlng(self) -> tuple[np.ndarray, np.ndarray]:
        """Latitudes and longitudes of the centres, degrees, each `[N]`."""
        return cartesian_to_latlng(self.centers)

    @property
    def digest(self) -> str:
        """Hash of centres and countries, by which a checkpoint knows its cells."""
        parts = hashlib.sha256(np.ascontiguousarray(self.centers, dtype="<f8").tobytes())
        parts.update(json.dumps(self.country.tolist(), ensure_ascii=False).encode())
        return parts.hexdigest()

    def assign(self, lat: Any, lng: Any, country: Sequence[str] | np.ndarray | None = None) -> np.ndarray:
        """Find the cell of points.

        Args:
            lat: `[n]` latitudes, degrees.
            lng: `[n]` longitudes, degrees.
            country: `[n]` countries: the nearest centre within the own country is taken, and for a country without
                cells the nearest anywhere. Without countries, the nearest anywhere for all.

        Returns:
            `[n]` int64 cells.
        """
        lat, lng = _checked_points(lat, lng)
        points = latlng_to_cartesian(lat, lng)  # (n, 3)
        if country is None:
            return _nearest(self.centers, points)
        cells = np.empty(len(points), dtype=np.int64)
        names, group = _grouped(country, len(points))
        for number, name in enumerate(names):
            rows = group == number
            own = np.flatnonzero(self.country == name)
            cells[rows] = (
                own[_nearest(self.centers[own], points[rows])] if len(own) else _nearest(self.centers, points[rows])
            )
        return cells

    def save(self, path: str | Path) -> None:
        """Write the cells as `.npz` without pickled objects."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                centers=self.centers,
                country=np.asarray(self.country, dtype=np.str_),
                sample_to_cell=self.sample_to_cell,
                counts=self.counts,
                scale_km=self.scale_km,
                settings=np.asarray(json.dumps(self.settings, sort_keys=True)),
                digest=np.asarray(self.digest),
            )

    @classmethod
    def load(cls, path: str | Path) -> Geocells:
        """Read cells written by `save`.

        Raises:
            MissingInputError: there is no such file.
            MismatchError: the file is damaged or something else.
        """
        path = Path(path)
        again = remake_advice(path, "02")
        if not path.exists():
            raise MissingInputError(f"There are no geocells at {path}. {again}")
        try:
            with np.load(path, allow_pickle=False) as content:
                settings, digest = json.loads(str(content["settings"])), str(content["digest"])
                arrays = {
                    name: content[name] for name in ("centers", "country", "sample_to_cell", "counts", "scale_km")
                }
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise MismatchError(f"{path} is not a file of geocells ({error}). {again}") from error
        cells = cls(settings=settings, **arrays)
        if cells.digest != digest:
            raise MismatchError(f"{path} was changed after it was written: its digest does not fit. {again}")
        return cells


def build_geocells(
    lat: Any,
    lng: Any,
    country: Sequence[str] | np.ndarray,
    min_samples_per_cell: int = 500,
    seed: int = 0,
    merge_below: int = 0,
) -> Geocells:
    """Cut each country into `n // min_samples_per_cell` cells, at least one.

    Args:
        lat: `[n]` latitudes of training samples, degrees.
        lng: `[n]` longitudes, degrees.
        country: `[n]` countries.
        min_samples_per_cell: samples per cell aimed at; k-means does not enforce it.
        seed: seed of k-means; the answer does not depend on the order of the samples.
        merge_below: cells with fewer samples are merged into the nearest cell of their country; 0 leaves them.

    Returns:
        The cells. A country with one cell has the normalised mean of its unit vectors as centre, or, where that mean
        has no direction, the sample with the smallest sum of distances.
    """
    lat, lng = _checked_points(lat, lng)
    for name, value, least in (("min_samples_per_cell", min_samples_per_cell, 1), ("merge_below", merge_below, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ParameterError(f"{name} is {value!r}; give a whole number of at least {least}.")
    if not len(lat):
        raise ParameterError("lat is empty: geocells need at least one training sample.")
    names, group = _grouped(country, len(lat))
    blank = [name for name in names if not name.strip()]
    if blank:
        raise ParameterError(f"country holds {blank[0]!r}; give every sample the name of its country.")

    points = latlng_to_cartesian(lat, lng)  # (n, 3)
    centers, owners, sample_to_cell = [], [], np.empty(len(lat), dtype=np.int64)
    first = 0
    by_country = np.lexsort((lng, lat, group))  # rows country by country, in an order that is a property of the points
    bounds = np.searchsorted(group[by_country], np.arange(len(names) + 1))
    for number, name in enumerate(names):
        rows = by_country[bounds[number] : bounds[number + 1]]
        own = points[rows]
        found = _cluster(own, max(1, len(rows) // int(min_samples_per_cell)), _country_seed(seed, name))
        found = _merge_small(found, own, int(merge_below))
        center_lat, center_lng = cartesian_to_latlng(found)
        found = found[np.lexsort((np.round(center_lng, 9), np.round(center_lat, 9)))]
        sample_to_cell[rows] = first + _nearest(found, own)
        centers.append(found)
        owners += [name] * len(found)
        first += len(found)
    stacked = np.concatenate(centers)  # (N, 3)
    counts = np.bincount(sample_to_cell, minlength=first)
    center_lat, center_lng = cartesian_to_latlng(stacked)
    km = haversine_km(lat, lng, center_lat[sample_to_cell], center_lng[sample_to_cell])
    square = np.bincount(sample_to_cell, weights=km**2, minlength=first) / np.maximum(counts, 1)
    return Geocells(
        centers=stacked,
        country=np.asarray(owners, dtype=np.str_),
        sample_to_cell=sample_to_cell,
        counts=counts,
        scale_km=np.maximum(np.sqrt(square), SMALLEST_SCALE_KM),
        settings={
            "min_samples_per_cell": int(min_samples_per_cell),
            "merge_below": int(merge_below),
            "seed": int(seed),
        },
    )


def oracle_error_km(
    cells: Geocells, lat: Any, lng: Any, country: Sequence[str] | np.ndarray | None = None
) -> np.ndarray:
    """Error that a perfect classifier of cells would still make: the distance to the assigned centre.

    Args:
        cells: the cells.
        lat: `[n]` latitudes, degrees.
        lng: `[n]` longitudes, degrees.
        country: `[n]` countries, as for `Geocells.assign`.

    Returns:
        `[n]` km.
    """
    lat, lng = _checked_points(lat, lng)
    cell = cells.assign(lat, lng, country)
    center_lat, center_lng = cells.latlng
    return haversine_km(lat, lng, center_lat[cell], center_lng[cell])


def _checked_points(lat: Any, lng: Any) -> tuple[np.ndarray, np.ndarray]:
    lat, lng = np.asarray(lat, dtype=np.float64), np.asarray(lng, dtype=np.float64)
    if lat.ndim != 1 or lat.shape != lng.shape:
        raise ParameterError(
            f"lat and lng have the shapes {lat.shape} and {lng.shape}; give two vectors of one length."
        )
    for name, values, limit in (("lat", lat, 90.0), ("lng", lng, 180.0)):
        bad = ~(np.abs(values) <= limit)  # NaN compares false, so it counts as bad
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ParameterError(
                f"{name} is {values[row]} at position {row} ({int(bad.sum())} such values); "
                f"give degrees from -{limit:g} to {limit:g}."
            )
    return lat, lng


def _grouped(country: Sequence[str] | np.ndarray, n: int) -> tuple[list[str], np.ndarray]:
    """Sorted names and `[n]` the number of each point's country."""
    import pandas as pd

    if isinstance(country, str):
        raise ParameterError(f"country is {country!r}; give a name for each point.")
    if len(country) != n:
        raise ParameterError(f"country has {len(country)} entries for {n} points; give one for each point.")
    number, names = pd.factorize(np.asarray(country, dtype=object), use_na_sentinel=False)
    spelt = np.array(["" if pd.isna(name) else str(name) for name in names], dtype=np.str_)
    order, rank = np.unique(spelt, return_inverse=True)
    return [str(name) for name in order], rank.reshape(-1)[number]


def _country_seed(seed: int, name: str) -> int:
    """A seed of its own for each country, so that adding a country does not move the cells of others."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{name}".encode()).digest()[:4], "little")


def _nearest(centers: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`[n]` the nearest of `[N, 3]` unit vectors for each of `[n, 3]`; chords order like great circles."""
    from scipy.spatial import cKDTree

    if len(centers) == 1:
        return np.zeros(len(points), dtype=np.int64)
    return np.asarray(cKDTree(centers).query(points)[1], dtype=np.int64)


def _center(points: np.ndarray) -> np.ndarray:
    """Normalised mean of unit vectors `[n, 3]`, or the medoid where the mean has no direction."""
    mean = points.mean(axis=0)
    length = np.linalg.norm(mean)
    if length > DEGENERATE_LENGTH:
        return mean / length
    candidates = points[:: max(1, len(points) // MEDOID_CANDIDATES)]
    sums = np.array([np.arccos(np.clip(points @ candidate, -1, 1)).sum() for candidate in candidates])
    return candidates[int(np.argmin(np.round(sums, 9)))]


def _centers(points: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Centres of the clusters that have points, `[k, 3]`."""
    return np.stack([_center(points[label == number]) for number in np.unique(label)])


def _cluster(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """K-means on unit vectors `[n, 3]`; fewer than `k` centres where there are fewer distinct points."""
    if k > 1:
        k = min(k, len(np.unique(np.round(points, 12), axis=0)))
    if k == 1:
        return _center(points)[None]
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    large = len(points) > LLOYD_LIMIT
    model: Any = (
        MiniBatchKMeans(k, n_init=1, random_state=seed, batch_size=4096, max_iter=50)
        if large
        else KMeans(k, n_init=1, random_state=seed)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        label = model.fit_predict(points)
    # Means on the sphere, so that labelling by nearest centre and the stored centres agree.
    found = _centers(points, label)
    return found[np.unique(_nearest(found, points))]


def _merge_small(centers: np.ndarray, points: np.ndarray, merge_below: int) -> np.ndarray:
    """Merge cells with fewer than `merge_below` points into the nearest cell, the smallest first."""
    while len(centers) > 1:
        label = _nearest(centers, points)
        counts = np.bincount(label, minlength=len(centers))
        if counts.min() >= max(1, merge_below):
            break
        while len(centers) > 1 and counts.min() < max(1, merge_below):
            small = int(np.argmin(counts))
            affinity = centers @ centers[small]
            affinity[small] = -np.inf
            into = int(np.argmax(affinity))
            label[label == small] = into
            members = points[label == into]
            if len(members):
                centers[into] = _center(members)
            counts[into] += counts[small]
            centers, counts = np.delete(centers, small, axis=0), np.delete(counts, small)
            label[label > small] -= 1
    return centers
