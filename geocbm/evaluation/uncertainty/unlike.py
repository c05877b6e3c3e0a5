"""Coverage of conformal regions by how unlike the training pictures a photograph is."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.evaluation.uncertainty.assessment import Assessment
from geocbm.metrics import Resamples, figure_text

if TYPE_CHECKING:
    from geocbm.evaluation.novelty import NoveltyDetector

P_VALUES = (0.5, 0.25, 0.1, 0.05)
"""Ends of the bins: shares of validation images that are at least as far from the training pictures."""


def coverage_by_distance(
    found: Assessment, detector: NoveltyDetector, distance: np.ndarray, n: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How often regions hold the true cell, among test images ever farther from the training pictures.

    Args:
        found: the assessment of the test split.
        detector: of the run.
        distance: `[m]` distances of the test images (`NoveltyDetector.distances`).
        n: resamples behind each interval.
        seed: of the resamples.

    Returns:
        A row per bin that has images and per wanted coverage: `bin` (in words), `n`, `distance` (median), `coverage`
        (wanted), `value`, `low` and `high` of the measured one, and `right`, the share of right cells; the nearest
        bin first.
    """
    p_value = detector.p_values(distance)
    edges = [1.0, *(p for p in P_VALUES if p > detector.level), detector.level, 0.0]
    rows = []
    for high, low in pairwise(edges):
        inside = (p_value <= high) & (p_value > low)
        if not inside.any():
            continue
        draws = Resamples(found.blocks[inside], n, seed)
        words = f"p {100 * low:g} to {100 * high:g} %" if low else f"p up to {100 * high:.2g} %: unlike"
        for one in found.regions:
            rows.append(
                {
                    "bin": words,
                    "n": int(inside.sum()),
                    "distance": float(np.median(distance[inside])),
                    "coverage": one.coverage,
                    "right": float(found.right[inside].mean()),
                }
                | draws.figure(one.holds["label"][inside])
            )
    return pd.DataFrame(
        rows, columns=["bin", "n", "distance", "coverage", "right", "value", "low", "high"] if not rows else None
    )


def distance_table(coverage: pd.DataFrame) -> pd.DataFrame:
    """The bins in words, a line each."""
    lines = []
    for words, own in coverage.groupby("bin", sort=False):
        line = {
            "as far as validation images": str(words),
            "images": f"{own['n'].iloc[0]:,}",
            "distance (median)": f"{own['distance'].iloc[0]:.1f}",
            "named cell right, %": f"{100 * own['right'].iloc[0]:.1f}",
        }
        for row in own.to_dict("records"):
            line[f"{row['coverage']:.0%} region holds it, %"] = figure_text(row, "{:.0f}", 100)
        lines.append(line)
    return pd.DataFrame(lines)


def unlike_sentence(detector: NoveltyDetector, distance: np.ndarray) -> str:
    """How many test images are called unlike, beside how many should be at most."""
    if not len(distance):
        return ""
    share = float(np.mean(detector.p_values(distance) <= detector.level))
    return (
        f"{share:.1%} of the test images are called unlike the training pictures. Of images that come from where the "
        f"validation images do, it is at most {detector.level:.1%}; more than that says that the test split is of "
        "another kind."
    )
