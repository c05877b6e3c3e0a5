"""The camera: from metres on the ground to pixels, and how the air colours what is far."""

from __future__ import annotations

import numpy as np

from geocbm_atlas.canvas import Colour
from geocbm_atlas.scene import Conditions


class View:
    """A pinhole camera above a flat, possibly bending road.

    Attributes:
        side: width and height of the picture in pixels.
        focal: focal length in pixels.
        horizon: row of the horizon in pixels.
        nearest: metres ahead at which the ground enters the picture.
        haze: colour of the air.
        ground_colour: colour of the ground, set when the ground is painted.
        bush_colour: colour of bushes that grow on it.
        sun_right: whether the sun stands so that shadows fall to the right.
    """

    def __init__(self, conditions: Conditions, side: int) -> None:
        """Set the camera up for a picture of `side` pixels."""
        self.conditions = conditions
        self.side = side
        self.focal = conditions.focal * side
        self.horizon = conditions.horizon * side
        self.nearest = self.focal * conditions.camera_height / (side * 1.02 - self.horizon)
        grey = np.asarray([176, 182, 188]) * conditions.overcast + np.asarray([190, 208, 228]) * (
            1 - conditions.overcast
        )
        self.haze: Colour = (int(grey[0]), int(grey[1]), int(grey[2]))
        self.ground_colour: Colour = (120, 124, 84)
        self.bush_colour: Colour = (88, 112, 56)
        self.sun_right = conditions.seed % 2 == 0

    def ground(self, x: float, z: float) -> tuple[float, float]:
        """Pixel of the point `x` metres right of the middle of the road and `z` metres ahead."""
        conditions = self.conditions
        across = (x - conditions.camera_x) / z + conditions.curve * z
        return (
            conditions.vanishing * self.side + self.focal * across,
            self.horizon + self.focal * conditions.camera_height / z,
        )

    def fog(self, z: float) -> float:
        """How far the air hides something `z` metres ahead, 0 to 0.85."""
        return float(min(0.85, 1.0 - np.exp(-self.conditions.haze * z)))

    def strip(self, x0: float, x1: float, z0: float, z1: float, n: int = 12) -> list[tuple[float, float]]:
        """Outline of a strip of road between two distances."""
        stations = z0 * (z1 / z0) ** np.linspace(0.0, 1.0, n)
        left = [self.ground(x0, float(z)) for z in stations]
        right = [self.ground(x1, float(z)) for z in stations[::-1]]
        return left + right
