"""Cell area: how much land a cell stands for, in km²."""

import json
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

from geocbm.geocells import Geocells
from geocbm.geodesy import EARTH_RADIUS_KM, KM_PER_DEGREE
from geocbm.metrics import country_of

_SEA_MERIDIAN = -169.0  # runs through Bering Strait and touches no land north of Antarctica
_SOUTH, _NORTH = -60.0, 84.0


@cache
def _coast_edges() -> np.ndarray:
    """Coast line in pieces `[edges, 4]`: longitude and latitude of both ends, degrees east of the sea meridian."""
    lines = json.loads(files("geocbm").joinpath("metrics/coastline.json").read_text(encoding="utf-8"))["coast"]
    edges = np.concatenate([np.column_stack([line[:-2:2], line[1:-2:2], line[2::2], line[3::2]]) for line in lines])
    edges[:, [0, 2]] = (edges[:, [0, 2]] - _SEA_MERIDIAN) % 360
    return edges[np.abs(edges[:, 0] - edges[:, 2]) < 180]


def land_grid(step_km: float = 50.0) -> tuple[np.ndarray, np.ndarray, float]:
    """Latitudes and longitudes spread evenly over the land without Antarctica, and the km² that each point stands for.

    A point is on land when the parallel from a meridian in the sea crosses the coast an odd number of times before it.
    """
    step = step_km / KM_PER_DEGREE
    bands = int(np.ceil((_NORTH - _SOUTH) / step))
    lat_of_band = _SOUTH + (np.arange(bands) + 0.5) * step
    east_from, south, east_to, north = _coast_edges().T
    lats, lngs = [], []
    for lat in lat_of_band[lat_of_band < 90]:
        cut = (south <= lat) != (north <= lat)
        along = (lat - south[cut]) / (north[cut] - south[cut])
        crossings = np.sort(east_from[cut] + along * (east_to[cut] - east_from[cut]))
        columns = max(1, round(360 * np.cos(np.deg2rad(lat)) / step))
        east = (np.arange(columns) + 0.5) * 360 / columns
        land = east[np.searchsorted(crossings, east) % 2 == 1]
        lats.append(np.full(len(land), lat))
        lngs.append((land + _SEA_MERIDIAN + 180) % 360 - 180)
    area = (EARTH_RADIUS_KM * np.deg2rad(step)) ** 2
    return np.concatenate(lats), np.concatenate(lngs), float(area)


def cell_areas(
    cells: Geocells, lat: np.ndarray, lng: np.ndarray, country: np.ndarray, step_km: float = 50.0
) -> np.ndarray:
    """Land that belongs to each cell, `[N]` km²: that of its country to which no other centre of the country is nearer.

    This is the rule by which photographs are labelled. Countries without cells belong to none, as no photograph from
    there could be expected. Countries of the land are those of `metrics.country_of`; what the table calls them is
    learned from the places of its photographs: `lat`, `lng` and `country` `[n]` of the training split. `step_km` lies
    between the grid points that are counted; a cell that holds none gets the area of one.
    """
    grid_lat, grid_lng, area = land_grid(step_km)
    seen = pd.DataFrame({"polygon": country_of(lat, lng), "table": country})
    spelt = seen[seen["polygon"] != ""].groupby("polygon")["table"].agg(lambda names: names.value_counts().index[0])
    names = pd.Series(country_of(grid_lat, grid_lng)).map(spelt).fillna("").to_numpy(dtype=str)
    known = np.isin(names, cells.country)
    points = np.zeros(len(cells))
    if known.any():
        owner = cells.assign(grid_lat[known], grid_lng[known], names[known])
        points += np.bincount(owner, minlength=len(cells))
    return np.maximum(points, 1) * area
