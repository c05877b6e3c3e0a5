"""Leakage: what concept scores tell of the place beyond what the concepts tell that can truly be seen.

A score that is named "spruce forest" may be high in Finland for other reasons than spruces. What it then tells of the
country came past the concept, and an explanation by spruces is not the true one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import entr

from geocbm.errors import ParameterError
from geocbm.metrics import NOT_MEASURED, Estimate
from geocbm.metrics.resamples import FEWEST_BLOCKS

LEVELS = 8
"""Quantile bins of a continuous score: about ninety of the demo's 750 test pictures in each."""
FEWEST_SHOWN = 5
"""Concepts that fewer pictures truly show (or lack) are left out: nothing can be said of them."""
GROUPS = 20
"""Groups of blocks that the jackknife leaves out in turn."""
PERMUTATIONS, PERMUTATIONS_OF_PAIRS = 20, 5
"""Random orders behind bias and nulls; pairs of concepts are many."""


def quantile_codes(values: np.ndarray) -> np.ndarray:
    """Number the `LEVELS` quantile bins of each column `[n, k]` densely from 0; equal values always share a bin.

    A column with no more values than levels, such as one of yes and no, keeps them as they are.
    """
    codes = np.empty(values.shape, dtype=np.int64)
    for column, numbers in enumerate(np.asarray(values, dtype=np.float64).T):
        if len(np.unique(numbers)) > LEVELS:
            inner = np.quantile(numbers, np.linspace(0, 1, LEVELS + 1)[1:-1], method="lower")
            numbers = np.searchsorted(np.unique(inner), numbers, side="left")
        codes[:, column] = np.unique(numbers, return_inverse=True)[1].reshape(-1)
    return codes


@dataclass(frozen=True)
class Codes:
    """Columns of levels, ready to be counted."""

    values: np.ndarray  # [n, k] levels from 0
    sizes: np.ndarray  # [k] levels of each column

    @classmethod
    def of(cls, values: np.ndarray) -> Codes:
        """Columns with as many levels as they show."""
        return cls(values, values.max(axis=0) + 1)

    @cached_property
    def starts(self) -> np.ndarray:
        """`[k]` position of each column's first level among all levels."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    @cached_property
    def one_hot(self) -> np.ndarray:
        """`[n, K]` an indicator for each level of each column."""
        table = np.zeros((len(self.values), int(self.sizes.sum())), dtype=np.float32)
        np.put_along_axis(table, self.values + self.starts, 1.0, axis=1)
        return table

    def only(self, rows: np.ndarray) -> Codes:
        """The same levels of some rows."""
        return Codes(self.values[rows], self.sizes)

    def entropy(self) -> np.ndarray:
        """`[k]` entropy of each column in nats."""
        return np.add.reduceat(entr((self.one_hot.sum(axis=0) / len(self.values)).astype(np.float64)), self.starts)


def information(one: Codes, other: Codes) -> np.ndarray:
    """Plug-in mutual information of every column of one with every column of the other, `[k, k']`, nats.

    It is about `(levels - 1) (levels' - 1) / 2n` too high (Miller 1955); that of a column with itself is its entropy.
    """
    joint = entr((one.one_hot.T @ other.one_hot / len(one.values)).astype(np.float64))  # (K, K')
    pairs = np.add.reduceat(np.add.reduceat(joint, one.starts, axis=0), other.starts, axis=1)
    return one.entropy()[:, None] + other.entropy() - pairs


def shuffled(codes: Codes, generator: np.random.Generator, within: np.ndarray | None = None) -> Codes:
    """Each column in an order of its own.

    With groups `[n, k]` a value moves only `within` the rows of its own group of its column: what a column tells of
    anything is then what its groups tell, and no more.
    """
    keys = generator.random(codes.values.shape)
    if within is None:
        return Codes(np.take_along_axis(codes.values, keys.argsort(axis=0), axis=0), codes.sizes)
    slots = (within + 0.5 * generator.random(codes.values.shape)).argsort(axis=0)
    order = (within + 0.5 * keys).argsort(axis=0)
    values = np.empty_like(codes.values)
    np.put_along_axis(values, slots, np.take_along_axis(codes.values, order, axis=0), axis=0)
    return Codes(values, codes.sizes)


def bias(codes: Codes, label: Codes | None, n: int, seed: int = 0) -> np.ndarray:
    """What `information` with the label (None: with one another) finds on average in `n` random orders, `[k, k']`."""
    generator = np.random.default_rng(seed)
    orders = [shuffled(codes, generator) for _ in range(n)]
    return np.mean([information(one, label or one) for one in orders], axis=0)


@dataclass(frozen=True)
class Leakage:
    """Information-theoretic leakage of a set of scores (Parisini et al. 2025, arXiv 2504.14094).

    Information is a part of the label's entropy; a null is the same number for scores that know their own concept and
    nothing more.
    """

    kept: np.ndarray  # [m] columns that were measured
    predicted: np.ndarray  # [m] information of each score with the label
    truth: np.ndarray  # [m] the same of the true concept
    beyond: np.ndarray  # [m] information of the score with the label given the true concept
    concepts_task: Estimate  # mean over concepts of what the score tells more than the concept (CTL)
    concepts_task_null: float
    interconcept: Estimate  # mean over pairs of what two scores share more than the two concepts do (ICL)
    interconcept_null: float


def measure_leakage(
    scores: np.ndarray, present: np.ndarray, label: np.ndarray, blocks: np.ndarray, seed: int = 0
) -> Leakage:
    """Concepts-task and interconcept leakage of scores for which the truth is known.

    With `I` the mutual information and `H` the entropy, both freed of the bias of counting, `s` the scores, `c` the
    true concepts and `y` the label (Parisini et al. 2025, arXiv 2504.14094):

    - CTL = mean over i of    max(0, I(s_i; y) / H(y) - I(c_i; y) / H(y))
    - ICL = mean over i < j of max(0, I(s_i; s_j) / sqrt(H(s_i) H(s_j)) - I(c_i; c_j) / sqrt(H(c_i) H(c_j)))

    The paper estimates information by nearest neighbours. Here scores are cut into eight quantile bins, and the mean
    that columns in random order give is subtracted. Because of `max` neither is 0 where nothing leaks: the nulls are
    the same for scores that are exchanged among the pictures that agree on the concept, so that a score tells its own
    concept and no more. Intervals are those of a jackknife that leaves out groups of blocks, for a bootstrap repeats
    pictures and thereby raises information.

    `scores` `[n, k]` are of pictures that the model was not trained on, `present` `[n, k]` says whether the concept can
    truly be seen, and `label` `[n]` is what should be told, such as the country. Without a concept that enough pictures
    show it is a ParameterError.
    """
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
    blind = [shuffled(predicted, generator, truth.values) for _ in range(PERMUTATIONS)]
    task = _Excess(predicted, truth, target, PERMUTATIONS, seed)
    pairs = _Excess(predicted, truth, None, PERMUTATIONS_OF_PAIRS, seed)
    # Exchanging scores among pictures that agree on a concept keeps what the concept tells and the bias of counting.
    by_concept = np.mean([information(one, target) for one in blind], axis=0)
    beyond = (information(predicted, target) - by_concept)[:, 0] / target.entropy()[0]
    return Leakage(
        kept=kept,
        predicted=task.of(predicted, task.predicted_bias),
        truth=task.of(truth, task.truth_bias),
        beyond=beyond,
        concepts_task=_jackknife(task.estimate, blocks, seed),
        concepts_task_null=float(np.mean([task.estimate(shuffled_scores=one) for one in blind])),
        interconcept=_jackknife(pairs.estimate, blocks, seed),
        interconcept_null=float(
            np.mean([pairs.estimate(shuffled_scores=one) for one in blind[:PERMUTATIONS_OF_PAIRS]])
        ),
    )


class _Excess:
    """What scores tell more than their concepts: of a label (CTL), or without one of each other (ICL)."""

    def __init__(self, predicted: Codes, truth: Codes, target: Codes | None, n: int, seed: int) -> None:
        self.predicted, self.truth, self.target = predicted, truth, target
        self.predicted_bias, self.truth_bias = (bias(codes, target, n, seed) for codes in (predicted, truth))

    def of(self, codes: Codes, own_bias: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Information as a part of entropy, of all pictures or some; with fewer of them the bias grows."""
        rows = np.arange(len(codes.values)) if rows is None else rows
        some, own_bias = codes.only(rows), own_bias * len(codes.values) / len(rows)
        if self.target is not None:
            target = self.target.only(rows)
            return (information(some, target) - own_bias)[:, 0] / target.entropy()[0]  # (k,)
        entropy = np.maximum(some.entropy(), 1e-12)
        found = (information(some, some) - own_bias) / np.sqrt(entropy[:, None] * entropy)  # (k, k)
        return found[np.triu_indices(len(entropy), 1)]

    def estimate(self, rows: np.ndarray | None = None, shuffled_scores: Codes | None = None) -> float:
        scores = self.of(shuffled_scores or self.predicted, self.predicted_bias, rows)
        excess = np.maximum(scores - self.of(self.truth, self.truth_bias, rows), 0)
        return float(excess.mean()) if len(excess) else 0.0


def _jackknife(estimate: Callable[[np.ndarray], float], blocks: np.ndarray, seed: int) -> Estimate:
    """The interval of a jackknife that leaves out groups of blocks (Shao & Tu 1995, chapter 2.3)."""
    number = np.unique(blocks, return_inverse=True)[1].reshape(-1)
    group = np.random.default_rng(seed).permutation(number.max() + 1) % GROUPS
    present = np.unique(group)
    value = estimate(np.arange(len(blocks)))
    if number.max() + 1 < FEWEST_BLOCKS:
        return NOT_MEASURED | {"value": value}
    left = np.array([estimate(np.flatnonzero(group[number] != one)) for one in present])
    error = np.sqrt((len(present) - 1) / len(present) * ((left - left.mean()) ** 2).sum())
    return {"value": value, "low": max(0.0, float(value - 1.96 * error)), "high": float(value + 1.96 * error)}
