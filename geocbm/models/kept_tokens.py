"""Kept tokens: of each picture the patches on which Stage 1 sees its concepts best, where all cannot be stored."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.errors import ParameterError
from geocbm.models.bottlenecks import PatchBottleneck
from geocbm.models.stage1 import Stage1ConceptModel

KEPT = "kept"
"""Kind of a feature store: which patches its tokens are of, `(P,)`, 1 or 0."""


class PatchKeeper(nn.Module):
    """Chooses k patches of a picture: those with the highest share in the map of any concept (meta).

    The share is the softmax over the patches of what Stage 1 says of the concept on each: a patch is kept where some
    concept stands out. By the score itself the patches of one clear thing, or of what is everywhere, take all places;
    on the demonstration world that was no better than patches at random. Nothing is trained here; Stage 2 carries it,
    and so looks at the same patches of a new photograph.

    Args:
        n_metas: concepts.
        width: of the concept embedding, c.
        token_dim: width of the patch tokens, w.
        kept: k.
    """

    weight: Tensor  # (c, w) and
    offset: Tensor  # (c,): from a normalised token to the space of the prototypes
    prototypes: Tensor  # (k_m, c), as long as Stage 1's scale

    def __init__(self, n_metas: int, width: int, token_dim: int, kept: int) -> None:
        super().__init__()
        self.kept = kept
        shapes = {"weight": (width, token_dim), "offset": (width,), "prototypes": (n_metas, width)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    @classmethod
    def of(cls, stage1: Stage1ConceptModel, kept: int) -> PatchKeeper:
        """That of a trained Stage 1; a ParameterError where its bottleneck scores no patches."""
        own = stage1.bottleneck
        if not isinstance(own, PatchBottleneck):
            raise ParameterError(
                "tokens='top-k' keeps the patches on which Stage 1 sees concepts best, but "
                f"bottleneck={stage1.config.bottleneck!r} scores no patches; set 04.bottleneck=patch, or tokens='all'"
            )
        width, token_dim = own.projection.weight.shape
        keeper = cls(len(stage1.meta_bias), width, token_dim, kept)
        with torch.no_grad():  # the affine part of the norm goes into the projection
            keeper.weight.copy_(own.projection.weight * own.norm.weight)
            keeper.offset.copy_(own.projection.weight @ own.norm.bias + own.projection.bias)
            keeper.prototypes.copy_(stage1.prototypes()[0] * stage1.scale("meta"))
        return keeper

    def forward(self, tokens: Tensor) -> Tensor:
        """Which patches of tokens `(B, P, w)` are kept, `(B, P)` booleans: k of each picture, or all where P <= k."""
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            seen = functional.layer_norm(tokens.to(self.weight.dtype), tokens.shape[-1:])  # (B, P, w)
            embedded = functional.normalize(functional.linear(seen, self.weight, self.offset), dim=-1)  # (B, P, c)
            highest = (embedded @ self.prototypes.T).log_softmax(1).amax(-1)  # (B, P)
            best = highest.topk(min(self.kept, tokens.shape[1]), dim=1).indices  # (B, k)
            return torch.zeros_like(highest, dtype=torch.bool).scatter(1, best, True)


def on_grid(attention: Tensor, kept: Tensor) -> Tensor:
    """Attention `(B, heads, k)` to kept patches placed on the grid, `(B, heads, P)`; 0 where a patch was not kept.

    `kept` `(B, P)` marks k patches of each picture, whose tokens stand in the order of the grid.
    """
    marked = kept.bool().to(attention.device)[:, None].expand(-1, attention.shape[1], -1)  # (B, heads, P)
    return attention.new_zeros(marked.shape).masked_scatter(marked, attention.reshape(-1))
