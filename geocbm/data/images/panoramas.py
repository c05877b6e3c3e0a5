"""Panoramas: the views that are cut from a wide, a tall or a spherical picture, so that none of it is lost to a crop.

An encoder sees a square. Of a picture twice as wide as high its crop would keep the middle half. Such a picture is cut
into square views: side by side from a flat one, and in the direction of the horizon from one that shows a sphere
(equirectangular projection), each then as a camera with a plain lens would have taken it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.data.images import xmp

if TYPE_CHECKING:
    from PIL.Image import Image

PANORAMA = 2.0
"""Longer side by shorter side from which views are cut: a square crop would lose half of the picture or more."""
MOST_VIEWS = 8
"""Views of one picture; of a longer one they leave gaps, and it is said how much was seen."""
FIELD = 90.0
"""Widest field of a view of a sphere, degrees: four of them are the horizon."""
LEAST_FIELD = 25.0
"""A spherical strip so narrow that its views would be smaller is cut as a flat one, degrees."""

_SLACK = 0.05
_EVEN, _SEAM = 6.0, 3.0
"""Levels of 255 by which a pole may vary, and the difference across the seam in usual differences of neighbours."""


@dataclass(frozen=True)
class Sphere:
    """The part of a sphere that an equirectangular picture shows.

    Attributes:
        width: degrees of longitude, 360 for the full horizon.
        top: degrees above the horizon of the upper edge.
        bottom: the same of the lower edge; negative below the horizon.
        stated: whether the file says so, or it was told from the pixels.
    """

    width: float = 360.0
    top: float = 90.0
    bottom: float = -90.0
    stated: bool = True


@dataclass(frozen=True)
class Views:
    """What is looked at of a picture.

    Attributes:
        pictures: the views in order, from left to right or from top to bottom; the picture itself where it is no
            panorama.
        upright: whether they stand one below the other.
        share: part of the picture, or of the sphere it shows, that lies in the views.
        note: a sentence on how they were cut; empty for a plain picture.
    """

    pictures: tuple[Image, ...]
    upright: bool = False
    share: float = 1.0
    note: str = ""


def described_sphere(image: Any) -> Sphere | None:
    """The part of a sphere that a file says it shows (Photo Sphere XMP Metadata), or None.

    Args:
        image: a picture as opened, before it is converted.
    """
    entries = xmp.properties(image, xmp.PANORAMA)
    if entries.get("ProjectionType", "").lower() != "equirectangular":
        return None
    try:
        full_width, full_height, width, height, top = (
            float(entries.get(name, default))
            for name, default in (
                ("FullPanoWidthPixels", image.width),
                ("FullPanoHeightPixels", image.height),
                ("CroppedAreaImageWidthPixels", image.width),
                ("CroppedAreaImageHeightPixels", image.height),
                ("CroppedAreaTopPixels", 0),
            )
        )
        whole = all(math.isfinite(one) and one > 0 for one in (full_width, full_height, width, height))
        if not whole or not 0 <= top <= full_height - height + 1 or width > full_width + 1:
            return None
    except ValueError:
        return None
    upper = 90.0 - 180.0 * top / full_height
    return Sphere(min(360.0, 360.0 * width / full_width), upper, max(-90.0, upper - 180.0 * height / full_height))


def cut_views(picture: Image, sphere: Sphere | None = None) -> Views:
    """Cut the views of a picture.

    Args:
        picture: upright RGB.
        sphere: what the file says of it.

    Returns:
        The picture itself where its longer side is less than `PANORAMA` times the shorter one and it is no sphere.
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
    """Views in the direction of the horizon, as a plain lens would show them."""
    count = min(MOST_VIEWS, math.ceil(sphere.width / field - _SLACK))
    whole = sphere.width >= 360.0 - 1e-6
    step = sphere.width / count
    if whole:
        # The middle of the picture is where a camera looks: the middle of the second view of four.
        middles = (np.arange(count) - (count - 1) // 2) * step
    else:
        middles = np.linspace(-0.5, 0.5, count) * (sphere.width - field)
    views = tuple(_rectilinear(picture, sphere, float(middle), field, whole) for middle in middles)
    half = math.radians(field / 2)
    # A view of field f covers the solid angle 4 asin(sin²(f / 2)) of the sphere; overlaps count once.
    seen = count * 4 * math.asin(math.sin(half) ** 2) * min(1.0, step / field)
    shown = math.radians(sphere.width) * (math.sin(math.radians(sphere.top)) - math.sin(math.radians(sphere.bottom)))
    share = min(1.0, seen / shown)
    why = "" if sphere.stated else ", as its edges tell"
    note = (
        f"it is a panorama of {sphere.width:.0f} degrees{why}: {count} views of {field:.0f} degrees along its horizon "
        f"were answered as one, which hold {share:.0%} of it"
    )
    return Views(views, False, share, note)


def _rectilinear(picture: Image, sphere: Sphere, middle: float, field: float, whole: bool) -> Image:
    """One view of a sphere.

    Args:
        picture: equirectangular.
        sphere: what it shows.
        middle: direction of the view, degrees to the right of the picture's middle.
        field: of the view, degrees.
        whole: whether left and right edge are neighbours.
    """
    from PIL import Image as pillow

    half = math.tan(math.radians(field / 2))
    # As many pixels as the panorama has in the middle of the view.
    side = max(2, round(2 * half * picture.width / math.radians(sphere.width)))
    across = (np.arange(side) + 0.5) / side * 2 * half - half  # tangents from left to right
    right, down = np.meshgrid(across, across)  # (S, S) each
    lng = np.degrees(np.arctan(right)) + middle
    lat = np.degrees(np.arctan(-down / np.sqrt(1 + right**2)))
    column = (lng / sphere.width + 0.5) * picture.width - 0.5
    row = (sphere.top - lat) / (sphere.top - sphere.bottom) * picture.height - 0.5
    return pillow.fromarray(_sample(np.asarray(picture), column, row, whole))


def _sample(pixels: np.ndarray, column: np.ndarray, row: np.ndarray, wraps: bool) -> np.ndarray:
    """Values `(S, S, 3)` between the pixels `(H, W, 3)`, by bilinear interpolation."""
    height, width = pixels.shape[:2]
    left, upper = np.floor(column).astype(int), np.floor(row).astype(int)
    x, y = (column - left)[..., None], (row - upper)[..., None]

    def at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        columns = columns % width if wraps else columns.clip(0, width - 1)
        return pixels[rows.clip(0, height - 1), columns].astype(np.float32)

    above = at(upper, left) * (1 - x) + at(upper, left + 1) * x
    below = at(upper + 1, left) * (1 - x) + at(upper + 1, left + 1) * x
    return np.rint(above * (1 - y) + below * y).clip(0, 255).astype(np.uint8)


def _closes(picture: Image) -> bool:
    """Whether a picture of 2 to 1 is a sphere: its poles are one colour each, and its left edge goes on at its right.

    In an equirectangular picture the whole first row is one point, the zenith, and the last one another.
    """
    pixels = np.asarray(picture, dtype=np.float32)  # (H, W, 3)
    poles = max(float(np.ptp(_smooth(pixels[edge]), axis=0).max()) for edge in (0, -1))
    seam = float(np.abs(pixels[:, 0] - pixels[:, -1]).mean())
    inside = float(np.abs(np.diff(pixels, axis=1)).mean())
    spread = float(pixels.std())
    return spread > _EVEN and poles <= _EVEN and seam <= _SEAM * inside + 1


def _smooth(row: np.ndarray) -> np.ndarray:
    """Means `(16, 3)` of the parts of a row of pixels `(W, 3)`: noise and compression aside."""
    return np.stack([part.mean(axis=0) for part in np.array_split(row, min(16, len(row)))])
