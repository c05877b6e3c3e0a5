"""Scores of random directions, made as Stage 1 makes those of its concepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geocbm.models.bottlenecks import pool_scores

if TYPE_CHECKING:
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage1 import Stage1ConceptModel

SAMPLE = 512
"""Training images from which the centre and the spread are taken."""
_NUMBERS_AT_ONCE = 20_000_000  # bounds the memory of the scores of a batch


def _read(features: FeatureStore, by_patch: bool, rows: np.ndarray) -> Tensor:
    """Vectors `(B, P, w)` that directions are compared with, normalised each by itself; one per image has P = 1."""
    vectors = features.read("tokens", rows) if by_patch else features.read("pooled", rows)[:, None]
    return functional.layer_norm(vectors, vectors.shape[-1:])


def _spread(values: Tensor) -> float:
    """Spread over images and patches of the scores `(B, P, k)` of a concept, averaged over the concepts.

    What all concepts have in common in a place is taken off first: the softmax does not see it.
    """
    return float((values - values.mean(-1, keepdim=True)).flatten(0, 1).std(0).mean())


def _stage1_spread(model: Stage1ConceptModel, features: FeatureStore, rows: np.ndarray) -> float:
    """The same of Stage 1's own scores: on the patches where it has maps, else on the images."""
    device = model.meta_bias.device
    model.eval()
    with torch.no_grad():
        tokens = features.read("tokens", rows).to(device) if model.needs_tokens else None
        output = model(features.read("pooled", rows).to(device), tokens)
        return _spread(output.meta_logits[:, None] if output.meta_maps is None else output.meta_maps)


def random_concepts(
    model: Stage1ConceptModel, features: FeatureStore, train_rows: np.ndarray, seeds: list[int]
) -> Iterator[dict[str, Tensor]]:
    """Probabilities of as many random directions as Stage 1 has metas and parents, once for every seed.

    What is compared is what the bottleneck reads: the patch tokens of the adapted encoder for "patch", else its pooled
    features. Each vector is normalised by itself and the mean over training images is taken off, because a random
    direction would else see little but what all images share. The cosine with each direction is multiplied by one
    factor, chosen so that scores spread over images and patches as much as Stage 1's do; pooling over the patches and
    the two softmaxes are Stage 1's. No label, no name and no weight of the bottleneck plays a part.

    Args:
        model: the run's Stage 1, for its numbers of concepts, its pooling and the spread of its scores.
        features: the adapted features of all rows.
        train_rows: row positions of the training split.
        seeds: one for each set of directions.

    Yields:
        `meta_probabilities (n, k_m)` and `parent_probabilities (n, k_p)` of all rows, in the order of the seeds.
    """
    by_patch = model.config.bottleneck == "patch"
    counts = (len(model.meta_base), len(model.parent_base))
    sample = np.asarray(train_rows)[np.linspace(0, len(train_rows) - 1, min(SAMPLE, len(train_rows))).astype(int)]
    read = _read(features, by_patch, sample)
    centre = read.mean((0, 1))  # (w,)
    directions = torch.cat(
        [torch.randn(sum(counts), len(centre), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    directions = functional.normalize(directions, dim=-1)  # (draws * k, w)

    def cosines(vectors: Tensor) -> Tensor:
        return functional.normalize(vectors - centre, dim=-1) @ directions.T  # (B, P, draws * k)

    few = sample[:: max(1, len(sample) // 64)]
    factor = _stage1_spread(model, features, few) / max(_spread(cosines(_read(features, by_patch, few))), 1e-12)
    step = max(1, _NUMBERS_AT_ONCE // (read.shape[1] * len(directions)))
    parts = []
    for start in range(0, features.n, step):
        scores = factor * cosines(_read(features, by_patch, np.arange(start, min(start + step, features.n))))
        parts.append(pool_scores(scores, model.config.top_patches) if by_patch else scores[:, 0])
    for own in torch.cat(parts).split(sum(counts), dim=1):
        meta, parent = own.split(counts, dim=1)
        yield {"meta_probabilities": meta.softmax(-1), "parent_probabilities": parent.softmax(-1)}
