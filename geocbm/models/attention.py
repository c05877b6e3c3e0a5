"""Attention of the concept over many patch tokens, at the cost of reading the tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

PART_BYTES = 5_000_000
"""Tokens are visited in parts of about this size, which a processor's cache holds from one visit to the next."""


def attend_tokens(
    query: Tensor, weight: Tensor, tokens: Tensor, key_mask: Tensor | None, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`softmax(q W X^T) X W^T` per image, of tokens `(B, P, D)` of any precision: no patch is projected.

    The scaled query is `(B, H, E)`, the projection of the patches `(E, D)`; a patch where the mask `(B, P)` is True
    must not be attended, and `keep` `(B, H, P)` are factors of dropout on the attention. Gives the attended projected
    patches without their bias `(B, H, E)`, the attention before dropout `(B, H, P)` and its sum after dropout `(B, H,
    1)`.
    """
    tokens = tokens.to(query.dtype)
    scores = query @ weight @ tokens.transpose(1, 2)  # (B, H, P)
    if key_mask is not None:
        scores = scores.masked_fill(key_mask[:, None], -torch.inf)
    attention = scores.softmax(-1)
    kept = attention if keep is None else attention * keep
    return kept @ tokens @ weight.T, attention, kept.sum(-1, keepdim=True)


class AttendTokens(torch.autograd.Function):
    """`attend_tokens` with its derivative written out, for tokens that need no gradient, on a processor.

    Automatic differentiation gives the same numbers. By hand the tokens `X` may stay in half precision: a part of
    them at a time is widened into one buffer, where autograd would write and keep a whole batch in single precision
    (75 MB at 32 x 576 x 1024, and most of the time is spent on fresh memory). The products also run in the layout in
    which the long side is the rows, which is faster for 8 heads.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, weight: Tensor, tokens: Tensor, key_mask: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend; arguments and results are those of `attend_tokens`."""
        carried = query @ weight  # (B, H, D): the query in the space of the tokens
        attention = query.new_empty(*query.shape[:2], tokens.shape[1])  # (B, H, P)
        attended = torch.empty_like(carried)  # (B, H, D)
        for part, wide in _parts(tokens, query.dtype):
            scores = torch.bmm(wide, carried[part].transpose(1, 2)).transpose(1, 2).contiguous()  # (b, H, P)
            if key_mask is not None:
                scores = scores.masked_fill(key_mask[part, None], -torch.inf)
            attention[part] = scores.softmax(-1)
            kept = attention[part] if keep is None else attention[part] * keep[part]
            torch.bmm(kept, wide, out=attended[part])
        share = attention.new_ones(*query.shape[:2], 1) if keep is None else (attention * keep).sum(-1, keepdim=True)
        ctx.save_for_backward(query, weight, tokens, keep, attention, attended)
        return attended @ weight.T, attention, share

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query and weight from those of the three results."""
        query, weight, tokens, keep, attention, attended = ctx.saved_tensors
        from_projected, from_attention, from_share = gradients
        from_attended = from_projected @ weight  # (B, H, D)
        to_carried = torch.empty_like(from_attended)  # (B, H, D)
        for part, wide in _parts(tokens, query.dtype):
            to_kept = torch.bmm(wide, from_attended[part].transpose(1, 2)).transpose(1, 2).contiguous()  # (b, H, P)
            # Without dropout the shares are the constant 1.
            slope = from_attention[part] + (to_kept if keep is None else (to_kept + from_share[part]) * keep[part])
            weighted = slope * attention[part]
            # The derivative of the softmax: deviations from the attended mean of the slopes.
            to_scores = torch.addcmul(weighted, attention[part], weighted.sum(-1, keepdim=True), value=-1)
            torch.bmm(to_scores, wide, out=to_carried[part])
        # The weight is used on the way in and on the way out.
        to_weight = query.flatten(0, 1).T @ to_carried.flatten(0, 1)  # (E, D)
        to_weight.addmm_(from_projected.flatten(0, 1).T, attended.flatten(0, 1))
        return to_carried @ weight.T, to_weight, None, None, None


def _parts(tokens: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Parts `(slice, (b, P, D))` of the tokens in the precision of the weights; a part lives until the next.

    Tokens that have it already are one part: nothing is gained by dividing them.
    """
    if tokens.dtype == dtype:
        yield slice(0, len(tokens)), tokens
        return
    size = max(1, PART_BYTES // max(1, tokens[:1].numel() * dtype.itemsize))
    buffer = torch.empty(min(size, len(tokens)), *tokens.shape[1:], dtype=dtype, device=tokens.device)
    for start in range(0, len(tokens), size):
        part = slice(start, min(start + size, len(tokens)))
        yield part, buffer[: part.stop - start].copy_(tokens[part])


class ConceptCrossAttention(nn.Module):
    """Multi-head attention of one query over projected patches that are never formed.

    With linear projections `q . (W_k W_p x) = (W_p^T W_k^T q) . x` and `sum_j a_j W_v W_p x_j = W_v W_p sum_j a_j x_j`:
    the query is carried into the space of the tokens and only the attended mean is projected. Outputs and gradients
    are those of projecting every patch and applying `nn.MultiheadAttention`. A bias of the keys would shift all scores
    of a query alike, so that the softmax removes it; there is none. Dropout acts on the attention weights.
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
        """Attend with queries `(B, E)` to patch tokens `(B, P, D)` of any precision, not projected.

        `key_mask (B, P)` is True where a patch must not be attended. Gives `(B, E)` attended patches, and
        `(B, heads, P)` attention before dropout.
        """
        h, e = self.heads, self.head_dim
        projection = self.patch_projection
        q = self.query(query).unflatten(-1, (h, e)) / math.sqrt(e)  # (B, H, e)
        q = torch.einsum("bhe,hef->bhf", q, self.key.weight.unflatten(0, (h, e)))  # (B, H, E)
        keep = None
        if self.training and self.dropout:
            keep = q.new_empty(len(q), h, tokens.shape[1]).bernoulli_(1 - self.dropout).div_(1 - self.dropout)
        automatic = tokens.requires_grad or tokens.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        attend = attend_tokens if automatic else AttendTokens.apply
        context, attention, share = attend(q, projection.weight, tokens, key_mask, keep)
        # Dropout leaves weights that do not sum to 1, and the biases must be scaled as each patch's own would be.
        context = context + share * projection.bias  # (B, H, E)
        value = torch.einsum("bhf,hef->bhe", context, self.value.weight.unflatten(0, (h, e)))
        value = value + share * self.value.bias.unflatten(0, (h, e))  # (B, H, e)
        return self.out(value.flatten(1)), attention
