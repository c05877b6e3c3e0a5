"""Names of countries for tables whose source gives ISO 3166 codes, names, or neither."""

from __future__ import annotations

import numpy as np
import pandas as pd

from geocbm.metrics.country_names import country_name
from geocbm.metrics.places import country_of

UNKNOWN = "unknown"


def named_countries(codes: pd.Series, lat: np.ndarray, lng: np.ndarray) -> tuple[pd.Series, int]:
    """Turn codes and spellings to the project's names; what is neither is found by the coordinates.

    Args:
        codes: `[n]` ISO 3166 codes in any case, or names.
        lat: `[n]` latitudes in degrees.
        lng: `[n]` longitudes in degrees.

    Returns:
        `[n]` names ("unknown" where nothing helps), and how many came from the coordinates.
    """
    translated = {code: country_name(code) or country_name(code.upper()) or "" for code in codes.unique()}
    result = codes.map(translated)
    open_rows = np.flatnonzero((result == "").to_numpy())
    if len(open_rows):
        result.iloc[open_rows] = [name or UNKNOWN for name in country_of(lat[open_rows], lng[open_rows])]
    return result, len(open_rows)
