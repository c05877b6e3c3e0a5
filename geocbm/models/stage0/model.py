"""Stage 0: contrastive pretraining that brings the image encoder near to places and concepts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.errors import MismatchError
from geocbm.models import losses
from geocbm.models.bottlenecks import PatchBottleneck, build_bottleneck, mix_prototypes, pool_scores
from geocbm.models.stage0.config import CONCEPT_TERMS, TEMPERATURE_RANGE, Stage0Config
from geocbm.models.stage0.prompts import PromptPrototypes
from geocbm.training import Batch


class Stage0Output(NamedTuple):
    """What Stage 0 computes for a batch.

    Attributes:
        pooled: `(B, d)` image features.
        gps: `(B, d)` place embeddings brought to the width of the image features.
        concept_emb: `(B, c)`.
        patch_emb: `(B, g)` projected patches, averaged.
        meta_prototypes: `(k_m, c)` projected.
        parent_prototypes: `(k_p, c)` projected.
        temperature: scalar, of the contrasts with places.
        meta_logits: `(B, k_m)` similarity with each meta prototype over the temperature, pooled over the patches, of
            the "patch" bottleneck; else None: it is that of the concept embedding.
        parent_logits: `(B, k_p)` the same of the parents.
    """

    pooled: Tensor
    gps: Tensor
    concept_emb: Tensor
    patch_emb: Tensor
    meta_prototypes: Tensor
    parent_prototypes: Tensor
    temperature: Tensor
    meta_logits: Tensor | None = None
    parent_logits: Tensor | None = None


class Stage0PretrainingModel(nn.Module):
    """Image encoder with its last blocks unfrozen, and the heads it is aligned through.

    Args:
        encoder: image encoder; everything but its last `config.unfreeze_layers` blocks is frozen here.
        location_encoder: frozen module `(B, 2)` degrees -> `(B, g)`; None when only images are to be embedded.
        meta_prototypes: `(k_m, t)` base prototypes, kept as they are unless `prompts` are trained.
        parent_prototypes: `(k_p, t)`.
        config: settings.
        gps_dim: width of the place embeddings.
        prompts: prompts and text encoder to train; the base prototypes are then those of its present weights. A
            trained model may be loaded without, from the prototypes it came to.

    Raises:
        MismatchError: when prompts and prototypes differ in number or width.
    """

    frozen_parts = ("encoder.", "location_encoder.", "prompts.")
    meta_base: Tensor
    parent_base: Tensor

    def __init__(
        self,
        encoder: Any,
        location_encoder: nn.Module | None,
        meta_prototypes: Tensor,
        parent_prototypes: Tensor,
        config: Stage0Config | None = None,
        gps_dim: int = 512,
        prompts: PromptPrototypes | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or Stage0Config()
        self.encoder = encoder
        encoder.requires_grad_(False)
        for parameter in encoder.upper_parameters(config.unfreeze_layers).values():
            parameter.requires_grad_(True)
        self.location_encoder = location_encoder
        if location_encoder is not None:
            location_encoder.requires_grad_(False)
        self.gps_adapter = nn.Linear(gps_dim, encoder.pooled_dim)
        self.bottleneck = build_bottleneck(config, encoder.pooled_dim, encoder.token_dim)
        self.prototype_projection = nn.Linear(meta_prototypes.shape[1], config.concept_emb_dim)
        self.patch_projection = nn.Linear(encoder.token_dim, gps_dim)
        self.register_buffer("meta_base", meta_prototypes.detach().clone().float())
        self.register_buffer("parent_base", parent_prototypes.detach().clone().float())
        if config.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(config.temperature).log())
        self.prompts = prompts
        if prompts is not None:
            shapes = [(count, prompts.dim) for count in prompts.counts]
            given = [tuple(values.shape) for values in (meta_prototypes, parent_prototypes)]
            if shapes != given:
                raise MismatchError(
                    f"the prompts give prototypes of the shapes {shapes}, but those given have {given}; "
                    "make both from the same names and text encoder"
                )

    def train(self, mode: bool = True) -> Stage0PretrainingModel:
        """Set the mode of the heads; the encoders stay in evaluation mode (running statistics must not drift).

        Entering evaluation mode, the base prototypes are brought up to date with a trained text encoder.
        """
        super().train(mode)
        self.encoder.eval()
        if self.location_encoder is not None:
            self.location_encoder.eval()
        if self.prompts is not None and not mode:
            with torch.no_grad():
                meta, parent = self.prompts()
                self.meta_base.copy_(meta)
                self.parent_base.copy_(parent)
        return self

    def forward(self, hidden: Tensor, gps: Tensor) -> Stage0Output:
        """Embed a batch.

        Args:
            hidden: activations that enter the unfrozen blocks, as `encoder.lower` gives them.
            gps: `(B, g)` embeddings of the frozen location encoder.

        Returns:
            All embeddings, none of them normalised.
        """
        if self.training and self.config.patch_keep < 1:
            hidden = self._some_patches(hidden)
        pooled, tokens = self.encoder.upper(hidden, self.config.unfreeze_layers)  # (B, d), (B, P, w)
        # Without gradients the heads of the concepts stay as they are, and so does the encoder under their terms.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.concept_losses):
            meta_base, parent_base = self.base_prototypes()
            meta_prototypes = self.prototype_projection(meta_base)
            parent_prototypes = self.prototype_projection(parent_base)
            concept_emb = self.bottleneck(pooled, tokens)  # (B, c), or (B, P, w) for "patch"
            meta_logits = parent_logits = None
            if isinstance(self.bottleneck, PatchBottleneck):
                concept_emb, meta_logits, parent_logits = self._look_for(
                    self.bottleneck, concept_emb, meta_prototypes, parent_prototypes
                )
        return Stage0Output(
            pooled=pooled,
            gps=self.gps_adapter(gps),
            concept_emb=concept_emb,
            # The mean of the projected patches is the projection of the mean patch, at 1/P of the work.
            patch_emb=self.patch_projection(tokens.mean(1)),
            meta_prototypes=meta_prototypes,
            parent_prototypes=parent_prototypes,
            temperature=self.temperature(),
            meta_logits=meta_logits,
            parent_logits=parent_logits,
        )

    def _look_for(
        self, bottleneck: PatchBottleneck, tokens: Tensor, meta_prototypes: Tensor, parent_prototypes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Concept embedding `(B, c)` and logits of metas `(B, k_m)` and parents `(B, k_p)`, patch by patch.

        The cosines are pooled over the patches as Stage 1 does, so that what is handed on was trained for that use.
        """
        unit = functional.normalize(torch.cat([meta_prototypes, parent_prototypes]), dim=-1)
        scores = bottleneck.cosines(tokens, unit).float() / self.config.temperature  # (B, P, k_m + k_p)
        n_metas = len(meta_prototypes)
        meta, parent = pool_scores(scores, self.config.top_patches).split([n_metas, len(parent_prototypes)], dim=-1)
        return mix_prototypes(meta, unit[:n_metas]), meta, parent

    def base_prototypes(self) -> tuple[Tensor, Tensor]:
        """Base prototypes of metas `(k_m, t)` and parents `(k_p, t)`, with gradients if the text encoder trains."""
        if self.prompts is not None and (self.training or torch.is_grad_enabled()):
            return self.prompts()
        return self.meta_base, self.parent_base

    def temperature(self) -> Tensor:
        """Scalar temperature of the contrasts with places, learned or fixed."""
        if not self.config.learn_temperature:
            return self.gps_adapter.weight.new_tensor(self.config.temperature)
        low, high = TEMPERATURE_RANGE
        with torch.no_grad():
            # Beyond its limits a clamped value has no gradient and would never come back, so the parameter is held.
            self.log_temperature.clamp_(math.log(low), math.log(high))
        return self.log_temperature.exp()

    def _some_patches(self, hidden: Tensor) -> Tensor:
        """Keep class and register tokens and a random share of the patches; feature maps stay as they are."""
        n_patches = self.encoder.grid[0] * self.encoder.grid[1]
        n_prefix = hidden.shape[1] - n_patches
        if hidden.ndim != 3 or n_prefix < 0:
            return hidden
        n_kept = max(1, round(self.config.patch_keep * n_patches))
        kept = torch.randperm(n_patches)[:n_kept].sort().values + n_prefix
        return hidden[:, torch.cat([torch.arange(n_prefix), kept]).to(hidden.device)]

    def embed_places(self, lat: np.ndarray, lng: np.ndarray) -> Tensor:
        """Place embeddings comparable with the image features (for retrieval).

        Args:
            lat: `(n,)` degrees.
            lng: `(n,)` degrees.

        Returns:
            `(n, d)` float32 on the CPU, not normalised.
        """
        if self.location_encoder is None:
            raise MismatchError("this Stage 0 model was loaded without a location encoder; pass one to load_stage0")
        device = self.gps_adapter.weight.device
        with torch.no_grad():
            embedded = location_embeddings(self.location_encoder, lat, lng)
            return torch.cat([self.gps_adapter(part.to(device)).cpu() for part in embedded.split(8192)])


def location_embeddings(location_encoder: nn.Module, lat: np.ndarray, lng: np.ndarray, chunk: int = 8192) -> Tensor:
    """Embed coordinates once with the frozen location encoder.

    Args:
        location_encoder: module `(B, 2)` of `[lat, lng]` degrees -> `(B, g)`.
        lat: `(n,)` degrees.
        lng: `(n,)` degrees.
        chunk: places at a time.

    Returns:
        `(n, g)` float32 on the CPU.
    """
    device = next((parameter.device for parameter in location_encoder.parameters()), torch.device("cpu"))
    coordinates = torch.from_numpy(np.stack([np.asarray(lat), np.asarray(lng)], axis=1).astype(np.float32))  # (n, 2)
    with torch.no_grad():
        return torch.cat([location_encoder(part.to(device)).float().cpu() for part in coordinates.split(chunk)])


def stage0_losses(output: Stage0Output, batch: Batch, config: Stage0Config) -> dict[str, Tensor]:
    """All terms of Stage 0 and their weighted sum (specification, section "Stage 0", Total Loss).

    Without `config.concept_losses` the child, parent and hierarchy terms are given but not part of the sum.

    Args:
        output: of the model.
        batch: with `gps` `(B, g)`, `vanilla` `(B, d)`, `meta` and `parent` `(B,)`, `lat` and `lng` `(B,)` degrees.
        config: weights and options.

    Returns:
        Scalars `loss`, `gps`, `child`, `parent`, `hierarchy`, `patch_gps`, `anchor`; terms without their weights.
    """
    near = None
    if config.false_negative_km > 0:
        near = losses.near_pairs(batch["lat"], batch["lng"], config.false_negative_km)
    t, t_gps = config.temperature, output.temperature
    terms = {
        "gps": losses.info_nce(output.pooled, output.gps, t_gps, config.symmetric, near),
        "child": _concept_loss(output.concept_emb, output.meta_prototypes, output.meta_logits, batch["meta"], t),
        "parent": _concept_loss(output.concept_emb, output.parent_prototypes, output.parent_logits, batch["parent"], t),
        "hierarchy": losses.supervised_contrastive(output.concept_emb, batch["parent"], t),
        "patch_gps": losses.info_nce(output.patch_emb, batch["gps"], t_gps, config.symmetric, near),
        "anchor": losses.anchor_loss(output.pooled, batch["vanilla"]),
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
