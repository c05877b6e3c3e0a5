"""Small maps as pictures: where on Earth the points of a sheet lie, for pages that are printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.plots.maps import LINES, WORLD, frame_of, outline

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

GROUND, _POINT = "#F7F9FB", "#D55E00"


def draw_lines(
    draw: ImageDraw,
    place: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    width: int,
    thickness: int = 1,
) -> None:
    """Draw borders, `thickness` pixels thick, and coasts, twice as thick, on a picture `width` pixels wide.

    `place` gives the pixels across and down of longitudes and latitudes in degrees.
    """
    for (kind, colour, _), times in zip(reversed(LINES), (1, 2), strict=True):
        lng, lat = (part.astype(float) for part in outline(kind))
        ends = np.flatnonzero(np.isnan(lng))
        for start, end in zip(np.r_[0, ends[:-1] + 1], ends, strict=True):
            x, y = place(lng[start:end], lat[start:end])
            # A line that leaves on one side and comes back on the other would be drawn right across the map.
            for piece in np.split(np.arange(len(x)), np.flatnonzero(np.abs(np.diff(x)) > width / 2) + 1):
                if len(piece) > 1:
                    corners = list(zip(x[piece].tolist(), y[piece].tolist(), strict=True))
                    draw.line(corners, fill=colour, width=times * thickness)


def locator(lat: Any, lng: Any, width: int = 300, height: int = 200) -> Image:
    """A map around points `[n]` in degrees, with coast lines and borders, drawn without a network or a browser.

    Points without a coordinate are left out, and one must be left; a map of the whole world is flatter than `height`
    pixels.
    """
    from PIL import Image as pillow
    from PIL import ImageDraw

    lat, lng = np.asarray(lat, dtype=float), np.asarray(lng, dtype=float)
    known = np.isfinite(lat) & np.isfinite(lng)
    if not known.any():
        raise ValueError("a locator map needs at least one point with a latitude and a longitude")
    lat, lng = lat[known], lng[known]
    middle, west, south, east, north = frame_of(lat, lng, width / height)
    if (west, south, east, north) == WORLD:
        height = round(width * (north - south) / (east - west) * 1.15)
    scale = 2  # drawn larger and reduced, which smooths the lines
    picture = pillow.new("RGB", (scale * width, scale * height), GROUND)
    draw = ImageDraw.Draw(picture)

    def place(longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = ((longitude - middle + 180) % 360 - 180 - west) / (east - west) * scale * width
        return x, (north - latitude) / (north - south) * scale * height

    draw_lines(draw, place, scale * width)
    radius = scale * (2.4 if len(lat) < 200 else 1.8)
    for x, y in zip(*place(lng, lat), strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_POINT)
    return picture.resize((width, height), pillow.Resampling.LANCZOS)
