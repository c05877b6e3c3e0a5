"""Stage 0: contrastive pretraining that brings the image encoder near to places and concepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from geocbm import losses
from geocbm.bottleneck import build_bottleneck, check_bottleneck
from geocbm.errors import MismatchError, ParameterError
from geocbm.training import Batch
from geocbm.training.settings import check_number, check_training


@dataclass(frozen=True)
class Stage0Config:
    """Settings of Stage 0; the defaults are the specification's.

    Attributes:
        batch_size: rows of a step.
        accumulation_steps: parts in which the rows of a step go through the model, to save memory; contrasts see
            only the rows of their part.
        lr: learning rate of everything but the encoder.
        encoder_lr: learning rate of the unfrozen encoder blocks.
        epochs: most passes over the training rows.
        unfreeze_layers: last blocks of the encoder that train.
        lambda_gps: weight of image against place.
        lambda_child: weight of concept embedding against meta prototypes.
        lambda_parent: weight of concept embedding against parent prototypes.
        lambda_hierarchy: weight of the intra-batch contrast between parents.
        lambda_patch_gps: weight of pooled patches against place.
        lambda_anchor: weight of staying near the encoder's original features.
        temperature: divisor of all cosine similarities.
        symmetric: contrast places against images too.
        false_negative_km: places nearer than this are not negatives; 0 leaves every pair in.
        patch_keep: share of the patches that a training step sees, drawn anew each step (Li et al., 2023, "FLIP"); the
            time of a step falls nearly in proportion. 1 keeps all; validation always sees all.
        bottleneck: kind of concept bottleneck.
        concept_emb_dim: width of the concept embedding.
        dropout: dropout in the bottleneck.
        weight_decay: of AdamW.
        patience: epochs without improvement before stopping.
        seed: fixes initialisation, order and dropout.
        tracking: Weights & Biases mode.
        precision: "auto", "bf16" or "no".
    """

    batch_size: int = 128
    accumulation_steps: int = 1
    lr: float = 1e-4
    encoder_lr: float = 3e-5
    epochs: int = 20
    unfreeze_layers: int = 2
    lambda_gps: float = 1.0
    lambda_child: float = 1.0
    lambda_parent: float = 0.5
    lambda_hierarchy: float = 0.3
    lambda_patch_gps: float = 0.2
    lambda_anchor: float = 0.01
    temperature: float = 0.07
    symmetric: bool = False
    false_negative_km: float = 0.0
    patch_keep: float = 1.0
    bottleneck: str = "mlp"
    concept_emb_dim: int = 512
    dropout: float = 0.4
    weight_decay: float = 0.01
    patience: int = 5
    seed: int = 0
    tracking: str = "disabled"
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_training(self)
        check_bottleneck(self.bottleneck)
        for name in ("encoder_lr", "unfreeze_layers", "false_negative_km"):
            check_number(name, getattr(self, name), 0)
        check_number("concept_emb_dim", self.concept_emb_dim, 1)
        check_number("temperature", self.temperature, 0, above=True)
        if not 0 < self.patch_keep <= 1:
            raise ParameterError(f"patch_keep={self.patch_keep} is impossible; give a share above 0 and at most 1")


class Stage0Output(NamedTuple):
    """What Stage 0 computes for a batch.

    Attributes:
        pooled: `(B, d)` image features.
        gps: `(B, d)` place embeddings brought to the width of the image features.
        concept_emb: `(B, c)`.
        patch_emb: `(B, g)` projected patches, averaged.
        meta_prototypes: `(k_m, c)` projected.
        parent_prototypes: `(k_p, c)` projected.
    """

    pooled: Tensor
    gps: Tensor
    concept_emb: Tensor
    patch_emb: Tensor
    meta_prototypes: Tensor
    parent_prototypes: Tensor


class Stage0PretrainingModel(nn.Module):
    """Image encoder with its last blocks unfrozen, and the heads it is aligned through.

    Args:
        encoder: image encoder; everything but its last `config.unfreeze_layers` blocks is frozen here.
        location_encoder: frozen module `(B, 2)` degrees -> `(B, g)`; None when only images are to be embedded.
        meta_prototypes: `(k_m, t)` base prototypes, kept as they are.
        parent_prototypes: `(k_p, t)`.
        config: settings.
        gps_dim: width of the place embeddings.
    """

    frozen_parts = ("encoder.", "location_encoder.")
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
        self.bottleneck = build_bottleneck(
            config.bottleneck, encoder.pooled_dim, config.concept_emb_dim, dropout=config.dropout
        )
        self.prototype_projection = nn.Linear(meta_prototypes.shape[1], config.concept_emb_dim)
        self.patch_projection = nn.Linear(encoder.token_dim, gps_dim)
        self.register_buffer("meta_base", meta_prototypes.detach().clone().float())
        self.register_buffer("parent_base", parent_prototypes.detach().clone().float())

    def train(self, mode: bool = True) -> Stage0PretrainingModel:
        """Set the mode of the heads; the encoders stay in evaluation mode (running statistics must not drift)."""
        super().train(mode)
        self.encoder.eval()
        if self.location_encoder is not None:
            self.location_encoder.eval()
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
        return Stage0Output(
            pooled=pooled,
            gps=self.gps_adapter(gps),
            concept_emb=self.bottleneck(pooled, tokens),
            # The mean of the projected patches is the projection of the mean patch, at 1/P of the work.
            patch_emb=self.patch_projection(tokens.mean(1)),
            meta_prototypes=self.prototype_projection(self.meta_base),
            parent_prototypes=self.prototype_projection(self.parent_base),
        )

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
    t = config.temperature
    terms = {
        "gps": losses.info_nce(output.pooled, output.gps, t, config.symmetric, near),
        "child": losses.prototype_info_nce(output.concept_emb, output.meta_prototypes, batch["meta"], t),
        "parent": losses.prototype_info_nce(output.concept_emb, output.parent_prototypes, batch["parent"], t),
        "hierarchy": losses.supervised_contrastive(output.concept_emb, batch["parent"], t),
        "patch_gps": losses.info_nce(output.patch_emb, batch["gps"], t, config.symmetric, near),
        "anchor": losses.anchor_loss(output.pooled, batch["vanilla"]),
    }
    total = sum(getattr(config, f"lambda_{name}") * value for name, value in terms.items())
    return {"loss": torch.as_tensor(total)} | terms
