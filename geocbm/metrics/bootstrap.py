"""Bootstrap intervals that resample whole blocks of neighbouring photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from geocbm import geodesy
from geocbm.metrics.geolocation import THRESHOLDS_KM, error_km, geoscore
from geocbm.metrics.inputs import column, same_length

_CELLS_AT_ONCE = 4_000_000  # bounds the memory of a resampled table


def spatial_blocks(lat: Any, lng: Any, km: float = 100.0) -> np.ndarray:
    """Number the blocks of ground of about `km` by `km` in which points lie (see `geodesy.spatial_blocks`).

    Args:
        lat: `[n]` latitudes in degrees.
        lng: `[n]` longitudes in degrees, in any turn.
        km: length of a block's side.

    Returns:
        `[n]` block numbers from 0, dense.
    """
    latitude, longitude = column(lat, "lat"), column(lng, "lng")
    same_length(lat=latitude, lng=longitude)
    return geodesy.spatial_blocks(latitude, longitude, km)


def _draws(n_blocks: int, n: int, seed: int, width: int) -> Iterator[np.ndarray]:
    """Yield how often each block is drawn: tables `(m, n_blocks)`, `n` rows in all.

    The draws depend on the seed and the number of blocks alone, so that figures of the same rows share them.
    """
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // max(width, n_blocks))
    even = np.full(n_blocks, 1 / n_blocks)
    for start in range(0, n, at_once):
        yield generator.multinomial(n_blocks, even, size=min(at_once, n - start))  # (m, n_blocks)


def _block_numbers(blocks: Any | None, length: int) -> np.ndarray:
    if blocks is None:
        return np.arange(length)
    labels = column(blocks, "blocks", None)
    same_length(values=np.empty(length), blocks=labels)
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _resampled_means(values: np.ndarray, block: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Means of resampled rows, `[n]`; NaN values are left out."""
    present = ~np.isnan(values)
    total = np.bincount(block, weights=np.where(present, values, 0.0))
    count = np.bincount(block, weights=present.astype(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate([(drawn @ total) / (drawn @ count) for drawn in _draws(len(total), n, seed, len(total))])


def _resampled_medians(values: np.ndarray, block: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Medians of resampled rows, `[n]`; values may be infinite, NaN values are left out."""
    n_blocks = int(block.max()) + 1
    kept = np.flatnonzero(~np.isnan(values))
    order = kept[np.argsort(values[kept], kind="stable")]
    ranked, owner = values[order], block[order]
    medians = []
    for drawn in _draws(n_blocks, n, seed, len(values)):
        below = np.cumsum(
            drawn.astype(np.int32)[:, owner], axis=1, dtype=np.int32
        )  # (m, rows): rows drawn at or below each value
        size = below[:, -1]
        lower = (below > ((size - 1) // 2)[:, None]).argmax(axis=1)
        upper = (below > (size // 2)[:, None]).argmax(axis=1)
        middle = np.where(ranked[lower] == ranked[upper], ranked[lower], (ranked[lower] + ranked[upper]) / 2)
        medians.append(np.where(size > 0, middle, np.nan))
    return np.concatenate(medians)


def _resampled_group_means(values: np.ndarray, block: np.ndarray, group: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Mean over groups of the mean in each group, `[n]`; groups that are not drawn are left out."""
    n_blocks, n_groups = int(block.max()) + 1, int(group.max()) + 1
    total, count = np.zeros((n_blocks, n_groups)), np.zeros((n_blocks, n_groups))
    np.add.at(total, (block, group), values)
    np.add.at(count, (block, group), 1.0)
    means = []
    for drawn in _draws(n_blocks, n, seed, n_groups):
        rows = drawn @ count  # (m, groups)
        recall = np.divide(drawn @ total, rows, out=np.zeros_like(rows), where=rows > 0)
        means.append(recall.sum(axis=1) / (rows > 0).sum(axis=1))
    return np.concatenate(means)


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    draws = np.sort(draws[~np.isnan(draws)])
    if not len(draws):
        return float("nan"), float("nan")
    # Values drawn are taken as they are: interpolation between an infinite and a finite one would be NaN.
    low = draws[int(np.floor((1 - level) / 2 * (len(draws) - 1)))]
    high = draws[int(np.ceil((1 + level) / 2 * (len(draws) - 1)))]
    return float(low), float(high)


def _check(n: int, level: float) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1 resample, it is {n}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, it is {level}; 0.95 gives a 95 % interval")


def bootstrap(
    values: Any,
    blocks: Any | None = None,
    statistic: str = "mean",
    groups: Any | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """Value of a statistic with its bootstrap interval.

    Args:
        values: `[n_rows]` one value per photograph: an error in km, or whether an answer is right. NaN is left out;
            an infinite value (a missing prediction) is allowed.
        blocks: `[n_rows]` block of each photograph (see `spatial_blocks`); whole blocks are drawn with replacement.
            None: every photograph is its own block.
        statistic: `"mean"` or `"median"`.
        groups: `[n_rows]` classes: the mean over the classes of the mean within each (macro recall), not the mean.
        n: number of resamples.
        seed: the same seed gives the same draws.
        level: share of resamples inside the interval.

    Returns:
        `value` (of all rows), `low` and `high`.

    Raises:
        ValueError: no rows, different lengths, or an unknown statistic.
    """
    _check(n, level)
    measured = column(values, "values")
    block = _block_numbers(blocks, len(measured))
    if groups is not None:
        if statistic != "mean":
            raise ValueError(f"groups are averaged: statistic must be 'mean' with them, it is {statistic!r}")
        labels = column(groups, "groups", None)
        same_length(values=measured, groups=labels)
        group = np.unique(labels, return_inverse=True)[1].reshape(-1)
        value = (np.bincount(group, weights=measured) / np.bincount(group)).mean()
        draws = _resampled_group_means(measured, block, group, n, seed)
    else:
        value, resample = _statistic(measured, statistic)
        draws = resample(measured, block, n, seed)
    low, high = _percentiles(draws, level)
    return {"value": float(value), "low": low, "high": high}


def _statistic(values: np.ndarray, statistic: str) -> tuple[float, Callable[..., np.ndarray]]:
    present = values[~np.isnan(values)]
    if statistic == "mean":
        return (float(present.mean()) if len(present) else float("nan")), _resampled_means
    if statistic == "median":
        return (float(np.median(present)) if len(present) else float("nan")), _resampled_medians
    raise ValueError(f"statistic must be 'mean' or 'median', it is {statistic!r}")


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
        `value`, `low` and `high` of the difference.
    """
    _check(n, level)
    one, two = column(first, "first"), column(second, "second")
    same_length(first=one, second=two)
    block = _block_numbers(blocks, len(one))
    value_one, resample = _statistic(one, statistic)
    value_two, _ = _statistic(two, statistic)
    with np.errstate(invalid="ignore"):
        draws = resample(one, block, n, seed) - resample(two, block, n, seed)
        low, high = _percentiles(draws, level)
        return {"value": float(np.subtract(value_one, value_two)), "low": low, "high": high}


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
    """Every figure of `geolocation_metrics` with its interval.

    Args:
        pred_lat: `[n_rows]` predicted latitudes in degrees, NaN where there is no prediction.
        pred_lng: `[n_rows]` predicted longitudes in degrees.
        true_lat: `[n_rows]` true latitudes in degrees.
        true_lng: `[n_rows]` true longitudes in degrees.
        blocks: `[n_rows]` blocks to resample; by default those of the true places.
        block_km: side of the default blocks.
        n: number of resamples.
        seed: seed of the draws, the same for all figures.
        level: share of resamples inside an interval.

    Returns:
        `median_km`, `mean_km`, `acc_1km` ... `acc_2500km` and `geoscore`, each with `value`, `low` and `high`.
    """
    km = error_km(pred_lat, pred_lng, true_lat, true_lng)
    block = spatial_blocks(true_lat, true_lng, block_km) if blocks is None else blocks
    options: dict[str, Any] = {"blocks": block, "n": n, "seed": seed, "level": level}
    figures = {
        "median_km": bootstrap(km, statistic="median", **options),
        "mean_km": bootstrap(np.where(np.isfinite(km), km, np.nan), **options),
    }
    figures |= {f"acc_{limit}km": bootstrap(km <= limit, **options) for limit in THRESHOLDS_KM}
    return figures | {"geoscore": bootstrap(geoscore(km), **options)}
