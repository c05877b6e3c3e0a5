"""How to draw plants, houses and vehicles. Sizes in metres, a little larger than life."""

from __future__ import annotations

import numpy as np

from geocbm_atlas.canvas import Colour, Pen, shade
from geocbm_atlas.props_road import BLACK, BLUE, RED, RUST, STEEL, WHITE, WOOD, YELLOW, Drawer


def _vary(colour: Colour, rng: np.random.Generator, by: float = 0.12) -> Colour:
    return shade(colour, float(rng.uniform(1 - by, 1 + by)))


def _palm(pen: Pen, rng: np.random.Generator) -> None:
    lean, top = float(rng.uniform(-0.7, 0.7)), float(rng.uniform(5.2, 6.6))
    pen.line([(0, 0), (lean * 0.4, top * 0.5), (lean, top)], 0.34, (136, 108, 78))
    leaf = _vary((62, 122, 48), rng)
    for angle in np.linspace(-0.5, 3.64, 8):
        c, s = float(np.cos(angle)), float(np.sin(angle))
        tip = (lean + 2.3 * c, top + 1.3 * s - 0.6)
        middle = (lean + 1.3 * c, top + 1.2 * s + 0.15)
        pen.polygon([(lean, top - 0.1), (middle[0], middle[1] + 0.22), tip, (middle[0], middle[1] - 0.3)], leaf)
        leaf = shade(leaf, 1.04 if angle < 1.5 else 0.95)


def _banana(pen: Pen, rng: np.random.Generator) -> None:
    for x in (-0.9, 0.0, 0.9):
        pen.box(x - 0.16, 0, x + 0.16, 1.7, (132, 142, 76))
        for lean in (-1.1, -0.45, 0.35, 1.0):
            green = _vary((104, 172, 52), rng)
            tip = (x + lean * 1.5, 3.2 - abs(lean) * 0.7)
            pen.polygon([(x, 1.5), (x + lean * 0.9 - 0.35, 2.7), tip, (x + lean * 0.9 + 0.42, 2.3)], green)


def _acacia(pen: Pen, rng: np.random.Generator) -> None:
    pen.line([(0, 0), (0.1, 1.8), (-1.2, 3.2)], 0.24, (92, 70, 52))
    pen.line([(0.1, 1.8), (1.3, 3.2)], 0.2, (92, 70, 52))
    green = _vary((110, 126, 58), rng)
    pen.disc(0, 3.5, 3.1, 0.55, shade(green, 0.8))
    pen.disc(-0.6, 3.8, 2.3, 0.45, green)
    pen.disc(1.0, 3.75, 1.7, 0.38, shade(green, 1.1))


def _cactus(pen: Pen, rng: np.random.Generator) -> None:
    green = _vary((68, 124, 82), rng)
    height = float(rng.uniform(3.4, 4.4))
    for x, y0, y1 in ((0.0, 0.0, height), (-1.0, 1.4, 2.8), (1.0, 1.9, 3.4)):
        pen.box(x - 0.3, y0, x + 0.3, y1, green)
        pen.disc(x, y1, 0.3, 0.3, green)
        pen.box(x + 0.05, y0, x + 0.13, y1, shade(green, 1.35))
    pen.box(-1.0, 1.4, 0, 1.85, green)
    pen.box(0, 1.9, 1.0, 2.35, green)


def _eucalyptus(pen: Pen, rng: np.random.Generator) -> None:
    bark = (206, 192, 172)
    pen.line([(0, 0), (0.2, 3.0), (-0.8, 5.0)], 0.34, bark)
    pen.line([(0.2, 2.8), (1.2, 5.0)], 0.26, shade(bark, 0.9))
    for x, y, r in ((-1.1, 5.2, 1.05), (1.3, 5.3, 1.0), (0.1, 6.1, 1.15), (-0.4, 4.5, 0.55)):
        grey = _vary((112, 138, 112), rng)
        pen.disc(x, y, r * 1.15, r * 0.72, grey)
        pen.disc(x - r * 0.2, y + r * 0.2, r * 0.6, r * 0.35, shade(grey, 1.15))


def _cypress(pen: Pen, rng: np.random.Generator) -> None:
    for x in (-0.85, 0.75):
        height, green = float(rng.uniform(5.4, 6.8)), _vary((34, 66, 42), rng)
        pen.box(x - 0.12, 0, x + 0.12, 0.6, WOOD)
        pen.polygon([(x - 0.5, 0.5), (x - 0.62, 2.4), (x, height), (x + 0.62, 2.4), (x + 0.5, 0.5)], green)
        pen.polygon([(x + 0.1, 0.6), (x + 0.1, height * 0.8), (x + 0.5, 2.4), (x + 0.4, 0.6)], shade(green, 1.3))


def _broadleaf(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-0.26, 0, 0.26, 2.4, (84, 62, 44))
    green = _vary((72, 124, 44), rng, 0.2)
    for x, y, r in ((-1.1, 3.2, 1.25), (1.15, 3.2, 1.25), (0, 4.3, 1.55), (0, 3.0, 1.3)):
        pen.disc(x, y, r, r * 0.9, shade(green, 0.86))
        pen.disc(x - 0.25, y + 0.3, r * 0.66, r * 0.55, green)


def _spruce(pen: Pen, rng: np.random.Generator) -> None:
    height, green = float(rng.uniform(5.6, 7.4)), _vary((36, 82, 62), rng)
    pen.box(-0.15, 0, 0.15, 0.8, (74, 54, 40))
    for i in range(4):
        y, half = 0.6 + i * height * 0.19, 1.75 - i * 0.38
        pen.polygon([(-half, y), (half, y), (0, y + height * 0.4)], shade(green, 0.86 + 0.09 * i))


def _birch(pen: Pen, rng: np.random.Generator) -> None:
    for x in (-0.8, 0.1, 0.9):
        height, lean = float(rng.uniform(4.6, 6.2)), float(rng.uniform(-0.3, 0.3))
        green = _vary((146, 174, 66), rng)
        pen.disc(x + lean, height - 0.2, 0.95, 1.35, green)
        pen.disc(x + lean - 0.3, height + 0.2, 0.5, 0.7, shade(green, 1.14))
        pen.line([(x, 0), (x + lean, height - 0.4)], 0.25, (240, 240, 236))
        for y in (0.7, 1.6, 2.4, 3.2):
            part = y / height
            pen.box(x + lean * part - 0.13, y, x + lean * part + 0.06, y + 0.16, BLACK)


def _wall(pen: Pen, wall: Colour, half: float, height: float) -> None:
    pen.box(-half, 0, half, height, wall)
    pen.box(half * 0.5, 0, half, height, shade(wall, 0.84))
    for x in (-0.62, 0.22):
        pen.box(x * half - 0.35, height * 0.35, x * half + 0.35, height * 0.8, (66, 76, 92))
    pen.box(0.66 * half - 0.4, 0, 0.66 * half + 0.4, height * 0.75, (92, 62, 44))


def _gabled(roof: Colour, walls: tuple[Colour, ...], ridges: bool = False, corrugated: bool = False) -> Drawer:
    def draw(pen: Pen, rng: np.random.Generator) -> None:
        _wall(pen, walls[int(rng.integers(len(walls)))], 2.8, 2.3)
        pen.polygon([(-3.2, 2.2), (3.2, 2.2), (2.3, 4.1), (-2.3, 4.1)], roof)
        if ridges:
            for y in (2.65, 3.15, 3.65):
                half = 3.2 - (y - 2.2) * 0.47
                pen.line([(-half, y), (half, y)], 0.1, shade(roof, 0.72))
        if corrugated:
            for x in np.linspace(-2.6, 2.6, 9):
                pen.line([(x * 1.16, 2.2), (x * 0.84, 4.1)], 0.12, shade(roof, 0.72 if rng.random() < 0.5 else 1.4))

    return draw


def _thatched(pen: Pen, rng: np.random.Generator) -> None:
    straw = _vary((182, 148, 84), rng)
    pen.box(-2.0, 0, 2.0, 1.8, (172, 128, 92))
    pen.box(-0.4, 0, 0.4, 1.5, (64, 44, 32))
    pen.polygon([(-3.1, 1.3), (3.1, 1.3), (1.5, 3.5), (0, 4.2), (-1.5, 3.5)], straw)
    for x in np.linspace(-2.4, 2.4, 7):
        pen.line([(x * 1.15, 1.35), (x * 0.4, 3.7)], 0.1, shade(straw, 0.76))


def _flat_roof(pen: Pen, rng: np.random.Generator) -> None:
    wall = ((222, 208, 184), (226, 222, 214), (206, 176, 148), (188, 204, 206))[int(rng.integers(4))]
    _wall(pen, wall, 2.6, 4.3)
    pen.box(-2.6, 2.0, 2.6, 2.2, shade(wall, 0.75))
    pen.box(-2.75, 4.2, 2.75, 4.6, shade(wall, 0.9))
    for x in (-2.3, -0.8, 0.8, 2.3):
        pen.line([(x, 4.6), (x, 5.2)], 0.1, RUST)
    pen.box(-1.7, 4.6, -0.7, 5.4, (44, 46, 52))


def _red_house(pen: Pen, rng: np.random.Generator) -> None:
    red = _vary((150, 38, 34), rng, 0.06)
    pen.box(-2.7, 0, 2.7, 2.5, red)
    pen.polygon([(-3.1, 2.4), (3.1, 2.4), (0, 4.7)], (58, 56, 60))
    pen.polygon([(-2.3, 2.4), (2.3, 2.4), (0, 4.15)], red)
    for x in (-2.7, 2.56):
        pen.box(x, 0, x + 0.16, 2.45, WHITE)
    for x in (-1.5, 1.5):
        pen.box(x - 0.55, 0.8, x + 0.55, 1.9, WHITE)
        pen.box(x - 0.38, 0.95, x + 0.38, 1.75, (60, 70, 88))
    pen.box(-0.42, 0, 0.42, 1.7, WHITE)


def _temple_roof(pen: Pen, rng: np.random.Generator) -> None:
    roof = ((74, 80, 84), (172, 92, 40), (44, 88, 76))[int(rng.integers(3))]
    _wall(pen, (226, 214, 190), 2.3, 2.2)
    for y, half in ((2.0, 3.4), (3.4, 2.4)):
        pen.polygon(
            [(-half, y + 0.55), (-half * 0.75, y), (half * 0.75, y), (half, y + 0.55), (half * 0.5, y + 0.75),
             (half * 0.34, y + 1.4), (-half * 0.34, y + 1.4), (-half * 0.5, y + 0.75)], roof)  # fmt: skip
        pen.line([(-half, y + 0.55), (-half * 0.75, y), (half * 0.75, y), (half, y + 0.55)], 0.16, (196, 60, 40))


def draw_car(pen: Pen, rng: np.random.Generator, paint: Colour, rear: bool, plate: str = "") -> None:
    """Draw a car seen from behind or from ahead; nothing of it but the plate tells the country."""
    pen.disc(0, 0.05, 1.15, 0.22, (52, 52, 54))
    for x in (-0.72, 0.72):
        pen.box(x - 0.2, 0, x + 0.2, 0.5, (24, 24, 26))
    pen.polygon([(-1.0, 0.3), (1.0, 0.3), (1.02, 1.05), (-1.02, 1.05)], paint)
    pen.polygon([(-0.98, 1.0), (0.98, 1.0), (0.72, 1.72), (-0.72, 1.72)], shade(paint, 0.9))
    pen.polygon([(-0.84, 1.05), (0.84, 1.05), (0.64, 1.6), (-0.64, 1.6)], (58, 72, 86))
    lamp = (206, 28, 30) if rear else (250, 246, 214)
    for x in (-0.82, 0.82):
        pen.box(x - 0.17, 0.76, x + 0.17, 0.98, lamp)
    if plate:
        draw_plate(pen, plate)
    else:
        pen.box(-0.3, 0.46, 0.3, 0.62, (120, 120, 120))


PLATES: dict[str, tuple[float, float, Colour, Colour]] = {
    "European Blue-Strip Plate": (0.62, 0.3, WHITE, BLACK),
    "Yellow Plate": (0.6, 0.3, YELLOW, BLACK),
    "Short White Plate": (0.38, 0.4, WHITE, (34, 50, 110)),
    "Black Plate": (0.56, 0.32, BLACK, WHITE),
    "Green Plate": (0.52, 0.34, (36, 138, 78), WHITE),
}
"""Plate -> half width, height, face and ink."""


def draw_plate(pen: Pen, plate: str) -> None:
    """Draw a licence plate on the back of a car."""
    half, height, face, ink = PLATES[plate]
    low = 0.36
    pen.box(-half - 0.03, low - 0.03, half + 0.03, low + height + 0.03, (70, 70, 72))
    pen.box(-half, low, half, low + height, face)
    start = -half + 0.08
    if plate == "European Blue-Strip Plate":
        pen.box(-half, low, -half + 0.22, low + height, BLUE)
        start = -half + 0.3
    n = 4 if half > 0.4 else 3
    step = (half - 0.06 - start) / n
    for i in range(n):
        pen.box(start + i * step, low + 0.09, start + (i + 0.6) * step, low + height - 0.08, ink)


def _rickshaw(pen: Pen, rng: np.random.Generator) -> None:
    green = ((28, 122, 70), (30, 74, 158), (186, 40, 36))[int(rng.integers(3))]
    pen.disc(0, 0.05, 1.0, 0.2, (52, 52, 54))
    for x in (-0.7, 0.55):
        pen.box(x, 0, x + 0.2, 0.5, BLACK)
    pen.polygon([(-0.9, 0.3), (0.9, 0.3), (0.95, 1.1), (-0.95, 1.1)], green)
    pen.polygon([(-0.95, 1.1), (0.95, 1.1), (0.85, 1.9), (-0.85, 1.9)], (40, 42, 46))
    pen.polygon([(-1.02, 1.75), (1.02, 1.75), (0.8, 2.3), (-0.8, 2.3)], YELLOW)
    pen.box(-0.95, 0.9, 0.95, 1.12, YELLOW)


def _taxi(pen: Pen, rng: np.random.Generator) -> None:
    draw_car(pen, rng, (246, 196, 16), rear=True)
    pen.box(-0.42, 1.7, 0.42, 2.02, WHITE)
    pen.box(-0.26, 1.78, 0.26, 1.94, BLACK)
    for i in range(8):
        pen.box(-1.0 + i * 0.25, 0.62 + 0.1 * (i % 2), -0.75 + i * 0.25, 0.72 + 0.1 * (i % 2), BLACK)


def _scooter(pen: Pen, rng: np.random.Generator) -> None:
    paint = ((200, 44, 40), (40, 92, 170), (236, 236, 232))[int(rng.integers(3))]
    shirt = ((230, 120, 60), (90, 140, 200), (210, 210, 90))[int(rng.integers(3))]
    pen.box(-0.14, 0, 0.14, 0.7, BLACK)
    pen.polygon([(-0.42, 0.45), (0.42, 0.45), (0.32, 1.1), (-0.32, 1.1)], paint)
    pen.box(-0.15, 0.62, 0.15, 0.75, RED)
    pen.polygon([(-0.4, 1.0), (0.4, 1.0), (0.48, 1.8), (-0.48, 1.8)], shirt)
    pen.line([(-0.75, 1.35), (0.75, 1.35)], 0.12, BLACK)
    pen.disc(0, 2.08, 0.3, 0.32, paint)
    pen.box(-0.2, 1.98, 0.2, 2.1, BLACK)


def _pickup(pen: Pen, rng: np.random.Generator) -> None:
    paint = ((172, 36, 34), (226, 226, 224), (38, 62, 110), (96, 98, 100))[int(rng.integers(4))]
    pen.disc(0, 0.05, 1.35, 0.24, (52, 52, 54))
    for x in (-1.0, 0.66):
        pen.box(x, 0, x + 0.34, 0.6, BLACK)
    pen.polygon([(-0.9, 1.3), (0.9, 1.3), (0.76, 2.1), (-0.76, 2.1)], shade(paint, 0.85))
    pen.box(-0.68, 1.4, 0.68, 1.95, (52, 66, 80))
    pen.box(-1.22, 0.42, 1.22, 1.42, paint)
    pen.box(-1.0, 0.72, 1.0, 1.34, shade(paint, 0.82))
    pen.box(-1.22, 0.32, 1.22, 0.5, STEEL)
    for x in (-1.12, 1.12):
        pen.box(x - 0.1, 0.75, x + 0.1, 1.3, (214, 30, 30))


DRAWERS: dict[str, Drawer] = {
    "Palm Trees": _palm,
    "Banana Plants": _banana,
    "Umbrella Acacias": _acacia,
    "Tall Cacti": _cactus,
    "Eucalyptus Trees": _eucalyptus,
    "Cypress Trees": _cypress,
    "Broadleaf Trees": _broadleaf,
    "Spruce Forest": _spruce,
    "Birch Trees": _birch,
    "Red Tile Roof": _gabled((198, 88, 52), ((238, 226, 204), (230, 206, 160)), ridges=True),
    "Rusty Metal Roof": _gabled((140, 102, 80), ((176, 148, 116), (140, 166, 160)), corrugated=True),
    "Thatched Roof": _thatched,
    "Flat Concrete Roof": _flat_roof,
    "Dark Slate Roof": _gabled((62, 66, 76), ((196, 190, 180), (166, 96, 76)), ridges=True),
    "Blue Metal Roof": _gabled((44, 110, 190), ((214, 208, 196), (186, 160, 130)), corrugated=True),
    "Red Wooden House": _red_house,
    "Upturned Temple Roof": _temple_roof,
    "Auto-Rickshaw": _rickshaw,
    "Yellow Taxi": _taxi,
    "Motor Scooter": _scooter,
    "Pickup Truck": _pickup,
}
"""Meta concept -> how to draw one piece of it."""
