"""How to draw what stands on the verge: bollards, poles, signs and barriers. Sizes in metres, larger than life."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geocbm_atlas.canvas import Pen, shade

WHITE, BLACK, RED, YELLOW = (238, 238, 234), (28, 28, 30), (204, 32, 36), (246, 204, 20)
BLUE, GREEN, ORANGE, STEEL = (24, 74, 172), (10, 112, 66), (242, 112, 18), (150, 156, 162)
WOOD, CONCRETE, RUST = (112, 78, 50), (176, 172, 164), (148, 76, 42)

Drawer = Callable[[Pen, np.random.Generator], None]


def _banded_post(post: tuple[int, int, int], band: tuple[int, int, int]) -> Drawer:
    def draw(pen: Pen, rng: np.random.Generator) -> None:
        pen.box(-0.2, 0, 0.2, 1.45, post)
        pen.box(-0.2, 0, -0.1, 1.45, shade(post, 0.8))
        pen.polygon([(-0.2, 0.9), (0.2, 0.98), (0.2, 1.3), (-0.2, 1.22)], band)

    return draw


def _striped_post(first: tuple[int, int, int], second: tuple[int, int, int], half: float, height: float) -> Drawer:
    def draw(pen: Pen, rng: np.random.Generator) -> None:
        step = height / 5
        for i in range(5):
            pen.box(-half, i * step, half, (i + 1) * step, first if i % 2 == 0 else second)

    return draw


def _reflector_post(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-0.19, 0, 0.19, 1.4, YELLOW)
    pen.box(-0.19, 0, -0.1, 1.4, shade(YELLOW, 0.8))
    pen.box(-0.11, 0.95, 0.13, 1.25, BLACK)


def _delineator(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-0.34, 0, 0.34, 0.12, BLACK)
    pen.box(-0.17, 0.1, 0.17, 1.4, ORANGE)
    pen.box(-0.17, 0.75, 0.17, 0.92, WHITE)
    pen.box(-0.17, 1.05, 0.17, 1.22, WHITE)


def _kilometre_stone(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-0.42, 0, 0.42, 0.75, WHITE)
    pen.disc(0, 0.75, 0.42, 0.42, YELLOW)
    pen.box(-0.42, 0.6, 0.42, 0.76, YELLOW)
    pen.box(-0.2, 0.22, 0.2, 0.32, BLACK)
    pen.box(-0.14, 0.4, 0.14, 0.48, BLACK)


def _crossarm_pole(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-0.22, 0, 0.22, 7.4, WOOD)
    pen.box(-0.22, 0, -0.06, 7.4, shade(WOOD, 0.75))
    for y in (6.9, 6.0):
        pen.box(-1.5, y - 0.14, 1.5, y + 0.14, shade(WOOD, 0.85))
        for x in (-1.35, -0.7, 0.7, 1.35):
            pen.box(x - 0.1, y + 0.1, x + 0.1, y + 0.42, (200, 210, 214))


def _concrete_pole(pen: Pen, rng: np.random.Generator) -> None:
    pen.polygon([(-0.28, 0), (0.28, 0), (0.17, 7.6), (-0.17, 7.6)], CONCRETE)
    pen.polygon([(0.06, 0), (0.28, 0), (0.17, 7.6), (0.04, 7.6)], shade(CONCRETE, 1.16))
    pen.box(-0.8, 6.9, 0.8, 7.1, STEEL)


def _slotted_pole(pen: Pen, rng: np.random.Generator) -> None:
    pen.polygon([(-0.44, 0), (0.44, 0), (0.26, 7.6), (-0.26, 7.6)], shade(CONCRETE, 1.08))
    for y in np.arange(0.7, 7.0, 0.9):
        half = 0.27 - y * 0.017
        pen.box(-half, y, half, y + 0.55, (92, 92, 88))
    pen.box(-0.7, 7.1, 0.7, 7.25, STEEL)


def _lattice_pole(pen: Pen, rng: np.random.Generator) -> None:
    steel = (106, 114, 124)
    pen.line([(-0.95, 0), (-0.2, 8.2)], 0.15, steel)
    pen.line([(0.95, 0), (0.2, 8.2)], 0.15, steel)
    for y in np.arange(0, 7.6, 1.1):
        a, b = 0.95 - 0.0915 * y, 0.95 - 0.0915 * (y + 1.1)
        pen.line([(-a, y), (b, y + 1.1)], 0.1, steel)
        pen.line([(a, y), (-b, y + 1.1)], 0.1, steel)
    pen.box(-1.5, 7.4, 1.5, 7.58, steel)


def _transformer_pole(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-0.23, 0, 0.23, 7.4, (132, 120, 106))
    pen.box(-1.1, 6.8, 1.1, 7.0, (120, 108, 96))
    side = 1 if rng.random() < 0.5 else -1
    for x in (0.2, 1.15):
        low, high = side * x, side * (x + 0.82)
        pen.box(low, 4.7, high, 6.2, (142, 150, 154))
        pen.box(low, 4.7, low + side * 0.22, 6.2, (104, 112, 116))
        pen.box(low + side * 0.3, 6.2, low + side * 0.5, 6.5, (196, 202, 206))


def _striped_pole(pen: Pen, rng: np.random.Generator) -> None:
    pen.polygon([(-0.27, 0), (0.27, 0), (0.18, 7.4), (-0.18, 7.4)], shade(CONCRETE, 0.95))
    for i in range(6):
        y = 0.25 + i * 0.42
        pen.polygon([(-0.29, y), (0.29, y + 0.2), (0.29, y + 0.62), (-0.29, y + 0.42)], YELLOW if i % 2 else BLACK)
    pen.box(-0.9, 6.8, 0.9, 6.98, STEEL)


def _sign_post(pen: Pen, height: float, half: float = 0.07) -> None:
    pen.box(-half, 0, half, height, STEEL)


def _diamond(pen: Pen, face: tuple[int, int, int], rim: tuple[int, int, int]) -> None:
    _sign_post(pen, 2.2)
    for radius, colour in ((1.0, rim), (0.88, face)):
        pen.polygon([(0, 2.4 - radius), (radius, 2.4), (0, 2.4 + radius), (-radius, 2.4)], colour)


def _yellow_diamond(pen: Pen, rng: np.random.Generator) -> None:
    _diamond(pen, YELLOW, BLACK)
    if rng.random() < 0.5:
        pen.line([(0, 1.95), (0, 2.35), (0.25, 2.75)], 0.17, BLACK)
    else:
        pen.box(-0.08, 1.95, 0.08, 2.85, BLACK)
        pen.box(-0.32, 2.35, 0.32, 2.5, BLACK)


def _animal_diamond(pen: Pen, rng: np.random.Generator) -> None:
    _diamond(pen, YELLOW, BLACK)
    pen.disc(0.0, 2.42, 0.44, 0.2, BLACK)
    for x in (-0.33, -0.18, 0.2, 0.35):
        pen.box(x - 0.055, 1.95, x + 0.055, 2.4, BLACK)
    pen.line([(0.34, 2.5), (0.5, 2.82)], 0.16, BLACK)
    pen.disc(0.54, 2.8, 0.14, 0.1, BLACK)


def _triangle(face: tuple[int, int, int]) -> Drawer:
    def draw(pen: Pen, rng: np.random.Generator) -> None:
        _sign_post(pen, 2.0)
        pen.polygon([(-1.0, 1.65), (1.0, 1.65), (0, 3.35)], RED)
        pen.polygon([(-0.6, 1.88), (0.6, 1.88), (0, 2.9)], face)
        pen.box(-0.07, 2.15, 0.07, 2.62, BLACK)
        pen.box(-0.07, 1.97, 0.07, 2.07, BLACK)

    return draw


def _direction(face: tuple[int, int, int], ink: tuple[int, int, int]) -> Drawer:
    def draw(pen: Pen, rng: np.random.Generator) -> None:
        for x in (-0.95, 0.95):
            pen.box(x - 0.08, 0, x + 0.08, 2.2, STEEL)
        pen.box(-1.55, 1.75, 1.55, 3.55, ink)
        pen.box(-1.45, 1.85, 1.45, 3.45, face)
        left = -1.2
        for y in (3.05, 2.6, 2.15):
            pen.box(left, y - 0.09, left + float(rng.uniform(0.9, 1.7)), y + 0.11, ink)
        pen.polygon([(0.8, 2.25), (1.25, 2.62), (0.8, 3.0)], ink)

    return draw


def _chevrons(face: tuple[int, int, int], ink: tuple[int, int, int]) -> Drawer:
    def draw(pen: Pen, rng: np.random.Generator) -> None:
        for x in (-0.9, 0.9):
            pen.box(x - 0.07, 0, x + 0.07, 1.0, STEEL)
        pen.box(-1.5, 0.75, 1.5, 1.95, face)
        way = 1 if rng.random() < 0.5 else -1
        for x in (-1.1, -0.1, 0.9):
            a, b, c, d = (x - 0.3) * way, x * way, (x + 0.45) * way, (x + 0.15) * way
            pen.polygon([(a, 1.95), (b, 1.95), (c, 1.35), (b, 0.75), (a, 0.75), (d, 1.35)], ink)

    return draw


DRAWERS: dict[str, Drawer] = {
    "Red-Banded White Bollard": _banded_post(WHITE, RED),
    "Black-Banded White Bollard": _banded_post(WHITE, BLACK),
    "Red-and-White Striped Post": _striped_post(RED, WHITE, 0.18, 1.5),
    "Yellow Reflector Post": _reflector_post,
    "Orange Delineator Post": _delineator,
    "Black-and-White Striped Post": _striped_post(BLACK, WHITE, 0.27, 1.15),
    "Yellow-Topped Kilometre Stone": _kilometre_stone,
    "Wooden Crossarm Pole": _crossarm_pole,
    "Round Concrete Pole": _concrete_pole,
    "Slotted Concrete Pole": _slotted_pole,
    "Steel Lattice Pole": _lattice_pole,
    "Transformer Pole": _transformer_pole,
    "Black-and-Yellow Striped Pole": _striped_pole,
    "Yellow Diamond Warning Sign": _yellow_diamond,
    "Animal Crossing Diamond": _animal_diamond,
    "Red-Bordered White Triangle": _triangle(WHITE),
    "Red-Bordered Yellow Triangle": _triangle(YELLOW),
    "Green Direction Sign": _direction(GREEN, WHITE),
    "Blue Direction Sign": _direction(BLUE, WHITE),
    "White Direction Sign": _direction(WHITE, BLACK),
    "Yellow Direction Sign": _direction(YELLOW, BLACK),
    "Black-on-Yellow Chevrons": _chevrons(YELLOW, BLACK),
    "White-on-Black Chevrons": _chevrons(BLACK, WHITE),
    "Red-on-White Chevrons": _chevrons(WHITE, RED),
    "White-on-Blue Chevrons": _chevrons(BLUE, WHITE),
}
"""Meta concept -> how to draw one piece of it."""
