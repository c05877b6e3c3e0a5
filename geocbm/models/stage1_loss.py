"""Loss of Stage 1: nine terms and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from geocbm.models import losses
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Output


class Stage1Loss:
    """All nine terms of Stage 1 and their weighted sum (specification, section "Stage 1").

    Called with an output of the model and a batch with `concept_idx` and `parent_idx`, `(B,)` true metas and parents.
    It gives scalars: `loss`, and the terms without their weights.

    Args:
        model: for residuals, hierarchy, similarity of the prototypes and the weights `lambda_...` of the terms.
        meta: `(n,)` meta of each training row, for the weights of rare classes; None weighs all alike.
        parent: `(n,)` parent of each training row.
    """

    def __init__(self, model: Stage1ConceptModel, meta: Tensor | None = None, parent: Tensor | None = None) -> None:
        self.model, self.config = model, model.config
        self.meta_weights = None if meta is None else losses.inverse_frequency(meta, len(model.meta_base))
        self.parent_weights = None if parent is None else losses.inverse_frequency(parent, len(model.parent_base))

    def __call__(self, output: Stage1Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the terms."""
        model, config, hierarchy = self.model, self.config, self.model.meta_to_parent
        meta, parent = batch["concept_idx"], batch["parent_idx"]
        meta_logits, parent_logits = output.meta_logits, output.parent_logits
        concept_emb, prototypes = output.concept_emb, output.meta_prototypes
        gamma, smoothing = config.gamma, config.label_smoothing
        terms = {
            "meta": losses.focal_loss(meta_logits, meta, gamma, self.meta_weights, smoothing),
            "parent": losses.focal_loss(parent_logits, parent, gamma, self.parent_weights, smoothing),
            "consistency": losses.hierarchy_consistency(meta_logits, parent_logits, hierarchy, config.detach_expected),
            "meta_guided": losses.parent_guided_meta(meta_logits, meta, hierarchy),
            "parent_contrastive": losses.supervised_contrastive(concept_emb, parent, config.parent_temperature),
            "contrastive": losses.prototype_info_nce(concept_emb, prototypes, meta, config.temperature),
            "reg": losses.prototype_regularization(model.delta_meta, model.delta_parent),
            "intra_parent": losses.intra_parent_consistency(prototypes, hierarchy, config.intra_parent_reduction),
            "semantic": losses.semantic_soft_cross_entropy(meta_logits, meta, model.similarity),
        }
        total = sum(getattr(config, f"lambda_{name}") * value for name, value in terms.items())
        return {"loss": torch.as_tensor(total)} | terms
