"""Prompts whose text encoder is trained along with the image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from geocbm.data.concepts import META_TEMPLATES, PARENT_TEMPLATES, prompts
from geocbm.errors import ParameterError

if TYPE_CHECKING:
    from geocbm.encoders import TextEncoder


class PromptPrototypes(nn.Module):
    """Base prototypes encoded anew at each call, with gradients into the text encoder (DECISIONS E4).

    The prompts of all metas and parents are tokenised once, as one batch, from templates with `{}` where the name goes.
    The formula is that of `encoders.prototypes` (specification, section "Prototype Construction"): per name the mean of
    its normalised prompt embeddings, normalised again. The parameters that the vectors depend on are unfrozen here. Of
    `chunk` prompts per pass the activations are computed again for the gradient, so that memory does not grow with the
    vocabulary, at 4/3 of the work; 0 encodes all at once and keeps them.
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        metas: Sequence[str],
        parents: Sequence[str],
        meta_templates: Sequence[str] = META_TEMPLATES,
        parent_templates: Sequence[str] = PARENT_TEMPLATES,
        chunk: int = 0,
    ) -> None:
        super().__init__()
        if chunk < 0:
            raise ParameterError(f"chunk={chunk} is impossible; give a number of prompts, or 0 for all at once")
        for name, values in (("metas", metas), ("parents", parents)):
            if not values:
                raise ParameterError(f"{name} is empty; give at least one name")
        self.text_encoder = text_encoder
        for parameter in text_encoder.used_parameters().values():
            parameter.requires_grad_(True)
        self.dim = text_encoder.dim  # width of a prototype
        self.counts = (len(metas), len(parents))
        self.chunk = chunk
        self._n_templates = (len(meta_templates), len(parent_templates))
        texts = [text for name in metas for text in prompts(name, meta_templates)]
        texts += [text for name in parents for text in prompts(name, parent_templates)]
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
        n_meta_prompts = self.counts[0] * self._n_templates[0]
        meta = unit[:n_meta_prompts].view(self.counts[0], self._n_templates[0], self.dim).mean(1)
        parent = unit[n_meta_prompts:].view(self.counts[1], self._n_templates[1], self.dim).mean(1)
        return normalize(meta, dim=-1), normalize(parent, dim=-1)
