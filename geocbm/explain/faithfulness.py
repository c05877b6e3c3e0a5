"""Do the patches that a map names matter? Patches are taken away, or alone are left, and the true cell is watched.

The idea is that of the deletion and insertion curves of RISE (Petsiuk et al. 2018). Patches go in the order of a map,
the highest first; the controls are patches at random and patches from the middle outwards, equally many of them.

There are two ways of taking a patch away. "tokens": its token is left out of everything that Stages 1 and 2 read; the
encoder has mixed the patches before, so that others may still tell of it, and pooled features stay as they are.
"pixels": the patch is blurred in the picture, and everything is computed anew. That is the honest one, but it costs an
encoding each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.explain.maps import random_maps
from geocbm.metrics import Resamples, spatial_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
    from geocbm.run import Run

Figure = dict[str, float]
Answer = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""Of positions `(b,)` and kept patches `(b, q)`, by head the probability of the true cell `(b,)`."""

TOKENS, PIXELS = "tokens", "pixels"
DELETION, INSERTION = "deletion", "insertion"
RANDOM = "random patches"
SHARES = {TOKENS: (1 / 36, 1 / 18, 1 / 9, 2 / 9, 4 / 9), PIXELS: (1 / 18, 1 / 9, 2 / 9)}
"""Parts of the patches that are taken away or left; doubled from step to step, because the first ones matter most."""

BLUR = 12
"""A blurred picture is the picture reduced to that many pixels a side, and enlarged again."""


@dataclass(frozen=True)
class Removal:
    """What the true cell's probability does when patches go.

    Attributes:
        way: `TOKENS` or `PIXELS`.
        rows: `[n]` pictures.
        n_patches: patches of a picture.
        counts: numbers of patches that were taken away or left.
        whole: `[n]` probability of the true cell with all patches.
        probability: by curve (`DELETION`, `INSERTION`) and order (maps by name, and `RANDOM`, the mean of its draws),
            `[n, counts]`.
        resamples: of the pictures.
    """

    way: str
    rows: np.ndarray
    n_patches: int
    counts: tuple[int, ...]
    whole: np.ndarray
    probability: dict[str, dict[str, np.ndarray]]
    resamples: Resamples

    def gain(self, order: str, against: str = RANDOM, curve: str = DELETION) -> Figure:
        """How much more the true cell loses by one order than by another (for insertion: gains), with its interval.

        The area between two curves: the mean over the counts of the difference of the probabilities, averaged over
        pictures, paired.
        """
        by_order = self.probability[curve]
        one, other = by_order[order].mean(axis=1), by_order[against].mean(axis=1)
        return self.resamples.figure(other - one if curve == DELETION else one - other)

    def curves(self) -> pd.DataFrame:
        """A row for each curve, order and count: `curve, order, count, share, value, low, high`."""
        lines = []
        for curve, by_order in self.probability.items():
            for order, values in by_order.items():
                for i, count in enumerate(self.counts):
                    figure = self.resamples.figure(values[:, i])
                    lines.append(
                        {"curve": curve, "order": order, "count": count, "share": count / self.n_patches} | figure
                    )
        return pd.DataFrame(lines)


def patch_counts(n_patches: int, way: str) -> tuple[int, ...]:
    """The numbers of patches to take away: the `SHARES` of all, at least 1 and never all of them, each once."""
    return tuple(sorted({min(max(1, round(share * n_patches)), n_patches - 1) for share in SHARES[way]}))


def kept_patches(order: np.ndarray, count: int, curve: str) -> np.ndarray:
    """Patches that are left, in ascending order.

    Args:
        order: `[n, P]` patches, the first to go first.
        count: how many go (deletion), or alone are left (insertion).
        curve: `DELETION` or `INSERTION`.

    Returns:
        `[n, P - count]` or `[n, count]`.

    Raises:
        ParameterError: nothing would be left, or the curve is unknown.
    """
    if curve not in (DELETION, INSERTION):
        raise ParameterError(f"curve is {curve!r}; use {DELETION!r} or {INSERTION!r}")
    if not 0 < count < order.shape[1]:
        raise ParameterError(f"count is {count}; of {order.shape[1]} patches take 1 to {order.shape[1] - 1}")
    return np.sort(order[:, count:] if curve == DELETION else order[:, :count], axis=1)


def token_answer(
    files: Run,
    stage1: Stage1ConceptModel,
    heads: Mapping[str, Stage2CrossAttentionGeoHead],
    features: FeatureStore,
    rows: np.ndarray,
) -> Answer:
    """The true cell's probability from the tokens of some patches only, for `measure_removal`.

    Scores of concepts are pooled over the patches that are left, and attention sees no others. The bottleneck "mlp"
    reads pooled features, which no token can be taken out of: with it only the attention loses the patch.
    """
    import torch

    pooled, tokens = features.read("pooled", rows), features.read("tokens", rows)
    cell = torch.as_tensor(files.cell_label[rows])

    def answer(positions: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        index = torch.as_tensor(kept)[..., None].expand(-1, -1, tokens.shape[2])  # (b, q, D)
        left = tokens[positions].gather(1, index)
        return _true_cell(stage1, heads, pooled[positions], left, cell[positions])

    return answer


def pixel_answer(
    files: Run,
    encoder: ImageEncoder,
    stage1: Stage1ConceptModel,
    heads: Mapping[str, Stage2CrossAttentionGeoHead],
    rows: np.ndarray,
) -> Answer:
    """The true cell's probability from pictures in which the other patches are blurred, for `measure_removal`."""
    import torch
    from torch.nn import functional

    from geocbm.data import image_files
    from geocbm.data.images.pictures import open_picture

    paths = image_files(files.table)
    pixels = encoder.preprocess([open_picture(paths[row]) for row in rows])  # (n, 3, H, W)
    size = pixels.shape[-2:]
    blurred = functional.adaptive_avg_pool2d(pixels, min(BLUR, *size))
    blurred = functional.interpolate(blurred, size=size, mode="bilinear", align_corners=False)
    cell, n_patches = torch.as_tensor(files.cell_label[rows]), encoder.grid[0] * encoder.grid[1]

    def answer(positions: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        mask = torch.zeros(len(positions), n_patches)
        mask.scatter_(1, torch.as_tensor(kept), 1.0)
        mask = functional.interpolate(mask.reshape(-1, 1, *encoder.grid), size=size, mode="nearest")
        shown = mask * pixels[positions] + (1 - mask) * blurred[positions]
        with torch.inference_mode():
            seen = encoder(shown.to(encoder.device))
        return _true_cell(stage1, heads, seen.pooled, seen.tokens, cell[positions])

    return answer


def _true_cell(
    stage1: Stage1ConceptModel,
    heads: Mapping[str, Stage2CrossAttentionGeoHead],
    pooled: Tensor,
    tokens: Tensor,
    cell: Tensor,
) -> dict[str, np.ndarray]:
    """By head the probability of the true cell `(b,)` of given features."""
    import torch

    from geocbm.models.stage2 import concept_input

    stage1.eval()
    found = {}
    with torch.inference_mode():
        said = stage1(pooled.to(stage1.meta_bias.device), tokens.to(stage1.meta_bias.device))
        concepts = said.probabilities()
        for name, head in heads.items():
            head.eval()
            device = head.cell_head.weight.device
            logits = head(concept_input(head.config, concepts).to(device), tokens.to(device)).cell_logits.float()
            found[name] = logits.softmax(-1)[torch.arange(len(cell)), cell.to(device)].cpu().numpy()
    return found


def measure_removal(
    files: Run,
    answer: Answer,
    way: str,
    rows: np.ndarray,
    maps: Mapping[str, np.ndarray],
    curves: Sequence[str] = (DELETION, INSERTION),
    draws: int = 1,
    batch_size: int = 64,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Removal]:
    """Take patches away in the order of each map and at random, and watch several heads at once.

    Args:
        files: the run.
        answer: `token_answer` or `pixel_answer` of the same rows.
        way: `TOKENS` or `PIXELS`, as `answer` does it.
        rows: `[n]` pictures.
        maps: by name `[n, P]`, or `[P]` for all pictures.
        curves: which curves.
        draws: random orders of each picture; more make the control steadier.
        batch_size: pictures at a time.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of resamples and random orders.

    Returns:
        By head what was measured; all of them saw the same patches.

    Raises:
        ParameterError: an unknown way, no pictures, or a map of another shape.
    """
    rows = np.asarray(rows, dtype=np.int64)
    shape = (len(rows), max(np.shape(own)[-1] for own in maps.values()) if maps else 0)
    if way not in SHARES:
        raise ParameterError(f"way is {way!r}; use {TOKENS!r} or {PIXELS!r}")
    if not shape[0] or shape[1] < 2:
        raise ParameterError(f"there are {len(rows)} pictures and {len(maps)} maps; give one of each, of two patches")
    orders: dict[str, list[np.ndarray]] = {}
    for name, own in maps.items():
        if np.shape(own) not in (shape, shape[1:]):
            raise ParameterError(f"the map {name!r} has the shape {np.shape(own)}; give {shape} or {shape[1:]}")
        orders[name] = [np.argsort(-np.broadcast_to(own, shape), axis=1, kind="stable")]
    orders[RANDOM] = [np.argsort(random_maps(*shape, seed=seed + draw), axis=1) for draw in range(draws)]
    counts = patch_counts(shape[1], way)

    def run(kept: np.ndarray) -> dict[str, np.ndarray]:
        starts, positions = range(0, len(rows), batch_size), np.arange(len(rows))
        parts = [answer(positions[start : start + batch_size], kept[start : start + batch_size]) for start in starts]
        return {head: np.concatenate([part[head] for part in parts]) for head in parts[0]}

    whole = run(np.tile(np.arange(shape[1]), (shape[0], 1)))
    probability: dict[str, dict[str, dict[str, np.ndarray]]] = {head: {curve: {} for curve in curves} for head in whole}
    for curve in curves:
        for name, several in orders.items():
            answers = [[run(kept_patches(order, count, curve)) for count in counts] for order in several]
            for head in whole:
                values = np.array([[one[head] for one in line] for line in answers])  # (draws, counts, n)
                probability[head][curve][name] = values.mean(axis=0).T  # (n, counts)
    resamples = Resamples(spatial_blocks(files.lat[rows], files.lng[rows]), n_resamples, seed)
    return {head: Removal(way, rows, shape[1], counts, whole[head], probability[head], resamples) for head in whole}


def sample_rows(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of some rows, drawn evenly, in their order."""
    if most >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, size=most, replace=False))
