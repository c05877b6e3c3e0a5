"""Intervals of many figures at once, so that asking often does not find differences by luck."""

from __future__ import annotations

from typing import Any

import numpy as np


def simultaneous_intervals(values: Any, draws: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Intervals that hold all true values together with the given probability.

    Each interval is as wide in standard errors as the others, namely as the largest deviation among them is in all but
    `1 - level` of the resamples (the bootstrap of the maximum: Westfall and Young 1993; Romano and Wolf 2005). Figures
    that vary together, such as median error and GeoScore, cost less than under Bonferroni's or Holm's rule.

    Args:
        values: `[m]` the figures.
        draws: `[m, n]` the same in resamples (see `Resamples.draws`); a column is one resample for all figures.
        level: probability.

    Returns:
        `[m]` lower and `[m]` upper ends; both are the value where no resample differs from the others.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    value, drawn = np.asarray(values, dtype=float), np.asarray(draws, dtype=float)
    if value.ndim != 1 or drawn.ndim != 2 or len(drawn) != len(value) or not drawn.shape[1]:
        raise ValueError(f"values has the shape {value.shape} and draws {drawn.shape}; give [m] and [m, n]")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, it is {level}; 0.95 gives a 95 % interval")
    if not (np.isfinite(value).all() and np.isfinite(drawn).all()):
        raise ValueError("values and draws must be finite; give a missing answer the error of the worst one")
    error = drawn.std(axis=1)
    varies = error > 0
    if not varies.any():
        return value.copy(), value.copy()
    largest = (np.abs(drawn - value[:, None])[varies] / error[varies, None]).max(axis=0)  # (n,)
    half = np.quantile(largest, level) * error
    return value - half, value + half
