"""Draw a scene and say where each concept can be seen in the picture."""

from __future__ import annotations

import numpy as np

from geocbm.errors import ParameterError
from geocbm_atlas import props_land, props_road
from geocbm_atlas.canvas import Canvas, Colour, Pen, shade
from geocbm_atlas.facts import UNPAVED
from geocbm_atlas.landscape import paint_ground, paint_sky, paint_skyline
from geocbm_atlas.picture import SUPERSAMPLING, VisibleConcept, develop, visible_concepts
from geocbm_atlas.scene import Concept, Scene
from geocbm_atlas.view import View

SMALLEST_SIZE, LARGEST_SIZE = 48, 1024

CAR_PAINTS: tuple[Colour, ...] = (
    (186, 188, 192), (232, 232, 230), (44, 46, 52), (120, 34, 36), (44, 70, 116), (98, 104, 100), (150, 138, 112),
)  # fmt: skip
SURFACES: dict[str, Colour] = {
    "Red Dirt Road": (176, 92, 58),
    "Grey Gravel Road": (158, 154, 146),
    "Cobblestone Road": (128, 122, 116),
    "Pale Concrete Road": (196, 192, 182),
    "Cracked Patched Asphalt": (104, 102, 100),
}
FLAT_SLOTS = ("centre line", "edge line", "surface", "ground", "skyline")
PAINT = {"Yellow": (240, 186, 28), "White": (236, 236, 232)}


class _Painter:
    """Draws one scene, nearest last, giving every piece of a concept a number on the mask."""

    def __init__(self, scene: Scene, size: int) -> None:
        self.scene = scene
        self.canvas = Canvas(size * SUPERSAMPLING)
        self.view = View(scene.conditions, size * SUPERSAMPLING)
        self.rng = np.random.default_rng(scene.conditions.seed)
        self.pieces: list[str] = [""]  # concept of each number on the mask; 0 is nobody's

    def own(self, meta: str) -> None:
        """Let what is drawn next be a new piece of a concept; an empty name for nobody's."""
        if not meta or len(self.pieces) > 254:
            self.canvas.owner = 0
            return
        self.pieces.append(meta)
        self.canvas.owner = len(self.pieces) - 1

    def pen(self, x: float, z: float, size: float = 1.0) -> Pen:
        """A pen that stands on the ground at (`x`, `z`) metres."""
        px, py = self.view.ground(x, z)
        return Pen(self.canvas, px, py, self.view.focal / z * size, self.view.fog(z), self.view.haze)

    def paint(self) -> None:
        """Paint the whole scene."""
        by_slot = {concept.slot: concept for concept in self.scene.concepts}
        ground, skyline, surface = (by_slot.get(name) for name in ("ground", "skyline", "surface"))
        paint_sky(self.canvas, self.view, self.rng)
        if skyline:
            self.own(skyline.meta_name)
        paint_skyline(self.canvas, self.view, skyline.meta_name if skyline else "", self.rng)
        self.own(ground.meta_name if ground else "")
        paint_ground(self.canvas, self.view, ground.meta_name if ground else "", self.rng)
        self._road(surface.meta_name if surface else "")
        for name in ("edge line", "centre line"):
            if name in by_slot:
                self._line(by_slot[name].meta_name, surface)
        jobs = [job for concept in self.scene.concepts for job in self._jobs(concept)] + self._clutter()
        for _, concept, x, z, size, kind in sorted(jobs, key=lambda job: -job[0]):
            self._draw_piece(concept, x, z, size, kind)
        vehicle = by_slot.get("vehicle")
        if vehicle and vehicle.meta_name == "Snorkel Camera Car":
            self._camera_car(vehicle)

    def _road(self, surface: str) -> None:
        view, half = self.view, self.scene.conditions.half_width
        base = SURFACES.get(surface) or shade((88, 88, 92), float(self.rng.uniform(0.85, 1.2)))
        self.own("")
        verge = shade(view.ground_colour, 0.86)
        self.canvas.polygon(view.strip(-half - 0.45, half + 0.45, view.nearest, 90.0), verge)
        self.own(surface)
        self.canvas.polygon(view.strip(-half, half, view.nearest, 90.0), base)
        if surface == "Cobblestone Road":
            self._cobbles(base)
        elif surface in UNPAVED:
            self._wheel_tracks(base)
        elif surface == "Pale Concrete Road":
            self._concrete_slabs(base)
        elif surface == "Cracked Patched Asphalt":
            self._cracks(base)

    def _cobbles(self, base: Colour) -> None:
        view, half, rng = self.view, self.scene.conditions.half_width, self.rng
        for row, z in enumerate(1.14 ** np.arange(6, 27)):
            if z < view.nearest:
                continue
            width = max(0.35, z * 0.05)
            for x in np.arange(-half + (row % 2) * width / 2, half - width * 0.6, width):
                self._patch(x, x + width * 0.82, z, z * 1.1, shade(base, float(rng.uniform(0.72, 1.3))))

    def _wheel_tracks(self, base: Colour) -> None:
        view, half, rng = self.view, self.scene.conditions.half_width, self.rng
        for x in (-half * 0.5, half * 0.5):
            self.canvas.polygon(view.strip(x - 0.35, x + 0.35, view.nearest, 70.0), shade(base, 1.14))
        for _ in range(70):
            z, x = float(rng.uniform(2.6, 14)), float(rng.uniform(-half, half))
            self._patch(x, x + 0.16, z, z * 1.03, shade(base, float(rng.uniform(0.6, 1.35))))

    def _concrete_slabs(self, base: Colour) -> None:
        view, half = self.view, self.scene.conditions.half_width
        for z in (3.2, 4.4, 6, 8.2, 11, 15, 21):
            self._patch(-half, half, z, z * 1.03, shade(base, 0.62))
        self.canvas.polygon(view.strip(-0.05, 0.05, view.nearest, 60.0), shade(base, 0.66))

    def _cracks(self, base: Colour) -> None:
        view, half, rng = self.view, self.scene.conditions.half_width, self.rng
        for _ in range(9):
            z, x = float(rng.uniform(2.8, 15)), float(rng.uniform(-half, half - 0.9))
            self._patch(x, x + float(rng.uniform(0.5, 1.2)), z, z * float(rng.uniform(1.08, 1.25)), shade(base, 0.6))
        for _ in range(7):
            z, x = float(rng.uniform(2.8, 12)), float(rng.uniform(-half, half * 0.6))
            points = [view.ground(x + i * 0.3, z * (1 + 0.05 * i + float(rng.uniform(-0.03, 0.03)))) for i in range(5)]
            self.canvas.line(points, self.canvas.side / 150, (46, 46, 46))

    def _patch(self, x0: float, x1: float, z0: float, z1: float, colour: Colour) -> None:
        view = self.view
        self.canvas.polygon(
            [view.ground(x0, z0), view.ground(x1, z0), view.ground(x1, z1), view.ground(x0, z1)], colour
        )

    def _line(self, meta: str, surface: Concept | None) -> None:
        view, half = self.view, self.scene.conditions.half_width
        yellow = "Yellow" in meta
        colour = PAINT["Yellow" if yellow else "White"]
        if "Edge" not in meta:
            self.own(meta)
        if "Edge" in meta:
            for x in (-half + 0.22, half - 0.22):
                self.own(meta)
                self.canvas.polygon(view.strip(x - 0.09, x + 0.09, view.nearest, 60.0), colour)
        elif "Dashed" in meta:
            z = float(self.rng.uniform(2.4, 3.6))
            while z < 45:
                self.canvas.polygon(view.strip(-0.11, 0.11, z, z * 1.0 + 2.2, 3), colour)
                z += 4.6
        elif "Double" in meta:
            for x in (-0.17, 0.17):
                self.canvas.polygon(view.strip(x - 0.085, x + 0.085, view.nearest, 60.0), colour)
        else:
            self.canvas.polygon(view.strip(-0.1, 0.1, view.nearest, 60.0), colour)

    def _jobs(self, concept: Concept) -> list[tuple[float, Concept | None, float, float, float, str]]:
        """Pieces of a concept with the distance by which they are painted."""
        if concept.slot in FLAT_SLOTS or concept.meta_name == "Snorkel Camera Car":
            return []
        rng = np.random.default_rng(concept.seed)
        x, z, size = concept.x, concept.z, concept.size
        slot = concept.slot
        spots = [(x, z, size)]
        if slot == "bollard":
            spots += [(x, z + step, size) for step in (4.5, 10.0, 17.0)]
            spots += [(-x, z + 3.0, size)] if rng.random() < 0.5 else []
        elif slot == "pole":
            spots += [(x, z + step, size) for step in (13.0, 28.0)]
        elif slot == "chevrons":
            spots += [(x, z + 4.5, size)] if rng.random() < 0.6 else []
        elif slot == "vegetation":
            sign = 1 if x > 0 else -1
            for _ in range(int(rng.integers(3, 7))):
                spots.append((sign * (abs(x) + float(rng.uniform(0, 9))), z * float(rng.uniform(1.1, 2.6)), size))
            for _ in range(int(rng.integers(0, 5))):
                spots.append((-sign * (abs(x) + float(rng.uniform(1, 12))), z * float(rng.uniform(1.2, 2.8)), size))
        elif slot == "house":
            spots += (
                [(x * float(rng.uniform(1.0, 1.3)), z * float(rng.uniform(1.5, 2.0)), size)]
                if rng.random() < 0.5
                else []
            )
        return [(at, concept, across, at, factor, "piece") for across, at, factor in spots]

    def _clutter(self) -> list[tuple[float, Concept | None, float, float, float, str]]:
        """Cars and bushes that mean nothing; the side on which cars come is the side of driving."""
        rng, conditions = self.rng, self.scene.conditions
        jobs: list[tuple[float, Concept | None, float, float, float, str]] = []
        for _ in range(int(rng.poisson(0.9))):
            z = float(rng.uniform(10, 34))
            jobs.append((z, None, -conditions.camera_x, z, 1.0, "oncoming"))
        if rng.random() < 0.3:
            z = float(rng.uniform(15, 34))
            jobs.append((z, None, conditions.camera_x, z, 1.0, "ahead"))
        for _ in range(int(rng.poisson(3.5))):
            z = float(rng.uniform(9, 40))
            x = float(rng.choice([-1, 1])) * (conditions.half_width + float(rng.uniform(1.5, 9)))
            jobs.append((z, None, x, z, float(rng.uniform(0.6, 1.3)), "bush"))
        return jobs

    def _draw_piece(self, concept: Concept | None, x: float, z: float, size: float, kind: str) -> None:
        rng = self.rng
        if concept is None:
            self.own("")
            pen = self.pen(x, z, size)
            if kind == "bush":
                green = shade(self.view.bush_colour, float(rng.uniform(0.8, 1.2)))
                pen.disc(0, 0.5, 1.1, 0.7, shade(green, 0.8))
                pen.disc(-0.2, 0.75, 0.8, 0.5, green)
            else:
                paint = CAR_PAINTS[int(rng.integers(len(CAR_PAINTS)))]
                props_land.draw_car(pen, rng, paint, rear=kind == "ahead")
            return
        meta, slot = concept.meta_name, concept.slot
        if slot == "barrier":
            self._barrier(concept)
            return
        pen = self.pen(x, z, size)
        self.own("")
        if slot not in ("plate", "vehicle"):
            self._shadow(pen, slot)
        if slot == "plate":
            paint = CAR_PAINTS[int(rng.integers(len(CAR_PAINTS)))]
            props_land.draw_car(pen, rng, paint, rear=True)
            self.own(meta)
            props_land.draw_plate(pen, meta)
            return
        self.own(meta)
        drawer = props_road.DRAWERS.get(meta) or props_land.DRAWERS[meta]
        drawer(pen, rng)

    def _shadow(self, pen: Pen, slot: str) -> None:
        """A soft foot shadow; long when the sun is low, none under a covered sky."""
        conditions = self.scene.conditions
        if conditions.overcast > 0.65:
            return
        width = {"house": 3.4, "vegetation": 1.5}.get(slot, 0.35)
        reach = width + (1.2 - conditions.sun) * (1.5 if slot != "bollard" else 0.6)
        side = 1 if self.view.sun_right else -1
        dark = shade(self.view.ground_colour, 0.62)
        pen.polygon(
            [(-width, -0.05), (width, -0.05), (width + side * reach, 0.16), (-width + side * reach, 0.16)], dark
        )

    def _barrier(self, concept: Concept) -> None:
        view, meta = self.view, concept.meta_name
        self.own(meta)
        size = concept.size
        stations = concept.z * 0.8 * 1.18 ** np.arange(13)
        feet = [(view.ground(concept.x, float(z)), view.focal / float(z) * size) for z in stations]

        def band(low: float, high: float, colour: Colour, first: int = 0, last: int = 12) -> None:
            part = feet[first : last + 1]
            top = [(x, y - high * s) for (x, y), s in part]
            bottom = [(x, y - low * s) for (x, y), s in reversed(part)]
            self.canvas.polygon(top + bottom, colour)

        def posts(half: float, height: float, colour: Colour) -> None:
            for (x, y), s in feet:
                self.canvas.polygon(
                    [(x - half * s, y), (x + half * s, y), (x + half * s, y - height * s),
                     (x - half * s, y - height * s)], colour)  # fmt: skip

        if meta == "Steel Guardrail":
            posts(0.09, 0.9, (108, 112, 116))
            band(0.5, 0.68, (152, 158, 164))
            band(0.68, 0.8, (206, 210, 214))
            band(0.8, 0.98, (164, 170, 176))
        elif meta == "Concrete Barrier":
            band(0.0, 0.4, (164, 162, 156))
            band(0.4, 1.15, (204, 202, 196))
            band(1.08, 1.18, (226, 224, 218))
            posts(0.03, 1.0, (122, 120, 116))
        elif meta == "Barbed Wire Fence":
            for height in (0.35, 0.75, 1.15):
                band(height - 0.025, height + 0.03, (92, 90, 88))
            posts(0.1, 1.35, (126, 98, 70))
        elif meta == "Dry Stone Wall":
            band(0.0, 1.15, (92, 90, 84))
            self._wall_stones(feet)
        else:
            posts(0.1, 0.9, (120, 120, 120))
            for i in range(12):
                band(0.42, 1.0, (206, 36, 36) if i % 2 else (238, 238, 234), i, i + 1)

    def _wall_stones(self, feet: list[tuple[tuple[float, float], float]]) -> None:
        """Three courses of stones along feet: places on the ground, each with its pixels per metre."""
        for course, low in enumerate((0.02, 0.4, 0.78)):
            for i in range(course % 2, 12):
                grey = shade((152, 148, 136), float(self.rng.uniform(0.74, 1.3)))
                (x0, y0), s0 = feet[i]
                (x1, y1), s1 = feet[i + 1]
                half_x, half_y = abs(x1 - x0) * 0.56, 0.2 * s0
                middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2 - (low + 0.2) * (s0 + s1) / 2
                self.canvas.ellipse(middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y, grey)

    def _camera_car(self, concept: Concept) -> None:
        """The bonnet and the black air intake of the camera car, at the lower edge."""
        side, canvas = self.canvas.side, self.canvas
        way = 1 if concept.x > 0 else -1
        x = side * (0.5 + way * (0.3 if concept.featured else 0.37))
        w = side * (0.022 if not concept.featured else 0.03)
        top = side * (0.52 if concept.featured else 0.6)
        self.own("")
        canvas.polygon([(0, side), (side * 0.1, side * 0.94), (side * 0.9, side * 0.94), (side, side)], (58, 60, 62))
        self.own(concept.meta_name)
        canvas.polygon([(x - w, side), (x + w, side), (x + w, top), (x - w, top)], (22, 22, 24))
        canvas.polygon([(x - 2.2 * w, top), (x + 2.2 * w, top), (x + 1.6 * w, top - 3 * w), (x - 1.6 * w, top - 3 * w)],
                       (34, 34, 38))  # fmt: skip


def render(scene: Scene, size: int = 144) -> tuple[np.ndarray, list[VisibleConcept]]:
    """Draw a scene.

    Args:
        scene: from `World.sample_scene`.
        size: side of the picture in pixels, 48 to 1024.

    Returns:
        `(picture, visible)`: uint8 `(size, size, 3)`, and the concepts that can be seen, largest first. The same scene
        always gives the same picture.

    Raises:
        ParameterError: for an impossible size.
    """
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise ParameterError(f"size is {size}; choose {SMALLEST_SIZE} to {LARGEST_SIZE} pixels")
    painter = _Painter(scene, size)
    painter.paint()
    picture = develop(painter.canvas.image, scene.conditions, size, painter.rng)
    mask = np.asarray(painter.canvas.mask)[::SUPERSAMPLING, ::SUPERSAMPLING]
    return picture, visible_concepts(mask, painter.pieces, size)
