"""Countries and regions for free: probabilities of larger places are sums over cells."""

from __future__ import annotations

import numpy as np

from geocbm.errors import ParameterError
from geocbm.geocells.distribution import CellBelief


def cell_shares(cell: np.ndarray, label: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """How the photographs of each cell are divided among larger places.

    A cell lies in one country but may reach over several regions; its probability is then divided among them as its
    training photographs are.

    Args:
        cell: `[n]` cells of the training photographs.
        label: `[n]` their countries or regions; an empty text is no place.
        n_cells: number of cells, N.

    Returns:
        `[R]` sorted names and `[N, R]` shares. Rows sum to 1, or to less where photographs of the cell have no name;
        a cell without photographs has a row of zeros.

    Raises:
        ParameterError: the labels are not one for each photograph.
    """
    if len(cell) != len(label):
        raise ParameterError(f"label has {len(label)} entries for {len(cell)} photographs; give one for each")
    named = np.asarray(label, dtype=str) != ""
    names, number = np.unique(np.asarray(label, dtype=str)[named], return_inverse=True)
    counts = np.zeros((n_cells, len(names)))
    np.add.at(counts, (np.asarray(cell)[named], number.reshape(-1)), 1.0)
    return names, counts / np.maximum(np.bincount(cell, minlength=n_cells), 1)[:, None]


def summed(probabilities: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Probabilities of larger places `[m, R]`, from those of cells `[m, N]` and `shares` `[N, R]`."""
    if len(shares) != probabilities.shape[1]:
        raise ParameterError(f"shares has {len(shares)} rows for {probabilities.shape[1]} cells; give one for each")
    return probabilities @ shares


def likeliest(belief: CellBelief, names: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Name of the larger place with the highest sum for each photograph, `[n]`; empty where there are no names."""
    from scipy.sparse import csr_array

    if not len(names):
        return np.full(len(belief), "")
    few = csr_array(shares)  # a cell reaches over a few regions of thousands
    return names[belief.gather(lambda p: (p @ few).argmax(axis=1), width=len(names))]
