"""Proximity: how much of a score may be memory of the same road, by the distance to the nearest training place."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geocbm import data
from geocbm.metrics import Resamples, columns_of, entry_of, estimate_columns, estimates_by_group, geoscore, recordables
from geocbm.run import Run

BINS_KM = (0.0, 1.0, 25.0, 50.0, 200.0, np.inf)
"""Edges of the distance to the nearest training place: the lower one belongs to a bin."""

LIMITS_KM = (1.0, 25.0)
"""Images nearer than this to a training place are left out: the same road, the same town."""


def split_kind(run: Run) -> str:
    """How a run's table was split, such as `stratified`."""
    return str(run.read("splits.json").get("kind", "stratified"))


def nearest_train_km(run: Run) -> np.ndarray:
    """Distance `[n_test]` from each test image of a run to the nearest training place, km."""
    pictures = np.sort(np.concatenate([run.pictures[split] for split in ("train", "val", "test")]))
    return data.nearest_train_km(run.table.iloc[pictures], run.splits)


def by_distance(nearest_km: np.ndarray, errors: Mapping[str, np.ndarray], drawn: Resamples) -> pd.DataFrame:
    """Error by the distance to the nearest training place.

    `nearest_km` and the `errors` in km of each method are `[n]`, one for each test image. A row per bin that has images
    and method: `bin` (range), `n`, `method`, and `median_km`, `geoscore`, `acc_25km` with their intervals.
    """
    bins = {}
    for low, high in itertools.pairwise(BINS_KM):
        label = f"{low:g} to {high:g} km" if np.isfinite(high) else f"{low:g} km and more"
        bins[label] = (nearest_km >= low) & (nearest_km < high)
    by_method = []
    for method, km in errors.items():
        values = {"median_km": km, "geoscore": geoscore(km), "acc_25km": km <= 25}
        by_method.append(estimates_by_group(drawn, bins, values).assign(method=method))
    table = pd.concat(by_method, ignore_index=True).rename(columns={"group": "bin"})
    return table.sort_values("bin", key=lambda names: names.map(list(bins).index), kind="stable", ignore_index=True)


def without_near(nearest_km: np.ndarray, errors: Mapping[str, np.ndarray], drawn: Resamples) -> pd.DataFrame:
    """What is left of the GeoScore without the images that have a training place nearby (arguments of `by_distance`).

    A row per limit of `LIMITS_KM` that leaves an image, and method: `limit_km`, `left` (images), `method`, `geoscore`
    (of all), `geoscore_far` (of those left) and the paired `geoscore_change`, each with its interval.
    """
    rows = []
    for limit in LIMITS_KM:
        far = nearest_km >= limit
        if not far.any():
            continue
        for method, km in errors.items():
            score = geoscore(km)
            kept = np.where(far, score, np.nan)
            own = {"limit_km": limit, "left": int(far.sum()), "method": method}
            own |= estimate_columns(drawn, {"geoscore": score, "geoscore_far": kept})
            rows.append(own | columns_of("geoscore_change", drawn.difference(kept, score)))
    return pd.DataFrame(rows)


def records(nearest_km: np.ndarray, km: np.ndarray, drawn: Resamples) -> dict[str, Any]:
    """Metrics to keep, as `memory.*`: nearness of the test split, and what the GeoScore loses without near images."""
    if not len(nearest_km):
        return {}
    kept: dict[str, Any] = {
        "memory.nearest_train_km": float(np.median(nearest_km)),
        "memory.test_within_1km": float((nearest_km < 1).mean()),
    }
    for row in without_near(nearest_km, {"": km}, drawn).to_dict("records"):
        kept[f"memory.geoscore_change_without_{row['limit_km']:.0f}km"] = entry_of(row, "geoscore_change")
    return recordables(kept)
