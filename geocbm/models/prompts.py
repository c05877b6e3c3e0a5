"""Prompts whose text encoder is trained along with the image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from geocbm.data.concepts import META_TEMPLATES, PARENT_TEMPLATES, prompts

if TYPE_CHECKING:
    from geocbm.encoders import TextEncoder


class PromptPrototypes(nn.Module):
    """Base prototypes encoded anew at each call, with gradients into the text encoder (DECISIONS E4).

    The formula is that of `encoders.prototypes` (specification, section "Prototype Construction"). The parameters that
    the vectors depend on are unfrozen here. Of `chunk` prompts per pass the activations are computed again for the
    gradient, so that memory does not grow with the vocabulary, at 4/3 of the work; 0 encodes all at once.
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        metas: Sequence[str],
        parents: Sequence[str],
        chunk: int = 0,
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        for parameter in text_encoder.used_parameters().values():
            parameter.requires_grad_(True)
        self.dim = text_encoder.dim  # width of a prototype
        self.counts = (len(metas), len(parents))
        self.chunk = chunk
        texts = [text for name in metas for text in prompts(name, META_TEMPLATES)]
        texts += [text for name in parents for text in prompts(name, PARENT_TEMPLATES)]
        self._token_names = []
        for name, value in text_encoder.tokenize(texts).items():
            self.register_buffer(f"tokens_{name}", value, persistent=False)  # (n, T)
            self._token_names.append(name)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Unit vectors of the metas `(k_m, dim)` and of the parents `(k_p, dim)`."""
        tokens = {name: getattr(self, f"tokens_{name}") for name in self._token_names}
        n_prompts = len(next(iter(tokens.values())))
        vectors = []
        for start in range(0, n_prompts, self.chunk or n_prompts):
            part = {name: value[start : start + (self.chunk or n_prompts)] for name, value in tokens.items()}
            if self.chunk and torch.is_grad_enabled():
                vectors.append(checkpoint(self.text_encoder.embed, part, use_reentrant=False))
            else:
                vectors.append(self.text_encoder.embed(part))
        unit = normalize(torch.cat(vectors).float(), dim=-1)  # (n, dim)
        split = self.counts[0] * len(META_TEMPLATES)
        meta = unit[:split].unflatten(0, (-1, len(META_TEMPLATES))).mean(1)
        parent = unit[split:].unflatten(0, (-1, len(PARENT_TEMPLATES))).mean(1)
        return normalize(meta, dim=-1), normalize(parent, dim=-1)
