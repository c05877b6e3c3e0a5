"""Sky, skyline and ground of a scene."""

from __future__ import annotations

import numpy as np
from PIL import Image

from geocbm_atlas.canvas import Canvas, Colour, shade
from geocbm_atlas.view import View

GROUNDS: dict[str, tuple[Colour, Colour]] = {
    "": (((122, 124, 86)), (92, 108, 60)),
    "Rice Paddies": ((112, 168, 62), (84, 128, 54)),
    "Red Soil": ((178, 88, 54), (104, 112, 52)),
    "Desert Sand": ((222, 192, 140), (146, 136, 88)),
    "Dry Yellow Grass": ((198, 176, 96), (138, 134, 70)),
    "Green Pasture": ((92, 156, 58), (64, 110, 44)),
    "Black Volcanic Ground": ((58, 56, 58), (84, 92, 60)),
    "Snow Patches": ((150, 150, 132), (104, 112, 96)),
}
"""Ground -> its colour and the colour of the bushes on it."""


def _texture(rng: np.random.Generator, rows: int, columns: int, height: int, width: int) -> np.ndarray:
    """Smooth noise in -1..1, `[height, width, 1]`."""
    coarse = Image.fromarray(rng.integers(0, 256, (rows, columns), dtype=np.uint8))
    fine = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
    return (fine / 127.5 - 1.0)[:, :, None]


def paint_sky(canvas: Canvas, view: View, rng: np.random.Generator) -> None:
    """Paint the sky: blue or grey, warmer and paler towards the horizon, with clouds."""
    conditions, side = view.conditions, canvas.side
    height = int(view.horizon) + 2
    down = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None, None]
    blue = np.asarray([72, 132, 206], dtype=np.float32) * (0.72 + 0.3 * conditions.sun)
    grey = np.asarray([168, 174, 182], dtype=np.float32)
    top = blue * (1 - conditions.overcast) + grey * conditions.overcast
    bottom = np.asarray(view.haze, dtype=np.float32) + np.asarray([18, 6, -14], dtype=np.float32) * conditions.warmth
    sky = top * (1 - down) + bottom * down
    clouds = _texture(rng, 5, 4, height, side) + 0.5 * _texture(rng, 11, 9, height, side)
    cover = np.clip(clouds - 0.75 + 1.1 * conditions.overcast, 0.0, 1.0) * 0.7
    sky = sky * (1 - cover) + np.asarray([236, 236, 238], dtype=np.float32) * (1 - 0.22 * conditions.overcast) * cover
    canvas.paint_rows(np.clip(np.broadcast_to(sky, (height, side, 3)), 0, 255).astype(np.uint8), 0, 0)


class _Skyline:
    """Draws one kind of skyline each method.

    Attributes:
        side: of the canvas, pixels.
        base: row of the horizon.
        unit: pixels of a picture of 144 that one pixel stands for.
        fog: how much of the haze lies over what is far, 0 to 1.
    """

    def __init__(self, canvas: Canvas, view: View, rng: np.random.Generator) -> None:
        self.canvas, self.view, self.rng = canvas, view, rng
        self.side, self.base, self.unit = canvas.side, view.horizon + 2, canvas.side / 144
        self.fog = min(0.6, 0.16 + view.conditions.haze * 18)

    def air(self, colour: Colour, fog: float) -> Colour:
        """A colour with so much haze over it."""
        return tuple(int(a * (1 - fog) + b * fog) for a, b in zip(colour, self.view.haze, strict=True))  # type: ignore[return-value]

    def _snow_peaks(self) -> None:
        canvas, rng, side, base, unit = self.canvas, self.rng, self.side, self.base, self.unit
        fog, air = self.fog, self.air
        for _ in range(4):
            x, half = float(rng.uniform(0, side)), float(rng.uniform(26, 46)) * unit
            top = base - float(rng.uniform(26, 44)) * unit
            rock = air((92, 100, 122), fog)
            canvas.polygon([(x - half, base), (x, top), (x + half, base)], rock)
            canvas.polygon([(x, top), (x + half * 0.3, base), (x + half, base)], shade(rock, 0.86))
            cut = 0.42
            low = top + (base - top) * cut
            canvas.polygon(
                [(x, top), (x + half * cut, low), (x + half * 0.2, low - 4 * unit), (x, low + 3 * unit),
                 (x - half * 0.2, low - 4 * unit), (x - half * cut, low)], air((246, 248, 252), fog * 0.4))  # fmt: skip

    def _green_hills(self) -> None:
        canvas, rng, side, base, unit = self.canvas, self.rng, self.side, self.base, self.unit
        fog, air = self.fog, self.air
        for tone in (0.82, 1.0, 1.14):
            x, half = float(rng.uniform(0, side)), float(rng.uniform(42, 74)) * unit
            tall = float(rng.uniform(13, 24)) * unit
            canvas.ellipse(x - half, base - tall, x + half, base + tall, air(shade((98, 142, 76), tone), fog * 0.7))

    def _volcano(self) -> None:
        canvas, rng, side, base, unit = self.canvas, self.rng, self.side, self.base, self.unit
        fog, air = self.fog, self.air
        x, half, tall = float(rng.uniform(0.2, 0.8)) * side, 52 * unit, float(rng.uniform(36, 46)) * unit
        rock, rim = air((92, 82, 90), fog), 7 * unit
        canvas.polygon([(x - half, base), (x - half * 0.4, base - tall * 0.45), (x - rim, base - tall),
                        (x + rim, base - tall), (x + half * 0.4, base - tall * 0.45), (x + half, base)],
                       rock)  # fmt: skip
        canvas.polygon(
            [(x - rim, base - tall), (x + rim, base - tall), (x, base - tall + 4 * unit)], air((196, 84, 52), 0.1)
        )
        for i in range(4):
            puff = (4 + 1.6 * i) * unit
            px, py = x + (3 + 5 * i) * unit, base - tall - (4 + 4.4 * i) * unit
            canvas.ellipse(px - puff, py - puff * 0.7, px + puff, py + puff * 0.7, air((224, 222, 222), 0.2))

    def _mesas(self) -> None:
        canvas, rng, side, base, unit = self.canvas, self.rng, self.side, self.base, self.unit
        fog, air = self.fog, self.air
        for _ in range(3):
            x, half = float(rng.uniform(0, side)), float(rng.uniform(16, 32)) * unit
            tall = float(rng.uniform(15, 27)) * unit
            rock = air((186, 104, 68), fog * 0.8)
            canvas.polygon([(x - half * 1.5, base), (x - half, base - tall * 0.55), (x - half, base - tall),
                            (x + half, base - tall), (x + half, base - tall * 0.55), (x + half * 1.5, base)],
                           rock)  # fmt: skip
            for part in (0.62, 0.8):
                y = base - tall * part
                canvas.polygon([(x - half, y), (x + half, y), (x + half, y + 2 * unit), (x - half, y + 2 * unit)],
                               shade(rock, 0.78))  # fmt: skip

    def _towers(self) -> None:
        canvas, rng, side, base, unit = self.canvas, self.rng, self.side, self.base, self.unit
        fog, air = self.fog, self.air
        for _ in range(6):
            x, half = float(rng.uniform(0, side)), float(rng.uniform(7, 13)) * unit
            tall = float(rng.uniform(22, 42)) * unit
            green, stone = air((84, 118, 84), fog * 0.7), air((204, 198, 178), fog * 0.6)
            canvas.polygon([(x - half * 1.1, base), (x - half, base - tall + half), (x + half, base - tall + half),
                            (x + half * 1.1, base)], green)  # fmt: skip
            canvas.ellipse(x - half, base - tall, x + half, base - tall + 2 * half, green)
            for left, right, low, high in ((-0.75, -0.35, 0.15, 0.6), (0.05, 0.4, 0.3, 0.75), (0.55, 0.85, 0.1, 0.5)):
                canvas.polygon([(x + half * left, base - tall * low), (x + half * (left + 0.1), base - tall * high),
                                (x + half * right, base - tall * (high - 0.06)), (x + half * right, base - tall * low)],
                               stone)  # fmt: skip

    def _distant_wood(self) -> None:
        canvas, rng, side, base, unit = self.canvas, self.rng, self.side, self.base, self.unit
        fog, air = self.fog, self.air
        steps = np.linspace(0, side, 14)
        tops = base - rng.uniform(1.5, 5.0, 14) * unit
        outline = [(0.0, base), *zip(steps.tolist(), tops.tolist(), strict=True), (float(side), base)]
        canvas.polygon(outline, air((94, 108, 96), 0.25 + fog * 0.5))


def paint_skyline(canvas: Canvas, view: View, meta: str, rng: np.random.Generator) -> None:
    """Paint what rises behind the horizon; without a concept, a low distant wood."""
    skyline = _Skyline(canvas, view, rng)
    painters = {
        "Snow-Capped Mountains": skyline._snow_peaks,
        "Rounded Green Hills": skyline._green_hills,
        "Volcano Cone": skyline._volcano,
        "Flat-Topped Mesas": skyline._mesas,
        "Limestone Towers": skyline._towers,
    }
    painters.get(meta, skyline._distant_wood)()


def paint_ground(canvas: Canvas, view: View, meta: str, rng: np.random.Generator) -> None:
    """Paint the ground from the horizon to the lower edge; `canvas.owner` owns it."""
    side, top = canvas.side, int(view.horizon)
    height = side - top
    colour, view.bush_colour = GROUNDS[meta]
    colour = shade(colour, float(rng.uniform(0.9, 1.1)))
    view.ground_colour = colour
    down = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None, None]
    fog = np.minimum(0.75, view.conditions.haze * 9 / (down + 0.06))
    base = np.asarray(colour, dtype=np.float32) * (0.93 + 0.1 * down)
    rough = 0.17 if meta in ("Black Volcanic Ground", "Dry Yellow Grass", "Red Soil") else 0.1
    relief = _texture(rng, 14, 18, height, side) + _texture(rng, 46, 52, height, side)
    ground = base * (1 + rough * 0.6 * relief)
    ground = ground * (1 - fog) + np.asarray(view.haze, dtype=np.float32) * fog
    canvas.paint_rows(np.clip(ground, 0, 255).astype(np.uint8), top, canvas.owner)
    if meta == "Rice Paddies":
        for i, z in enumerate(3.0 * 1.2 ** np.arange(14)):
            for way in (-1, 1):
                near, far = way * (view.conditions.half_width + 1.2), way * 60.0
                quad = [
                    view.ground(near, z),
                    view.ground(far, z),
                    view.ground(far, z * 1.09),
                    view.ground(near, z * 1.09),
                ]
                canvas.polygon(quad, (150, 184, 202) if i % 2 else (66, 122, 44))
    elif meta == "Snow Patches":
        for _ in range(34):
            z = float(rng.uniform(3, 26))
            x = float(rng.choice([-1, 1])) * (view.conditions.half_width + float(rng.uniform(0.8, 14)))
            px, py = view.ground(x, z)
            half = float(rng.uniform(0.7, 2.0)) * view.focal / z
            canvas.ellipse(px - half, py - half * 0.2, px + half, py + half * 0.2, (244, 247, 252))
    elif meta in ("Desert Sand", "Black Volcanic Ground"):
        for _ in range(14):
            z = float(rng.uniform(4, 26))
            x = float(rng.choice([-1, 1])) * (view.conditions.half_width + float(rng.uniform(1, 14)))
            px, py = view.ground(x, z)
            half = float(rng.uniform(0.3, 1.4)) * view.focal / z
            canvas.ellipse(
                px - half, py - half * 0.16, px + half, py + half * 0.16, shade(colour, float(rng.uniform(0.7, 1.2)))
            )
