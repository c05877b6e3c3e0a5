"""GeoCBM: pixels -> concepts -> place, the three trained stages as one module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from geocbm.models.stage2_inference import concept_input

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead, Stage2Output


class ConceptScores(NamedTuple):
    """What Stage 1 says of a batch, as Stage 2 reads it."""

    concept_input: Tensor  # what the head reads in its mode: (B, c) embeddings, or (B, k_m + k_p) probabilities
    concept_emb: Tensor  # (B, c)
    meta_probabilities: Tensor  # (B, k_m)
    parent_probabilities: Tensor  # (B, k_p)
    meta_maps: Tensor | None = None  # (B, P, k_m) score of each meta on each patch, of the "patch" bottleneck only

    @property
    def probabilities(self) -> Tensor:
        """`(B, k_m + k_p)` of metas and then parents."""
        return torch.cat([self.meta_probabilities, self.parent_probabilities], dim=1)


class GeoCBMOutput(NamedTuple):
    """What the whole model says of a batch of pictures."""

    pooled: Tensor  # (B, d) image features
    patch_tokens: Tensor  # (B, P, w)
    concepts: ConceptScores
    place: Stage2Output

    def rows(self, chosen: slice) -> GeoCBMOutput:
        """The same of some of the pictures."""
        return _rows(self, chosen)


class GeoCBM(nn.Module):
    """Image encoder, Stage 1 and Stage 2 (which holds the centres of the cells) in a row, always in evaluation mode.

    The encoder has the blocks of Stage 0 in place; it is None where features are given.
    """

    def __init__(
        self, encoder: ImageEncoder | None, concept_model: Stage1ConceptModel, geo_head: Stage2CrossAttentionGeoHead
    ) -> None:
        super().__init__()
        self.encoder, self.concept_model, self.geo_head = encoder, concept_model, geo_head
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.geo_head.cell_centers.device

    def scores(self, pooled: Tensor, tokens: Tensor | None = None) -> ConceptScores:
        """Stage 1 of features `(B, d)`, and of patch tokens `(B, P, w)` for a bottleneck that reads them."""
        output = self.concept_model(pooled, tokens)
        said = output.probabilities()
        return ConceptScores(concept_input(self.geo_head.config, said), **said, meta_maps=output.meta_maps)

    def from_features(self, pooled: Tensor, tokens: Tensor) -> GeoCBMOutput:
        """Concepts and place of encoded pictures, from `(B, d)` and `(B, P, w)`."""
        concepts = self.scores(pooled, tokens)
        return GeoCBMOutput(pooled, tokens, concepts, self.geo_head(concepts.concept_input, tokens))

    def forward(self, pixel_values: Tensor) -> GeoCBMOutput:
        """Concepts and place of pictures `(B, 3, H, W)`, as `ImageEncoder.preprocess` gives them."""
        assert self.encoder is not None, "this GeoCBM was made without an encoder; call from_features"
        return self.from_features(*self.encoder(pixel_values))


def _rows(values: Any, chosen: slice) -> Any:
    """Some rows of a tensor, or of every tensor in a named tuple."""
    if isinstance(values, tuple):
        return type(values)(*(_rows(value, chosen) for value in values))
    return None if values is None else values[chosen]
