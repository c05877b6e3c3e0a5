"""The pointing game, mass on the object, and their tables, by hand."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_run import STAGE1

from geocbm.errors import ParameterError
from geocbm.explain.boxes import concept_boxes
from geocbm.explain.localization import (
    ATTENTION,
    CENTRE,
    CHANCE,
    CONCEPT,
    HEADLINE,
    SMALL,
    choose_map_kind,
    localization_metrics,
    mass_ratio,
    measure_localization,
    points,
)
from geocbm.explain.maps import MapModel, centre_map, concept_maps
from geocbm.run import encoding, stages

if TYPE_CHECKING:
    from tiny_run import TinyRun


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


def test_nothing_to_measure(trained_run: TinyRun) -> None:
    files = trained_run.files
    features = files.features("adapted")
    model = MapModel(files, encoding.load_stage0(files)[1], features, stages.load_stage1(files))
    assert concept_boxes(files, model.encoder, files.rows["test"]) is None
    assert choose_map_kind(model) == ("gradient x input", {})
    assert localization_metrics(None) == {}
