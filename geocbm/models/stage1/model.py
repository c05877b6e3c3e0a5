"""Stage 1: concepts recognised by their similarity to text prototypes that may move a little."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.errors import MismatchError
from geocbm.models import losses
from geocbm.models.bottlenecks import PatchBottleneck, bottleneck_shape, build_bottleneck, mix_prototypes, pool_scores
from geocbm.models.stage0 import Stage0PretrainingModel
from geocbm.models.stage1.config import Stage1Config


class Stage1Output(NamedTuple):
    """What Stage 1 computes for a batch.

    Attributes:
        concept_emb: `(B, c)`, not normalised.
        meta_logits: `(B, k_m)`.
        parent_logits: `(B, k_p)`.
        meta_prototypes: `(k_m, c)` projected, of length 1.
        parent_prototypes: `(k_p, c)` projected, of length 1.
        meta_maps: `(B, P, k_m)` score of each meta on each patch, of the "patch" bottleneck; else None.
    """

    concept_emb: Tensor
    meta_logits: Tensor
    parent_logits: Tensor
    meta_prototypes: Tensor
    parent_prototypes: Tensor
    meta_maps: Tensor | None = None

    def probabilities(self) -> dict[str, Tensor]:
        """In float32: `concept_emb` `(B, c)`, `meta_probabilities` `(B, k_m)`, `parent_probabilities` `(B, k_p)`."""
        return {
            "concept_emb": self.concept_emb.float(),
            "meta_probabilities": self.meta_logits.float().softmax(-1),
            "parent_probabilities": self.parent_logits.float().softmax(-1),
        }


class Stage1ConceptModel(nn.Module):
    """Concept bottleneck with text-anchored cosine classifiers (specification, section "Stage 1").

    With the "patch" bottleneck the cosine is taken on every patch and pooled over the patches (`pool_scores`), so that
    the scores come with a map per concept.

    Args:
        in_dim: width of the pooled image features.
        meta_prototypes: `(k_m, t)` base prototypes, kept as they are.
        parent_prototypes: `(k_p, t)`.
        meta_to_parent: `(k_m,)` parent index of each meta.
        config: settings.
        token_dim: width of the patch tokens, for bottlenecks that read them.
    """

    meta_base: Tensor
    parent_base: Tensor
    meta_to_parent: Tensor
    similarity: Tensor

    def __init__(
        self,
        in_dim: int,
        meta_prototypes: Tensor,
        parent_prototypes: Tensor,
        meta_to_parent: Tensor,
        config: Stage1Config | None = None,
        token_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or Stage1Config()
        self.bottleneck = build_bottleneck(config, in_dim, token_dim)
        self.prototype_projection = nn.Linear(meta_prototypes.shape[1], config.concept_emb_dim)
        self.delta_meta = nn.Parameter(torch.randn(meta_prototypes.shape) * config.residual_std)
        self.delta_parent = nn.Parameter(torch.randn(parent_prototypes.shape) * config.residual_std)
        self.meta_bias = nn.Parameter(torch.zeros(len(meta_prototypes)))
        self.parent_bias = nn.Parameter(torch.zeros(len(parent_prototypes)))
        self.logit_scale_meta = nn.Parameter(torch.tensor(config.logit_scale_init))
        self.logit_scale_parent = nn.Parameter(torch.tensor(config.logit_scale_init))
        base = meta_prototypes.detach().clone().float()
        self.register_buffer("meta_base", base)
        self.register_buffer("parent_base", parent_prototypes.detach().clone().float())
        self.register_buffer("meta_to_parent", torch.as_tensor(meta_to_parent, dtype=torch.long).clone())
        unit = functional.normalize(base, dim=-1)
        self.register_buffer("similarity", unit @ unit.T, persistent=False)  # (k_m, k_m)

    @property
    def needs_tokens(self) -> bool:
        """Whether the bottleneck reads patch tokens."""
        return bool(self.bottleneck.needs_tokens)

    def start_from(self, stage0: Stage0PretrainingModel) -> list[str]:
        """Take over the bottleneck and the prototype projection that Stage 0 trained.

        A bottleneck of another kind than Stage 0's starts afresh; the prototype projection is taken over all the same.

        Returns:
            Names of the parts taken over.

        Raises:
            MismatchError: when parts of the same kind differ in shape.
        """
        same_kind = stage0.config.bottleneck == self.config.bottleneck
        taken = ["bottleneck", "prototype_projection"] if same_kind else ["prototype_projection"]
        if same_kind and (ours := bottleneck_shape(self.config)) != (given := bottleneck_shape(stage0.config)):
            differing = [f"{name}={given[name]}, here {ours[name]}" for name in ours if ours[name] != given[name]]
            raise MismatchError(
                f"the bottleneck of Stage 0 has {', '.join(differing)}; use the same settings in both, or set "
                "init_from_stage0=False"
            )
        for name in taken:
            mine, theirs = getattr(self, name), getattr(stage0, name)
            shapes = [{key: value.shape for key, value in part.state_dict().items()} for part in (mine, theirs)]
            if shapes[0] != shapes[1]:
                raise MismatchError(
                    f"the {name} of Stage 0 has another shape than Stage 1's; use the same bottleneck, "
                    "concept_emb_dim and encoders in both, or set init_from_stage0=False"
                )
            mine.load_state_dict(theirs.state_dict())
        return taken

    def prototypes(self) -> tuple[Tensor, Tensor]:
        """Projected prototypes of length 1: metas `(k_m, c)` and parents `(k_p, c)`."""
        meta = functional.normalize(self.prototype_projection(self.meta_base + self.delta_meta), dim=-1)
        parent = functional.normalize(self.prototype_projection(self.parent_base + self.delta_parent), dim=-1)
        return meta, parent

    def forward(self, pooled: Tensor, tokens: Tensor | None = None) -> Stage1Output:
        """Recognise concepts.

        Args:
            pooled: `(B, in_dim)` image features of any precision.
            tokens: `(B, P, w)` patch tokens, for a bottleneck that reads them.

        Returns:
            Concept embeddings and the logits of metas and parents.
        """
        meta, parent = self.prototypes()
        seen = self.bottleneck(pooled.to(self.meta_bias.dtype), tokens)  # (B, c), or (B, P, w) for "patch"
        if not isinstance(self.bottleneck, PatchBottleneck):
            return self.classify(seen, meta, parent)
        cosines = self.bottleneck.cosines(seen, torch.cat([meta, parent]))  # (B, P, k_m + k_p)
        meta_maps = self._scale("meta") * cosines[..., : len(meta)]
        parent_maps = self._scale("parent") * cosines[..., len(meta) :]
        meta_logits = pool_scores(meta_maps, self.config.top_patches) + self.meta_bias
        return Stage1Output(
            concept_emb=mix_prototypes(meta_logits, meta),
            meta_logits=meta_logits,
            parent_logits=pool_scores(parent_maps, self.config.top_patches) + self.parent_bias,
            meta_prototypes=meta,
            parent_prototypes=parent,
            meta_maps=meta_maps,
        )

    def _scale(self, head: str) -> Tensor:
        """Learned factor of the cosines of one head, at most `logit_scale_max`."""
        return getattr(self, f"logit_scale_{head}").clamp(max=self.config.logit_scale_max)

    def classify(self, concept_emb: Tensor, meta: Tensor, parent: Tensor) -> Stage1Output:
        """Logits of given concept embeddings `(B, c)` against given prototypes of length 1."""
        unit = functional.normalize(concept_emb, dim=-1)
        return Stage1Output(
            concept_emb=concept_emb,
            meta_logits=self._scale("meta") * (unit @ meta.T) + self.meta_bias,
            parent_logits=self._scale("parent") * (unit @ parent.T) + self.parent_bias,
            meta_prototypes=meta,
            parent_prototypes=parent,
        )


def stage1_losses(
    output: Stage1Output,
    model: Stage1ConceptModel,
    meta: Tensor,
    parent: Tensor,
    meta_weights: Tensor | None = None,
    parent_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """All nine terms of Stage 1 and their weighted sum.

    Args:
        output: of the model.
        model: for residuals, hierarchy and configuration.
        meta: `(B,)` true meta indices.
        parent: `(B,)` true parent indices.
        meta_weights: `(k_m,)` class weights.
        parent_weights: `(k_p,)` class weights.

    Returns:
        Scalars `loss`, `meta`, `parent`, `consistency`, `meta_guided`, `parent_contrastive`, `contrastive`, `reg`,
        `intra_parent`, `semantic`; terms without their weights.
    """
    config, hierarchy = model.config, model.meta_to_parent
    meta_logits, parent_logits = output.meta_logits, output.parent_logits
    gamma, smoothing = config.gamma, config.label_smoothing
    terms = {
        "meta": losses.focal_loss(meta_logits, meta, gamma, meta_weights, smoothing),
        "parent": losses.focal_loss(parent_logits, parent, gamma, parent_weights, smoothing),
        "consistency": losses.hierarchy_consistency(meta_logits, parent_logits, hierarchy, config.detach_expected),
        "meta_guided": losses.parent_guided_meta(meta_logits, meta, hierarchy),
        "parent_contrastive": losses.supervised_contrastive(output.concept_emb, parent, config.parent_temperature),
        "contrastive": losses.prototype_info_nce(output.concept_emb, output.meta_prototypes, meta, config.temperature),
        "reg": losses.prototype_regularization(model.delta_meta, model.delta_parent),
        "intra_parent": losses.intra_parent_consistency(
            output.meta_prototypes, hierarchy, config.intra_parent_reduction
        ),
        "semantic": losses.semantic_soft_cross_entropy(meta_logits, meta, model.similarity),
    }
    total = sum(getattr(config, f"lambda_{name}") * value for name, value in terms.items())
    return {"loss": torch.as_tensor(total)} | terms
