"""Names of countries as the project's reverse geocoder writes them, from ISO 3166 codes."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

from geocbm.metrics.places import country_of

UNKNOWN = "unknown"


@cache
def country_names() -> dict[str, str]:
    """Name of each country by its two-letter ISO code, from the data of `reverse_geocode`."""
    with (files("reverse_geocode") / "countries.csv").open("r", encoding="utf-8") as stream:
        return {row[0]: row[1] for row in csv.reader(stream) if len(row) > 1}


def named_countries(codes: pd.Series, lat: np.ndarray, lng: np.ndarray) -> tuple[pd.Series, int]:
    """Turn codes to names; what is neither a code nor a known name is found by reverse geocoding.

    Args:
        codes: `[n]` two-letter codes, or names.
        lat: `[n]` latitudes in degrees.
        lng: `[n]` longitudes in degrees.

    Returns:
        `[n]` names ("unknown" where nothing helps), and how many came from the coordinates.
    """
    names = country_names()
    known = set(names.values())
    translated = {code: names.get(code.upper(), code if code in known else "") for code in codes.unique()}
    result = codes.map(translated)
    open_rows = np.flatnonzero((result == "").to_numpy())
    if len(open_rows):
        result.iloc[open_rows] = [name or UNKNOWN for name in country_of(lat[open_rows], lng[open_rows])]
    return result, len(open_rows)
