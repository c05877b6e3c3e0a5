"""Edits of concepts, and what the model answers then.

An edit changes scores `(B, k)`: the probabilities of the metas, then those of the parents, as Stage 1 gives them. What
it does to the answer depends on the mode of Stage 2:

- `concept_scores`: the effect is exact. The logit of every cell changes by the terms of the edited concepts.
- `hybrid`: the same, and the residual from the patches is computed anew, since the scores are its query too.
- `both` and `concept_only` read the concept embedding. With the `patch` bottleneck that is a mixture of prototypes by
  the scores of the metas (`bottleneck.mix_prototypes`), which is mixed again: exact as well. With `mlp` and
  `transformer` it is moved along the prototypes of the edited metas until Stage 1 itself reads the wanted scores from
  it (`geocbm.explain.embedding`). Neither embedding knows of parents, so an edit of a parent alone does nothing.
- `image_only` reads no concepts: no edit has an effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geocbm.errors import ParameterError
from geocbm.explain.concept_labels import InterventionValues
from geocbm.explain.embedding import edited_embedding

if TYPE_CHECKING:
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead, Stage2Output

REST = ("keep", "siblings", "all")
LEAST_SCORE = 1e-6


def set_scores(
    scores: Tensor,
    concepts: Sequence[int],
    values: Tensor | np.ndarray | float,
    rest: str = "keep",
    parent_index: np.ndarray | None = None,
) -> Tensor:
    """Give concepts other scores.

    Args:
        scores: `(B, k)`.
        concepts: columns to change.
        values: their new scores, `(B, len(concepts))` or what broadcasts to it; NaN leaves a score as it is.
        rest: what becomes of the others. "keep": they stay, so that an edit touches the terms of the edited concepts
            and no others (the scores then need not sum to 1, which no mode requires). "siblings" and "all": the metas
            under the same parents, or all others, are scaled so that the metas sum to what they summed to before.
        parent_index: `[k_m]` parent of each meta, needed unless the others are kept.

    Returns:
        `(B, k)` new scores.

    Raises:
        ParameterError: an unknown concept or `rest`, or a missing `parent_index`.
    """
    columns = _columns(concepts, scores.shape[1])
    if rest not in REST:
        raise ParameterError(f"rest={rest!r} is unknown; known: {', '.join(REST)}")
    old = scores[:, columns]
    new = torch.as_tensor(values, dtype=scores.dtype, device=scores.device).expand_as(old)
    edited = scores.clone()
    edited[:, columns] = torch.where(new.isnan(), old, new)
    if rest == "keep":
        return edited
    if parent_index is None:
        raise ParameterError(f"rest={rest!r} needs parent_index, the parent of each meta")
    metas = np.arange(len(parent_index))
    families = {parent_index[column] for column in columns if column < len(metas)}
    scaled = np.array([m for m in metas if m not in columns and (rest == "all" or parent_index[m] in families)], int)
    before, now = scores[:, : len(metas)].sum(1), edited[:, : len(metas)].sum(1)
    others = edited[:, scaled].sum(1)
    # More was given away than the others have: they keep a trace instead of turning negative.
    factor = ((others - (now - before)) / others.clamp_min(LEAST_SCORE)).clamp_min(LEAST_SCORE)
    edited[:, scaled] = edited[:, scaled] * factor[:, None]
    return edited


def swap_concepts(scores: Tensor, first: int, second: int, parent_index: np.ndarray | None = None) -> Tensor:
    """Exchange the scores of two concepts; with `parent_index` also those of the parents of two metas, if they differ.

    Swapping twice gives back what was there.
    """
    first, second = _columns([first, second], scores.shape[1])
    order = list(range(scores.shape[1]))
    order[first], order[second] = second, first
    if parent_index is not None and max(first, second) < len(parent_index):
        parents = [len(parent_index) + int(parent_index[meta]) for meta in (first, second)]
        if parents[0] != parents[1]:
            order[parents[0]], order[parents[1]] = parents[1], parents[0]
    return scores[:, order]


def baseline_scores(head: Stage2CrossAttentionGeoHead, train_scores: Tensor | None = None) -> Tensor:
    """Scores that say nothing, `(k,)`: those of an average training picture.

    For heads that read scores, the ones at which the term of every concept is 0: the mean of the training rows as the
    linear layer reads them. For other heads the geometric mean over `train_scores` `(n, k)`.

    Raises:
        ParameterError: for another head without `train_scores`.
    """
    if head.config.reads_scores:
        kind, mean = head.config.score_transform, head.score_mean
        return mean.exp() if kind == "log" else mean.square() if kind == "sqrt" else mean.clone()
    if train_scores is None:
        raise ParameterError(
            f"ablation_mode={head.config.ablation_mode!r} keeps no mean of the scores; give train_scores (n, k)"
        )
    return train_scores.clamp_min(LEAST_SCORE).log().mean(0).exp()


def remove_concepts(scores: Tensor, concepts: Sequence[int], neutral: Tensor) -> Tensor:
    """Let concepts say nothing: their scores become those of `baseline_scores`, the others stay."""
    columns = _columns(concepts, scores.shape[1])
    return set_scores(scores, columns, neutral.to(scores)[columns])


def family(concept: int, parent_index: np.ndarray) -> list[int]:
    """Columns of a parent and all its metas, from any of them."""
    n = len(parent_index)
    parent = concept - n if concept >= n else int(parent_index[concept])
    return [*np.flatnonzero(parent_index == parent).tolist(), n + parent]


def correct_concepts(scores: Tensor, told: np.ndarray, present: np.ndarray, levels: InterventionValues) -> Tensor:
    """Correct concepts to the truth: scores of present ones are raised to their level, those of absent ones lowered.

    A score that lies beyond its level already stays: to tell the model what it knows must not make it less sure.

    Args:
        scores: `(B, k)`.
        told: `[B, k]` which concepts are corrected.
        present: `[B, k]` which are there.
        levels: scores that stand for either; a concept without one stays as it is.

    Returns:
        `(B, k)`.
    """
    high, low = (torch.as_tensor(values).to(scores) for values in (levels.present, levels.absent))
    right = torch.where(torch.from_numpy(present).to(scores.device), scores.fmax(high), scores.fmin(low))
    return torch.where(torch.from_numpy(told).to(scores.device), right, scores)


def predict_with_scores(
    head: Stage2CrossAttentionGeoHead,
    scores: Tensor,
    edited: Tensor,
    concept_emb: Tensor | None = None,
    tokens: Tensor | None = None,
    concept_model: Stage1ConceptModel | None = None,
) -> Stage2Output:
    """What Stage 2 answers when the concepts are others.

    Args:
        head: Stage 2 in any mode.
        scores: `(B, k)` as Stage 1 gave them.
        edited: `(B, k)` as they shall be.
        concept_emb: `(B, c)` of Stage 1, for the modes that read it.
        tokens: `(B, P, w)` patch tokens, for the modes that look at the patches.
        concept_model: Stage 1, for the modes that read its embedding.

    Raises:
        ParameterError: the mode needs what was not given.
    """
    mode = head.config.ablation_mode
    if head.config.reads_scores:
        return head(edited, tokens)
    if concept_emb is None:
        raise ParameterError(f"ablation_mode={mode!r} reads the concept embedding; give concept_emb (B, c)")
    if mode == "image_only":
        return head(concept_emb, tokens)
    if concept_model is None:
        raise ParameterError(f"ablation_mode={mode!r} reads the concept embedding; give concept_model to edit it")
    return head(edited_embedding(concept_model, concept_emb, scores, edited), tokens)


def _columns(concepts: Sequence[int], k: int) -> list[int]:
    columns = [int(concept) for concept in concepts]
    for column in columns:
        if not 0 <= column < k:
            raise ParameterError(f"concept {column} is none of the {k} columns; give 0 to {k - 1}")
    return columns
