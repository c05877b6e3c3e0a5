"""Maps over the patches of a picture: of a concept, and the controls that know nothing of the picture.

All maps are not negative, so that their maximum and their mass can both be asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geocbm.errors import ParameterError

if TYPE_CHECKING:
    import torch

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.run import Run

SCORE, SHARE, GRADIENT = "score", "share", "gradient x input"
MAP_KINDS = (SCORE, SHARE)
CENTRE_SPREAD = 0.25
"""Standard deviation of the map that prefers the middle, in sides of the picture."""


def kinds_of_map(model: Stage1ConceptModel) -> tuple[str, ...]:
    """The kinds of map that a concept model offers.

    The "patch" bottleneck scores every concept on every patch. "score" is the exponential of that score; "share" is the
    part that the concept has in the exponentials of all concepts on the patch: how much the patch speaks for it rather
    than for another. Other bottlenecks have no map of their own; "gradient x input" is made for them.
    """
    return MAP_KINDS if model.config.bottleneck == "patch" else (GRADIENT,)


def concept_maps(
    files: Run,
    encoder: ImageEncoder,
    model: Stage1ConceptModel,
    features: FeatureStore,
    rows: np.ndarray,
    metas: np.ndarray,
    kind: str | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """The map of a concept for each pair of picture and concept.

    Args:
        files: the run, for its pictures.
        encoder: the adapted encoder.
        model: Stage 1.
        features: the adapted features.
        rows: `[n]` rows of the table; the pairs of one picture should follow each other.
        metas: `[n]` concepts.
        kind: one of `kinds_of_map`; None takes the last of them.
        batch_size: pictures at a time.

    Returns:
        `[n, P]` float32, not negative.

    Raises:
        ParameterError: the model has no map of that kind, or rows and concepts differ in number.
    """
    kinds = kinds_of_map(model)
    kind = kinds[-1] if kind is None else kind
    if kind not in kinds:
        raise ParameterError(
            f"kind is {kind!r}; the maps of bottleneck={model.config.bottleneck!r} are of the kind "
            f"{', '.join(map(repr, kinds))}"
        )
    rows, metas = np.asarray(rows, dtype=np.int64), np.asarray(metas, dtype=np.int64)
    if rows.shape != metas.shape:
        raise ParameterError(f"rows has {rows.shape} entries and metas {metas.shape}; give a concept for each row")
    if not len(rows):
        return np.zeros((0, encoder.grid[0] * encoder.grid[1]), dtype=np.float32)
    model.eval()
    if kind != GRADIENT:
        return _own_maps(model, features, rows, metas, kind, batch_size)
    by_tokens = model.needs_tokens
    parts = []
    for start in range(0, len(rows), batch_size):
        part, wanted = rows[start : start + batch_size], metas[start : start + batch_size]
        parts.append(
            _token_gradient(model, features, part, wanted)
            if by_tokens
            else _pixel_gradient(files, encoder, model, part, wanted)
        )
    return np.concatenate(parts)


def _own_maps(
    model: Stage1ConceptModel,
    features: FeatureStore,
    rows: np.ndarray,
    metas: np.ndarray,
    kind: str,
    batch_size: int,
) -> np.ndarray:
    """Maps of the "patch" bottleneck, `[n, P]`; every picture passes once however many concepts are asked of it."""
    import torch

    device, maps = model.meta_bias.device, None
    pictures, owner = np.unique(rows, return_inverse=True)
    with torch.inference_mode():
        for start in range(0, len(pictures), batch_size):
            part = pictures[start : start + batch_size]
            scores = model(
                features.read("pooled", part).to(device), features.read("tokens", part).to(device)
            ).meta_maps.float()  # (B, P, k_m)
            scores = scores.softmax(-1) if kind == SHARE else (scores - scores.amax(1, keepdim=True)).exp()
            asked = np.flatnonzero((owner >= start) & (owner < start + len(part)))
            own = scores[torch.as_tensor(owner[asked] - start), :, torch.as_tensor(metas[asked])].cpu().numpy()
            maps = np.zeros((len(rows), own.shape[1]), dtype=np.float32) if maps is None else maps
            maps[asked] = own
    assert maps is not None
    return maps


def _logits(model: Stage1ConceptModel, pooled: torch.Tensor, tokens: torch.Tensor, metas: np.ndarray) -> torch.Tensor:
    """Logit of one concept for each picture, `(B,)`."""
    import torch

    logits = model(pooled, tokens).meta_logits
    return logits[torch.arange(len(metas), device=logits.device), torch.as_tensor(metas, device=logits.device)]


def _token_gradient(
    model: Stage1ConceptModel, features: FeatureStore, rows: np.ndarray, metas: np.ndarray
) -> np.ndarray:
    """Sum over a token of gradient times value, negative sums set to 0, `[b, P]` (Shrikumar et al. 2016)."""
    import torch

    device = model.meta_bias.device
    tokens = features.read("tokens", rows).to(device).requires_grad_(True)
    (slope,) = torch.autograd.grad(
        _logits(model, features.read("pooled", rows).to(device), tokens, metas).sum(), tokens
    )
    return (slope * tokens).sum(-1).clamp_min(0).detach().cpu().numpy()


def _pixel_gradient(
    files: Run, encoder: ImageEncoder, model: Stage1ConceptModel, rows: np.ndarray, metas: np.ndarray
) -> np.ndarray:
    """Mean over the pixels of a patch of |gradient times value, summed over the colours|, `[b, P]`.

    A bottleneck that reads pooled features only has nothing nearer to the patches than the picture itself.
    """
    import torch
    from torch.nn import functional

    from geocbm.data import image_files
    from geocbm.data.images.pictures import open_picture

    paths = image_files(files.table)
    pixels = encoder.preprocess([open_picture(paths[row]) for row in rows]).to(encoder.device).requires_grad_(True)
    seen = encoder(pixels)
    (slope,) = torch.autograd.grad(_logits(model, seen.pooled, seen.tokens, metas).sum(), pixels)
    heat = (slope * pixels).sum(1, keepdim=True).abs()  # (b, 1, H, W)
    return functional.adaptive_avg_pool2d(heat, encoder.grid).flatten(1).detach().cpu().numpy()


def centre_map(grid: tuple[int, int], spread: float = CENTRE_SPREAD) -> np.ndarray:
    """A map that prefers the middle of every picture: a Gaussian, `[P]` with the sum 1."""
    n_rows, n_columns = grid
    y, x = (np.arange(n_rows) + 0.5) / n_rows - 0.5, (np.arange(n_columns) + 0.5) / n_columns - 0.5
    heat = np.exp(-(y[:, None] ** 2 + x**2) / (2 * spread**2)).reshape(-1)
    return heat / heat.sum()


def random_maps(count: int, n_patches: int, seed: int) -> np.ndarray:
    """Maps of independent random numbers, `[count, P]`: every order of the patches is equally probable."""
    return np.random.default_rng(seed).random((count, n_patches))


def named_map(
    files: Run,
    encoder: ImageEncoder,
    model: Stage1ConceptModel,
    features: FeatureStore,
    scores: np.ndarray,
    rows: np.ndarray,
    most: int = 3,
    kind: str | None = None,
) -> np.ndarray:
    """One map of each picture: those of its likeliest concepts, each with the sum 1, weighted by their probabilities.

    Args:
        files: the run.
        encoder: the adapted encoder.
        model: Stage 1.
        features: the adapted features.
        scores: `[n, k_m]` probabilities of the concepts of all pictures.
        rows: `[m]` the pictures.
        most: concepts of each.
        kind: of the maps.

    Returns:
        `[m, P]`, each with the sum 1.
    """
    rows = np.asarray(rows, dtype=np.int64)
    first = np.argsort(-scores[rows], axis=1, kind="stable")[:, :most]  # (m, most)
    maps = concept_maps(files, encoder, model, features, np.repeat(rows, first.shape[1]), first.reshape(-1), kind)
    maps = maps.reshape(*first.shape, -1)
    maps = maps / np.maximum(maps.sum(-1, keepdims=True), 1e-30)
    weight = np.take_along_axis(scores[rows], first, axis=1)[..., None]
    mixed = (weight * maps).sum(1)
    return mixed / np.maximum(mixed.sum(-1, keepdims=True), 1e-30)
