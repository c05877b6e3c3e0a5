"""Block bootstrap: intervals that resample whole blocks of neighbouring photographs (DECISIONS M5)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geocbm import geodesy
from geocbm.metrics.formatting import columns_of
from geocbm.metrics.geolocation import THRESHOLDS_KM, error_km, geoscore
from geocbm.metrics.inputs import coordinates, same_length
from geocbm.metrics.resamples import NOT_MEASURED, Estimate, Resamples, statistic_of


def spatial_blocks(lat: Any, lng: Any, km: float = 100.0) -> np.ndarray:
    """`[n]` dense numbers of the blocks of about `km` by `km` in which points lie (see `geodesy.spatial_blocks`).

    Latitudes and longitudes `[n]` are in degrees, the latter in any turn.
    """
    return geodesy.spatial_blocks(*coordinates(lat, lng), km)


def geolocation_intervals(
    pred_lat: Any, pred_lng: Any, true_lat: Any, true_lng: Any, blocks: Any | None = None, n: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Every metric of `geolocation_metrics` with its interval (DECISIONS M5); the coordinates are as there.

    Resampled are `blocks [n_rows]`, of which there may be `Resamples` already; by default those of 100 km of the true
    places. Gives `median_km`, `mean_km`, `acc_1km` ... `acc_2500km` and `geoscore`, each with `value`, `low` and
    `high`. The ends of a larger threshold never lie below those of a smaller.
    """
    km = error_km(pred_lat, pred_lng, true_lat, true_lng)
    drawn = blocks
    if not isinstance(drawn, Resamples):
        drawn = Resamples(spatial_blocks(true_lat, true_lng) if blocks is None else blocks, n, seed)
    found = {
        "median_km": drawn.estimate(km, "median"),
        "mean_km": drawn.estimate(np.where(np.isfinite(km), km, np.nan)),
    }
    found |= {f"acc_{limit}km": drawn.estimate(km <= limit) for limit in THRESHOLDS_KM}
    return found | {"geoscore": drawn.estimate(geoscore(km))}


def estimate_columns(drawn: Resamples, values: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of `[n_rows]` values by name as columns with their intervals (`columns_of`); None is not measured.

    What is called `median...` becomes the median, anything else the mean.
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        statistic = "median" if name.startswith("median") else "mean"
        found |= columns_of(name, NOT_MEASURED if value is None else drawn.estimate(value, statistic))
    return found


def estimates_by_group(
    blocks: Any, groups: Mapping[str, np.ndarray], values: Mapping[str, Any], n: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Metrics of groups of rows, each with its interval; groups may overlap and share their draws.

    `blocks` `[n_rows]`, perhaps none, or `Resamples` of them are resampled (`n` times); groups are masks `[n_rows]` by
    name, and so are `values` `[n_rows]`. What is called `median...` becomes the median of a group, anything else the
    mean; NaN is left out.

    Returns:
        A row per group that has rows, in their order: `group`, `n`, and each metric with `_low` and `_high`.
    """
    kept = {group: inside for group, inside in groups.items() if inside.any()}
    drawn = blocks if isinstance(blocks, Resamples) or not kept else Resamples(blocks, n, seed)
    table = [
        {"group": group, "n": int(inside.sum())}
        | estimate_columns(drawn.within(inside), {name: np.asarray(value)[inside] for name, value in values.items()})
        for group, inside in kept.items()
    ]
    ends = [f"{name}{end}" for name in values for end in ("", "_low", "_high")]
    return pd.DataFrame(table, columns=["group", "n", *ends])


def over_seeds(
    values: np.ndarray, than: np.ndarray | None, blocks: Any, statistic: str = "mean", n: int = 1000, seed: int = 0
) -> Estimate:
    """Mean over training seeds of a statistic ("mean" or "median"), or of its difference to another method's.

    `values`, and those of the other method with the same seeds, are `[n_seeds, n_rows]`. The interval draws both
    sources of chance: which photographs are in the test split (whole `blocks` `[n_rows]`, with the same draws for all
    seeds and both methods) and which seeds the model was trained with (seeds of both methods are drawn as pairs).
    """
    if than is not None and than.shape != values.shape:
        raise ValueError(f"values has the shape {values.shape} and than {than.shape}; give [n_seeds, n_rows] for both")
    drawn = Resamples(blocks, n, seed)
    same_length(values=values[0], blocks=drawn.block)
    value = [statistic_of(rows, statistic) for rows in values]
    draws = np.stack([drawn.draws(rows, statistic) for rows in values])  # (n_seeds, n)
    if than is not None:
        value = [own - statistic_of(rows, statistic) for own, rows in zip(value, than, strict=True)]
        draws = draws - np.stack([drawn.draws(rows, statistic) for rows in than])
    chosen = np.random.default_rng([seed, 1]).integers(len(draws), size=draws.shape)
    low, high = drawn.interval(np.take_along_axis(draws, chosen, axis=0).mean(axis=0))
    return {"value": float(np.mean(value)), "low": low, "high": high}


def simultaneous_intervals(values: Any, draws: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends `[m]` of intervals that hold all true values together with a probability `level`.

    Each interval is as wide in standard errors as the others, namely as the largest deviation among them is in all but
    `1 - level` of the resamples (the bootstrap of the maximum: Westfall and Young 1993; Romano and Wolf 2005). Metrics
    that vary together, such as median error and GeoScore, cost less than under Bonferroni's or Holm's rule. `draws`
    `[m, n]` are the metrics `[m]` in resamples (`Resamples.draws`), a column one resample for all; where none differs
    from the others both ends are the value.
    """
    value, drawn = np.asarray(values, dtype=float), np.asarray(draws, dtype=float)
    if value.ndim != 1 or drawn.ndim != 2 or len(drawn) != len(value) or not drawn.shape[1]:
        raise ValueError(f"values has the shape {value.shape} and draws {drawn.shape}; give [m] and [m, n]")
    if not (np.isfinite(value).all() and np.isfinite(drawn).all()):
        raise ValueError("values and draws must be finite; give a missing answer the error of the worst one")
    error = drawn.std(axis=1)
    varies = error > 0
    if not varies.any():
        return value.copy(), value.copy()
    largest = (np.abs(drawn - value[:, None])[varies] / error[varies, None]).max(axis=0)  # (n,)
    half = np.quantile(largest, level) * error
    return value - half, value + half
