"""Panoramas: the views that are cut from a wide, a tall or a spherical picture, so that none of it is lost to a crop.

An encoder sees a square. Of a picture twice as wide as high its crop would keep the middle half. Such a picture is cut
into square views: side by side from a flat one, and in the direction of the horizon from one that shows a sphere
(equirectangular projection), each then as a camera with a plain lens would have taken it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geocbm.data.images.metadata import Sphere

if TYPE_CHECKING:
    from PIL.Image import Image

PANORAMA = 2.0  # longer side by shorter side from which views are cut: a crop would lose half of the picture or more
MOST_VIEWS = 8  # of a longer picture they leave gaps, and it is said how much was seen
FIELD = 90.0  # widest field of a view of a sphere, degrees: four of them are the horizon
LEAST_FIELD = 25.0  # degrees; a spherical strip so narrow that its views would be smaller is cut as a flat one

_SLACK = 0.05
_EVEN = 6.0  # levels of 255 by which a pole may vary
_SEAM = 3.0  # difference across the seam in usual differences of neighbours


@dataclass(frozen=True)
class Views:
    """What is looked at of a picture."""

    pictures: tuple[Image, ...]  # from left to right or from top to bottom; the picture itself if it is no panorama
    upright: bool = False  # whether they stand one below the other
    share: float = 1.0  # part of the picture, or of the sphere it shows, that lies in the views
    note: str = ""  # a sentence on how they were cut; empty for a plain picture


def cut_views(picture: Image, sphere: Sphere | None = None) -> Views:
    """Cut the views of an upright RGB picture, of which its file may say that it is a sphere.

    A picture is left whole where its longer side is less than `PANORAMA` times the shorter one and it is no sphere.
    """
    width, height = picture.size
    if sphere is None and abs(width - 2 * height) <= 2 and _closes(picture):
        sphere = Sphere(stated=False)
    if sphere is not None:
        field = min(FIELD, 2 * sphere.top, -2 * sphere.bottom)
        if field >= LEAST_FIELD and sphere.width > field:
            return _spherical(picture, sphere, field)
    if max(width, height) < PANORAMA * min(width, height):
        return Views((picture,))
    return _flat(picture)


def _flat(picture: Image) -> Views:
    """Squares side by side, or one below the other, that cover the picture evenly."""
    long, short = max(picture.size), min(picture.size)
    ratio = long / short
    count = min(MOST_VIEWS, math.ceil(ratio - _SLACK))
    upright = picture.height > picture.width
    starts = np.rint(np.linspace(0, long - short, count)).astype(int)
    if count < ratio - _SLACK:  # gaps on all sides of the views, and not between them only
        starts = np.rint((np.arange(count) + 0.5) * long / count - short / 2).astype(int)
    boxes = [(0, start, short, start + short) if upright else (start, 0, start + short, short) for start in starts]
    share = min(1.0, count / ratio)
    note = f"it is {picture.width} x {picture.height} pixels: {count} square views of it were answered as one"
    if share < 1 - _SLACK:
        note += f", which hold {share:.0%} of it"
    return Views(tuple(picture.crop(box) for box in boxes), upright, share, note)


def _spherical(picture: Image, sphere: Sphere, field: float) -> Views:
    """Views of `field` degrees in the direction of the horizon, as a plain lens would show them."""
    count = min(MOST_VIEWS, math.ceil(sphere.width / field - _SLACK))
    step = sphere.width / count
    if sphere.width >= 360.0 - 1e-6:
        # The middle of the picture is where a camera looks: the middle of the second view of four.
        middles = (np.arange(count) - (count - 1) // 2) * step
    else:
        middles = np.linspace(-0.5, 0.5, count) * (sphere.width - field)
    views = tuple(_rectilinear(picture, sphere, float(middle), field) for middle in middles)
    # A view of field f covers the solid angle 4 asin(sin²(f / 2)) of the sphere; overlaps count once.
    seen = count * 4 * math.asin(math.sin(math.radians(field / 2)) ** 2) * min(1.0, step / field)
    shown = math.radians(sphere.width) * (math.sin(math.radians(sphere.top)) - math.sin(math.radians(sphere.bottom)))
    share = min(1.0, seen / shown)
    why = "" if sphere.stated else ", as its edges tell"
    note = (
        f"it is a panorama of {sphere.width:.0f} degrees{why}: {count} views of {field:.0f} degrees along its horizon "
        f"were answered as one, which hold {share:.0%} of it"
    )
    return Views(views, False, share, note)


def _rectilinear(picture: Image, sphere: Sphere, middle: float, field: float) -> Image:
    """One view of a sphere, `middle` degrees to the right of the picture's middle, by bilinear interpolation."""
    from PIL import Image as pillow

    pixels = np.asarray(picture)  # (H, W, 3)
    height, width = pixels.shape[:2]
    half = math.tan(math.radians(field / 2))
    # As many pixels as the panorama has in the middle of the view.
    side = max(2, round(2 * half * width / math.radians(sphere.width)))
    across = (np.arange(side) + 0.5) / side * 2 * half - half  # tangents from left to right
    right, down = np.meshgrid(across, across)  # (S, S) each
    lng = np.degrees(np.arctan(right)) + middle
    lat = np.degrees(np.arctan(-down / np.sqrt(1 + right**2)))
    column = (lng / sphere.width + 0.5) * width - 0.5
    row = (sphere.top - lat) / (sphere.top - sphere.bottom) * height - 0.5
    left, upper = np.floor(column).astype(int), np.floor(row).astype(int)
    x, y = (column - left)[..., None], (row - upper)[..., None]
    whole = sphere.width >= 360.0 - 1e-6  # left and right edge are neighbours

    def at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        columns = columns % width if whole else columns.clip(0, width - 1)
        return pixels[rows.clip(0, height - 1), columns].astype(np.float32)

    above = at(upper, left) * (1 - x) + at(upper, left + 1) * x
    below = at(upper + 1, left) * (1 - x) + at(upper + 1, left + 1) * x
    return pillow.fromarray(np.rint(above * (1 - y) + below * y).clip(0, 255).astype(np.uint8))


def _closes(picture: Image) -> bool:
    """Whether a picture of 2 to 1 is a sphere: its poles are one colour each, its left edge goes on at its right."""
    pixels = np.asarray(picture, dtype=np.float32)  # (H, W, 3); the first row is one point, the zenith
    # Means of sixteen parts of a row leave noise and compression aside.
    poles = [[part.mean(axis=0) for part in np.array_split(pixels[edge], min(16, pixels.shape[1]))] for edge in (0, -1)]
    seam = float(np.abs(pixels[:, 0] - pixels[:, -1]).mean())
    inside = float(np.abs(np.diff(pixels, axis=1)).mean())
    return bool(pixels.std() > _EVEN and np.ptp(poles, axis=1).max() <= _EVEN and seam <= _SEAM * inside + 1)
