"""Counterfactuals: what the model would answer for one picture if a concept were another, at several strengths.

A page carries the answers to a list of edits; in JupyterLab `workbench.explorers.what_if` asks for any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from geocbm.data.concepts import ConceptVocabulary
from geocbm.explain.attribution import place_of_cells
from geocbm.explain.concept_labels import InterventionValues
from geocbm.explain.interventions import MIN_SCORE, InterventionModel, PlacePredictions
from geocbm.geocells.distribution import sum_by_place
from geocbm.geodesy import haversine_km
from geocbm.run import Run

MIDDLING = 0.6
"""Probability of the true country that a chosen picture comes nearest to."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Steps of the control: 0 is the picture as the model sees it, 1 the whole edit."""


@dataclass(frozen=True)
class Edit:
    """One edit of one picture."""

    label: str
    target: np.ndarray  # [k] scores at full strength; NaN where a score stays

    def at(self, scores: np.ndarray, strengths: Sequence[float] = STRENGTHS) -> torch.Tensor:
        """Edited scores `(S, k)` of a picture with `scores` `[k]`, evenly spaced in their logarithms."""
        start = np.log(np.maximum(scores, MIN_SCORE))
        end = np.where(np.isnan(self.target), start, np.log(np.maximum(self.target, MIN_SCORE)))
        between = [
            np.where(np.isnan(self.target) | (s == 0), scores, np.exp(start + s * (end - start))) for s in strengths
        ]
        return torch.from_numpy(np.stack(between)).float()


@dataclass(frozen=True)
class Counterfactual:
    """A picture and what the model answers to edits of it."""

    row: int
    caption: str  # what it truly is
    edits: tuple[Edit, ...]
    answers: tuple[PlacePredictions, ...]  # for each edit the places at all `STRENGTHS`


def exchange(
    scores: np.ndarray, seen: int, other: int, values: InterventionValues, vocabulary: ConceptVocabulary
) -> Edit:
    """The edit that takes one meta away and puts another in its place, with their parents if these differ."""
    n, parents = len(vocabulary.metas), vocabulary.parent_index
    target = np.full(len(scores), np.nan)
    target[seen] = np.fmin(values.absent[seen], scores[seen])
    target[other] = np.fmax(values.present[other], scores[seen])
    if parents[seen] != parents[other]:
        target[n + parents[seen]] = values.absent[n + parents[seen]]
        target[n + parents[other]] = values.present[n + parents[other]]
    return Edit(f"{vocabulary.metas[seen]} → {vocabulary.metas[other]}", target)


def ablate(concepts: Sequence[int], baseline: np.ndarray, label: str) -> Edit:
    """The edit that gives some concepts their baseline score, at which they add nothing."""
    target = np.full(len(baseline), np.nan)
    target[list(concepts)] = baseline[list(concepts)]
    return Edit(label, target)


def edits_of(
    model: InterventionModel, row: int, values: InterventionValues, vocabulary: ConceptVocabulary, exchanges: int
) -> tuple[Edit, ...]:
    """Telling edits of one picture.

    The most probable meta is exchanged for the `exchanges` siblings that move the answer most (by the total variation
    of the cells' probabilities), ablated, ablated with its whole family; the second most probable is ablated; all are.
    """
    n, parents = len(vocabulary.metas), vocabulary.parent_index
    scores, baseline = model.scores[row].numpy(), model.baseline.numpy()
    first, second = np.argsort(-scores[:n], kind="stable")[:2] if n > 1 else (0, 0)
    family = np.flatnonzero(parents == parents[first])
    siblings = [m for m in family if m != first and not np.isnan(values.present[m])]
    swaps = [exchange(scores, int(first), int(other), values, vocabulary) for other in siblings]
    if swaps:
        ends = torch.cat([model.scores[row][None], *(edit.at(scores, (1.0,)) for edit in swaps)])
        probabilities = model.predict_one(row, ends).probabilities
        moved = np.abs(probabilities[1:] - probabilities[0]).sum(axis=1) / 2
        swaps = [swaps[i] for i in np.argsort(-moved, kind="stable")[:exchanges]]
    return (
        *swaps,
        ablate([first], baseline, f"without {vocabulary.metas[first]}"),
        ablate([*family, n + parents[first]], baseline, f"without all of {vocabulary.parents[parents[first]]}"),
        ablate([second], baseline, f"without {vocabulary.metas[second]}"),
        ablate(range(len(scores)), baseline, "without any concept"),
    )


def find_counterfactuals(
    run: Run, model: InterventionModel, rows: np.ndarray, values: InterventionValues, count: int = 3, exchanges: int = 4
) -> list[Counterfactual]:
    """Choose `count` of some pictures and edit them (`edits_of`).

    Right answers of middling certainty whose labelled concept is seen, of different parents and countries: what is
    certain hangs on no single concept. Where too few answers are right, others follow.
    """
    meta, parent = run.meta_and_parent
    probabilities = model.predict(rows).probabilities
    inside = run.cells.country.astype(str)[None] == run.country[rows].astype(str)[:, None]  # (m, N)
    certainty, right = (probabilities * inside).sum(axis=1), probabilities.argmax(axis=1) == run.cell_label[rows]
    seen = model.scores[rows][:, : len(run.concepts.metas)].argmax(1).numpy()
    order = np.lexsort((np.abs(certainty - MIDDLING), ~(seen == meta[rows]), ~right))
    chosen: list[int] = []
    for only_new in (True, False):
        for row in rows[order].tolist():
            known = {parent[other] for other in chosen}, {run.country[other] for other in chosen}
            new = parent[row] not in known[0] and run.country[row] not in known[1]
            if row not in chosen and len(chosen) < count and (new or not only_new):
                chosen.append(row)
    found = []
    for row in chosen:
        edits, scores = edits_of(model, row, values, run.concepts, exchanges), model.scores[row].numpy()
        answers = tuple(model.predict_one(row, edit.at(scores)) for edit in edits)
        caption = f"{run.table['meta_name'].iloc[row]}, {run.country[row]}"
        found.append(Counterfactual(row, caption, edits, answers))
    return found


def edit_table(found: Sequence[Counterfactual], run: Run) -> pd.DataFrame:
    """Every edit at full strength: the most probable country before and after, and how far the answer moved.

    Columns are `picture`, `edit`, `before`, `before_probability`, `after`, `after_probability`, `moved_km`, and
    `moved`, the total variation of the cells' probabilities.
    """
    rows = []
    for one in found:
        for edit, places in zip(one.edits, one.answers, strict=True):
            cells = places.probabilities[[0, -1]]
            names, by_place = sum_by_place(cells, place_of_cells(run.cells))
            row: dict[str, Any] = {"picture": one.caption, "edit": edit.label}
            for when, shares in zip(("before", "after"), by_place, strict=True):
                row |= {when: names[shares.argmax()], f"{when}_probability": shares.max()}
            row["moved_km"] = float(haversine_km(places.lat[0], places.lng[0], places.lat[-1], places.lng[-1]))
            rows.append(row | {"moved": float(np.abs(cells[1] - cells[0]).sum()) / 2})
    return pd.DataFrame(rows)
