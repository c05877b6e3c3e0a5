"""What if this bollard were another? Edits of single pictures, at several strengths, ready to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from geocbm.explain.interventions import LEAST_SCORE

if TYPE_CHECKING:
    from geocbm.data.concepts import ConceptVocabulary
    from geocbm.explain.concept_labels import InterventionValues
    from geocbm.explain.intervention_model import InterventionModel, Places
    from geocbm.run import Run

MIDDLING = 0.6
"""Belief in the true country that a chosen picture comes nearest to."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Steps of the control: 0 is the picture as the model sees it, 1 the whole edit."""


@dataclass(frozen=True)
class Edit:
    """One edit of one picture.

    Attributes:
        words: what is edited.
        target: `[k]` scores at full strength; NaN where a score stays.
    """

    words: str
    target: np.ndarray

    def at(self, scores: np.ndarray, strengths: Sequence[float] = STRENGTHS) -> torch.Tensor:
        """Edited scores `(S, k)` of a picture with `scores` `[k]`, evenly spaced in their logarithms."""
        start = np.log(np.maximum(scores, LEAST_SCORE))
        end = np.where(np.isnan(self.target), start, np.log(np.maximum(self.target, LEAST_SCORE)))
        between = [
            np.where(np.isnan(self.target) | (s == 0), scores, np.exp(start + s * (end - start))) for s in strengths
        ]
        return torch.from_numpy(np.stack(between)).float()


@dataclass(frozen=True)
class Counterfactual:
    """A picture and what the model answers to edits of it.

    Attributes:
        row: the picture.
        caption: what it truly is.
        edits: the edits.
        answers: for each edit the places at all `STRENGTHS`.
    """

    row: int
    caption: str
    edits: tuple[Edit, ...]
    answers: tuple[Places, ...]


def exchange(
    scores: np.ndarray, seen: int, other: int, levels: InterventionValues, vocabulary: ConceptVocabulary
) -> Edit:
    """The edit that takes one meta away and puts another in its place, with their parents if these differ."""
    n, parents = len(vocabulary.metas), vocabulary.parent_index
    target = np.full(len(scores), np.nan)
    target[seen], target[other] = (
        np.fmin(levels.absent[seen], scores[seen]),
        np.fmax(levels.present[other], scores[seen]),
    )
    if parents[seen] != parents[other]:
        for concept, level in ((n + parents[seen], levels.absent), (n + parents[other], levels.present)):
            target[concept] = level[concept]
    return Edit(f"{vocabulary.metas[seen]} → {vocabulary.metas[other]}", target)


def ablate(concepts: Sequence[int], neutral: np.ndarray, words: str) -> Edit:
    """The edit after which some concepts say nothing."""
    target = np.full(len(neutral), np.nan)
    target[list(concepts)] = neutral[list(concepts)]
    return Edit(words, target)


def edits_of(
    model: InterventionModel, row: int, levels: InterventionValues, vocabulary: ConceptVocabulary, exchanges: int = 4
) -> tuple[Edit, ...]:
    """Telling edits of one picture.

    The most probable meta is exchanged for the siblings that move the answer most (by the total variation of the cells'
    probabilities), silenced, silenced with its whole family; the second most probable is silenced; all are.

    Args:
        model: Stage 2.
        row: the picture.
        levels: scores that stand for "there" and "not there".
        vocabulary: names and hierarchy.
        exchanges: siblings that are tried.
    """
    n, parents = len(vocabulary.metas), vocabulary.parent_index
    scores, neutral = model.scores[row].numpy(), model.baseline.numpy()
    first, second = np.argsort(-scores[:n], kind="stable")[:2] if n > 1 else (0, 0)
    siblings = [m for m in np.flatnonzero(parents == parents[first]) if m != first and not np.isnan(levels.present[m])]
    swaps = [exchange(scores, int(first), int(other), levels, vocabulary) for other in siblings]
    if swaps:
        ends = torch.cat([model.scores[row][None], *(edit.at(scores, (1.0,)) for edit in swaps)])
        chance = model.predict_one(row, ends).probabilities
        moved = np.abs(chance[1:] - chance[0]).sum(axis=1) / 2
        swaps = [swaps[i] for i in np.argsort(-moved, kind="stable")[:exchanges]]
    whole = [*np.flatnonzero(parents == parents[first]), n + parents[first]]
    return (
        *swaps,
        ablate([first], neutral, f"without {vocabulary.metas[first]}"),
        ablate(whole, neutral, f"without all of {vocabulary.parents[parents[first]]}"),
        ablate([second], neutral, f"without {vocabulary.metas[second]}"),
        ablate(range(len(scores)), neutral, "without any concept"),
    )


def find_counterfactuals(
    files: Run,
    model: InterventionModel,
    rows: np.ndarray,
    levels: InterventionValues,
    count: int = 3,
    exchanges: int = 4,
) -> list[Counterfactual]:
    """Choose pictures and edit them.

    Right answers of middling certainty whose labelled concept is seen, of different parents and countries: what is
    certain hangs on no single concept. Where too few answers are right, others follow.

    Args:
        files: the run.
        model: Stage 2.
        rows: pictures to choose from.
        levels: scores that stand for "there" and "not there".
        count: how many pictures.
        exchanges: siblings that are tried for each.
    """
    meta, parent = files.meta_and_parent
    chance = model.predict(rows).probabilities
    country = files.cells.country.astype(str)
    inside = country[None] == files.country[rows].astype(str)[:, None]  # (m, N)
    sure, right = (chance * inside).sum(axis=1), chance.argmax(axis=1) == files.cell_label[rows]
    seen = model.scores[rows][:, : len(files.concepts.metas)].argmax(1).numpy()
    order = np.lexsort((np.abs(sure - MIDDLING), ~(seen == meta[rows]), ~right))
    chosen: list[int] = []
    for only_new in (True, False):
        for i in order:
            row = int(rows[i])
            known = {parent[other] for other in chosen}, {files.country[other] for other in chosen}
            fresh = parent[row] not in known[0] and files.country[row] not in known[1]
            if row not in chosen and len(chosen) < count and (fresh or not only_new):
                chosen.append(row)
    stories = []
    for row in chosen:
        edits = edits_of(model, row, levels, files.concepts, exchanges)
        scores = model.scores[row].numpy()
        answers = tuple(model.predict_one(row, edit.at(scores)) for edit in edits)
        stories.append(Counterfactual(row, f"{files.concepts.metas[meta[row]]}, {files.country[row]}", edits, answers))
    return stories
