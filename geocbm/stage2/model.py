"""Stage 2: where a photograph was taken, from its concept embedding asking its patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.errors import MismatchError, ParameterError
from geocbm.geodesy import cartesian_to_latlng
from geocbm.stage0 import Stage0PretrainingModel
from geocbm.training.settings import check_choice, check_number, check_training

ABLATION_MODES = ("both", "concept_only", "image_only")


@dataclass(frozen=True)
class Stage2Config:
    """Settings of Stage 2; the defaults are the specification's.

    Attributes:
        batch_size: rows of a step.
        accumulation_steps: parts in which the rows of a step go through the model, to save memory.
        lr: learning rate.
        epochs: most passes over the training rows.
        lambda_cell: weight of the cell classification.
        lambda_offset: weight of the offset regression.
        ablation_mode: "both", "concept_only" or "image_only": what reaches the heads.
        coord_output_dim: 3 for offsets between unit vectors, 2 for degrees of latitude and longitude.
        embed_dim: width inside the head.
        heads: attention heads.
        dropout: on attention weights and inside the residual branches.
        gating: mix concept and attended patches by a sigmoid per dimension.
        explicit_fusion: give the heads the concept embedding beside the fused one, through one linear layer.
        init_from_stage0: start from Stage 0's patch projection.
        weight_decay: of AdamW.
        patience: epochs without improvement before stopping.
        monitor: validation value that decides: "median_km", "cell_top1" or "loss".
        seed: fixes initialisation, order and dropout.
        tracking: Weights & Biases mode.
        precision: "auto", "bf16" or "no".
    """

    batch_size: int = 32
    accumulation_steps: int = 1
    lr: float = 1e-4
    epochs: int = 30
    lambda_cell: float = 1.0
    lambda_offset: float = 5.0
    ablation_mode: str = "both"
    coord_output_dim: int = 3
    embed_dim: int = 512
    heads: int = 8
    dropout: float = 0.1
    gating: bool = True
    explicit_fusion: bool = True
    init_from_stage0: bool = True
    weight_decay: float = 0.01
    patience: int = 5
    monitor: str = "median_km"
    seed: int = 0
    tracking: str = "disabled"
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_training(self)
        check_choice("ablation_mode", self.ablation_mode, ABLATION_MODES)
        check_choice("monitor", self.monitor, ("median_km", "cell_top1", "loss"))
        check_number("embed_dim", self.embed_dim, 1)
        if self.coord_output_dim not in (2, 3):
            raise ParameterError(
                f"coord_output_dim={self.coord_output_dim} is impossible; use 3 (unit vectors) or 2 (degrees)"
            )
        if self.heads < 1 or self.embed_dim % self.heads:
            raise ParameterError(f"heads={self.heads} does not divide embed_dim={self.embed_dim}; choose a divisor")


class Stage2Output(NamedTuple):
    """What Stage 2 computes for a batch.

    Attributes:
        cell_logits: `(B, N)`.
        offsets: `(B, 3)` or `(B, 2)`, from the centre of the cell.
        attention: `(B, heads, P)`: sums to 1 over the patches; uniform for `image_only`, 0 for `concept_only`.
    """

    cell_logits: Tensor
    offsets: Tensor
    attention: Tensor


class ConceptCrossAttention(nn.Module):
    """Multi-head attention of one query over projected patches that are never formed.

    With linear projections `q . (W_k W_p x) = (W_p^T W_k^T q) . x` and `sum_j a_j W_v W_p x_j = W_v W_p sum_j a_j x_j`:
    the query is carried into the space of the tokens and only the attended mean is projected. Outputs and gradients
    are those of projecting every patch and applying `nn.MultiheadAttention`. A bias of the keys would shift all scores
    of a query alike, so that the softmax removes it; there is none.

    Args:
        token_dim: width of the patch tokens.
        embed_dim: width of query and output.
        heads: attention heads.
        dropout: on the attention weights.
    """

    def __init__(self, token_dim: int, embed_dim: int = 512, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, self.head_dim, self.dropout = heads, embed_dim // heads, dropout
        self.patch_projection = nn.Linear(token_dim, embed_dim)
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim, bias=False)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, query: Tensor, tokens: Tensor, key_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: `(B, E)`.
            tokens: `(B, P, D)` patch tokens, not projected.
            key_mask: `(B, P)` booleans, True where a patch must not be attended.

        Returns:
            `(B, E)` attended patches, and `(B, heads, P)` attention before dropout.
        """
        h, e = self.heads, self.head_dim
        projection = self.patch_projection
        q = self.query(query).unflatten(-1, (h, e)) / math.sqrt(e)  # (B, H, e)
        q = torch.einsum("bhe,hef->bhf", q, self.key.weight.unflatten(0, (h, e)))  # (B, H, E)
        q = q @ projection.weight  # (B, H, D): the query in the space of the tokens
        scores = q @ tokens.transpose(1, 2)  # (B, H, P)
        if key_mask is not None:
            scores = scores.masked_fill(key_mask[:, None], -torch.inf)
        attention = scores.softmax(-1)
        weights = functional.dropout(attention, self.dropout, self.training)
        # Dropout leaves weights that do not sum to 1, and the biases must be scaled as each patch's own would be.
        share = weights.sum(-1, keepdim=True)  # (B, H, 1)
        context = (weights @ tokens) @ projection.weight.T + share * projection.bias  # (B, H, E)
        value = torch.einsum("bhf,hef->bhe", context, self.value.weight.unflatten(0, (h, e)))
        value = value + share * self.value.bias.unflatten(0, (h, e))  # (B, H, e)
        return self.out(value.flatten(1)), attention


class Stage2CrossAttentionGeoHead(nn.Module):
    """Geocell and offset from a concept embedding that attends to the patches (specification, section "Stage 2").

    The concept embedding may come with any length: a layer norm at the entrance gives query and residual branch one
    scale, whatever scale the frozen bottleneck happens to have.

    Args:
        concept_dim: width of the concept embedding.
        token_dim: width of the patch tokens.
        n_cells: number of geocells.
        cell_centers: `(n_cells, 3)` unit vectors.
        config: settings.
    """

    cell_centers: Tensor

    def __init__(
        self,
        concept_dim: int,
        token_dim: int,
        n_cells: int,
        cell_centers: Tensor | np.ndarray,
        config: Stage2Config | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or Stage2Config()
        self.concept_dim, self.token_dim = concept_dim, token_dim
        centers = torch.as_tensor(cell_centers, dtype=torch.float32).detach().cpu()
        if centers.shape != (n_cells, 3):
            raise ParameterError(f"cell_centers has shape {tuple(centers.shape)}; {n_cells} cells need ({n_cells}, 3)")
        self.register_buffer("cell_centers", functional.normalize(centers, dim=-1))
        width, mode = config.embed_dim, config.ablation_mode
        if mode != "image_only":
            self.concept_norm = nn.LayerNorm(concept_dim)
            self.concept_projection = nn.Identity() if concept_dim == width else nn.Linear(concept_dim, width)
        if mode == "both":
            self.attention = ConceptCrossAttention(token_dim, width, config.heads, config.dropout)
            self.attention_norm = nn.LayerNorm(width)
            self.feed_forward = nn.Sequential(
                nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(2 * width, width)
            )
            self.feed_forward_norm = nn.LayerNorm(width)
            if config.gating:
                self.gate = nn.Linear(2 * width, width)
            if config.explicit_fusion:
                self.fusion = nn.Linear(2 * width, width)
        elif mode == "concept_only":
            self.concept_only_projection = nn.Linear(width, width)
        else:
            self.patch_projection = nn.Linear(token_dim, width)
            self.image_pool = nn.Linear(width, width)
        self.drop = nn.Dropout(config.dropout)
        self.cell_head = nn.Linear(width, n_cells)
        self.offset_head = nn.Linear(width, config.coord_output_dim)
        # Cells are small, so the first guess is the centre: a random offset would be wrong by thousands of km.
        nn.init.zeros_(self.offset_head.weight)
        nn.init.zeros_(self.offset_head.bias)

    def start_from(self, stage0: Stage0PretrainingModel) -> None:
        """Take over the patch projection that Stage 0 trained; nothing to do without patches.

        Raises:
            MismatchError: when its shape differs.
        """
        if self.config.ablation_mode == "concept_only":
            return
        mine = self.attention.patch_projection if self.config.ablation_mode == "both" else self.patch_projection
        if mine.weight.shape != stage0.patch_projection.weight.shape:
            raise MismatchError(
                f"Stage 0's patch projection is {tuple(stage0.patch_projection.weight.shape)}, Stage 2 needs "
                f"{tuple(mine.weight.shape)}; use the same encoder and embed_dim, or set init_from_stage0=False"
            )
        mine.load_state_dict(stage0.patch_projection.state_dict())

    def forward(
        self, concept_emb: Tensor, patch_tokens: Tensor | None = None, key_mask: Tensor | None = None
    ) -> Stage2Output:
        """Predict cells and offsets.

        Args:
            concept_emb: `(B, concept_dim)` of any precision; only its length is read by `image_only`.
            patch_tokens: `(B, P, token_dim)`; not read by `concept_only`, where it may be None.
            key_mask: `(B, P)` booleans, True where a patch must be ignored.

        Returns:
            Logits, offsets and attention.

        Raises:
            ParameterError: when the mode needs patch tokens and there are none, or shapes do not fit.
        """
        concept_emb, patch_tokens = self._checked(concept_emb, patch_tokens)
        features, attention = self._features(concept_emb, patch_tokens, key_mask)
        features = self.drop(features)  # (B, E)
        return Stage2Output(self.cell_head(features), self.offset_head(features), attention)

    def _checked(self, concept_emb: Tensor, patch_tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The inputs in the precision of the weights, if their shapes fit what the mode reads."""
        mode, dtype = self.config.ablation_mode, self.cell_head.weight.dtype
        if mode != "image_only" and (concept_emb.ndim != 2 or concept_emb.shape[1] != self.concept_dim):
            raise ParameterError(
                f"concept_emb has shape {tuple(concept_emb.shape)}; this head reads (B, {self.concept_dim})"
            )
        if mode == "concept_only":
            return concept_emb.to(dtype), patch_tokens
        if patch_tokens is None:
            raise ParameterError(f"ablation_mode={mode!r} reads patch_tokens, but got None")
        expected = (len(concept_emb), self.token_dim)
        if patch_tokens.ndim != 3 or (len(patch_tokens), patch_tokens.shape[2]) != expected:
            raise ParameterError(
                f"patch_tokens has shape {tuple(patch_tokens.shape)}; "
                f"with {len(concept_emb)} concept embeddings this head reads ({expected[0]}, P, {expected[1]})"
            )
        return concept_emb.to(dtype), patch_tokens.to(dtype)

    def _features(
        self, concept_emb: Tensor, patch_tokens: Tensor | None, key_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What reaches the heads in this mode, `(B, E)`, and the attention `(B, heads, P)`."""
        config = self.config
        n_patches = 0 if patch_tokens is None else patch_tokens.shape[1]
        if config.ablation_mode == "concept_only":
            concept = self.concept_projection(self.concept_norm(concept_emb))
            attention = concept.new_zeros(len(concept), config.heads, n_patches)
            return self.concept_only_projection(concept), attention
        assert patch_tokens is not None
        if config.ablation_mode == "image_only":
            kept = patch_tokens.new_ones(patch_tokens.shape[:2]) if key_mask is None else (~key_mask).to(patch_tokens)
            weights = kept / kept.sum(1, keepdim=True)  # (B, P)
            # Projection and mean commute, so the patches are averaged first.
            mean = (weights[:, None] @ patch_tokens).squeeze(1)  # (B, D)
            attention = weights[:, None].expand(-1, config.heads, -1)
            return self.image_pool(self.patch_projection(mean)), attention
        concept = self.concept_projection(self.concept_norm(concept_emb))  # (B, E)
        attended, attention = self.attention(concept, patch_tokens, key_mask)
        fused = self.attention_norm(concept + self.drop(attended))
        fused = self.feed_forward_norm(fused + self.drop(self.feed_forward(fused)))
        if config.gating:
            gate = torch.sigmoid(self.gate(torch.cat([concept, fused], dim=-1)))  # (B, E)
            fused = gate * concept + (1 - gate) * fused
        if config.explicit_fusion:
            fused = self.fusion(torch.cat([concept, fused], dim=-1))
        return fused, attention

    def decode(self, output: Stage2Output) -> tuple[Tensor, Tensor]:
        """Coordinates of the most probable cell, moved by the offset; always a place on the sphere.

        Args:
            output: of `forward`.

        Returns:
            `(B,)` latitudes in [-90, 90] and `(B,)` longitudes in [-180, 180), degrees.
        """
        return decode_offsets(self.cell_centers[output.cell_logits.argmax(-1)], output.offsets)


def decode_offsets(centers: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Move cell centres by predicted offsets.

    Args:
        centers: `(B, 3)` unit vectors.
        offsets: `(B, 3)` differences of unit vectors, or `(B, 2)` degrees of latitude and longitude.

    Returns:
        Latitudes in [-90, 90] and longitudes in [-180, 180), degrees, float32.
    """
    centers, offsets = centers.float(), offsets.float()
    if offsets.shape[-1] == 3:
        moved = centers + offsets
        # An offset that lands in the middle of the Earth has no direction; the centre is the answer then.
        hopeless = moved.norm(dim=-1, keepdim=True) < 1e-6
        lat, lng = cartesian_to_latlng(torch.where(hopeless, centers, moved))
    else:
        lat, lng = cartesian_to_latlng(centers)
        lat, lng = lat + offsets[..., 0], lng + offsets[..., 1]
    return lat.clamp(-90.0, 90.0), (lng + 180.0) % 360.0 - 180.0
