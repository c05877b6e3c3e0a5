"""Clues: concepts that a person says are, or are not, in a photograph, and the answer that follows from them.

A clue is an intervention on the scores (`geocbm.explain.interventions`): what is there is raised to the score that the
model gives to pictures that truly show it, what is not is lowered to that of the others; a score beyond it stays. The
parent of a concept that is there rises with it. A parent that is there says that one of its concepts is: their scores
grow by one factor until their sum reaches the parent's. Where a parent is not, none of its concepts is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geocbm.data.concepts import ConceptVocabulary
from geocbm.errors import ParameterError, did_you_mean
from geocbm.explain.interventions import MIN_SCORE, edited_embedding
from geocbm.models.geocbm import GeoCBM, GeoCBMOutput


@dataclass(frozen=True)
class Clue:
    """What a person says of one concept."""

    name: str  # of a meta, or of a parent
    column: int  # among the scores: metas first, then parents
    present: bool  # whether it can be seen

    def __str__(self) -> str:
        return f"{'with' if self.present else 'without'} {self.name}"


def read_clues(
    given: Sequence[str], denied: Sequence[str], vocabulary: ConceptVocabulary, values: np.ndarray
) -> tuple[Clue, ...]:
    """Clues by the names of concepts or parents, whatever their case; a name of both is the concept's.

    `values` `[2, k]` are the scores of what is there and of what is not, NaN for what no picture has shown.

    Raises:
        ParameterError: an unknown name, one that no picture shows, or clues that contradict each other.
    """
    names = [*vocabulary.metas, *vocabulary.parents]
    columns = {name.casefold(): column for column, name in reversed(list(enumerate(names)))}
    clues: dict[int, Clue] = {}
    for option, asked, present in (("--clue", given, True), ("--not-clue", denied, False)):
        for name in asked:
            column = columns.get(name.strip().casefold())
            if column is None:
                hint = did_you_mean(name.strip(), names) or did_you_mean(name.strip().casefold(), columns)
                raise ParameterError(f"{option} {name!r} is no concept of this run; {hint or 'page 04 lists them'}")
            clue = Clue(names[column], column, present)
            if np.isnan(values[0 if present else 1, column]):
                raise ParameterError(f"{option} {clue.name!r}: no picture of the run tells which score says so")
            if clues.setdefault(column, clue) != clue:
                raise ParameterError(f"{clue.name!r} is given as --clue and as --not-clue; choose one of them")
    n = len(vocabulary.metas)
    for clue in clues.values():
        parent = clues.get(n + int(vocabulary.parent_index[clue.column])) if clue.column < n else None
        if clue.present and parent is not None and not parent.present:
            raise ParameterError(f"--clue {clue.name!r} contradicts --not-clue {parent.name!r}, its parent; choose one")
    # Parents first: what is said of a single concept counts more than what is said of its family.
    return tuple(sorted(clues.values(), key=lambda clue: (clue.column < n, not clue.present)))


def clue_scores(scores: Tensor, clues: Sequence[Clue], vocabulary: ConceptVocabulary, values: np.ndarray) -> Tensor:
    """Scores `(B, k)` as the clues have them, see above; `values` as in `read_clues`."""
    edited, n, parents = scores.clone(), len(vocabulary.metas), vocabulary.parent_index
    high, low = torch.as_tensor(values).to(scores)
    for clue in clues:
        own = [clue.column]
        if clue.column >= n:
            family = np.flatnonzero(parents == clue.column - n).tolist()
            if clue.present:
                total = edited[:, family].sum(1, keepdim=True).clamp_min(MIN_SCORE)
                factor = (high[clue.column] / total).clamp_min(1.0)
                edited[:, family] = (edited[:, family] * factor).clamp_max(1.0)
            else:
                own += family
        elif clue.present:
            own.append(n + int(parents[clue.column]))
        move, end = (torch.fmax, high) if clue.present else (torch.fmin, low)
        edited[:, own] = move(edited[:, own], end[own])
    return edited


def with_scores(network: GeoCBM, seen: GeoCBMOutput, edited: Tensor) -> GeoCBMOutput:
    """What the network says of views `V` with edited scores `(V, k)`; see `explain.interventions` for the modes."""
    head, concepts = network.geo_head, seen.concepts
    n, embedding = concepts.meta_probabilities.shape[1], concepts.concept_emb
    if not head.config.reads_scores:
        embedding = edited_embedding(network.concept_model, embedding, concepts.probabilities, edited)
    given = edited if head.config.reads_scores else embedding
    said = concepts._replace(
        concept_input=given, concept_emb=embedding, meta_probabilities=edited[:, :n], parent_probabilities=edited[:, n:]
    )
    return seen._replace(concepts=said, place=head(given, seen.patch_tokens))
