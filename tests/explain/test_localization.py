"""Boxes as the model's crop and grid see them, the pointing game, mass on the object, and their tables, by hand."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from tiny_run import STAGE1

from geocbm.encoders.preprocessing import crop_window
from geocbm.errors import ParameterError
from geocbm.explain.localization import (
    ATTENTION,
    CENTRE,
    CHANCE,
    CONCEPT,
    HEADLINE,
    SMALL,
    boxes_in_window,
    choose_map_kind,
    concept_boxes,
    covered_patches,
    localization_metrics,
    mass_ratio,
    measure_localization,
    points,
)
from geocbm.explain.maps import MapModel, centre_map, concept_maps
from geocbm.run import encoding, stages

if TYPE_CHECKING:
    from tiny_run import TinyRun


class Cutter:
    """Resizes the short side to 40 pixels and keeps the square in the middle, as CLIP's preprocessing does."""

    grid = (4, 4)

    def crop(self, image: Image.Image) -> Image.Image:
        scale = 40 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - 40) // 2, (image.height - 40) // 2
        return image.crop((left, top, left + 40, top + 40))


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((80, 80), (0, 0, 1, 1)),
        ((160, 80), (0.25, 0, 0.75, 1)),  # the middle half of a wide picture
        ((60, 240), (0, 0.375, 1, 0.625)),
    ],
)
def test_window_of_a_central_crop(size: tuple[int, int], window: tuple[float, ...]) -> None:
    assert crop_window(Cutter(), size) == pytest.approx(window, abs=3e-3)  # type: ignore[arg-type]


def test_a_square_picture_is_seen_whole_by_a_real_encoder(trained_run: TinyRun) -> None:
    encoder = encoding.load_stage0(trained_run.files)[1]
    assert crop_window(encoder, (96, 96)) == (0.0, 0.0, 1.0, 1.0)


def test_boxes_move_into_the_window_and_are_cut_at_its_border() -> None:
    moved = boxes_in_window([[0.5, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.2, 1.0]], (0.25, 0, 0.75, 1))
    # 0.5 is the middle of the window; the second box loses what lies left of it; the third lies outside.
    assert moved == pytest.approx(np.array([[0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5]]))


def test_patches_of_a_box() -> None:
    touched, centred, inside = covered_patches(np.array([[0.25, 0.25, 0.625, 0.5]]), (4, 4))
    # The second row; the second column whole, half of the third, whose middle is the end of the box.
    assert np.flatnonzero(touched).tolist() == [5, 6]
    assert np.flatnonzero(centred).tolist() == [5, 6]
    assert inside.reshape(4, 4)[1].tolist() == [0, 1, 0.5, 0] and inside.sum() == 1.5
    touched, centred, _ = covered_patches(np.array([[0.25, 0.25, 0.6, 0.5]]), (4, 4))
    assert np.flatnonzero(touched).tolist() == [5, 6] and np.flatnonzero(centred).tolist() == [5]


def test_touching_the_border_of_a_patch_is_not_meeting_it_and_boxes_unite() -> None:
    touched, _, inside = covered_patches(np.array([[0.0, 0.0, 0.2503, 0.25], [0.0, 0.0, 0.25, 0.5]]), (4, 4))
    assert np.flatnonzero(touched).tolist() == [0, 4]
    assert inside.sum() == 2  # what both cover counts once


def test_a_box_thinner_than_the_tolerance_meets_its_patch() -> None:
    assert np.flatnonzero(covered_patches(np.array([[0.3, 0.3, 0.301, 0.301]]), (4, 4))[0]).tolist() == [5]


def _tell(run: TinyRun, boxes: list) -> None:
    """Write a ground truth in which every picture shows its label in the given boxes."""
    table = run.files.table
    with gzip.open(run.images / "ground_truth.jsonl.gz", "wt", encoding="utf-8") as stream:
        for pano_id, meta in zip(table["pano_id"], table["meta_name"], strict=True):
            seen = [{"meta_name": meta, "box": boxes[0], "boxes": boxes}, {"meta_name": "unheard of", "box": boxes[0]}]
            stream.write(json.dumps({"pano_id": pano_id, "concepts": seen}) + "\n")


def test_pairs_of_a_run(copied_run: TinyRun, request: pytest.FixtureRequest) -> None:
    files, truth = copied_run.files, copied_run.images / "ground_truth.jsonl.gz"
    encoder = encoding.load_stage0(files)[1]
    assert concept_boxes(files, encoder, files.rows["test"]) is None
    request.addfinalizer(lambda: truth.unlink(missing_ok=True))
    _tell(copied_run, [[0.0, 0.0, 1.0, 1.0]])
    rows = files.rows["test"][:3]
    pairs = concept_boxes(files, encoder, rows)
    assert pairs is not None and pairs.row.tolist() == rows.tolist() and pairs.position.tolist() == [0, 1, 2]
    assert pairs.largest == pytest.approx(np.tile([0, 0, 1, 1], (3, 1)))
    assert pairs.labelled.all() and (pairs.chance == 1).all() and (pairs.inside == 1).all()
    assert pairs.meta.tolist() == files.meta_and_parent[0][rows].tolist()
    assert len(pairs.at(np.array([True, False, False]))) == 1
    assert len(concept_boxes(files, encoder, rows[:0]) or []) == 0
    assert pairs.box(int(rows[0]), int(pairs.meta[0])) == pytest.approx((0, 0, 1, 1))
    assert pairs.box(int(rows[0]), 99) is None
    # Of several boxes the largest one in the window is shown.
    _tell(copied_run, [[0.1, 0.0, 0.2, 0.1], [0.5, 0.2, 0.9, 0.4]])
    found = concept_boxes(files, encoder, rows)
    assert found is not None and found.largest[0] == pytest.approx(
        [(0.5 * 48 - 4) / 40, 0.2, (0.9 * 48 - 4) / 40, 0.4], abs=0.02
    )
    # The pictures are 48 x 40: of the 48 columns the model sees the middle 40, and no strip of 3 at the left.
    _tell(copied_run, [[0.0, 0.0, 3 / 48, 1.0]])
    assert len(concept_boxes(files, encoder, rows) or []) == 0
    _tell(copied_run, [[0.0, 0.0, 1.0]])
    with pytest.raises(ParameterError, match="has no four ends"):
        concept_boxes(files, encoder, rows)


def test_points() -> None:
    touched = np.array([[True, False, False], [True, False, False], [False, True, True]])
    maps = np.array([[3.0, 1, 2], [1, 3, 2], [0, 0, 0]])
    assert points(touched, maps).tolist() == [1, 0, 0]  # of equal values the first counts
    assert points(touched, np.array([0.0, 1, 0])).tolist() == [0, 0, 1]
    with pytest.raises(ParameterError, match="finite maps of the shape"):
        points(touched, maps[:2])
    with pytest.raises(ParameterError, match="finite"):
        points(touched, np.where(maps == 3, np.nan, maps))


def test_random_maps_hit_as_often_as_chance_says() -> None:
    generator = np.random.default_rng(0)
    touched = np.zeros((4000, 20), dtype=bool)
    touched[:, :3] = True
    assert points(touched, generator.random((4000, 20))).mean() == pytest.approx(0.15, abs=0.02)


def test_mass_ratio() -> None:
    inside = np.array([[1.0, 0.5, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    maps = np.array([[2.0, 2, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    # (2 + 1) of 4 lies in boxes that cover 1.5 of 4 patches: 0.75 / 0.375.
    assert mass_ratio(inside, maps) == pytest.approx([2, np.nan, np.nan], nan_ok=True)
    assert mass_ratio(inside[[0, 2]], np.ones(4)) == pytest.approx([1, 1])  # an even map


@pytest.fixture
def told_run(copied_run: TinyRun, request: pytest.FixtureRequest) -> TinyRun:
    """A run with the "patch" bottleneck, and a ground truth: the label in the left upper patch."""
    files = copied_run.files
    features = files.features("adapted")
    encoder = encoding.load_stage0(files)[1]
    stages.fit_stage1(files, replace(STAGE1, bottleneck="patch", epochs=1), features, report=lambda _: None)
    path = copied_run.images / "ground_truth.jsonl.gz"
    request.addfinalizer(lambda: path.unlink(missing_ok=True))
    side = 0.9 / encoder.grid[0]
    left = (48 - 40) / 2 / 48  # the model sees the middle 40 of 48 columns
    box = [left, 0.0, left + side * 40 / 48, side]
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        for pano_id, meta in zip(files.table["pano_id"], files.table["meta_name"], strict=True):
            other = "a road" if meta != "a road" else "red road"
            seen = [{"meta_name": meta, "box": box, "boxes": [box]}, {"meta_name": other, "box": [0.0, 0.0, 1.0, 1.0]}]
            stream.write(json.dumps({"pano_id": pano_id, "concepts": seen}) + "\n")
    return copied_run


def test_a_run_with_ground_truth(told_run: TinyRun) -> None:
    files = told_run.files
    features = files.features("adapted")
    model = MapModel(files, encoding.load_stage0(files)[1], features, stages.load_stage1(files))
    test = files.rows["test"]
    boxes = concept_boxes(files, model.encoder, test)
    assert boxes is not None and len(boxes) == 2 * len(test)
    attention = np.zeros((len(boxes), model.n_patches))
    attention[:, 0] = 1  # always on the box
    maps = {
        CONCEPT: concept_maps(model, boxes.row, boxes.meta),
        ATTENTION: attention,
        CENTRE: centre_map(model.encoder.grid),
    }
    named = boxes.meta == files.meta_and_parent[0][boxes.row]  # every label is named first
    found = measure_localization(files, boxes, maps, named, n_resamples=50)
    table = found.table.set_index(["group", "way"])
    assert 1 / model.n_patches < SMALL, "the tiny grid has a patch below the limit"
    assert table.loc[(HEADLINE, ATTENTION), "hit"] == 1
    assert table.loc[(HEADLINE, CHANCE), "hit"] == pytest.approx(1 / model.n_patches)
    assert table.loc[(HEADLINE, CENTRE), "hit"] == 0
    assert table.loc[("labelled", CHANCE), "pairs"] == len(test)
    # The other concept fills the picture: chance hits it always.
    assert table.loc[("visible", CHANCE), "hit"] == pytest.approx((1 + 1 / model.n_patches) / 2)
    assert "labelled, small, not named" not in table.index
    assert found.concepts["pairs"].sum() == len(test) and (found.concepts["named"] == 1).all()
    metrics = localization_metrics(found)
    assert metrics["attention_pointing"] == found.estimate(ATTENTION) and "pointing_game" in metrics
    missed = found.concepts.loc[found.concepts[f"hit {CONCEPT}"] == 0, "concept"].tolist()
    assert found.astray() == missed
    kind, share = choose_map_kind(model)
    assert set(share) == {"score", "share"} and share[kind] == max(share.values())


def test_nothing_to_measure(map_model: MapModel) -> None:
    assert concept_boxes(map_model.run, map_model.encoder, map_model.run.rows["test"]) is None
    assert choose_map_kind(map_model) == ("gradient x input", {})
    assert localization_metrics(None) == {}
