"""From the drawing to the photograph, and from the mask to the list of what can be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from geocbm_atlas.facts import META_TO_PARENT
from geocbm_atlas.scene import Conditions

SUPERSAMPLING = 2
SMALLEST_AREA = 0.0012
"""A concept counts as visible from this part of the picture upwards (25 of 144 x 144 pixels)."""


@dataclass(frozen=True)
class VisibleConcept:
    """A concept that can be seen in a picture.

    Attributes:
        meta_name: fine concept.
        parent_concept: its coarse concept.
        box: (x0, y0, x1, y1) of its largest piece, in parts of the picture from the top left.
        area: part of the picture that all its pieces cover, what stands before them taken off.
        boxes: one box per piece, the largest piece first.
    """

    meta_name: str
    parent_concept: str
    box: tuple[float, float, float, float]
    area: float
    boxes: tuple[tuple[float, float, float, float], ...]


def visible_concepts(mask: np.ndarray, pieces: list[str], size: int) -> list[VisibleConcept]:
    """Read off the mask which concepts can be seen, and where.

    Args:
        mask: number of the piece that owns each pixel, `[size, size]`.
        pieces: concept of each number; the first is nobody's.
        size: side of the picture in pixels.

    Returns:
        The visible concepts, largest first.
    """
    counts = np.bincount(mask.ravel(), minlength=len(pieces))
    by_meta: dict[str, list[tuple[int, tuple[float, float, float, float]]]] = {}
    for number in range(1, len(pieces)):
        if counts[number] < 6:
            continue
        hit = mask == number
        rows, columns = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
        x0, y0, x1, y1 = (round(float(edge) / size, 4) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        box = (x0, y0, x1, y1)
        by_meta.setdefault(pieces[number], []).append((int(counts[number]), box))
    found = []
    for meta, parts in by_meta.items():
        area = sum(count for count, _ in parts) / size**2
        if area >= SMALLEST_AREA:
            boxes = tuple(box for _, box in sorted(parts, key=lambda part: -part[0]))
            found.append(VisibleConcept(meta, META_TO_PARENT[meta], boxes[0], round(area, 5), boxes))
    return sorted(found, key=lambda concept: (-concept.area, concept.meta_name))


def develop(image: Image.Image, conditions: Conditions, size: int, rng: np.random.Generator) -> np.ndarray:
    """Turn the drawing into a photograph: light, rain, blur and the noise of the sensor.

    Args:
        image: the drawing, `SUPERSAMPLING` times as large as the picture.
        conditions: light and weather.
        size: side of the picture in pixels.
        rng: source of chance.

    Returns:
        The picture, uint8 `[size, size, 3]`.
    """
    small = image.reduce(SUPERSAMPLING)
    if conditions.blur > 0.15:
        small = small.filter(ImageFilter.GaussianBlur(conditions.blur * size / 144))
    pixels = np.asarray(small, dtype=np.float32)  # (H, W, 3)
    light = conditions.exposure * (0.93 + 0.14 * conditions.sun) * (1.0 - 0.05 * conditions.overcast)
    warm = conditions.warmth * (1.0 - 0.6 * conditions.overcast)
    tint = np.asarray([1.0 + 0.09 * warm, 1.0, 1.0 - 0.11 * warm], dtype=np.float32) * light
    pixels = pixels * tint
    flat = 0.1 * conditions.overcast + 0.14 * conditions.rain
    pixels += flat * (pixels.mean() * 0.6 + 64.0 - 0.85 * pixels)
    if conditions.rain > 0:
        streaks = rng.random((size, size), dtype=np.float32) < 0.004 * conditions.rain
        for shift in range(4):
            pixels[np.roll(streaks, shift, axis=0)] += 26.0
    pixels += rng.normal(0.0, conditions.noise, (size, size, 1)).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)
