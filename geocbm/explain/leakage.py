"""Leakage: what concept scores tell of the place beyond what the concepts that can truly be seen tell of it.

A score that is named "spruce forest" may be high in Finland for other reasons than spruces. What it then tells of the
country came past the concept, and an explanation by spruces is not the true one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geocbm.errors import ParameterError
from geocbm.explain.information import (
    Codes,
    bias_between,
    bias_with,
    information_between,
    information_with,
    quantile_codes,
    shuffled,
)
from geocbm.metrics.resamples import FEWEST_BLOCKS

Figure = dict[str, float]
FEWEST_SHOWN = 5
"""Concepts that fewer pictures truly show (or lack) are left out: nothing can be said of them."""
GROUPS = 20
"""Groups of blocks that the jackknife leaves out in turn."""


@dataclass(frozen=True)
class Leakage:
    """Information-theoretic leakage of a set of scores (Parisini et al. 2025, arXiv 2504.14094).

    Attributes:
        kept: `[m]` columns that were measured.
        predicted: `[m]` information of each score with the label, as a part of the label's entropy.
        truth: `[m]` the same of the true concept.
        beyond: `[m]` information of the score with the label given the true concept, as a part of the label's entropy.
        concepts_task: mean over the concepts of what the score tells more than the concept (CTL).
        concepts_task_null: mean of the same for scores that know the concept and nothing more.
        interconcept: mean over the pairs of what two scores share more than the two concepts do (ICL).
        interconcept_null: mean of the same for scores that know their own concept and nothing more.
    """

    kept: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray
    beyond: np.ndarray
    concepts_task: Figure
    concepts_task_null: float
    interconcept: Figure
    interconcept_null: float


def measure_leakage(
    scores: np.ndarray,
    present: np.ndarray,
    label: np.ndarray,
    blocks: np.ndarray,
    permutations: int = 20,
    seed: int = 0,
) -> Leakage:
    """Concepts-task and interconcept leakage of scores for which the truth is known.

    With `I` the mutual information and `H` the entropy, both freed of the bias of counting, `s` the scores, `c` the
    true concepts and `y` the label (Parisini et al. 2025, arXiv 2504.14094):

        CTL = mean over i of    max(0, I(s_i; y) / H(y) - I(c_i; y) / H(y))
        ICL = mean over i < j of max(0, I(s_i; s_j) / sqrt(H(s_i) H(s_j)) - I(c_i; c_j) / sqrt(H(c_i) H(c_j)))

    The paper estimates information by nearest neighbours. Here scores are cut into eight quantile bins, and the mean
    that columns in random order give is subtracted. Because of `max` neither figure is 0 where nothing leaks: the
    nulls are the same figures for scores that are exchanged among the pictures that agree on the concept, so that a
    score tells its own concept and no more. Intervals are those of a jackknife that leaves out groups of blocks, for a
    bootstrap repeats pictures and thereby raises information.

    Args:
        scores: `[n, k]` scores of pictures that the model was not trained on.
        present: `[n, k]` whether the concept can truly be seen.
        label: `[n]` what should be told, such as the country.
        blocks: `[n]` spatial blocks of the pictures.
        permutations: random orders behind bias and nulls.
        seed: of the random orders.

    Raises:
        ParameterError: shapes do not fit, or no concept is shown by enough pictures.
    """
    if scores.shape != present.shape or len(label) != len(scores) or len(blocks) != len(scores):
        raise ParameterError(
            f"scores {scores.shape}, present {present.shape}, label ({len(label)},) and blocks ({len(blocks)},) do not "
            "fit: give a row per picture and a column per concept"
        )
    shown = present.sum(axis=0)
    kept = np.flatnonzero((shown >= FEWEST_SHOWN) & (shown <= len(present) - FEWEST_SHOWN))
    if not len(kept):
        raise ParameterError(
            f"no concept is present in at least {FEWEST_SHOWN} pictures and absent from as many; give more than "
            f"{len(scores)} pictures"
        )
    target = Codes.of(np.unique(label, return_inverse=True)[1].reshape(-1, 1))
    predicted, truth = Codes.of(quantile_codes(scores[:, kept])), Codes.of(present[:, kept].astype(np.int64))
    generator = np.random.default_rng(seed)
    blind = [shuffled(predicted, generator, truth.values) for _ in range(permutations)]
    task = _Task(predicted, truth, target, permutations, seed)
    pairs = _Pairs(predicted, truth, max(1, permutations // 4), seed)
    return Leakage(
        kept=kept,
        predicted=task.of(predicted, task.predicted_bias),
        truth=task.of(truth, task.truth_bias),
        beyond=_beyond(predicted, blind, target),
        concepts_task=_jackknife(task.figure, len(scores), blocks, seed),
        concepts_task_null=float(np.mean([task.figure(shuffled_scores=one) for one in blind])),
        interconcept=_jackknife(pairs.figure, len(scores), blocks, seed),
        interconcept_null=float(np.mean([pairs.figure(shuffled_scores=one) for one in blind[: pairs.n]])),
    )


class _Task:
    """Concepts-task leakage of all pictures or of some of them."""

    def __init__(self, predicted: Codes, truth: Codes, target: Codes, n: int, seed: int) -> None:
        self.predicted, self.truth, self.target = predicted, truth, target
        self.predicted_bias, self.truth_bias = bias_with(predicted, target, n, seed), bias_with(truth, target, n, seed)

    def of(self, codes: Codes, bias: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Information with the label as a part of its entropy; with fewer rows the bias grows as one over them."""
        rows = np.arange(len(codes.values)) if rows is None else rows
        target = self.target.only(rows)
        found = information_with(codes.only(rows), target) - bias * len(codes.values) / len(rows)
        return found / target.entropy()[0]

    def figure(self, rows: np.ndarray | None = None, shuffled_scores: Codes | None = None) -> float:
        scores = self.of(shuffled_scores or self.predicted, self.predicted_bias, rows)
        return float(np.maximum(scores - self.of(self.truth, self.truth_bias, rows), 0).mean())


class _Pairs:
    """Interconcept leakage of all pictures or of some of them."""

    def __init__(self, predicted: Codes, truth: Codes, n: int, seed: int) -> None:
        self.predicted, self.truth, self.n = predicted, truth, n
        self.predicted_bias, self.truth_bias = bias_between(predicted, n, seed), bias_between(truth, n, seed)

    def of(self, codes: Codes, bias: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        rows = np.arange(len(codes.values)) if rows is None else rows
        some = codes.only(rows)
        entropy = np.maximum(some.entropy(), 1e-12)
        found = information_between(some) - bias * len(codes.values) / len(rows)
        return (found / np.sqrt(entropy[:, None] * entropy))[np.triu_indices(len(entropy), 1)]

    def figure(self, rows: np.ndarray | None = None, shuffled_scores: Codes | None = None) -> float:
        scores = self.of(shuffled_scores or self.predicted, self.predicted_bias, rows)
        if not len(scores):
            return 0.0
        return float(np.maximum(scores - self.of(self.truth, self.truth_bias, rows), 0).mean())


def _beyond(predicted: Codes, blind: list[Codes], target: Codes) -> np.ndarray:
    """Information of scores with the label given the true concept, as a part of the label's entropy.

    Exchanging scores among the pictures that agree on a concept keeps what the concept tells and destroys the rest, so
    that the mean over such exchanges is what the concept and the bias give together.
    """
    kept = np.mean([information_with(one, target) for one in blind], axis=0)
    return (information_with(predicted, target) - kept) / target.entropy()[0]


def _jackknife(figure: Callable[[np.ndarray], float], n: int, blocks: np.ndarray, seed: int) -> Figure:
    """A figure with the interval of a jackknife that leaves out groups of blocks (Shao & Tu 1995, chapter 2.3)."""
    number = np.unique(blocks, return_inverse=True)[1].reshape(-1)
    group = np.random.default_rng(seed).permutation(number.max() + 1) % GROUPS
    present = np.unique(group)
    value = figure(np.arange(n))
    if number.max() + 1 < FEWEST_BLOCKS:
        return {"value": value, "low": float("nan"), "high": float("nan")}
    left = np.array([figure(np.flatnonzero(group[number] != one)) for one in present])
    error = np.sqrt((len(present) - 1) / len(present) * ((left - left.mean()) ** 2).sum())
    return {"value": value, "low": max(0.0, float(value - 1.96 * error)), "high": float(value + 1.96 * error)}
