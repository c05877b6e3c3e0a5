"""What of a photograph goes into the encoder, and how the answers to several views of it become one.

The views of a panorama show one place. Their cell log probabilities are averaged and so are the shares of concepts:
the pooled answer is as sure as a single one on average, not as sure as several independent pictures would be.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geocbm.data.images.panoramas import cut_views
from geocbm.data.images.photographs import read_photograph

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.evaluation.novelty import Novelty
    from geocbm.models.geocbm import GeoCBMOutput

OVERSAMPLED = 4
"""A photograph is read with at least so many times the pixels per side that the encoder sees."""
UNSEEN = 0.2
"""A note says how much was seen where more than this part of a photograph was cropped away."""
POOLED = "probabilities and regions were calibrated on single pictures, so that nothing is promised of pooled views"
"""What is said of an answer to several views."""


@dataclass(frozen=True)
class Prepared:
    """A photograph ready for the encoder."""

    notes: tuple[str, ...]  # sentences on how it was read and what was seen of it
    own_place: tuple[float, float] | None  # latitude and longitude that the file carries, degrees
    pixels: Tensor  # (V, 3, H, W): its views, one for an ordinary picture
    upright: bool = False  # whether the views stand one below the other
    share: float = 1.0  # part of the picture that lies in what the encoder sees
    seen: Image | None = None  # the views as the encoder sees them, in one picture, if it was asked for


class Preparation:
    """Reads photographs for an encoder, whose preprocessing decides what is seen; several threads may use it."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder
        self._shares: dict[float, float] = {}

    def __call__(self, source: Any, keep_seen: bool = False) -> Prepared:
        """Read a photograph (a file, its content or a PIL image) and bring its views to the encoder's size."""
        photo = read_photograph(source, least_side=OVERSAMPLED * self._encoder.image_size)
        views = cut_views(photo.picture, photo.sphere)
        notes = [*photo.notes, *([views.note, POOLED] if len(views.pictures) > 1 else [])]
        each = self._share(views.pictures[0].size)
        if each < 1 - UNSEEN:
            what = "of each" if len(views.pictures) > 1 else "of it"
            notes.append(f"the model saw the middle {each:.0%} {what}, the rest was cropped away")
        seen = joined([self._encoder.crop(view) for view in views.pictures], views.upright) if keep_seen else None
        pixels = self._encoder.preprocess(list(views.pictures))
        return Prepared(tuple(notes), photo.own_place, pixels, views.upright, each * views.share, seen)

    def _share(self, size: tuple[int, int]) -> float:
        """Part of a picture of this shape that the encoder sees."""
        from geocbm.encoders.preprocessing import crop_window

        shape = round(size[0] / size[1], 2)
        if shape not in self._shares:
            side = 2 * self._encoder.image_size
            scale = side / min(size)
            x0, y0, x1, y1 = crop_window(self._encoder, (round(size[0] * scale), round(size[1] * scale)))
            self._shares[shape] = min(1.0, max(0.0, (x1 - x0) * (y1 - y0)))
        return self._shares[shape]


def pool_views(counts: Sequence[int], output: GeoCBMOutput) -> GeoCBMOutput:
    """Make one row of each of `B` pictures out of the rows of its views, `V` in all.

    Cell log probabilities, shares of concepts and features are averaged; patch tokens and maps of concepts stay view by
    view. An offset that the head gives for its most probable cell only is that of the view surest of the pooled best.
    """
    if all(count == 1 for count in counts):
        return output
    place, concepts = output.place, output.concepts
    number = torch.tensor(list(counts), device=output.pooled.device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=number.device), number)  # (V,)

    def mean(values: Tensor) -> Tensor:
        sums = values.new_zeros((len(counts), *values.shape[1:])).index_add_(0, owner, values)
        return sums / number.reshape(-1, *[1] * (values.ndim - 1)).to(values)

    shares = place.cell_logits.log_softmax(-1)  # (V, N)
    logits = mean(shares)  # (B, N)
    best = logits.argmax(-1)  # (B,)
    if place.cell_offsets is None:
        confidence = shares.gather(1, best[owner][:, None])[:, 0]  # (V,)
        starts = np.cumsum([0, *counts])
        leading = torch.stack([start + confidence[start:end].argmax() for start, end in itertools.pairwise(starts)])
        cell_offsets, offsets = None, place.offsets[leading]
    else:
        cell_offsets = mean(place.cell_offsets)
        offsets = cell_offsets[torch.arange(len(counts), device=best.device), best]
    pooled_place = place._replace(
        cell_logits=logits,
        offsets=offsets,
        attention=mean(place.attention),
        cell_offsets=cell_offsets,
        residual_logits=None if place.residual_logits is None else mean(place.residual_logits),
        learned_logits=None,
        learned_offsets=None,
    )
    means = {name: mean(value) for name, value in concepts._asdict().items() if name != "meta_maps"}
    return output._replace(pooled=mean(output.pooled), concepts=concepts._replace(**means), place=pooled_place)


def middle_views(judged: Sequence[Novelty], counts: Sequence[int]) -> list[Novelty]:
    """Of the views of each picture the one in the middle: half of them are at least as like the training pictures."""
    views = iter(judged)
    ranked = (sorted(itertools.islice(views, count), key=lambda one: one.distance) for count in counts)
    return [of_picture[(len(of_picture) - 1) // 2] for of_picture in ranked]


def joined(pictures: Sequence[Image], upright: bool) -> Image:
    """Pictures of one size side by side, or one below the other."""
    from PIL import Image as pillow

    arrays = [np.asarray(picture) for picture in pictures]
    return pictures[0] if len(arrays) == 1 else pillow.fromarray(np.concatenate(arrays, axis=0 if upright else 1))


def joined_maps(
    maps: np.ndarray, grid: tuple[int, int], upright: bool, weights: np.ndarray | None = None
) -> np.ndarray:
    """Maps `(V, P)` of the views, `grid` rows by columns each, as one map over `joined` pictures.

    Its sum is the mean of their sums, weighted by `(V,)`, by default evenly.
    """
    share = np.full(len(maps), 1 / len(maps)) if weights is None else weights / max(float(weights.sum()), 1e-30)
    return np.concatenate(
        [part * one.reshape(grid) for part, one in zip(share, maps, strict=True)], axis=0 if upright else 1
    )


def even_batches(photographs: Iterable[Any], most: int, workers: int) -> Iterator[list[Any]]:
    """Batches of at most `most`; the last photographs are divided evenly, so that no worker is left without any."""
    sources = iter(photographs)
    while block := list(itertools.islice(sources, most * workers)):
        size = -(-len(block) // workers)
        for start in range(0, len(block), size):
            yield block[start : start + size]
