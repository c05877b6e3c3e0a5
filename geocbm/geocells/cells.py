"""The cells: what each is, which one a point belongs to, and their file (specification, section Semantic Geocells)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from geocbm.errors import ParameterError
from geocbm.files import lineage, run_command
from geocbm.files.stored import opened, save_arrays
from geocbm.geocells.distribution import CellDistribution, sum_by_place
from geocbm.geocells.kmeans import nearest
from geocbm.geodesy import cartesian_to_latlng, haversine_km, latlng_to_cartesian

_ARRAYS = ("centers", "country", "sample_to_cell", "counts", "scale_km")


@dataclass(frozen=True)
class Geocells:
    """Cells numbered by country, then by latitude and longitude of the centre."""

    centers: np.ndarray  # [N, 3] unit vectors
    country: np.ndarray  # [N] country of each cell
    sample_to_cell: np.ndarray  # [n] cell of each point the cells were fitted on
    counts: np.ndarray  # [N] points of each cell
    scale_km: np.ndarray  # [N] root mean square distance of a cell's points to its centre, at least 1 km
    settings: dict[str, Any]  # arguments the cells were built with

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
        """Find the cells `[n]` of points `[n]`, degrees: the nearest centre within the own country, where it has one.

        For a country without cells, or without countries `[n]`, it is the nearest anywhere.
        """
        lat, lng = checked_points(lat, lng)
        points = latlng_to_cartesian(lat, lng)  # (n, 3)
        if country is None:
            return nearest(self.centers, points)
        cells = np.empty(len(points), dtype=np.int64)
        names, group = grouped(country, len(points))
        for name, rows in zip(names, rows_by_group(group, len(names)), strict=True):
            own = np.flatnonzero(self.country == name)
            own = own if len(own) else np.arange(len(self))
            cells[rows] = own[nearest(self.centers[own], points[rows])]
        return cells

    @property
    def countries(self) -> np.ndarray:
        """`[C]` sorted names of the countries that have cells."""
        return np.unique(np.asarray(self.country, dtype=str))

    def by_country(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities of countries `[..., C]` in the order of `countries`: sums of `[..., N]` over their cells."""
        return sum_by_place(probabilities, self.country)[1]

    def argmax_country(self, belief: CellDistribution) -> np.ndarray:
        """`[n]` name of the country whose cells have the most probability together."""
        return self.countries[belief.gather(self.by_country).argmax(axis=1)]

    def save(self, path: str | Path, made_from: Mapping[str, str] | None = None) -> None:
        """Write the cells as `.npz` without pickled objects, with the `Run.made_from` by which a run knows its own."""
        content = {name: getattr(self, name) for name in _ARRAYS}
        content["country"] = np.asarray(self.country, dtype=np.str_)
        content["settings"] = np.asarray(json.dumps(self.settings, sort_keys=True))
        if made_from is not None:
            content[lineage.KEY] = np.asarray(lineage.as_text(made_from))
        save_arrays(path, content)

    @classmethod
    def load(cls, path: str | Path) -> Geocells:
        """Read cells written by `save`.

        Raises:
            MissingInputError: there is no such file.
            DamagedError: the file was changed since, or is something else.
        """
        with opened(path, partial(run_command, Path(path).parent, "02")) as content:
            return cls(settings=json.loads(str(content["settings"])), **{name: content[name] for name in _ARRAYS})


def oracle_error_km(
    cells: Geocells, lat: Any, lng: Any, country: Sequence[str] | np.ndarray | None = None
) -> np.ndarray:
    """Error in km `[n]` that a perfect classifier of cells would still make: the distance to the assigned centre."""
    lat, lng = checked_points(lat, lng)
    cell = cells.assign(lat, lng, country)
    center_lat, center_lng = cells.latlng
    return haversine_km(lat, lng, center_lat[cell], center_lng[cell])


def checked_points(lat: Any, lng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes as float64 vectors `[n]` of one length; a ParameterError for what is nowhere."""
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


def grouped(country: Sequence[str] | np.ndarray, n: int) -> tuple[list[str], np.ndarray]:
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


def rows_by_group(group: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """Row numbers of each group, ascending, from the group `[n]` of each row; one sort instead of a scan per group."""
    small = group.astype(np.uint16) if n_groups <= 2**16 else group  # 16-bit numbers are sorted in linear time
    order = np.argsort(small, kind="stable")
    return np.split(order, np.searchsorted(small[order], np.arange(1, n_groups)))[:n_groups]
