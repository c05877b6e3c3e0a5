"""Loss of Stage 0: places, concepts and an anchor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from geocbm.models import losses
from geocbm.models.stage0 import Stage0Output
from geocbm.models.stage0_config import CONCEPT_TERMS, Stage0Config


class Stage0Loss:
    """All terms of Stage 0 and their weighted sum (specification, section "Stage 0", Total Loss).

    Called with an output of the model and a batch with `gps` `(B, g)` of the location encoder, `pooled` `(B, d)` of the
    untouched image encoder, `concept_idx` and `parent_idx` `(B,)`, `lat` and `lng` `(B,)` degrees. It gives scalars:
    `loss`, and without their weights `gps`, `child`, `parent`, `hierarchy`, `patch_gps` and `anchor`.
    """

    def __init__(self, config: Stage0Config) -> None:
        self.config = config

    def __call__(self, output: Stage0Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the terms; without `config.concept_losses` some of them are no part of the sum."""
        config, meta, parent = self.config, batch["concept_idx"], batch["parent_idx"]
        near = None
        if config.false_negative_km > 0:
            near = losses.near_pairs(batch["lat"].float(), batch["lng"].float(), config.false_negative_km)
        t, t_gps = config.temperature, output.temperature
        terms = {
            "gps": losses.info_nce(output.pooled, output.gps, t_gps, config.symmetric, near),
            "child": _concept_loss(output.concept_emb, output.meta_prototypes, output.meta_logits, meta, t),
            "parent": _concept_loss(output.concept_emb, output.parent_prototypes, output.parent_logits, parent, t),
            "hierarchy": losses.supervised_contrastive(output.concept_emb, parent, t),
            "patch_gps": losses.info_nce(output.patch_emb, batch["gps"], t_gps, config.symmetric, near),
            "anchor": losses.anchor_loss(output.pooled, batch["pooled"]),
        }
        trained = [name for name in terms if config.concept_losses or name not in CONCEPT_TERMS]
        total = sum(getattr(config, f"lambda_{name}") * terms[name] for name in trained)
        return {"loss": torch.as_tensor(total)} | terms


def _concept_loss(
    concept_emb: Tensor, prototypes: Tensor, logits: Tensor | None, target: Tensor, temperature: float
) -> Tensor:
    """Softmax of the similarities over all prototypes: of the embedding, or of patches where there are logits."""
    if logits is None:
        return losses.prototype_info_nce(concept_emb, prototypes, target, temperature)
    return functional.cross_entropy(logits, target)
