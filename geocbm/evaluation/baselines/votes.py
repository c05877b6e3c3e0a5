"""Nearest neighbours as a distribution over cells: votes weighted by a kernel on the similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geocbm.metrics import fit_temperature, negative_log_likelihood

NEIGHBOURS = (10, 20, 50, 100, 200)
WIDTHS = (0.1, 0.2, 0.5, 1.0)
"""Widths of the kernel that are tried, in units of the mean fall of the similarity from the first to the k-th."""

PRIOR_SHARE = 0.05
"""Part of the distribution that is the training split's own, so that no cell is impossible."""


@dataclass(frozen=True)
class Votes:
    """How neighbours vote.

    Attributes:
        k: number of neighbours.
        width: of the kernel `exp(similarity / width)`.
        prior: `[N]` share of the training photographs in each cell.
    """

    k: int
    width: float
    prior: np.ndarray

    def logits(self, similarity: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Log probabilities of cells.

        Args:
            similarity: `[n, K]` of the neighbours, the most similar first; `K` is at least `k`, or all there are.
            cell: `[n, K]` their cells.

        Returns:
            `[n, N]`.
        """
        near = similarity[:, : self.k].astype(np.float64)
        weight = np.exp((near - near[:, :1]) / self.width)
        votes = np.zeros((len(near), len(self.prior)))
        np.add.at(votes, (np.arange(len(near))[:, None], cell[:, : self.k]), weight)
        votes /= weight.sum(axis=1, keepdims=True)
        mixed = (1 - PRIOR_SHARE) * votes + PRIOR_SHARE * self.prior
        return np.log(np.maximum(mixed, 1e-12))


def choose_votes(
    similarity: np.ndarray,
    cell: np.ndarray,
    true_cell: np.ndarray,
    prior: np.ndarray,
    neighbours: Sequence[int] = NEIGHBOURS,
    widths: Sequence[float] = WIDTHS,
) -> Votes:
    """Number of neighbours and kernel with the highest calibrated log likelihood of the validation photographs.

    Args:
        similarity: `[v, K]` of the neighbours of the validation photographs, the most similar first.
        cell: `[v, K]` their cells.
        true_cell: `[v]` cells of the validation photographs.
        prior: `[N]` share of the training photographs in each cell.
        neighbours: numbers to try; those above `K` are left out.
        widths: widths to try (see `WIDTHS`).

    Returns:
        The best of them; without validation photographs the middle ones.
    """
    most = similarity.shape[1]
    numbers = [k for k in neighbours if k <= most] or [most]
    best: tuple[float, Votes] | None = None
    for k in numbers:
        fall = float((similarity[:, 0] - similarity[:, k - 1]).mean()) if len(similarity) else 0.1
        for share in widths:
            one = Votes(k, max(share * fall, 1e-6), prior)
            if not len(true_cell):
                if k == numbers[len(numbers) // 2] and share == widths[len(widths) // 2]:
                    return one
                continue
            logits = one.logits(similarity, cell)
            loss = negative_log_likelihood(logits, true_cell, fit_temperature(logits, true_cell))
            if best is None or loss < best[0]:
                best = loss, one
    assert best is not None
    return best[1]
