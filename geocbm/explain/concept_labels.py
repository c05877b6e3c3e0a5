"""Concept labels: which concepts can truly be seen in a picture, and the scores an intervention gives them.

Concepts are counted metas first, then parents: `k = k_m + k_p` columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geocbm.evaluation.methods import visible_concepts
from geocbm.run import Run

MIN_EXAMPLES = 5
"""With fewer validation pictures that show a concept, the training pictures are read too."""


@dataclass(frozen=True)
class ConceptLabels:
    """What is known of the concepts of each picture."""

    present: np.ndarray  # [n, k] whether the concept can be seen; False where it is not known
    known: np.ndarray  # [n, k] whether that is known

    @property
    def complete(self) -> bool:
        """Whether every concept of every picture is known, as in data with ground truth."""
        return bool(self.known.all())

    def at(self, rows: np.ndarray) -> ConceptLabels:
        """The labels of some pictures."""
        return ConceptLabels(self.present[rows], self.known[rows])


def with_parents(metas: np.ndarray, parent_index: np.ndarray) -> np.ndarray:
    """Append parents to metas `[n, k_m]` -> `[n, k_m + k_p]`: a parent is there if any of its metas is."""
    return np.hstack([metas, metas @ (parent_index[:, None] == np.arange(parent_index.max() + 1))])


def read_concept_labels(run: Run) -> ConceptLabels:
    """Concept labels of all pictures of a run.

    With ground truth that is the complete list of visible concepts. A real data set knows only that the labelled metas
    are there, and of those that were looked for in vain that they are not; of the others nothing is known. A parent is
    known to be absent once all its metas are.
    """
    parents = run.concepts.parent_index
    visible = visible_concepts(run)
    if visible is not None:
        present = with_parents(visible[:, : len(parents)] > 0, parents)
        return ConceptLabels(present, np.ones_like(present))
    present = with_parents(run.labels_at(np.arange(len(run.table))), parents)
    either = present[:, : len(parents)] | run.absent_metas
    return ConceptLabels(present, present | np.hstack([either, ~with_parents(~either, parents)[:, len(parents) :]]))


@dataclass(frozen=True)
class InterventionValues:
    """Scores that stand for "present" and "absent"; NaN where a concept was never seen."""

    present: np.ndarray  # [k] score of a concept that is there
    absent: np.ndarray  # [k] score of one that is not
    percentile: float  # from which `present` was read; `absent` is the mirrored one


def intervention_values(
    scores: np.ndarray, labels: ConceptLabels, rows: np.ndarray, more_rows: np.ndarray, percentile: float = 75.0
) -> InterventionValues:
    """Read from pictures which scores the model gives to concepts that are there and to others.

    Koh et al. (2020, "Concept bottleneck models") take the 95th percentile of a concept's logit for "present" and the
    5th for "absent"; where scores share one softmax, another percentile serves better. `scores` `[n, k]` and `labels`
    are those of all pictures, `rows` the ones to read from (validation), and `more_rows` are added for concepts with
    fewer than `MIN_EXAMPLES` of them. Where only labels are known, "absent" is read from pictures with another label.
    """
    all_rows = np.union1d(rows, more_rows)
    k = scores.shape[1]
    present, absent = np.full(k, np.nan), np.full(k, np.nan)
    for concept in range(k):
        there = labels.present[:, concept]
        chosen = rows if there[rows].sum() >= MIN_EXAMPLES else all_rows
        mine, others = scores[chosen[there[chosen]], concept], scores[chosen[~there[chosen]], concept]
        if len(mine):
            present[concept] = np.percentile(mine, percentile)
        if len(others):
            absent[concept] = np.percentile(others, 100 - percentile)
    return InterventionValues(present, absent, percentile)
