"""Conformal regions: sets of cells that hold the true one with a probability chosen beforehand (split-conformal).

Cells are ranked by probability. The score of a cell is the probability of all cells ranked before it, plus a random
share of its own (adaptive prediction sets: Romano, Sesia & Candès 2020; Angelopoulos et al. 2021). Scores of the true
cells on the validation split say how far down the ranking one must go. Adaptive sets are chosen over a plain
threshold on the probability (Sadinle, Lei & Wasserman 2019), which gives smaller sets on average but next to nothing
for the photographs the model knows least about. The first cell has score 0, so that no region is empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from geocbm.geocells.distribution import CellDistribution, rank_scores

COVERAGES = (0.80, 0.90, 0.95)


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """Threshold below which the score of a further exchangeable photograph lies with probability `coverage`.

    Of the scores `[n]` of the calibration photographs it is the one of rank `ceil((n + 1) coverage)`; with too few for
    such a rank it is infinite.
    """
    rank = int(np.ceil((len(scores) + 1) * coverage - 1e-9))  # rounding must not push a whole number up
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else float("inf")


def calibrate_regions(belief: CellDistribution, true_cell: np.ndarray, seed: int = 0) -> dict[float, float]:
    """Thresholds of the score for each of `COVERAGES`, from `n` photographs with known cells `true_cell` `[n]`."""
    share = np.random.default_rng(seed).random(len(belief))
    scores = np.empty(len(belief))
    for rows in belief.chunks():
        table = rank_scores(belief.probabilities(rows), share[rows])
        scores[rows] = table[np.arange(len(table)), true_cell[rows]]
    return {coverage: conformal_quantile(scores, coverage) for coverage in COVERAGES}


@dataclass(frozen=True)
class Regions:
    """What is known of the regions of one coverage."""

    coverage: float  # wanted probability
    threshold: float  # of the score
    cells: np.ndarray  # [n] number of cells in each region
    area_km2: np.ndarray  # [n] ground in each region
    holds: dict[str, np.ndarray]  # for each kind of truth, [n] whether the region holds that cell


def measure_regions(
    belief: CellDistribution,
    thresholds: Mapping[float, float],
    cell_km2: np.ndarray,
    truths: Mapping[str, np.ndarray],
    seed: int = 1,
) -> list[Regions]:
    """Size of the region of every photograph for each coverage, and whether it holds the truth.

    `thresholds` are of `calibrate_regions`, `cell_km2` `[N]` the ground of each cell, `truths` `[n]` true cells by kind
    of truth; the `seed` of the random shares is another than that of the calibration.
    """
    n = len(belief)
    share = np.random.default_rng(seed).random(n)
    found = [
        Regions(coverage, limit, np.zeros(n, int), np.zeros(n), {name: np.zeros(n, bool) for name in truths})
        for coverage, limit in thresholds.items()
    ]
    for rows in belief.chunks():
        scores = rank_scores(belief.probabilities(rows), share[rows])  # (m, N)
        for one in found:
            inside = scores <= one.threshold
            one.cells[rows] = inside.sum(axis=1)
            one.area_km2[rows] = inside @ cell_km2
            for name, true in truths.items():
                one.holds[name][rows] = inside[np.arange(len(inside)), true[rows]]
    return found
