"""Mutual information between many discretised columns and a label, or one another, freed of the bias of counting."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from geocbm.errors import ParameterError

LEVELS = 8
"""Quantile bins of a continuous score: about ninety of the demo's 750 test pictures in each."""


def quantile_codes(values: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """Number the quantile bins of each column from 0; equal values always share a bin.

    A column with no more values than `levels`, such as one of yes and no, keeps them as they are.

    Args:
        values: `[n, k]` numbers or booleans.
        levels: bins of a column, at least 2.

    Returns:
        `[n, k]` integers; the bins of a column are numbered densely.

    Raises:
        ParameterError: fewer than two levels.
    """
    if levels < 2:
        raise ParameterError(f"levels is {levels}; with fewer than 2 bins nothing can be told from them")
    codes = np.empty(values.shape, dtype=np.int64)
    for column, numbers in enumerate(np.asarray(values, dtype=np.float64).T):
        distinct = np.unique(numbers)
        if len(distinct) > levels:
            inner = np.quantile(numbers, np.linspace(0, 1, levels + 1)[1:-1], method="lower")
            binned = np.searchsorted(np.unique(inner), numbers, side="left")
        else:
            binned = np.searchsorted(distinct, numbers)
        codes[:, column] = np.unique(binned, return_inverse=True)[1].reshape(-1)
    return codes


@dataclass(frozen=True)
class Codes:
    """Columns of levels, ready to be counted.

    Attributes:
        values: `[n, k]` levels from 0.
        sizes: `[k]` levels of each column.
    """

    values: np.ndarray
    sizes: np.ndarray

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
        return np.add.reduceat(_surprise(self.one_hot.sum(axis=0) / len(self.values)), self.starts)


def _surprise(p: np.ndarray) -> np.ndarray:
    """`-p log p`, 0 where `p` is 0."""
    p = p.astype(np.float64)
    return -p * np.log(np.where(p > 0, p, 1.0))


def information_with(codes: Codes, label: Codes) -> np.ndarray:
    """Plug-in mutual information of each column with one label.

    Args:
        codes: `k` columns.
        label: a single column of the same rows.

    Returns:
        `[k]` nats; too high by about `(levels - 1) (classes - 1) / 2n` (Miller 1955).
    """
    joint = _surprise(codes.one_hot.T @ label.one_hot / len(codes.values)).sum(axis=1)  # (K,)
    return codes.entropy() + label.entropy()[0] - np.add.reduceat(joint, codes.starts)


def information_between(codes: Codes) -> np.ndarray:
    """Plug-in mutual information of every two columns, `[k, k]` nats; the diagonal is the entropy."""
    joint = _surprise(codes.one_hot.T @ codes.one_hot / len(codes.values))  # (K, K)
    pairs = np.add.reduceat(np.add.reduceat(joint, codes.starts, axis=0), codes.starts, axis=1)
    entropy = codes.entropy()
    return entropy[:, None] + entropy[None, :] - pairs


def shuffled(codes: Codes, generator: np.random.Generator, within: np.ndarray | None = None) -> Codes:
    """Each column in an order of its own.

    Args:
        codes: `k` columns.
        generator: source of the orders.
        within: `[n, k]` groups: a value moves only among the rows of its own group of its column. What a column tells
            of anything is then what its groups tell, and no more.
    """
    keys = generator.random(codes.values.shape)
    if within is None:
        return Codes(np.take_along_axis(codes.values, keys.argsort(axis=0), axis=0), codes.sizes)
    slots = (within + 0.5 * generator.random(codes.values.shape)).argsort(axis=0)
    order = (within + 0.5 * keys).argsort(axis=0)
    values = np.empty_like(codes.values)
    np.put_along_axis(values, slots, np.take_along_axis(codes.values, order, axis=0), axis=0)
    return Codes(values, codes.sizes)


def bias_with(codes: Codes, label: Codes, n: int = 20, seed: int = 0) -> np.ndarray:
    """`[k]` what `information_with` finds on average in columns whose order is random, which tell nothing."""
    generator = np.random.default_rng(seed)
    return np.mean([information_with(shuffled(codes, generator), label) for _ in range(n)], axis=0)


def bias_between(codes: Codes, n: int = 5, seed: int = 0) -> np.ndarray:
    """`[k, k]` what `information_between` finds on average in columns whose orders are random."""
    generator = np.random.default_rng(seed)
    return np.mean([information_between(shuffled(codes, generator)) for _ in range(n)], axis=0)
