"""Concept bottlenecks: from the features of an image to its concept embedding."""

from __future__ import annotations

from torch import Tensor, nn

from geocbm.errors import ParameterError


class MLPBottleneck(nn.Module):
    """Two linear layers with dropout between them (specification, section "Stage 1").

    Args:
        in_dim: width of the pooled features.
        out_dim: width of the concept embedding.
        hidden_dim: width between the layers.
        dropout: probability of dropping a hidden unit in training.
    """

    needs_tokens = False

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
        """Embed pooled features.

        Args:
            pooled: `(B, in_dim)`.
            tokens: patch tokens, not used by this kind.

        Returns:
            `(B, out_dim)` concept embeddings, not normalised.
        """
        return self.layers(pooled)


# Every kind takes (in_dim, out_dim, hidden_dim, dropout) and is called with (pooled, tokens).
BOTTLENECKS: dict[str, type[nn.Module]] = {"mlp": MLPBottleneck}


def check_bottleneck(kind: str) -> None:
    """Raise `ParameterError` unless `kind` names a bottleneck."""
    if kind not in BOTTLENECKS:
        raise ParameterError(f"bottleneck={kind!r} is unknown; known: {', '.join(sorted(BOTTLENECKS))}")


def build_bottleneck(
    kind: str, in_dim: int, out_dim: int = 512, hidden_dim: int = 1024, dropout: float = 0.4
) -> nn.Module:
    """Make a bottleneck by name.

    Args:
        kind: a key of `BOTTLENECKS`.
        in_dim: width of the pooled features.
        out_dim: width of the concept embedding.
        hidden_dim: width between the layers.
        dropout: probability of dropping a hidden unit in training.

    Returns:
        A module called with `(pooled, tokens=None)`; its attribute `needs_tokens` says whether it reads the tokens.

    Raises:
        ParameterError: for an unknown kind.
    """
    check_bottleneck(kind)
    return BOTTLENECKS[kind](in_dim, out_dim, hidden_dim, dropout)
