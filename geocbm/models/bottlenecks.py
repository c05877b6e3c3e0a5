"""Concept bottlenecks: from the features of an image to its concept embedding.

Three kinds. `mlp` and `transformer` are the specification's two options (section "Stage 1"): one embedding per image,
compared with the prototypes. `patch` scores each concept on each patch; the scores are pooled over the patches
by `pool_scores`, and what they leave behind is a map per concept.

Each is called with `pooled (B, in_dim)` and `tokens (B, P, token_dim)` of any precision, and gives `(B, out_dim)`
embeddings that are not normalised, or normalised tokens `(B, P, token_dim)` for "patch". Any `nn.Module` called so can
take their place; it says of itself by `needs_tokens` whether it reads the tokens, and by `has_maps` whether it scores
concepts on patches, by a method `cosines` (see `PatchBottleneck`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocbm.errors import ParameterError
from geocbm.training.settings import TrainingSettings

LAYER_DROPOUT = 0.1
"""Inside the layers of the transformer; the bottleneck's own dropout acts before its last projection."""

TINY = 1e-12


class MLPBottleneck(nn.Module):
    """Two linear layers with dropout between them (specification, section "Stage 1", option 1)."""

    needs_tokens = False
    has_maps = False
    shape_settings = ("hidden_dim",)

    @classmethod
    def build(cls, settings: BottleneckSettings, in_dim: int, token_dim: int) -> MLPBottleneck:
        """Make one as settings say."""
        return cls(in_dim, settings.concept_emb_dim, settings.hidden_dim, settings.dropout)

    def __init__(self, in_dim: int, out_dim: int = 512, hidden_dim: int = 1024, dropout: float = 0.4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, out_dim),
        )

    def forward(self, pooled: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Embed pooled features; tokens are not used."""
        return self.layers(pooled)


class TransformerBottleneck(nn.Module):
    """Transformer layers over the patches, a class token and attention pooling (section "Stage 1", option 2).

    The class token starts from the pooled features. After the layers a learned query attends to the patches; its answer
    and the class token together give the embedding.
    """

    needs_tokens = True
    has_maps = False
    shape_settings = ("transformer_width", "transformer_layers", "transformer_heads")

    @classmethod
    def build(cls, settings: BottleneckSettings, in_dim: int, token_dim: int) -> TransformerBottleneck:
        """Make one as settings say."""
        widths = in_dim, token_dim, settings.concept_emb_dim, settings.transformer_width
        return cls(*widths, settings.transformer_layers, settings.transformer_heads, settings.dropout)

    def __init__(
        self,
        in_dim: int,
        token_dim: int,
        out_dim: int = 512,
        width: int = 512,  # inside the layers
        layers: int = 2,
        heads: int = 8,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.pooled_projection = nn.Linear(in_dim, width)
        self.token_projection = nn.Linear(token_dim, width)
        self.class_token = nn.Parameter(torch.randn(width) * 0.02)
        # Normalisation before each block needs no warm-up of its own to be stable.
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, LAYER_DROPOUT, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        for each in self.encoder.layers:
            each.self_attn.dropout = 0.0  # dropout of attention weights rules out the fused kernel: 3.5 times the time
        self.pool_query = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(2 * width, out_dim)

    def forward(self, pooled: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Embed pooled features and patches; a ParameterError without the latter."""
        tokens = _given(tokens, "transformer").to(pooled.dtype)
        first = (self.class_token + self.pooled_projection(pooled))[:, None]  # (B, 1, W)
        hidden = self.encoder(torch.cat([first, self.token_projection(tokens)], dim=1))  # (B, 1 + P, W)
        patches = hidden[:, 1:]
        attention = (patches @ self.pool_query / math.sqrt(len(self.pool_query))).softmax(-1)  # (B, P)
        attended = (attention[:, None] @ patches).squeeze(1)  # (B, W)
        return self.out(self.drop(torch.cat([hidden[:, 0], attended], dim=-1)))


class PatchBottleneck(nn.Module):
    """Every patch becomes a point among the prototypes; concepts are looked for patch by patch."""

    needs_tokens = True
    has_maps = True
    shape_settings = ()

    @classmethod
    def build(cls, settings: BottleneckSettings, in_dim: int, token_dim: int) -> PatchBottleneck:
        """Make one as settings say."""
        return cls(token_dim, settings.concept_emb_dim, settings.dropout)

    def __init__(self, token_dim: int, out_dim: int = 512, dropout: float = 0.4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(token_dim)
        self.drop = nn.Dropout(dropout)
        self.projection = nn.Linear(token_dim, out_dim)

    def forward(self, pooled: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Normalise the tokens in the precision of `pooled`; `cosines` does the rest. A ParameterError without them."""
        return self.drop(self.norm(_given(tokens, "patch").to(pooled.dtype)))

    def cosines(self, tokens: Tensor, prototypes: Tensor) -> Tensor:
        """Similarity `(B, P, k)` of every patch of tokens `(B, P, w)` with every prototype `(k, c)` of length 1.

        The embeddings `e = W x + b` are formed only where they are narrower than the tokens. Else `e . t` is taken as
        `x . (W^T t) + b . t` and `|e|^2` from `W^T W`: the same numbers for a third of the work.
        """
        weight, bias = self.projection.weight, self.projection.bias  # (c, D), (c,)
        if len(bias) < tokens.shape[-1]:
            embedded = self.projection(tokens)  # (B, P, c)
            length = torch.linalg.vector_norm(embedded, dim=-1, keepdim=True).clamp_min(TINY)
            return embedded @ prototypes.T / length
        products = tokens @ (weight.T @ prototypes.T) + prototypes @ bias  # (B, P, k)
        square = (tokens @ (weight.T @ weight) * tokens).sum(-1, keepdim=True)
        square = square + tokens @ (2 * weight.T @ bias)[:, None] + bias @ bias  # (B, P, 1)
        return products / square.clamp_min(TINY).sqrt()


def pool_scores(scores: Tensor, top_k: int) -> Tensor:
    """Score `(B, k)` of a concept in an image from its scores `(B, P, k)` on the patches: a soft mean of the highest.

    `log(mean(exp(s)))` over the `top_k` highest scores lies between their mean and their maximum: one clear patch is
    enough, and several that agree say more than one alone.
    """
    top_k = min(top_k, scores.shape[1])
    return scores.topk(top_k, dim=1).values.logsumexp(1) - math.log(top_k)


def mix_prototypes(log_probabilities: Tensor, prototypes: Tensor) -> Tensor:
    """Embedding `(B, c)` of an image from log probabilities `(B, k)` of the concepts: `sum_i sqrt(p_i) t_i`.

    The square root keeps the several concepts of a picture visible beside the most probable one: a probability of 4 %
    still has a fifth of the weight of certainty. The prototypes `(k, c)` have length 1.
    """
    # Half the log-probability: the square root itself has no slope at 0.
    return (log_probabilities / 2).exp() @ prototypes


def _given(tokens: Tensor | None, kind: str) -> Tensor:
    if tokens is None:
        raise ParameterError(f"bottleneck={kind!r} reads patch tokens, but tokens is None; give (B, P, token_dim)")
    return tokens


BOTTLENECKS: dict[str, Any] = {"mlp": MLPBottleneck, "transformer": TransformerBottleneck, "patch": PatchBottleneck}
"""The kinds by the name that settings call them."""


@dataclass(frozen=True)
class BottleneckSettings(TrainingSettings):
    """What Stages 0 and 1 have in common: their training, and their bottleneck.

    Stage 1 starts from Stage 0's bottleneck where it has the same kind and shape.
    """

    bottleneck: Literal["mlp", "transformer", "patch"] = "mlp"
    concept_emb_dim: int = 512  # width of the concept embedding
    dropout: float = 0.4  # in the bottleneck
    hidden_dim: int = 1024  # width between the layers of "mlp"
    transformer_width: int = 512  # inside the layers of "transformer"
    transformer_layers: int = 2
    transformer_heads: int = 8
    top_patches: int = 8  # patches that make up the score of a concept in "patch"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers(
            "concept_emb_dim", "hidden_dim", "top_patches", *TransformerBottleneck.shape_settings, least=1
        )
        width, heads = self.transformer_width, self.transformer_heads
        if width % heads:
            raise ParameterError(f"transformer_width={width} is no multiple of transformer_heads={heads}; choose one")
        self.check_numbers("dropout", least=0, below=1)

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """A bottleneck may be one that was entered in `BOTTLENECKS` later."""
        return super().choices | {"bottleneck": tuple(BOTTLENECKS)}

    @property
    def bottleneck_shape(self) -> dict[str, int]:
        """The settings on which the weights of the bottleneck and their meaning depend, for its kind."""
        return {name: getattr(self, name) for name in ("concept_emb_dim", *BOTTLENECKS[self.bottleneck].shape_settings)}


def build_bottleneck(settings: BottleneckSettings, in_dim: int, token_dim: int | None = None) -> Any:
    """The bottleneck that settings name, for pooled features and patch tokens of these widths.

    Raises:
        ParameterError: it reads tokens, but their width is None.
    """
    kind = BOTTLENECKS[settings.bottleneck]
    if kind.needs_tokens and token_dim is None:
        raise ParameterError(f"bottleneck={settings.bottleneck!r} reads patch tokens; give token_dim, their width")
    return kind.build(settings, in_dim, token_dim)


def score_patches(bottleneck: Any, tokens: Tensor, metas: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of metas `(B, P, k_m)` and parents `(B, P, k_p)` on every patch, by a bottleneck with a method `cosines`.

    `tokens` `(B, P, w)` are what it made of the patches; prototypes `(k_m, c)` and `(k_p, c)` have length 1.
    """
    cosines: Tensor = bottleneck.cosines(tokens, torch.cat([metas, parents]))
    meta, parent = cosines.split([len(metas), len(parents)], dim=-1)
    return meta, parent
