"""Concept maps: over the patches of a picture, where a concept is seen; and maps that know nothing of the picture.

All maps are not negative, so that their maximum and their mass can both be asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from geocbm.data import image_files
from geocbm.data.images.photographs import open_picture
from geocbm.encoders import ImageEncoder
from geocbm.encoders.features import FeatureStore
from geocbm.errors import ParameterError
from geocbm.files.progress import track
from geocbm.models.stage1 import Stage1ConceptModel
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
from geocbm.run import Run

SCORE, SHARE, GRADIENT = "score", "share", "gradient x input"
MAP_KINDS = (SCORE, SHARE)
CENTRE_SPREAD = 0.25
"""Standard deviation of the map that prefers the middle, in sides of the picture."""
BATCH_SIZE = 64  # pictures at a time
_FROM_PIXELS = 4  # those whose gradient keeps all that the encoder computes: a gigabyte each for a ViT-L at 336 pixels
NAMED = 3  # likeliest concepts whose maps are added up


@dataclass(frozen=True)
class MapModel:
    """The trained pieces of a run that its maps come from."""

    run: Run
    encoder: ImageEncoder  # adapted
    features: FeatureStore  # its features of all pictures
    stage1: Stage1ConceptModel
    heads: Mapping[str, Stage2CrossAttentionGeoHead] = field(default_factory=dict)  # for what asks what an answer loses

    @property
    def device(self) -> torch.device:
        """Where Stage 1 lies."""
        return self.stage1.meta_bias.device

    @property
    def n_patches(self) -> int:
        """Patches of a picture."""
        return self.encoder.grid[0] * self.encoder.grid[1]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of map that the concept model offers.

        The "patch" bottleneck scores every concept on every patch. "score" is the exponential of that score; "share" is
        the part that the concept has in the exponentials of all concepts on the patch: how much the patch speaks for it
        rather than for another. Other bottlenecks have no map of their own; "gradient x input" is made for them.
        """
        return MAP_KINDS if self.stage1.has_maps else (GRADIENT,)

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Pooled features `(b, d)` and patch tokens `(b, P, w)` of some pictures."""
        return self.features.read("pooled", rows).to(self.device), self.features.read("tokens", rows).to(self.device)

    def pixels(self, rows: np.ndarray) -> Tensor:
        """Pictures as the encoder takes them, `(b, 3, H, W)`."""
        paths = image_files(self.run.table)
        return self.encoder.preprocess([open_picture(paths[row]) for row in rows])

    def picture(self, row: int) -> Image:
        """A picture of the table as the model sees it."""
        return seen_picture(self.run, self.encoder, row)


def seen_picture(run: Run, encoder: ImageEncoder, row: int) -> Image:
    """A picture of the table as the model sees it."""
    return encoder.crop(open_picture(image_files(run.table.iloc[[row]])[0]))


def concept_maps(model: MapModel, rows: np.ndarray, metas: np.ndarray, kind: str | None = None) -> np.ndarray:
    """The map of a concept for each pair of picture `[n]` and concept `[n]`, `[n, P]` float32, not negative.

    The pairs of one picture should follow each other. `kind` is one of `model.kinds`; None takes the last of them.
    """
    kind = model.kinds[-1] if kind is None else kind
    if kind not in model.kinds:
        raise ParameterError(
            f"kind is {kind!r}; the maps of bottleneck={model.stage1.config.bottleneck!r} are of the kind "
            f"{', '.join(map(repr, model.kinds))}"
        )
    rows, metas = np.asarray(rows, dtype=np.int64), np.asarray(metas, dtype=np.int64)
    if rows.shape != metas.shape:
        raise ParameterError(f"rows has {rows.shape} entries and metas {metas.shape}; give a concept for each row")
    maps = np.zeros((len(rows), model.n_patches), dtype=np.float32)
    model.stage1.eval()
    if kind != GRADIENT:
        return _own_maps(model, rows, metas, kind, maps)
    gradient, step = (_token_gradient, BATCH_SIZE) if model.stage1.needs_tokens else (_pixel_gradient, _FROM_PIXELS)
    for start in track(range(0, len(rows), step), "maps", unit="batch"):
        some = slice(start, start + step)
        maps[some] = gradient(model, rows[some], metas[some])
    return maps


def _own_maps(model: MapModel, rows: np.ndarray, metas: np.ndarray, kind: str, maps: np.ndarray) -> np.ndarray:
    """Maps of the "patch" bottleneck, `[n, P]`; every picture passes once however many concepts are asked of it."""
    pictures, owner = np.unique(rows, return_inverse=True)
    with torch.inference_mode():
        for start in track(range(0, len(pictures), BATCH_SIZE), "maps", unit="batch"):
            part = pictures[start : start + BATCH_SIZE]
            scores = model.stage1(*model.read(part)).meta_maps.float()  # (B, P, k_m)
            scores = scores.softmax(-1) if kind == SHARE else (scores - scores.amax(1, keepdim=True)).exp()
            asked = np.flatnonzero((owner >= start) & (owner < start + len(part)))
            own = scores[torch.as_tensor(owner[asked] - start), :, torch.as_tensor(metas[asked])]
            maps[asked] = own.cpu().numpy()
    return maps


def _logits(model: MapModel, pooled: Tensor, tokens: Tensor, metas: np.ndarray) -> Tensor:
    """Logit of one concept for each picture, `(B,)`."""
    logits = model.stage1(pooled, tokens).meta_logits
    return logits[torch.arange(len(metas), device=logits.device), torch.as_tensor(metas, device=logits.device)]


def _token_gradient(model: MapModel, rows: np.ndarray, metas: np.ndarray) -> np.ndarray:
    """Sum over a token of gradient times value, negative sums set to 0, `[b, P]` (Shrikumar et al. 2016)."""
    pooled, tokens = model.read(rows)
    tokens.requires_grad_(True)
    (slope,) = torch.autograd.grad(_logits(model, pooled, tokens, metas).sum(), tokens)
    return (slope * tokens).sum(-1).clamp_min(0).detach().cpu().numpy()


def _pixel_gradient(model: MapModel, rows: np.ndarray, metas: np.ndarray) -> np.ndarray:
    """Mean over the pixels of a patch of |gradient times value, summed over the colours|, `[b, P]`.

    A bottleneck that reads pooled features only has nothing nearer to the patches than the picture itself.
    """
    pixels = model.pixels(rows).to(model.encoder.device).requires_grad_(True)
    seen = model.encoder(pixels)
    (slope,) = torch.autograd.grad(_logits(model, seen.pooled, seen.tokens, metas).sum(), pixels)
    heat = (slope * pixels).sum(1, keepdim=True).abs()  # (b, 1, H, W)
    return functional.adaptive_avg_pool2d(heat, model.encoder.grid).flatten(1).detach().cpu().numpy()


def named_map(model: MapModel, scores: np.ndarray, rows: np.ndarray, kind: str | None = None) -> np.ndarray:
    """One map of each picture `[m]`: those of its likeliest concepts, each with the sum 1, weighted by probability.

    `scores` `[n, k_m]` are the probabilities of the concepts of all pictures; the result `[m, P]` has rows of sum 1.
    """
    rows = np.asarray(rows, dtype=np.int64)
    first = np.argsort(-scores[rows], axis=1, kind="stable")[:, :NAMED]  # (m, NAMED)
    maps = concept_maps(model, np.repeat(rows, first.shape[1]), first.reshape(-1), kind).reshape(
        *first.shape, model.n_patches
    )
    maps = maps / np.maximum(maps.sum(-1, keepdims=True), 1e-30)
    weight = np.take_along_axis(scores[rows], first, axis=1)[..., None]
    mixed = (weight * maps).sum(1)
    return mixed / np.maximum(mixed.sum(-1, keepdims=True), 1e-30)


def centre_map(grid: tuple[int, int]) -> np.ndarray:
    """A map that prefers the middle of every picture: a Gaussian, `[P]` with the sum 1."""
    n_rows, n_columns = grid
    y, x = (np.arange(n_rows) + 0.5) / n_rows - 0.5, (np.arange(n_columns) + 0.5) / n_columns - 0.5
    heat = np.exp(-(y[:, None] ** 2 + x**2) / (2 * CENTRE_SPREAD**2)).reshape(-1)
    return heat / heat.sum()
