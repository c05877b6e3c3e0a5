"""Intervals of figures that were measured with several seeds of training on the same photographs."""

from __future__ import annotations

from typing import Any

import numpy as np

from geocbm.metrics.bootstrap import _resamples
from geocbm.metrics.resamples import statistic_of


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
        blocks: `[n_rows]` block of each photograph (see `spatial_blocks`).
        statistic: `"mean"` or `"median"`.
        n: number of resamples.
        seed: seed of the draws.
        level: share of resamples inside the interval.

    Returns:
        `value`, `low` and `high`; the last two are NaN with fewer than `FEWEST_BLOCKS` blocks.

    Raises:
        ValueError: nothing at all, other than two dimensions, or two methods of different shapes.
    """
    first = np.asarray(values, dtype=float)
    second = None if than is None else np.asarray(than, dtype=float)
    if first.ndim != 2 or not first.size or (second is not None and second.shape != first.shape):
        other = "" if second is None else f" and than {second.shape}"
        raise ValueError(f"values has the shape {first.shape}{other}; give [n_seeds, n_rows], the same for both")
    drawn = _resamples(first[0], blocks, n, seed)

    def measured(rows: np.ndarray) -> tuple[float, np.ndarray]:
        return statistic_of(rows, statistic), drawn.draws(rows, statistic)

    figures = [measured(rows) for rows in first]
    if second is not None:
        others = [measured(rows) for rows in second]
        figures = [(a - b, x - y) for (a, x), (b, y) in zip(figures, others, strict=True)]
    draws = np.stack([own for _, own in figures])  # (n_seeds, n)
    chosen = np.random.default_rng([seed, 1]).integers(len(draws), size=(len(draws), n))
    low, high = drawn.interval(np.take_along_axis(draws, chosen, axis=0).mean(axis=0), level)
    return {"value": float(np.mean([value for value, _ in figures])), "low": low, "high": high}
