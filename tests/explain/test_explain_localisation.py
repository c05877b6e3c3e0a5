"""The pointing game, mass on the object, and their tables, by hand."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_run import STAGE1

from geocbm import pipeline
from geocbm.errors import ParameterError
from geocbm.explain import localization as localisation
from geocbm.explain.localization import CENTRE, CHANCE, CONCEPT, mass_ratio, points

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
    features = pipeline.open_features(files, "adapted", copied_run.cache)
    encoder = pipeline.load_stage0(files)[1]
    pipeline.fit_stage1(files, replace(STAGE1, bottleneck="patch", epochs=1), features, report=lambda _: None)
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
    encoder, model = pipeline.load_stage0(files)[1], pipeline.load_stage1(files)
    features, test = pipeline.open_features(files, "adapted", told_run.cache), files.rows["test"]
    n_patches = encoder.grid[0] * encoder.grid[1]
    scores = np.eye(6)[files.meta_and_parent[0]]  # every label is named first
    attention = np.zeros((len(test), n_patches))
    attention[:, 0] = 1  # always on the box
    found = localisation.measure_localisation(files, encoder, model, features, scores, test, attention, n_resamples=50)
    assert found is not None and len(found.pairs) == 2 * len(test)
    table = found.table.set_index(["group", "way"])
    small = 1 / n_patches < localisation.SMALL
    assert small, "the tiny grid has a patch below the limit"
    assert table.loc[(localisation.HEADLINE, "attention"), "hit"] == 1
    assert table.loc[(localisation.HEADLINE, CHANCE), "hit"] == pytest.approx(1 / n_patches)
    assert table.loc[(localisation.HEADLINE, CENTRE), "hit"] == 0
    assert table.loc[("labelled", CHANCE), "pairs"] == len(test)
    # The other concept fills the picture: chance hits it always.
    assert table.loc[("visible", CHANCE), "hit"] == pytest.approx((1 + 1 / n_patches) / 2)
    assert "labelled, small, not named" not in table.index
    assert found.concepts["pairs"].sum() == len(test) and (found.concepts["named"] == 1).all()
    figures = localisation.pointing_figures(found)
    assert figures is not None and figures["attention"]["value"] == 1 and set(figures) >= {"map", "chance", "centre"}
    records = localisation.pointing_records(found)
    assert records["attention_pointing"] == figures["attention"] and "pointing_game" in records
    words = localisation.localisation_in_words(found)
    assert f"{len(test):,} pictures" in words and "Left out are 0" in words
    shown = localisation.localisation_table(found)
    assert shown[f"{CONCEPT}, %"].str.contains(r"\[").all()
    missed = found.concepts.loc[found.concepts[f"hit {CONCEPT}"] == 0, "concept"].tolist()
    assert localisation.astray(found) == missed
    kind, share = localisation.choose_kind(files, encoder, model, features)
    assert set(share) == {"score", "share"} and share[kind] == max(share.values())


def test_nothing_to_measure(trained_run: TinyRun) -> None:
    files = trained_run.files
    encoder, model = pipeline.load_stage0(files)[1], pipeline.load_stage1(files)
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    scores = np.eye(6)[files.meta_and_parent[0]]
    assert localisation.measure_localisation(files, encoder, model, features, scores, files.rows["test"]) is None
    assert localisation.choose_kind(files, encoder, model, features) == ("gradient x input", {})
    assert localisation.pointing_figures(None) is None and localisation.pointing_records(None) == {}
