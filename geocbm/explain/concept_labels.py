"""Which concepts can truly be seen in a picture, and which scores the model gives where they can and cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geocbm.errors import ParameterError

if TYPE_CHECKING:
    from geocbm.run import Run

FEWEST_EXAMPLES = 5
"""With fewer validation pictures that show a concept, the training pictures are asked too."""


@dataclass(frozen=True)
class ConceptLabels:
    """What is known of the concepts of each picture; metas come first, then parents.

    Attributes:
        present: `[n, k]` whether the concept can be seen; False where it is not known.
        known: `[n, k]` whether that is known.
    """

    present: np.ndarray
    known: np.ndarray

    @property
    def complete(self) -> bool:
        """Whether everything is known: so it is where the data comes with ground truth."""
        return bool(self.known.all())

    def at(self, rows: np.ndarray) -> ConceptLabels:
        """The same of some pictures."""
        return ConceptLabels(self.present[rows], self.known[rows])


def with_parents(metas: np.ndarray, parent_index: np.ndarray) -> np.ndarray:
    """Of metas `[n, k_m]` the same with their parents, `[n, k_m + k_p]`: a parent is there if any of its metas is."""
    parents = np.stack([metas[:, parent_index == p].any(axis=1) for p in range(parent_index.max() + 1)], axis=1)
    return np.concatenate([metas, parents], axis=1)


def read_concept_labels(files: Run) -> ConceptLabels:
    """What a run knows of the concepts of all its pictures.

    With ground truth that is the complete list of visible concepts. A real data set knows only that the labelled meta
    is there; of the others nothing is known.
    """
    from geocbm.evaluation.methods import visible_concepts

    meta, parents = files.meta_and_parent[0], files.concepts.parent_index
    features = visible_concepts(files)
    if features is not None:
        present = with_parents(features[:, : len(parents)] > 0, parents)
        return ConceptLabels(present, np.ones_like(present))
    labelled = with_parents(meta[:, None] == np.arange(len(parents)), parents)
    return ConceptLabels(labelled, labelled.copy())


@dataclass(frozen=True)
class InterventionValues:
    """Scores that stand for "there" and for "not there"; NaN where a concept was never seen.

    Attributes:
        present: `[k]` score of a concept that is there.
        absent: `[k]` score of one that is not.
        percentile: from which `present` was read; `absent` is the mirrored one.
    """

    present: np.ndarray
    absent: np.ndarray
    percentile: float


def intervention_values(
    scores: np.ndarray, presence: ConceptLabels, rows: np.ndarray, more_rows: np.ndarray, percentile: float = 75.0
) -> InterventionValues:
    """Read from pictures which scores the model gives to concepts that are there and to others.

    Koh et al. (2020, "Concept bottleneck models") take the 95th percentile of a concept's logit for "there" and
    the 5th for "not there". The scores here share one softmax, where the right percentile is another; notebook 08
    chooses it on the validation split. Where only labels are known, "not there" is read from all pictures with another
    label.

    Args:
        scores: `[n, k]` probabilities of all pictures, metas and then parents.
        presence: what is known of them.
        rows: pictures to read from, those of the validation split.
        more_rows: pictures to add for concepts with too few of them.
        percentile: from 50 to 100.

    Raises:
        ParameterError: the percentile lies elsewhere.
    """
    if not 50 <= percentile <= 100:
        raise ParameterError(f"percentile is {percentile}; give a number from 50 to 100")
    all_rows = np.union1d(rows, more_rows)
    k = scores.shape[1]
    present, absent = np.full(k, np.nan), np.full(k, np.nan)
    for concept in range(k):
        there = presence.present[:, concept]
        chosen = rows if there[rows].sum() >= FEWEST_EXAMPLES else all_rows
        mine, others = scores[chosen[there[chosen]], concept], scores[chosen[~there[chosen]], concept]
        if len(mine):
            present[concept] = np.percentile(mine, percentile)
        if len(others):
            absent[concept] = np.percentile(others, 100 - percentile)
    return InterventionValues(present, absent, percentile)
