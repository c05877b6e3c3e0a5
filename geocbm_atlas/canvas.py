"""A picture that remembers which concept owns each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]


class Canvas:
    """Draws every shape twice: in colour, and as the number of its owner on a mask.

    What is painted later covers what was painted before on both, so the mask knows what is really visible.

    Attributes:
        image: the picture, RGB.
        mask: number of the owner of each pixel, 0 for nobody's.
        owner: number that shapes get from now on.
    """

    def __init__(self, side: int) -> None:
        """Make an empty square canvas of `side` pixels."""
        self.side = side
        self.image = Image.new("RGB", (side, side))
        self.mask = Image.new("L", (side, side))
        self._draw = ImageDraw.Draw(self.image)
        self._own = ImageDraw.Draw(self.mask)
        self.owner = 0

    def paint_rows(self, pixels: np.ndarray, top: int, owner: int) -> None:
        """Paste pixel rows (uint8 `[h, side, 3]`) from row `top` downwards for an owner."""
        self.image.paste(Image.fromarray(pixels), (0, top))
        self._own.rectangle([0, top, self.side, self.side], fill=owner)

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon(points, fill=colour)
        self._own.polygon(points, fill=self.owner)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill an ellipse given by its bounding box."""
        box = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
        self._draw.ellipse(box, fill=colour)
        self._own.ellipse(box, fill=self.owner)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        """Draw a line of a width in pixels, at least one."""
        thick = max(1, round(width))
        self._draw.line(points, fill=colour, width=thick)
        self._own.line(points, fill=self.owner, width=thick)


class Pen:
    """Draws in metres around a foot point on the ground: x to the right, y upwards.

    Attributes:
        scale: pixels per metre.
    """

    def __init__(self, canvas: Canvas, x: float, y: float, scale: float, fog: float, haze: Colour) -> None:
        """Stand at pixel (`x`, `y`); colours fade by `fog` (0 to 1) into the colour of the haze."""
        self.canvas, self.x, self.y, self.scale = canvas, x, y, scale
        self._fog, self._haze = fog, haze

    def tone(self, colour: Colour) -> Colour:
        """Colour as seen through the haze."""
        clear, haze = 1.0 - self._fog, self._haze
        return (
            int(colour[0] * clear + haze[0] * self._fog),
            int(colour[1] * clear + haze[1] * self._fog),
            int(colour[2] * clear + haze[2] * self._fog),
        )

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fill a polygon given in metres."""
        x, y, scale = self.x, self.y, self.scale
        self.canvas.polygon([(x + px * scale, y - py * scale) for px, py in points], self.tone(colour))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill a rectangle from (`x0`, `y0`) to (`x1`, `y1`)."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def disc(self, cx: float, cy: float, rx: float, ry: float, colour: Colour) -> None:
        """Fill an ellipse with its centre and half axes."""
        x, y, s = self.x + cx * self.scale, self.y - cy * self.scale, self.scale
        self.canvas.ellipse(x - rx * s, y - ry * s, x + rx * s, y + ry * s, self.tone(colour))

    def line(self, points: Points, width: float, colour: Colour) -> None:
        """Draw a line; `width` in metres."""
        x, y, scale = self.x, self.y, self.scale
        self.canvas.line([(x + px * scale, y - py * scale) for px, py in points], width * scale, self.tone(colour))


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (`factor` < 1) or lighten a colour."""
    return tuple(int(min(255, max(0, channel * factor))) for channel in colour)  # type: ignore[return-value]
