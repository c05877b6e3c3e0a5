"""A distribution over cells for each of many photographs, taken a few rows at a time."""

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
class CellDistribution:
    """Logits of cells, and the temperature that turns them into probabilities."""

    logits: np.ndarray  # [n, N] in any precision; a row is defined up to a constant
    temperature: float = 1.0  # divisor of the logits

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

        For no rows at all it is asked once with an empty table, so that shapes stay the same; `width` are the columns
        of the widest table that it makes.
        """
        parts = [take(self.probabilities(rows)) for rows in self.chunks(width)]
        return np.concatenate(parts or [take(np.empty((0, self.n_cells)))])


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy in nats of rows `[m, N]`, `[m]`: 0 where one cell has everything, log N where all are alike."""
    safe = np.where(probabilities > 0, probabilities, 1.0)
    return -(probabilities * np.log(safe)).sum(axis=1)


def cell_shares(cell: np.ndarray, label: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted names `[R]` of larger places, and shares `[N, R]` of each cell's photographs that lie in them.

    A cell lies in one country but may reach over several regions; its probability is then divided among them as its
    training photographs are, with cells and labels `[n]`. Rows sum to 1, or to less where photographs of the cell have
    no name (an empty text); a cell without photographs has a row of zeros.
    """
    if len(cell) != len(label):
        raise ParameterError(f"label has {len(label)} entries for {len(cell)} photographs; give one for each")
    named = np.asarray(label, dtype=str) != ""
    names, number = np.unique(np.asarray(label, dtype=str)[named], return_inverse=True)
    counts = np.zeros((n_cells, len(names)))
    np.add.at(counts, (np.asarray(cell)[named], number.reshape(-1)), 1.0)
    return names, counts / np.maximum(np.bincount(cell, minlength=n_cells), 1)[:, None]


def sum_by_place(probabilities: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted names `[C]` of larger places and their probabilities `[..., C]`, each the sum over its cells.

    Of probabilities `[..., N]` of cells and the place `[N]` in which each lies; for countries `Geocells.by_country`.
    """
    if len(place) != probabilities.shape[-1]:
        raise ParameterError(f"place has {len(place)} entries for {probabilities.shape[-1]} cells; give one for each")
    names, number = np.unique(np.asarray(place, dtype=str), return_inverse=True)
    return names, probabilities @ (number.reshape(-1)[:, None] == np.arange(len(names)))


def argmax_region(belief: CellDistribution, names: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Name of the larger place with the highest sum for each photograph, `[n]`; empty where there are no names."""
    from scipy.sparse import csr_array

    if not len(names):
        return np.full(len(belief), "")
    few = csr_array(shares)  # a cell reaches over a few regions of thousands
    return names[belief.gather(lambda p: (p @ few).argmax(axis=1), width=len(names))]


def rank_scores(probabilities: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Score of every cell: how much probability must be gathered before it belongs to the region.

    Of probabilities `[m, N]` scores `[m, N]`, 0 for the first cell of each row; of equal probabilities the lower cell
    comes first. The `share [m]` are uniform random numbers from 0 to 1, one per photograph, which make the coverage
    exact instead of too high; 1 leaves chance out.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")  # (m, N)
    ranked = np.take_along_axis(probabilities, order, axis=1)
    ranked = np.cumsum(ranked, axis=1) - (1 - share[:, None]) * ranked
    ranked[:, 0] = 0.0
    scores = np.empty_like(ranked)
    np.put_along_axis(scores, order, ranked, axis=1)
    return scores
