"""What a scene is before it is drawn: a place, the concepts along the road, the camera and the weather."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geocbm_atlas.facts import META_TO_PARENT, META_TO_SLOT

HALF_WIDTH = {"direction sign": 1.4, "chevrons": 1.3, "warning sign": 0.9, "house": 1.3, "vegetation": 0.5}
"""Half the width in metres of what should stand inside the picture as a whole."""


@dataclass(frozen=True)
class Concept:
    """A concept placed in a scene.

    Attributes:
        meta_name: fine concept.
        parent_concept: its coarse concept.
        x: metres to the right of the middle of the road.
        z: metres ahead of the camera.
        size: factor on the natural size.
        seed: seed of its small variations.
        featured: whether the picture is about it.
    """

    meta_name: str
    parent_concept: str
    x: float
    z: float
    size: float
    seed: int
    featured: bool

    @property
    def slot(self) -> str:
        """Name of the slot the concept takes."""
        return META_TO_SLOT[self.meta_name]


@dataclass(frozen=True)
class Conditions:
    """Camera, light and weather: what varies without telling the place.

    Attributes:
        horizon: height of the horizon from the top, as a part of the picture.
        vanishing: where the road vanishes from the left, as a part of the picture.
        focal: focal length in picture widths.
        camera_height: metres above the road.
        curve: bend of the road, metres of drift per square metre ahead.
        half_width: half the width of the road in metres.
        camera_x: metres of the camera to the right of the middle of the road.
        sun: height of the sun above the horizon, 0 to 1.
        warmth: warmth of the light, -1 (blue) to 1 (golden).
        overcast: 0 (clear) to 1 (covered).
        haze: extinction per metre.
        rain: 0 (dry) to 1 (heavy).
        exposure: factor on the brightness.
        blur: radius in pixels at 144 px.
        noise: standard deviation of the sensor noise in grey levels.
        jpeg_quality: quality of the file written.
        seed: seed of clutter, clouds and texture.
    """

    horizon: float
    vanishing: float
    focal: float
    camera_height: float
    curve: float
    half_width: float
    camera_x: float
    sun: float
    warmth: float
    overcast: float
    haze: float
    rain: float
    exposure: float
    blur: float
    noise: float
    jpeg_quality: int
    seed: int


@dataclass(frozen=True)
class Scene:
    """A scene ready to be drawn.

    Attributes:
        lat: latitude in degrees.
        lng: longitude in degrees.
        country: name as the offline geocoder gives it.
        region: name of the region inside the country.
        drives_left: whether traffic keeps to the left.
        concepts: the concepts placed along the road.
        labelled: the meta concept a person would write down for this scene.
        conditions: camera, light and weather.
    """

    lat: float
    lng: float
    country: str
    region: str
    drives_left: bool
    concepts: tuple[Concept, ...]
    labelled: str
    conditions: Conditions

    @property
    def labelled_parent(self) -> str:
        """Parent of the labelled meta concept."""
        return META_TO_PARENT[self.labelled]


def sample_conditions(rng: np.random.Generator, lat: float, drives_left: bool) -> Conditions:
    """Draw camera, light and weather for a latitude.

    Args:
        rng: source of chance.
        lat: latitude in degrees; the sun stands lower towards the poles.
        drives_left: whether the camera rides in the left lane.

    Returns:
        The conditions.
    """
    overcast = float(rng.beta(0.9, 1.4))
    sun = float(np.clip(np.cos(np.deg2rad(lat)) * rng.uniform(0.35, 1.05), 0.12, 1.0))
    curved = rng.random() < 0.4
    half_width = float(rng.uniform(1.9, 2.8))
    return Conditions(
        horizon=float(np.clip(rng.normal(0.46, 0.035), 0.37, 0.55)),
        vanishing=float(np.clip(rng.normal(0.5, 0.05), 0.36, 0.64)),
        focal=float(rng.uniform(0.82, 1.0)),
        camera_height=float(rng.uniform(1.7, 2.3)),
        curve=float(rng.choice([-1, 1]) * rng.uniform(0.004, 0.011)) if curved else 0.0,
        half_width=half_width,
        camera_x=half_width * float(rng.uniform(0.28, 0.45)) * (-1 if drives_left else 1),
        sun=sun,
        warmth=float(np.clip(rng.normal(0.0, 0.3) + (0.45 if sun < 0.3 else 0.0), -1, 1)),
        overcast=overcast,
        haze=float(rng.gamma(1.2, 0.0045)),
        rain=float(rng.uniform(0.3, 1.0)) if overcast > 0.5 and rng.random() < 0.3 else 0.0,
        exposure=float(np.clip(rng.normal(1.0, 0.1), 0.72, 1.25)),
        blur=float(max(0.0, rng.normal(0.1, 0.32))),
        noise=float(rng.uniform(0.5, 4.5)),
        jpeg_quality=int(rng.integers(76, 95)),
        seed=int(rng.integers(2**31)),
    )


def place(meta: str, rng: np.random.Generator, conditions: Conditions, side: int, featured: bool) -> Concept:
    """Put a concept at a place beside or on the road.

    Args:
        meta: fine concept.
        rng: source of chance.
        conditions: the camera, which decides what fits in the picture.
        side: -1 left of the road, 1 right of it.
        featured: whether the picture is about this concept: it stands nearer and larger.

    Returns:
        The placed concept.
    """
    slot = META_TO_SLOT[meta]
    near, far, gap = {
        "bollard": (5.0, 11.0, 0.5),
        "pole": (9.0, 16.0, 1.4),
        "warning sign": (8.0, 16.0, 0.9),
        "direction sign": (9.5, 17.0, 1.4),
        "chevrons": (7.5, 15.0, 0.7),
        "plate": (6.0, 11.0, 0.0),
        "vegetation": (9.5, 20.0, 2.4),
        "house": (12.0, 22.0, 2.7),
        "barrier": (5.0, 6.0, 0.5),
        "vehicle": (6.5, 13.0, 0.0),
    }.get(slot, (10.0, 10.0, 0.0))
    if featured:
        z, size = near * rng.uniform(0.95, 1.2), rng.uniform(1.1, 1.4)
    else:
        z, size = rng.uniform(near * 1.2, max(far, near) * 1.25), rng.uniform(0.85, 1.15)
    if slot == "pole":
        size *= 0.76  # so that crossarms stay in the picture
    if slot == "plate":
        x = conditions.camera_x + rng.uniform(-0.5, 0.5)
    elif slot == "vehicle":
        x = side * abs(conditions.camera_x) + rng.uniform(-0.3, 0.3)
    else:
        beside = conditions.half_width + gap + rng.uniform(0.0, 0.5) * (0.3 + gap)
        half = HALF_WIDTH.get(slot, 0.3) * size
        x, z = _inside(side * beside, z, half, conditions)
    return Concept(meta, META_TO_PARENT[meta], float(x), float(z), float(size), int(rng.integers(2**31)), featured)


def _inside(x: float, z: float, half: float, conditions: Conditions) -> tuple[float, float]:
    """Step back, then cross the road, until something `half` metres wide to each side stands inside the picture.

    Args:
        x: metres to the right of the middle of the road.
        z: metres ahead.
        half: half its width in metres.
        conditions: the camera.

    Returns:
        `(x, z)`; unchanged if it fits nowhere.
    """
    for way in (x, -x):
        at = z
        for _ in range(14):
            across = conditions.vanishing + conditions.focal * (
                (way - conditions.camera_x) / at + conditions.curve * at
            )
            margin = 0.05 + half * conditions.focal / at
            if margin < across < 1.0 - margin:
                return way, at
            at *= 1.08
    return x, z
