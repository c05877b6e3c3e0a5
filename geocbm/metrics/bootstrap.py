"""Block bootstrap: intervals that resample whole blocks of neighbouring photographs (DECISIONS M5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from geocbm import geodesy
from geocbm.metrics.geolocation import THRESHOLDS_KM, error_km, geoscore
from geocbm.metrics.inputs import column, same_length
from geocbm.metrics.resamples import Resamples, checked_level, statistic_of


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


def _resamples(measured: np.ndarray, blocks: Any | None, n: int, seed: int) -> Resamples:
    """Draws for some rows; without blocks every row is one, and draws that are there already are used."""
    if isinstance(blocks, Resamples):
        return blocks
    labels = np.arange(len(measured)) if blocks is None else column(blocks, "blocks", None)
    same_length(values=measured, blocks=labels)
    return Resamples(labels, n, seed)


def bootstrap(
    values: Any,
    blocks: Any | None = None,
    statistic: str = "mean",
    groups: Any | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """A statistic with its bootstrap interval. For several metrics of the same photographs, `Resamples` draws once.

    Args:
        values: `[n_rows]` one value per photograph (see `Resamples.estimate`).
        blocks: `[n_rows]` block of each photograph (see `spatial_blocks`), or `Resamples` of the blocks, whose draws
            are then used. None: every photograph is its own block.
        statistic: `"mean"` or `"median"`.
        groups: `[n_rows]` classes: the mean over the classes of the mean within each (macro recall).
        n: number of resamples.
        seed: the same seed gives the same draws.
        level: share of resamples inside the interval.

    Returns:
        `value`, `low` and `high`; the last two are NaN with fewer than `FEWEST_BLOCKS` blocks that have a value.
    """
    return _resamples(column(values, "values"), blocks, n, seed).estimate(values, statistic, groups, level)


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

    Both are resampled with the same draws; an interval that excludes 0 is a difference beyond noise. Arguments and
    result are those of `bootstrap`.
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
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, float]]:
    """Every metric of `geolocation_metrics` with its interval (DECISIONS M5).

    Args:
        pred_lat: `[n_rows]` predicted latitudes in degrees, NaN where there is no prediction.
        pred_lng: `[n_rows]` predicted longitudes in degrees.
        true_lat: `[n_rows]` true latitudes in degrees.
        true_lng: `[n_rows]` true longitudes in degrees.
        blocks: `[n_rows]` blocks to resample, or `Resamples` of them; by default those of 100 km of the true places.
        n: number of resamples.
        seed: seed of the draws, the same for all metrics.
        level: share of resamples inside an interval.

    Returns:
        `median_km` and `mean_km` in km, `acc_1km` ... `acc_2500km` from 0 to 1 and `geoscore` from 0 to 5000, each with
        `value`, `low` and `high` (see `bootstrap`). The ends of a larger threshold never lie below those of a smaller.
    """
    km = error_km(pred_lat, pred_lng, true_lat, true_lng)
    drawn = _resamples(km, spatial_blocks(true_lat, true_lng) if blocks is None else blocks, n, seed)
    found = {
        "median_km": drawn.estimate(km, "median", level=level),
        "mean_km": drawn.estimate(np.where(np.isfinite(km), km, np.nan), level=level),
    }
    found |= {f"acc_{limit}km": drawn.estimate(km <= limit, level=level) for limit in THRESHOLDS_KM}
    return found | {"geoscore": drawn.estimate(geoscore(km), level=level)}


def over_seeds(
    values: Any,
    than: Any | None = None,
    blocks: Any | None = None,
    statistic: str = "mean",
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """Mean over training seeds of a statistic, or of its difference to another method's, with its interval.

    Both sources of chance are drawn: which photographs are in the test split (whole blocks, with the same draws for all
    seeds and both methods) and which seeds the model was trained with (seeds of both methods are drawn as pairs).

    Args:
        values: `[n_seeds, n_rows]` one value per seed and photograph.
        than: `[n_seeds, n_rows]` of another method with the same seeds, or None.
        blocks: as in `bootstrap`, and so are the other arguments and the result.
        statistic: `"mean"` or `"median"`.
        n: number of resamples.
        seed: seed of the draws.
        level: share of resamples inside the interval.

    Raises:
        ValueError: nothing at all, other than two dimensions, or two methods of different shapes.
    """
    first = np.asarray(values, dtype=float)
    second = None if than is None else np.asarray(than, dtype=float)
    if first.ndim != 2 or not first.size or (second is not None and second.shape != first.shape):
        other = "" if second is None else f" and than {second.shape}"
        raise ValueError(f"values has the shape {first.shape}{other}; give [n_seeds, n_rows], the same for both")
    drawn = _resamples(first[0], blocks, n, seed)
    value = [statistic_of(rows, statistic) for rows in first]
    draws = np.stack([drawn.draws(rows, statistic) for rows in first])  # (n_seeds, n)
    if second is not None:
        value = [own - statistic_of(rows, statistic) for own, rows in zip(value, second, strict=True)]
        draws = draws - np.stack([drawn.draws(rows, statistic) for rows in second])
    chosen = np.random.default_rng([seed, 1]).integers(len(draws), size=draws.shape)
    low, high = drawn.interval(np.take_along_axis(draws, chosen, axis=0).mean(axis=0), level)
    return {"value": float(np.mean(value)), "low": low, "high": high}


def simultaneous_intervals(values: Any, draws: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Intervals that hold all true values together with the given probability.

    Each interval is as wide in standard errors as the others, namely as the largest deviation among them is in all but
    `1 - level` of the resamples (the bootstrap of the maximum: Westfall and Young 1993; Romano and Wolf 2005). Metrics
    that vary together, such as median error and GeoScore, cost less than under Bonferroni's or Holm's rule.

    Args:
        values: `[m]` the metrics.
        draws: `[m, n]` the same in resamples (see `Resamples.draws`); a column is one resample for all metrics.
        level: probability.

    Returns:
        `[m]` lower and `[m]` upper ends; both are the value where no resample differs from the others.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    value, drawn = np.asarray(values, dtype=float), np.asarray(draws, dtype=float)
    if value.ndim != 1 or drawn.ndim != 2 or len(drawn) != len(value) or not drawn.shape[1]:
        raise ValueError(f"values has the shape {value.shape} and draws {drawn.shape}; give [m] and [m, n]")
    checked_level(level)
    if not (np.isfinite(value).all() and np.isfinite(drawn).all()):
        raise ValueError("values and draws must be finite; give a missing answer the error of the worst one")
    error = drawn.std(axis=1)
    varies = error > 0
    if not varies.any():
        return value.copy(), value.copy()
    largest = (np.abs(drawn - value[:, None])[varies] / error[varies, None]).max(axis=0)  # (n,)
    half = np.quantile(largest, level) * error
    return value - half, value + half
