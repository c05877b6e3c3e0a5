"""Metrics in the short forms that tests compare: one call for an interval, values without one."""

from __future__ import annotations

from typing import Any

import numpy as np

from geocbm.metrics import Estimate, Resamples, concept_intervals
from geocbm.metrics.places import places_right


def _drawn(values: Any, blocks: Any, n: int, seed: int) -> Resamples:
    if isinstance(blocks, Resamples):
        return blocks
    return Resamples(np.arange(len(values)) if blocks is None else blocks, n, seed)


def bootstrap(values, blocks=None, statistic="mean", n=1000, seed=0, groups=None, level=0.95) -> Estimate:
    """A statistic with its interval; without blocks every row is its own."""
    return _drawn(values, blocks, n, seed).estimate(values, statistic, groups, level)


def paired_difference(first, second, blocks=None, statistic="mean", n=1000, seed=0) -> Estimate:
    """Difference of two methods with its interval."""
    return _drawn(first, blocks, n, seed).difference(first, second, statistic)


def concept_metrics(scores, meta, parents=None, meta_to_parent=None, similarity=None) -> dict[str, float]:
    """The values of `concept_intervals`, every photograph its own block; by default every meta is its own parent."""
    k = np.shape(scores)[1]
    owner = np.arange(k) if meta_to_parent is None else np.asarray(meta_to_parent)
    members = np.zeros((len(scores), owner.max() + 1)) if parents is None else parents
    drawn = Resamples(np.arange(max(len(meta), 1)), 1)
    found = concept_intervals(scores, meta, drawn, members, owner, np.eye(k) if similarity is None else similarity)
    return {name: entry["value"] for name, entry in found.items()}


def place_accuracy(*places) -> dict[str, float]:
    """Shares of predictions in the right country, region and city."""
    return {name: float(right.mean()) for name, right in places_right(*places).items()}
