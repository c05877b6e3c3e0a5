"""Losses of the three stages: the terms of `models.losses` and their weighted sum (specification, "Total Loss").

Each is called with an output of its model and a batch of tensors, and gives scalars: `loss`, and the terms without
their weights, which are the `lambda_...` of the settings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geocbm.geodesy import cartesian_to_latlng
from geocbm.models import losses
from geocbm.models.offsets import offset_targets
from geocbm.models.stage0 import CONCEPT_TERMS, Stage0Config, Stage0Output
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Output
from geocbm.models.stage2 import Stage2Config, Stage2Output
from geocbm.training.settings import TrainingSettings

if TYPE_CHECKING:
    from geocbm.geocells import Geocells

Batch = Mapping[str, Tensor]
Terms = dict[str, Tensor]


def _with_loss(terms: Terms, config: TrainingSettings, left_out: Collection[str] = ()) -> Terms:
    """The terms and, as `loss`, the sum of those not left out, each times its weight."""
    total = sum(getattr(config, f"lambda_{name}") * term for name, term in terms.items() if name not in left_out)
    return {"loss": torch.as_tensor(total)} | terms


class Stage0Loss:
    """Stage 0: places (`gps`, `patch_gps`), concepts (`child`, `parent`, `hierarchy`) and an `anchor`.

    The batch has `gps` `(B, g)` of the location encoder, `pooled` `(B, d)` of the untouched image encoder,
    `concept_idx` and `parent_idx` `(B,)`, -1 where unknown, `lat` and `lng` `(B,)` degrees. Without
    `config.concept_losses` the terms of the concepts are no part of the sum.
    """

    def __init__(self, config: Stage0Config) -> None:
        self.config = config

    def __call__(self, output: Stage0Output, batch: Batch) -> Terms:
        """Compute the terms."""
        config, meta, parent = self.config, batch["concept_idx"], batch["parent_idx"]
        known = meta >= 0  # of other pictures the place alone is known
        near = None
        if config.false_negative_km > 0:
            near = losses.near_pairs(batch["lat"].float(), batch["lng"].float(), config.false_negative_km)
        t, t_gps = config.temperature, output.temperature
        terms = {
            "gps": losses.info_nce(output.pooled, output.gps, t_gps, config.symmetric, near),
            "child": _concept_loss(output.concept_emb, output.meta_prototypes, output.meta_logits, meta, t),
            "parent": _concept_loss(output.concept_emb, output.parent_prototypes, output.parent_logits, parent, t),
            "hierarchy": losses.supervised_contrastive(output.concept_emb[known], parent[known], t),
            "patch_gps": losses.info_nce(output.patch_emb, batch["gps"], t_gps, config.symmetric, near),
            "anchor": losses.anchor_loss(output.pooled, batch["pooled"]),
        }
        return _with_loss(terms, config, () if config.concept_losses else CONCEPT_TERMS)


def _concept_loss(
    concept_emb: Tensor, prototypes: Tensor, logits: Tensor | None, target: Tensor, temperature: float
) -> Tensor:
    """Softmax of the similarities over all prototypes: of the embedding, or of patches where there are logits.

    Over the pictures whose concept is known (a target of 0 or more), 0 without one.
    """
    known = target >= 0
    if not bool(known.any()):
        return concept_emb.sum() * 0.0
    if logits is None:
        return losses.prototype_info_nce(concept_emb[known], prototypes, target[known], temperature)
    return functional.cross_entropy(logits[known], target[known])


class Stage1Loss:
    """Stage 1: nine terms, of a batch with `concept_idx` and `parent_idx`, `(B,)` true metas and parents.

    Of the concept target "multi" four: `meta` and `parent` by sigmoids, of the labels that `model.named` finds in the
    batch, `reg` and `intra_parent`; the other five take one concept of a picture as the only one.

    Args:
        model: for residuals, hierarchy, similarity of the prototypes and the settings.
        meta: `(n,)` meta of each training row, for the weights of rare classes; None weighs all alike.
        parent: `(n,)` parent of each training row.
    """

    def __init__(self, model: Stage1ConceptModel, meta: Tensor | None = None, parent: Tensor | None = None) -> None:
        self.model, self.config = model, model.config
        self.meta_weights = None if meta is None else losses.inverse_frequency(meta, len(model.meta_base))
        self.parent_weights = None if parent is None else losses.inverse_frequency(parent, len(model.parent_base))

    def __call__(self, output: Stage1Output, batch: Batch) -> Terms:
        """Compute the terms, of the pictures whose concept is known (an index of 0 or more)."""
        known = batch["concept_idx"] >= 0
        if not bool(known.any()):  # the prototypes alone are learned
            nothing = {"meta": output.meta_logits.sum() * 0.0, "parent": output.parent_logits.sum() * 0.0}
            return _with_loss(nothing | self._of_prototypes(output.meta_prototypes), self.config)
        if not bool(known.all()):
            output = output._replace(**{name: getattr(output, name)[known] for name in output.per_row})
            batch = {name: values[known] for name, values in batch.items()}
        if self.config.concept_target == "multi":
            return self._of_several(output, batch)
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
            **self._of_prototypes(prototypes),
            "semantic": losses.semantic_soft_cross_entropy(meta_logits, meta, model.similarity),
        }
        return _with_loss(terms, config)

    def _of_prototypes(self, prototypes: Tensor) -> Terms:
        """What keeps residuals small and siblings together, of projected prototypes `(k_m, c)`."""
        model, kind = self.model, self.config.intra_parent_reduction
        return {
            "reg": losses.prototype_regularization(model.delta_meta, model.delta_parent),
            "intra_parent": losses.intra_parent_consistency(prototypes, model.meta_to_parent, kind),
        }

    def _of_several(self, output: Stage1Output, batch: Batch) -> Terms:
        """The terms where a picture may show several concepts, of which some are named."""
        (metas, parents), config = self.model.named(batch), self.config
        related = parents[:, self.model.meta_to_parent].float()  # (B, k_m) 1 for siblings of the named, and themselves
        weight = torch.full_like(related, config.unknown_weight)
        if config.foreign_weight is not None and "foreign_metas" in batch:
            weight = weight.masked_fill(batch["foreign_metas"], config.foreign_weight)
        weight = torch.lerp(weight, torch.full_like(weight, config.sibling_weight), related)
        if "absent_metas" in batch:
            weight = weight.masked_fill(batch["absent_metas"], 1.0)
        meta_logits, parent_logits = output.meta_logits.float(), output.parent_logits.float()
        terms = {
            "meta": losses.positive_unknown(meta_logits, metas, config.unknown, weight),
            "parent": losses.positive_unknown(parent_logits, parents, config.unknown, config.unknown_weight),
            **self._of_prototypes(output.meta_prototypes),
        }
        return _with_loss(terms, config)


class Stage2Loss:
    """Stage 2: `cell` cross-entropy, `offset` error and, where `lambda_country` is above 0, `country`.

    The offset of the true cell is compared with the difference between its centre and the true place: mean squared
    error, or Huber for "tangent". The batch has `cell_label` `(B,)`, the true cells, and `lat` and `lng` `(B,)`
    degrees, float64. Of the cells it reads centres, for "tangent" scales, and countries where that term has a weight.
    """

    def __init__(self, config: Stage2Config, cells: Geocells) -> None:
        self.config = config
        # Subtracted in double precision: the difference of two unit vectors of one cell has few digits left in single.
        centers = torch.as_tensor(np.asarray(cells.centers), dtype=torch.float64)
        self.centers = functional.normalize(centers, dim=-1)  # (N, 3)
        self.center_places = torch.stack(cartesian_to_latlng(functional.normalize(centers.float(), dim=-1)))  # (2, N)
        self.scale_km: Tensor | None = None
        if config.offset_kind == "tangent":
            self.scale_km = torch.as_tensor(np.asarray(cells.scale_km), dtype=torch.float64)  # (N,)
        self.country_of_cell: Tensor | None = None
        if config.lambda_country:
            self.country_of_cell = torch.from_numpy(np.unique(cells.country, return_inverse=True)[1].reshape(-1))

    def __call__(self, output: Stage2Output, batch: Batch) -> Terms:
        """Compute the terms."""
        output = output.as_learned
        config, cell, lat, lng = self.config, batch["cell_label"], batch["lat"], batch["lng"]
        label = cell
        if config.smooth_km:
            places = self.center_places.to(output.cell_logits.device)
            label = losses.smoothed_cell_labels(lat, lng, places[0], places[1], config.smooth_km)  # (B, N)
        scale_km = None if self.scale_km is None else self.scale_km.to(lat)[cell]
        target = offset_targets(self.centers.to(lat)[cell], lat, lng, config.offset_kind, scale_km)  # (B, 2 or 3)
        distance = functional.huber_loss if config.offset_kind == "tangent" else functional.mse_loss
        terms = {
            "cell": functional.cross_entropy(output.cell_logits, label),
            "offset": distance(output.offsets_at(cell).float(), target.float()),
        }
        if self.country_of_cell is not None:
            terms["country"] = losses.group_cross_entropy(output.cell_logits.float(), cell, self.country_of_cell)
        return _with_loss(terms, config)
