"""One table of all methods, measured alike on the same photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from geocbm.evaluation.baselines.prediction import Prediction
from geocbm.metrics import Resamples, country_of, error_km, geoscore, recordable, spatial_blocks

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
    """Measure methods on the same photographs, with the same resamples (DECISIONS M1, M2, M3, M5 and M6).

    A method that names no country but a place is given the country of its place by country polygons, and is
    held against the country of the true place by the same polygons.

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
        A row per method: `name`, then `median_km` (km), `country_acc` (0 to 1), `geoscore` (0 to 5000) and `meta_top1`
        (0 to 1), each followed by its 95 % interval `<figure>_low` and `<figure>_high`, and `n_missing`, the
        photographs for which a method that names places names none; these count as misses. NaN where a method does not
        answer or there is no photograph, and an interval of NaN where too few blocks hold photographs.
    """
    if not predictions:
        raise ValueError("predictions is empty: pass at least one method")
    n_rows = len(np.asarray(lat))
    draws = Resamples(spatial_blocks(lat, lng) if blocks is None else blocks, n, seed) if n_rows else None
    true_place = country_of(lat, lng) if n_rows and any(_names_places_only(each) for each in predictions) else None
    rows = []
    for prediction in predictions:
        row: dict[str, Any] = {"name": prediction.name}
        row |= {f"{figure}{end}": np.nan for figure in FIGURES for end in ("", "_low", "_high")}
        row["n_missing"] = 0
        if draws is not None:
            values = _values(prediction, lat, lng, country, meta, true_place)
            for figure, (each, statistic) in values.items():
                result = draws.figure(each, statistic)
                row |= {figure: result["value"], f"{figure}_low": result["low"], f"{figure}_high": result["high"]}
            if "median_km" in values:
                row["n_missing"] = int(np.isinf(values["median_km"][0]).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def _names_places_only(prediction: Prediction) -> bool:
    return prediction.lat is not None and prediction.country is None


def _values(
    prediction: Prediction, lat: Any, lng: Any, country: Any | None, meta: Any | None, true_place: np.ndarray | None
) -> dict[str, tuple[np.ndarray, str]]:
    """Values `[n_rows]` of each figure that a method has, and the statistic to take of them."""
    values: dict[str, tuple[np.ndarray, str]] = {}
    if prediction.lat is not None and prediction.lng is not None:
        km = error_km(prediction.lat, prediction.lng, lat, lng)
        values["median_km"] = (km, "median")
        values["geoscore"] = (geoscore(km), "mean")
        if _names_places_only(prediction):
            named_place = country_of(prediction.lat, prediction.lng)
            # A place without a country, as in the open sea, is a miss, as in `place_accuracy`.
            values["country_acc"] = ((named_place == true_place) & (named_place != ""), "mean")
    for figure, named, truth in (("country_acc", prediction.country, country), ("meta_top1", prediction.meta, meta)):
        if named is not None and truth is not None:
            if len(named) != len(np.asarray(truth)):
                raise ValueError(f"{prediction.name} has {len(named)} answers for {len(np.asarray(truth))} rows")
            values[figure] = (np.asarray(named) == np.asarray(truth), "mean")
    return values


def forest_rows(measured: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Rows `name`, `value`, `low`, `high` of one figure of `table`, for `plots.forest`; methods without it left out."""
    if figure not in FIGURES:
        raise ValueError(f"figure must be one of {', '.join(FIGURES)}, it is {figure!r}")
    rows = measured[["name", figure, f"{figure}_low", f"{figure}_high"]].dropna(subset=[figure])
    return rows.set_axis(["name", "value", "low", "high"], axis=1).reset_index(drop=True)


def records(measured: pd.DataFrame, prefix: str = "baseline") -> dict[str, float | dict[str, float]]:
    """Entries `<prefix>.<method>.<figure>` of `table`: value, low and high, or the value where there is no interval.

    A figure that was not measured or is infinite is left out.
    """
    entries = {}
    for row in measured.to_dict("records"):
        for figure in FIGURES:
            kept = recordable({"value": row[figure], "low": row[f"{figure}_low"], "high": row[f"{figure}_high"]})
            if kept is not None:
                entries[f"{prefix}.{row['name']}.{figure}"] = kept
    return entries
