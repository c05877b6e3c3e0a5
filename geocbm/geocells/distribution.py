"""A distribution over cells for each of many photographs, taken a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from geocbm.errors import ParameterError

NUMBERS_AT_ONCE = 2_000_000
"""Entries of a table that are held in double precision at one time: 100,000 photographs of 1,000 cells need not be."""


def in_half_precision(logits: np.ndarray) -> np.ndarray:
    """Logits `[n, N]` as `cell_scores.npz` keeps them: counted from the highest of their row, in 16 bits.

    That loses nothing of the probabilities: the cells that matter lie near 0, where half precision is fine. Whatever
    is decided from logits is decided from these, so that a page that reads the file, the stored predictions and a new
    photograph are answered alike.
    """
    below = logits - logits.max(axis=1, keepdims=True)
    return np.maximum(below, np.finfo(np.float16).min).astype(np.float16)


@dataclass(frozen=True)
class CellBelief:
    """Logits of cells, and the temperature that turns them into probabilities.

    Attributes:
        logits: `[n, N]` in any precision; a row is defined up to a constant.
        temperature: divisor of the logits.
    """

    logits: np.ndarray
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or not self.logits.shape[1]:
            raise ParameterError(f"logits have the shape {self.logits.shape}; give a table [photographs, cells]")
        if not self.temperature > 0:
            raise ParameterError(f"temperature is {self.temperature}; give a number above 0, 1 for none")

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def n_cells(self) -> int:
        """Number of cells, N."""
        return int(self.logits.shape[1])

    def probabilities(self, rows: slice | np.ndarray) -> np.ndarray:
        """Probabilities of some rows, `[m, N]` in double precision."""
        part = self.logits[rows].astype(np.float64) / self.temperature
        part -= part.max(axis=1, keepdims=True)
        np.exp(part, out=part)
        part /= part.sum(axis=1, keepdims=True)
        return part

    def chunks(self, width: int = 0) -> Iterator[slice]:
        """Slices of rows whose tables of `max(width, N)` columns stay small."""
        at_once = max(1, NUMBERS_AT_ONCE // max(width, self.n_cells))
        for start in range(0, len(self), at_once):
            yield slice(start, min(start + at_once, len(self)))

    def gather(self, take: Callable[[np.ndarray], np.ndarray], width: int = 0) -> np.ndarray:
        """What a function of probabilities `[m, N] -> [m, ...]` says of all rows, joined.

        Args:
            take: the function; for no rows at all it is asked once with an empty table, so that shapes stay the same.
            width: columns of the widest table it makes.
        """
        parts = [take(self.probabilities(rows)) for rows in self.chunks(width)]
        return np.concatenate(parts or [take(np.empty((0, self.n_cells)))])


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy in nats of rows `[m, N]`, `[m]`: 0 where one cell has everything, log N where all are alike."""
    safe = np.where(probabilities > 0, probabilities, 1.0)
    return -(probabilities * np.log(safe)).sum(axis=1)
