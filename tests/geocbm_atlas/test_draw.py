from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geocbm.errors import ParameterError
from geocbm_atlas import props_land, props_road
from geocbm_atlas.canvas import Canvas, Pen
from geocbm_atlas.draw import FLAT_SLOTS, render
from geocbm_atlas.facts import META_TO_PARENT, META_TO_SLOT
from geocbm_atlas.picture import visible_concepts
from geocbm_atlas.scene import Conditions, Scene, place
from geocbm_atlas.view import View

PLAIN = Conditions(
    horizon=0.45, vanishing=0.5, focal=0.9, camera_height=2.0, curve=0.0, half_width=2.4, camera_x=0.8, sun=0.8,
    warmth=0.0, overcast=0.2, haze=0.002, rain=0.0, exposure=1.0, blur=0.0, noise=1.0, jpeg_quality=90, seed=4,
)  # fmt: skip


def scene_with(*metas: str, conditions: Conditions = PLAIN, seed: int = 0) -> Scene:
    rng = np.random.default_rng(seed)
    concepts = tuple(place(meta, rng, conditions, 1 if i == 0 else -1, i == 0) for i, meta in enumerate(metas))
    return Scene(0.0, 0.0, "Nowhere", "Nowhere north", False, concepts, metas[0], conditions)


def test_the_camera_is_a_pinhole() -> None:
    view = View(PLAIN, 200)
    # At 9 m, 2 m below the camera and 0.9 m to its right: 0.9 * 200 / 9 = 20 pixels per metre.
    assert view.ground(PLAIN.camera_x + 0.9, 9.0) == pytest.approx((100 + 18, 90 + 40))
    assert view.ground(PLAIN.camera_x, view.nearest)[1] == pytest.approx(204.0)
    assert view.fog(0.0) == 0.0 and view.fog(10.0) < view.fog(100.0) <= 0.85


def test_the_mask_knows_what_covers_what() -> None:
    canvas = Canvas(20)
    canvas.owner = 1
    canvas.polygon([(0, 0), (9, 0), (9, 19), (0, 19)], (255, 0, 0))
    canvas.owner = 2
    Pen(canvas, 5, 19, 1.0, 0.0, (0, 0, 0)).box(-5, 0, 14, 9, (0, 255, 0))
    mask = np.asarray(canvas.mask)
    assert (mask[:10, :10] == 1).all() and (mask[10:, :] == 2).all() and (mask[:10, 10:] == 0).all()


def test_boxes_and_areas_are_read_off_the_mask() -> None:
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[10:30, 20:60] = 1  # 800 pixels
    mask[50:60, 0:10] = 2  # 100 pixels of the same concept
    mask[90:93, 90:93] = 3  # 9 pixels: too small to be seen
    found = visible_concepts(mask, ["", "Palm Trees", "Palm Trees", "Tall Cacti"], 100)
    assert [concept.meta_name for concept in found] == ["Palm Trees"]
    assert found[0].area == pytest.approx(0.09)
    assert found[0].box == (0.2, 0.1, 0.6, 0.3)
    assert found[0].boxes == ((0.2, 0.1, 0.6, 0.3), (0.0, 0.5, 0.1, 0.6))


@pytest.mark.parametrize("meta", META_TO_PARENT)
def test_every_concept_can_be_seen_when_it_is_featured(meta: str) -> None:
    picture, visible = render(scene_with(meta))
    assert picture.shape == (144, 144, 3) and picture.dtype == np.uint8
    by_name = {concept.meta_name: concept for concept in visible}
    assert list(by_name) == [meta]
    x0, y0, x1, y1 = by_name[meta].box
    assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    assert by_name[meta].parent_concept == META_TO_PARENT[meta]
    # Recognisable in patches of 12 pixels: at least about one patch long, half a patch wide.
    assert max(x1 - x0, y1 - y0) >= 11 / 144 and min(x1 - x0, y1 - y0) >= 4 / 144


def test_every_concept_has_a_way_to_be_drawn() -> None:
    drawn = set(props_road.DRAWERS) | set(props_land.DRAWERS) | set(props_land.PLATES)
    flat = {meta for meta, slot in META_TO_SLOT.items() if slot in (*FLAT_SLOTS, "barrier")}
    assert drawn | flat | {"Snorkel Camera Car"} == set(META_TO_PARENT)


def test_the_same_scene_gives_the_same_picture_and_concepts_change_it() -> None:
    first, _ = render(scene_with("Yellow Diamond Warning Sign"))
    again, _ = render(scene_with("Yellow Diamond Warning Sign"))
    other, _ = render(scene_with("Red-Bordered White Triangle"))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other.astype(int)).max() > 60


def test_what_is_painted_colours_its_box() -> None:
    scene = scene_with("Blue Direction Sign", conditions=replace(PLAIN, noise=0.0))
    picture, visible = render(scene)
    x0, y0, x1, _ = (round(v * 144) for v in visible[0].box)
    face = picture[y0 + 3 : y0 + 9, x0 + 3 : x1 - 3].reshape(-1, 3).astype(int)
    assert (face[:, 2] > face[:, 0] + 40).mean() > 0.4


def test_a_larger_picture_shows_the_same_things() -> None:
    _, small = render(scene_with("Concrete Barrier", "Palm Trees"), 144)
    picture, large = render(scene_with("Concrete Barrier", "Palm Trees"), 288)
    assert picture.shape == (288, 288, 3)
    assert {c.meta_name for c in small} == {c.meta_name for c in large}
    for a, b in zip(small, large, strict=True):
        assert a.area == pytest.approx(b.area, rel=0.35)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ParameterError, match="size is 8; choose 48 to 1024 pixels"):
        render(scene_with("Palm Trees"), 8)
