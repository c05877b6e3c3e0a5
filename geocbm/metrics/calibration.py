"""Whether a probability means what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geocbm.metrics.inputs import column, same_length


def reliability_bins(confidence: Any, correct: Any, bins: int = 10) -> pd.DataFrame:
    """Mean confidence and accuracy in bins of equal width.

    Args:
        confidence: `[n]` probability given to the named class, from 0 to 1.
        correct: `[n]` whether the named class was the true one.
        bins: number of bins between 0 and 1; a confidence on an edge belongs to the bin below it.

    Returns:
        A row for each bin that is not empty: `low`, `high`, `n`, `confidence`, `accuracy`.

    Raises:
        ValueError: no rows, different lengths, or a confidence outside 0 to 1.
    """
    probability, hit = column(confidence, "confidence"), column(correct, "correct")
    same_length(confidence=probability, correct=hit)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, it is {bins}")
    bad = np.flatnonzero(~((probability >= -1e-6) & (probability <= 1 + 1e-6)))
    if len(bad):
        raise ValueError(f"confidence must lie between 0 and 1, but row {bad[0]} is {probability[bad[0]]}")
    index = np.clip(np.ceil(np.clip(probability, 0, 1) * bins).astype(int) - 1, 0, bins - 1)
    frame = pd.DataFrame({"bin": index, "confidence": probability, "accuracy": hit})
    table = frame.groupby("bin").agg(
        n=("bin", "size"), confidence=("confidence", "mean"), accuracy=("accuracy", "mean")
    )
    table.insert(0, "low", table.index / bins)
    table.insert(1, "high", (table.index + 1) / bins)
    return table.reset_index(drop=True)


def expected_calibration_error(confidence: Any, correct: Any, bins: int = 15) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over bins, weighted by their rows.

    Naeini, Cooper & Hauskrecht (2015); Guo et al. (2017) use 15 bins of equal width.

    Args:
        confidence: `[n]` probability given to the named class, from 0 to 1.
        correct: `[n]` whether the named class was the true one.
        bins: number of bins of equal width.
    """
    table = reliability_bins(confidence, correct, bins)
    return float((table["n"] * (table["confidence"] - table["accuracy"]).abs()).sum() / table["n"].sum())
