"""What may be said and kept of a figure with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geocbm.metrics.resamples import FEWEST_BLOCKS

NO_INTERVAL = f"no interval: fewer than {FEWEST_BLOCKS} blocks of ground"


def figure_text(figure: Mapping[Any, Any], form: str = "{:,.0f}", factor: float = 1.0) -> str:
    """A figure with its interval in words, such as `412 [380, 447]`; `412 (no interval)` where there is none.

    Args:
        figure: `value`, `low` and `high`. An infinite median, in the value or at an end, is one over missing answers
            and reads "no answer".
        form: how a number is written.
        factor: what numbers are multiplied by, such as 100 for percentages.

    Returns:
        The text, empty where the value was not measured (NaN).
    """

    def write(value: float) -> str:
        return form.format(factor * value) if np.isfinite(value) else "no answer"

    value, low, high = (float(figure[key]) for key in ("value", "low", "high"))
    if np.isnan(value):
        return ""
    if np.isnan(low) or np.isnan(high):
        return f"{write(value)} (no interval)"
    return f"{write(value)} [{write(low)}, {write(high)}]"


def recordable(figure: Mapping[Any, Any]) -> float | dict[str, float] | None:
    """A figure as a run may keep it: with its interval, as a number where an end is not finite, None without a value.

    Args:
        figure: `value`, `low` and `high`.
    """
    kept = {key: float(figure[key]) for key in ("value", "low", "high")}
    if not np.isfinite(kept["value"]):
        return None
    return kept if np.isfinite(list(kept.values())).all() else kept["value"]


def printable(figure: float | Mapping[Any, Any]) -> float | dict[str, float] | None:
    """A number, or a figure with its interval, as `Metric.entry` writes it: see `recordable`."""
    if isinstance(figure, Mapping):
        return recordable(figure)
    return float(figure) if np.isfinite(figure) else None


def recordables(figures: Mapping[str, Mapping[Any, Any]]) -> dict[str, float | dict[str, float]]:
    """What may be kept of several figures by name; those without a finite value are left out (see `recordable`)."""
    kept = {name: recordable(figure) for name, figure in figures.items()}
    return {name: figure for name, figure in kept.items() if figure is not None}


def verdict(change: Mapping[Any, Any], more_is_better: bool) -> str:
    """A paired difference in words: "better" or "worse" only where its interval excludes 0.

    Args:
        change: `value`, `low` and `high` of a method minus the one it is held against.
        more_is_better: whether a higher figure is better; a distance is not.
    """
    value, low, high = (float(change[key]) for key in ("value", "low", "high"))
    if np.isnan(value):
        return "not comparable: most answers are missing"
    if np.isnan(low) or np.isnan(high):
        return NO_INTERVAL
    if low <= 0 <= high:
        return "no difference beyond noise"
    return "better" if (value > 0) == more_is_better else "worse"
