"""Stage 2: where a photograph was taken, from its concept embedding asking its patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.errors import MismatchError, ParameterError
from geocbm.geodesy import haversine_km
from geocbm.metrics import geoscore
from geocbm.models.attention import ConceptCrossAttention
from geocbm.models.kept_tokens import PatchKeeper
from geocbm.models.offsets import decode_offsets
from geocbm.models.retrieval import place_columns
from geocbm.models.stage2_config import Stage2Config

if TYPE_CHECKING:
    from geocbm.models.loading import Stage0Layers
    from geocbm.models.stage0 import Stage0PretrainingModel

LEAST_PROBABILITY = 1e-6
"""Below it the logarithm of a probability is not followed."""


class Stage2Output(NamedTuple):
    """What Stage 2 computes for a batch."""

    cell_logits: Tensor  # (B, N)
    offsets: Tensor  # (B, 3) or (B, 2), from the centre of the most probable cell
    attention: Tensor  # (B, heads, P), sums to 1; uniform for `image_only`, 0 for `concept_only` and `concept_scores`
    cell_offsets: Tensor | None = None  # (B, N, 3) or (B, N, 2), an offset for every cell, if the head predicts them
    residual_logits: Tensor | None = None  # (B, N), the part of `cell_logits` from the patches, in mode `hybrid`
    learned_logits: Tensor | None = None  # (B, N) what is trained by itself before it is averaged, else None
    learned_offsets: Tensor | None = None  # (B, 2 or 3) or (B, N, 2 or 3), its offsets

    @property
    def as_learned(self) -> Stage2Output:
        """What the loss reads: this output, or what is trained by itself."""
        if self.learned_logits is None:
            return self
        assert self.learned_offsets is not None
        by_cell = self.learned_offsets if self.learned_offsets.ndim == 3 else None
        return self._replace(cell_logits=self.learned_logits, offsets=self.learned_offsets, cell_offsets=by_cell)

    @property
    def per_row(self) -> tuple[str, ...]:
        """What the losses read of each row, which several processes gather."""
        if self.learned_logits is not None:
            return ("learned_logits", "learned_offsets")
        return ("cell_logits", "offsets" if self.cell_offsets is None else "cell_offsets")

    @property
    def residual_share(self) -> Tensor:
        """How much of the logits of mode `hybrid` comes from the patches, `(B,)` from 0 (nothing) to 1 (everything).

        The spread of the residual over the cells, divided by the sum of its spread and that of the concepts' part.
        """
        assert self.residual_logits is not None
        residual = self.residual_logits.float()
        # Of a single cell there is no spread: with the count as the divisor it is 0, not unknown.
        mine, theirs = (part.std(-1, correction=0) for part in (residual, self.cell_logits.float() - residual))
        return mine / (mine + theirs).clamp_min(1e-12)

    def offsets_at(self, cell: Tensor) -> Tensor:
        """Offsets `(B, 3)` or `(B, 2)` from the centres of given cells `(B,)`."""
        return self.offsets if self.cell_offsets is None else _pick(self.cell_offsets, cell)


class Stage2CrossAttentionGeoHead(nn.Module):
    """Geocell and offset from a concept embedding that attends to the patches (specification, section "Stage 2").

    In the modes `concept_scores` and `hybrid` the concept input is the probabilities of metas and parents. They are
    brought to mean 0 and spread 1 over the training rows and pass one linear layer, so that each logit is a sum of one
    term per concept (Koh et al., 2020); `hybrid` adds a residual from the patches (Yuksekgonul et al., 2023, "Post-hoc
    concept bottleneck models").

    Args:
        concept_dim: width of the concept input.
        token_dim: width of the patch tokens.
        n_cells: number of geocells.
        cell_centers: `(n_cells, 3)` unit vectors.
        config: settings.
        cell_scale_km: `(n_cells,)` scale of each cell, needed by the offset kind "tangent".
        keeper: chooses the patches that are looked at, where that is not all of them (`config.tokens`).
    """

    cell_centers: Tensor
    cell_scale_km: Tensor
    score_mean: Tensor
    score_spread: Tensor

    def __init__(
        self,
        concept_dim: int,
        token_dim: int,
        n_cells: int,
        cell_centers: Tensor | np.ndarray,
        config: Stage2Config | None = None,
        cell_scale_km: Tensor | np.ndarray | None = None,
        keeper: PatchKeeper | None = None,
    ) -> None:
        super().__init__()
        self.keeper = keeper
        self.config = config = config or Stage2Config()
        self.concept_dim, self.token_dim, self.n_cells = concept_dim, token_dim, n_cells
        centers = torch.as_tensor(cell_centers, dtype=torch.float32).detach().cpu()
        if centers.shape != (n_cells, 3):
            raise ParameterError(f"cell_centers has shape {tuple(centers.shape)}; {n_cells} cells need ({n_cells}, 3)")
        self.register_buffer("cell_centers", functional.normalize(centers, dim=-1))
        if config.offset_kind == "tangent":
            if cell_scale_km is None or len(cell_scale_km) != n_cells:
                given = "None" if cell_scale_km is None else f"{len(cell_scale_km)} numbers"
                raise ParameterError(
                    f"cell_scale_km is {given}; offset_kind='tangent' needs the scale of each of {n_cells} cells in km"
                )
            self.register_buffer("cell_scale_km", torch.as_tensor(cell_scale_km, dtype=torch.float32).detach().cpu())
        width, mode = config.embed_dim, config.ablation_mode
        self._add_features(concept_dim, token_dim)
        if config.reads_scores:
            self.register_buffer("score_mean", torch.zeros(concept_dim))
            self.register_buffer("score_spread", torch.ones(concept_dim))
        self.drop = nn.Dropout(config.dropout)
        n_offsets = config.coord_output_dim * (n_cells if config.per_cell_offsets else 1)
        features = concept_dim if config.reads_scores else width
        self.cell_head = nn.Linear(features, n_cells)
        self.offset_head = nn.Linear(features, n_offsets)
        # Cells are small, so the first guess is the centre: a random offset would be wrong by thousands of km.
        start_at_zero = [self.offset_head, self.cell_head] if config.reads_scores else [self.offset_head]
        if mode == "hybrid":
            self.residual_cell_head = nn.Linear(width, n_cells)
            self.residual_offset_head = nn.Linear(width, n_offsets)
            start_at_zero.append(self.residual_offset_head)
            if not config.averages:  # what is added begins as nothing
                start_at_zero.append(self.residual_cell_head)
        for layer in start_at_zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _add_features(self, concept_dim: int, token_dim: int) -> None:
        """Add the layers in front of the heads that the mode has."""
        config = self.config
        width, mode = config.embed_dim, config.ablation_mode
        if mode != "image_only" and mode != "concept_scores":
            self.concept_norm = nn.LayerNorm(concept_dim) if config.entrance_norm else nn.Identity()
            self.concept_projection = nn.Identity() if concept_dim == width else nn.Linear(concept_dim, width)
        if mode in ("both", "hybrid"):
            self.attention = ConceptCrossAttention(token_dim, width, config.heads, config.dropout)
            self.attention_norm = nn.LayerNorm(width)
        if mode == "both" or config.averages:
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
        elif mode == "image_only":
            self.patch_projection = nn.Linear(token_dim, width)
            self.image_pool = nn.Linear(width, width)

    def start_from(self, stage0: Stage0PretrainingModel | Stage0Layers) -> None:
        """Take over the patch projection that Stage 0 trained, if there is one; a `MismatchError` if shapes differ."""
        if not self.config.reads_tokens:
            return
        mine = self.patch_projection if self.config.ablation_mode == "image_only" else self.attention.patch_projection
        if mine.weight.shape != stage0.patch_projection.weight.shape:
            raise MismatchError(
                f"Stage 0's patch projection is {tuple(stage0.patch_projection.weight.shape)}, Stage 2 needs "
                f"{tuple(mine.weight.shape)}; use the same encoder and embed_dim, or set init_from_stage0=False"
            )
        mine.load_state_dict(stage0.patch_projection.state_dict())

    def standardise_by(self, scores: Tensor) -> None:
        """Take mean and spread of the probabilities `(n, concept_dim)` of the training rows."""
        spread, mean = torch.std_mean(self.transformed(scores.float()), dim=0, correction=0)
        self.score_mean.copy_(mean)
        # A concept that is always equally probable tells nothing; it must not be divided by 0.
        self.score_spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def start_from_concepts(self, concept_head: Stage2CrossAttentionGeoHead) -> None:
        """Take over the linear layers of a head trained in mode `concept_scores`; `hybrid` never changes them.

        Where the two are averaged, the half of the concepts goes into these layers, so that logits stay sums of terms.
        """
        share = self.config.share
        for name in ("cell_head", "offset_head"):
            state = getattr(concept_head, name).state_dict()
            getattr(self, name).load_state_dict({part: share * value for part, value in state.items()})
        self.score_mean.copy_(concept_head.score_mean)
        self.score_spread.copy_(concept_head.score_spread)

    def forward(
        self, concept_emb: Tensor, patch_tokens: Tensor | None = None, key_mask: Tensor | None = None
    ) -> Stage2Output:
        """Predict cells and offsets.

        Args:
            concept_emb: `(B, concept_dim)` of any precision: concept embeddings, or in the modes `concept_scores` and
                `hybrid` the probabilities of metas and parents; only its length is read by `image_only`.
            patch_tokens: `(B, P, token_dim)`; not read by `concept_only` and `concept_scores`, where it may be None.
            key_mask: `(B, P)` booleans, True where a patch must be ignored.
        """
        concept_emb, patch_tokens = self._checked(concept_emb, patch_tokens)
        if self.keeper is not None and patch_tokens is not None and patch_tokens.shape[1] > self.keeper.kept:
            left = ~self.keeper(patch_tokens)  # (B, P)
            key_mask = left if key_mask is None else left | key_mask
        mode, averages = self.config.ablation_mode, self.config.averages
        residual = learned = learned_offsets = None
        if self.config.reads_scores:
            scores = self._standardised(concept_emb)  # (B, concept_dim)
            cell_logits, offsets = _linear(self.cell_head, scores, mode), _linear(self.offset_head, scores, mode)
            attention = self._no_attention(scores, patch_tokens)
            if mode == "hybrid":
                features, attention = self._features(concept_emb, patch_tokens, key_mask)
                features = self.drop(features)  # (B, E)
                learned, learned_offsets = self.residual_cell_head(features), self.residual_offset_head(features)
                share = self.config.share  # that of the concepts is in their weights
                residual = share * learned
                cell_logits, offsets = cell_logits + residual, offsets + share * learned_offsets
        else:
            features, attention = self._features(concept_emb, patch_tokens, key_mask)
            features = self.drop(features)  # (B, E)
            cell_logits, offsets = self.cell_head(features), self.offset_head(features)
        by_cell = self._by_cell(offsets)
        if by_cell is not None:
            offsets = _pick(by_cell, cell_logits.argmax(-1))
        output = Stage2Output(cell_logits, offsets, attention, by_cell, residual)
        if not averages:
            return output
        assert learned_offsets is not None
        own = self._by_cell(learned_offsets)
        return output._replace(learned_logits=learned, learned_offsets=learned_offsets if own is None else own)

    def _by_cell(self, offsets: Tensor) -> Tensor | None:
        """Offsets `(B, N, 2 or 3)` of every cell, if the head predicts them."""
        if not self.config.per_cell_offsets:
            return None
        return offsets.unflatten(-1, (self.n_cells, self.config.coord_output_dim))

    def concept_contributions(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """What each concept adds to each cell's logit, compared with an average training picture.

        Of probabilities `(B, concept_dim)` in the modes `concept_scores` and `hybrid`: `(B, N, concept_dim)` terms and
        `(N,)` constants, whose sum is the part of a cell's logit from concepts.
        """
        if not self.config.reads_scores:
            raise ParameterError(
                f"ablation_mode={self.config.ablation_mode!r} has no contributions that add up to its logits; "
                "use 'concept_scores' or 'hybrid'"
            )
        standard = self._standardised(scores.to(self.score_mean))
        return standard[:, None] * self.cell_head.weight, self.cell_head.bias

    def transformed(self, scores: Tensor) -> Tensor:
        """Probabilities as the linear layer reads them, one by one (`config.score_transform`)."""
        kind = self.config.score_transform
        if kind == "log":
            return scores.clamp_min(LEAST_PROBABILITY).log()
        if kind == "logit":
            return scores.logit(LEAST_PROBABILITY)
        return scores.clamp_min(0.0).sqrt() if kind == "sqrt" else scores

    def _standardised(self, scores: Tensor) -> Tensor:
        """Transformed probabilities at mean 0 and spread 1 over the training rows."""
        return (self.transformed(scores) - self.score_mean) / self.score_spread

    def _checked(self, concept_emb: Tensor, patch_tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The embeddings in the precision of the weights and the tokens as they are, if shapes fit the mode."""
        mode, dtype = self.config.ablation_mode, self.cell_head.weight.dtype
        if mode != "image_only" and (concept_emb.ndim != 2 or concept_emb.shape[1] != self.concept_dim):
            raise ParameterError(
                f"concept_emb has shape {tuple(concept_emb.shape)}; this head reads (B, {self.concept_dim})"
            )
        if not self.config.reads_tokens:
            return concept_emb.to(dtype), patch_tokens
        if patch_tokens is None:
            raise ParameterError(f"ablation_mode={mode!r} reads patch_tokens, but got None")
        expected = (len(concept_emb), self.token_dim)
        if patch_tokens.ndim != 3 or (len(patch_tokens), patch_tokens.shape[2]) != expected:
            raise ParameterError(
                f"patch_tokens has shape {tuple(patch_tokens.shape)}; "
                f"with {len(concept_emb)} concept embeddings this head reads ({expected[0]}, P, {expected[1]})"
            )
        return concept_emb.to(dtype), patch_tokens

    def _no_attention(self, concept: Tensor, patch_tokens: Tensor | None) -> Tensor:
        """Zeros `(B, heads, P)` for the modes that ask no patch."""
        n_patches = 0 if patch_tokens is None else patch_tokens.shape[1]
        return concept.new_zeros(len(concept), self.config.heads, n_patches)

    def _features(
        self, concept_emb: Tensor, patch_tokens: Tensor | None, key_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What reaches the heads in the specification's modes, `(B, E)`, and the attention `(B, heads, P)`."""
        config = self.config
        if config.ablation_mode == "concept_only":
            concept = self.concept_projection(self.concept_norm(concept_emb))
            return self.concept_only_projection(concept), self._no_attention(concept, patch_tokens)
        assert patch_tokens is not None
        if config.ablation_mode == "image_only":
            kept = concept_emb.new_ones(patch_tokens.shape[:2]) if key_mask is None else (~key_mask).to(concept_emb)
            weights = kept / kept.sum(1, keepdim=True)  # (B, P)
            # Projection and mean commute, so the patches are averaged first.
            mean = (weights[:, None] @ patch_tokens.to(weights)).squeeze(1)  # (B, D)
            attention = weights[:, None].expand(-1, config.heads, -1)
            return self.image_pool(self.patch_projection(mean)), attention
        concept = self.concept_projection(self.concept_norm(concept_emb))  # (B, E)
        attended, attention = self.attention(concept, patch_tokens, key_mask)
        if config.ablation_mode == "hybrid" and not config.averages:
            return self.attention_norm(attended), attention  # what the probabilities ask the patches for
        fused = self.attention_norm(concept + self.drop(attended))
        fused = self.feed_forward_norm(fused + self.drop(self.feed_forward(fused)))
        if config.gating:
            gate = torch.sigmoid(self.gate(torch.cat([concept, fused], dim=-1)))  # (B, E)
            fused = gate * concept + (1 - gate) * fused
        if config.explicit_fusion:
            fused = self.fusion(torch.cat([concept, fused], dim=-1))
        return fused, attention

    def decode(self, output: Stage2Output) -> tuple[Tensor, Tensor]:
        """Latitudes in [-90, 90] and longitudes in [-180, 180), `(B,)` degrees: the likeliest cell and its offset."""
        best = output.cell_logits.argmax(-1)
        kind = self.config.offset_kind
        scale = self.cell_scale_km[best] if kind == "tangent" else None
        return decode_offsets(self.cell_centers[best], output.offsets, kind, scale)

    def description(self, cells_digest: str) -> dict[str, Any]:
        """What a checkpoint's JSON must say, so that the head can be built again for the cells of this digest."""
        return {
            "stage": 2,
            "config": asdict(self.config),
            "cells_digest": cells_digest,
            "concept_dim": self.concept_dim,
            "token_dim": self.token_dim,
        }

    def predictions(self, output: Stage2Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whether the cell is right, the answered and the true place in degrees, `(B,)` each."""
        pred_lat, pred_lng = self.decode(output)
        right = output.cell_logits.argmax(-1) == batch["cell_label"]
        found = {"cell": right, "pred_lat": pred_lat, "pred_lng": pred_lng, "lat": batch["lat"], "lng": batch["lng"]}
        return found if output.residual_logits is None else found | {"residual_share": output.residual_share}

    def measure(self, predictions: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy of the cells, median error in km, mean GeoScore, and in mode `hybrid` the share of the residual."""
        km = haversine_km(*(predictions[name].numpy() for name in ("pred_lat", "pred_lng", "lat", "lng")))
        values = {
            "cell_top1": float(predictions["cell"].float().mean()),
            "median_km": float(np.median(km)),
            "geoscore": float(geoscore(km).mean()),
        }
        if "residual_share" in predictions:
            values["residual_share"] = float(predictions["residual_share"].mean())
        return values

    def examples(self, output: Stage2Output, batch: Mapping[str, Tensor], labels: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of a table of examples: true and answered places, and the probability of the cell."""
        answered = tuple(each.cpu().numpy() for each in self.decode(output))
        probability = output.cell_logits.float().softmax(-1).amax(-1).cpu().numpy()
        true = (batch["lat"].cpu().numpy(), batch["lng"].cpu().numpy())
        return place_columns(true, answered) | {"cell_probability": probability}


def _pick(by_cell: Tensor, cell: Tensor) -> Tensor:
    """Of offsets for every cell `(B, N, d)` those of one cell per row, `(B, d)`."""
    return by_cell[torch.arange(len(cell), device=cell.device), cell]


def _linear(layer: nn.Linear, scores: Tensor, mode: str) -> Tensor:
    """Apply a layer on the probabilities; in `hybrid` it is frozen but part of the checkpoint."""
    if mode == "hybrid":
        return functional.linear(scores, layer.weight.detach(), layer.bias.detach())
    return layer(scores)
