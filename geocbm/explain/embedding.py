"""Concept embeddings under an intervention: the embedding from which Stage 1 would read the edited scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from geocbm.models.stage1 import Stage1ConceptModel

LEAST = 1e-6
STEPS = 20  # most steps of a move
SURE = 0.999
"""No probability above it is sought: certainty lies infinitely far along a prototype."""


def edited_embedding(model: Stage1ConceptModel, concept_emb: Tensor, scores: Tensor, edited: Tensor) -> Tensor:
    """The concept embedding `(B, c)` that stands for edited scores `(B, k)` of metas; rows without an edit stay.

    `concept_emb` and `scores` are as Stage 1 gave them; edited metas are scaled to sum to 1. Parents are not part of an
    embedding.
    """
    from geocbm.models.bottlenecks import mix_prototypes

    n = len(model.meta_bias)
    before, after = scores[:, :n], edited[:, :n]
    touched = (before != after).any(1, keepdim=True)  # (B, 1)
    if not touched.any():
        return concept_emb
    with torch.no_grad():
        if model.has_maps:
            moved = mix_prototypes(after.clamp_min(LEAST).log(), model.prototypes()[0])
        else:
            moved = move_embedding(model, concept_emb, after, (before != after).any(0).nonzero()[:, 0])
    return torch.where(touched, moved.to(concept_emb), concept_emb)


def move_embedding(model: Stage1ConceptModel, concept_emb: Tensor, target: Tensor, metas: Tensor) -> Tensor:
    """Move embeddings along the prototypes of some metas until Stage 1 reads the wanted probabilities from them.

    The shortest such way is found by damped least squares (Levenberg, 1944; Marquardt, 1963) on the logarithms of the
    probabilities. Prototypes that are alike cannot be told apart by any amount; the move then ends where it comes
    nearest.

    Args:
        model: Stage 1 with a bottleneck whose embedding is compared with the prototypes ("mlp" or "transformer").
        concept_emb: `(B, c)`.
        target: `(B, k_m)` wanted probabilities; scaled to sum to 1.
        metas: `(E,)` the metas whose probabilities are held to the target; the others follow.
    """
    meta, parent = (values.detach() for values in model.prototypes())
    length = concept_emb.norm(dim=-1, keepdim=True).clamp_min(LEAST)
    start = concept_emb / length  # only directions matter, and so all steps have one scale
    along = meta[metas]  # (E, c)
    wanted = (target / target.sum(1, keepdim=True)).clamp(LEAST, SURE).log()[:, metas]  # (B, E)

    def read(way: Tensor, origin: Tensor) -> Tensor:
        """Log-probabilities `(E,)` after a move of one embedding by `way` `(E,)`."""
        moved = functional.normalize(origin + way @ along, dim=-1)
        return model.classify(moved[None], meta, parent).meta_logits[0].log_softmax(-1)[metas]

    values, slopes = torch.func.vmap(read), torch.func.vmap(torch.func.jacrev(read))
    way = start.new_zeros(len(start), len(metas))
    damping = start.new_full((len(start), 1, 1), 1.0)
    gap = wanted - values(way, start)
    eye = torch.eye(len(metas), device=start.device, dtype=start.dtype)
    for _ in range(STEPS):
        slope = slopes(way, start)  # (B, E, E)
        normal = slope.mT @ slope + damping * eye
        step = torch.linalg.solve(normal, slope.mT @ gap[..., None])[..., 0]
        tried = wanted - values(way + step, start)
        better = tried.square().sum(1) < gap.square().sum(1)
        way = torch.where(better[:, None], way + step, way)
        gap = torch.where(better[:, None], tried, gap)
        damping = torch.where(better[:, None, None], damping / 4, damping * 4).clamp(1e-6, 1e6)
        if gap.abs().max() < 1e-3:
            break
    return (start + way @ along) * length
