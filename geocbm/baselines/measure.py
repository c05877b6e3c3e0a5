"""One table of all methods, measured alike on the same photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from geocbm.baselines.prediction import Prediction
from geocbm.metrics import bootstrap, country_of, error_km, geoscore, spatial_blocks

FIGURES = ("median_km", "country_acc", "geoscore", "meta_top1")
"""What `table` measures."""


def table(
    predictions: Sequence[Prediction],
    lat: Any,
    lng: Any,
    country: Any | None = None,
    meta: Any | None = None,
    blocks: Any | None = None,
    n: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure methods on the same photographs.

    A method that names no country but a place is given the country of its place by offline reverse geocoding, and is
    held against the country of the true place by the same geocoder.

    Args:
        predictions: what the methods say.
        lat: `[n_rows]` true latitudes in degrees.
        lng: `[n_rows]` true longitudes in degrees.
        country: `[n_rows]` true countries, labelled as the methods label them.
        meta: `[n_rows]` true metas, labelled as the methods label them.
        blocks: `[n_rows]` spatial blocks for the intervals; by default of 100 km.
        n: number of resamples for the intervals.
        seed: seed of the resamples.

    Returns:
        A row per method: `name`, then `median_km`, `country_acc`, `geoscore` and `meta_top1`, each followed by its 95 %
        interval `<figure>_low` and `<figure>_high`; NaN where a method does not answer.
    """
    if not predictions:
        raise ValueError("predictions is empty: pass at least one method")
    block = spatial_blocks(lat, lng) if blocks is None else np.asarray(blocks)
    geocoded: np.ndarray | None = None
    rows = []
    for prediction in predictions:
        values: dict[str, tuple[np.ndarray, str]] = {}
        if prediction.lat is not None and prediction.lng is not None:
            km = error_km(prediction.lat, prediction.lng, lat, lng)
            values["median_km"] = (km, "median")
            values["geoscore"] = (geoscore(km), "mean")
            if prediction.country is None:
                geocoded = country_of(lat, lng) if geocoded is None else geocoded
                values["country_acc"] = (country_of(prediction.lat, prediction.lng) == geocoded, "mean")
        for figure, named, truth in (
            ("country_acc", prediction.country, country),
            ("meta_top1", prediction.meta, meta),
        ):
            if named is not None and truth is not None:
                if len(named) != len(np.asarray(truth)):
                    raise ValueError(f"{prediction.name} has {len(named)} answers for {len(np.asarray(truth))} rows")
                values[figure] = (np.asarray(named) == np.asarray(truth), "mean")
        row: dict[str, Any] = {"name": prediction.name}
        for figure in FIGURES:
            result = {"value": np.nan, "low": np.nan, "high": np.nan}
            if figure in values:
                result = bootstrap(values[figure][0], block, values[figure][1], n=n, seed=seed)
            row |= {figure: result["value"], f"{figure}_low": result["low"], f"{figure}_high": result["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def forest_rows(measured: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Rows `name`, `value`, `low`, `high` of one figure of `table`, for `plots.forest`; methods without it left out."""
    if figure not in FIGURES:
        raise ValueError(f"figure must be one of {', '.join(FIGURES)}, it is {figure!r}")
    rows = measured[["name", figure, f"{figure}_low", f"{figure}_high"]].dropna(subset=[figure])
    return rows.set_axis(["name", "value", "low", "high"], axis=1).reset_index(drop=True)


def records(measured: pd.DataFrame, prefix: str = "baseline") -> dict[str, dict[str, float]]:
    """Entries `<prefix>.<method>.<figure>` -> value, low, high of `table`; only where all three are finite."""
    entries = {}
    for row in measured.to_dict("records"):
        for figure in FIGURES:
            triple = {"value": row[figure], "low": row[f"{figure}_low"], "high": row[f"{figure}_high"]}
            if all(np.isfinite(value) for value in triple.values()):
                entries[f"{prefix}.{row['name']}.{figure}"] = {key: float(value) for key, value in triple.items()}
    return entries
