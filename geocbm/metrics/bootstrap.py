"""Bootstrap intervals that resample whole blocks of neighbouring photographs (DECISIONS M5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from geocbm import geodesy
from geocbm.metrics.geolocation import THRESHOLDS_KM, error_km, geoscore
from geocbm.metrics.inputs import column, same_length
from geocbm.metrics.resamples import Resamples


def spatial_blocks(lat: Any, lng: Any, km: float = 100.0) -> np.ndarray:
    """Number the blocks of ground of about `km` by `km` in which points lie (see `geodesy.spatial_blocks`).

    Args:
        lat: `[n]` latitudes in degrees.
        lng: `[n]` longitudes in degrees, in any turn.
        km: length of a block's side.

    Returns:
        `[n]` block numbers from 0, dense.
    """
    latitude, longitude = column(lat, "lat", empty=True), column(lng, "lng", empty=True)
    same_length(lat=latitude, lng=longitude)
    return geodesy.spatial_blocks(latitude, longitude, km)


def bootstrap(
    values: Any,
    blocks: Any | None = None,
    statistic: str = "mean",
    groups: Any | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """Value of a statistic with its bootstrap interval: percentiles of the statistic over resamples of blocks.

    For several figures of the same photographs, `Resamples` draws once.

    Args:
        values: `[n_rows]` one value per photograph: an error in km, or whether an answer is right. NaN is left out;
            an infinite value (a missing prediction) is allowed.
        blocks: `[n_rows]` block of each photograph (see `spatial_blocks`); whole blocks are drawn with replacement.
            None: every photograph is its own block. `Resamples` of the blocks: their draws are used, and `n` and
            `seed` are theirs.
        statistic: `"mean"` or `"median"`.
        groups: `[n_rows]` classes: the mean over the classes of the mean within each (macro recall), not the mean.
        n: number of resamples.
        seed: the same seed gives the same draws.
        level: share of resamples inside the interval.

    Returns:
        `value` (of all rows), `low` and `high`, in the unit of the values; the last two are NaN where fewer than
        `FEWEST_BLOCKS` blocks have a value. Shares of none and all have the exact interval (see `Resamples.figure`).

    Raises:
        ValueError: no rows, different lengths, or an unknown statistic.
    """
    measured = column(values, "values")
    return _resamples(measured, blocks, n, seed).figure(values, statistic, groups, level)


def _resamples(measured: np.ndarray, blocks: Any | None, n: int, seed: int) -> Resamples:
    """Draws for some rows; without blocks every row is one, and draws that are there already are used."""
    if isinstance(blocks, Resamples):
        return blocks
    labels = np.arange(len(measured)) if blocks is None else column(blocks, "blocks", None)
    same_length(values=measured, blocks=labels)
    return Resamples(labels, n, seed)


def paired_difference(
    first: Any,
    second: Any,
    blocks: Any | None = None,
    statistic: str = "mean",
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """Difference `statistic(first) - statistic(second)` of two methods on the same photographs, with its interval.

    Both are resampled with the same draws; an interval that excludes 0 is a difference beyond noise.

    Args:
        first: `[n_rows]` one value per photograph by the first method.
        second: `[n_rows]` the same photographs by the second method.
        blocks: `[n_rows]` blocks, as in `bootstrap`.
        statistic: `"mean"` or `"median"`.
        n: number of resamples.
        seed: seed of the draws.
        level: share of resamples inside the interval.

    Returns:
        `value`, `low` and `high` of the difference; the last two are NaN with fewer than `FEWEST_BLOCKS` blocks.
    """
    one, two = column(first, "first"), column(second, "second")
    same_length(first=one, second=two)
    return _resamples(one, blocks, n, seed).difference(one, two, statistic, level)


def geolocation_intervals(
    pred_lat: Any,
    pred_lng: Any,
    true_lat: Any,
    true_lng: Any,
    blocks: Any | None = None,
    block_km: float = 100.0,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, float]]:
    """Every figure of `geolocation_metrics` with its interval (DECISIONS M5).

    Args:
        pred_lat: `[n_rows]` predicted latitudes in degrees, NaN where there is no prediction.
        pred_lng: `[n_rows]` predicted longitudes in degrees.
        true_lat: `[n_rows]` true latitudes in degrees.
        true_lng: `[n_rows]` true longitudes in degrees.
        blocks: `[n_rows]` blocks to resample, or `Resamples` of them; by default those of the true places.
        block_km: side of the default blocks.
        n: number of resamples.
        seed: seed of the draws, the same for all figures.
        level: share of resamples inside an interval.

    Returns:
        `median_km` and `mean_km` in km, `acc_1km` ... `acc_2500km` from 0 to 1 and `geoscore` from 0 to 5000, each with
        `value`, `low` and `high`; the last two are NaN with fewer than `FEWEST_BLOCKS` blocks. The ends of a larger
        threshold never lie below those of a smaller one.
    """
    km = error_km(pred_lat, pred_lng, true_lat, true_lng)
    if blocks is None:
        blocks = spatial_blocks(true_lat, true_lng, block_km)
    drawn = _resamples(km, blocks, n, seed)
    figures = {
        "median_km": drawn.figure(km, "median", level=level),
        "mean_km": drawn.figure(np.where(np.isfinite(km), km, np.nan), level=level),
    }
    figures |= {f"acc_{limit}km": drawn.figure(km <= limit, level=level) for limit in THRESHOLDS_KM}
    return figures | {"geoscore": drawn.figure(geoscore(km), level=level)}
