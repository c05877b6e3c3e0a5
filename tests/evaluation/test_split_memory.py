"""Memory of the same road: figures worked out by hand, and runs of the other kind of split."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from geocbm import data
from geocbm.evaluation import proximity as split_memory
from geocbm.files import write_json
from geocbm.metrics import geoscore

NEAREST = np.array([0.5, 0.999, 1.0, 24.9, 25.0, 300.0])
KM = np.array([10.0, 20.0, 100.0, 300.0, 1000.0, np.inf])
BLOCKS = np.arange(6)


def test_bins_by_hand():
    table = split_memory.by_distance(NEAREST, {"a": KM, "b": KM * 2}, BLOCKS, n=50)
    assert list(dict.fromkeys(table["bin"])) == ["below 1 km", "1 to 25 km", "25 to 50 km", "200 km and more"]
    own = table[table["method"] == "a"].set_index("bin")
    assert own["n"].tolist() == [2, 2, 1, 1]
    assert own["median_km"].tolist() == [15, 200, 1000, np.inf]
    assert own["within_25km"].tolist() == [1, 0, 0, 0]
    assert own["geoscore"].tolist()[0] == pytest.approx(geoscore(KM[:2]).mean())
    printed = split_memory.distance_table(table, 6)
    assert printed["test images"].tolist() == ["2 (33%)", "2 (33%)", "1 (17%)", "1 (17%)"]
    assert printed["a: median error, km"].tolist()[-1].startswith("no answer")
    assert list(printed.columns)[2:] == ["a: median error, km", "b: median error, km"]


def test_leaving_near_images_out_by_hand():
    found = split_memory.without_near(NEAREST, KM, BLOCKS, 1.0, n=200)
    score = geoscore(KM)
    assert found["all"]["value"] == pytest.approx(score.mean())
    assert found["far"]["value"] == pytest.approx(score[2:].mean())
    assert found["change"]["value"] == pytest.approx(score[2:].mean() - score.mean())
    assert split_memory.without_near(NEAREST[:2], KM[:2], BLOCKS[:2], 1.0) == {}
    table = split_memory.without_near_table(NEAREST, {"a": KM}, BLOCKS, n=50)
    assert table["images left"].tolist() == ["4 of 6", "2 of 6"]


def test_scores_that_do_not_depend_on_nearness_do_not_change_beyond_noise():
    generator = np.random.default_rng(0)
    nearest, km = generator.uniform(0, 4, 400), generator.uniform(0, 3000, 400)
    said = split_memory.verdict(nearest, km, np.arange(400), n=200)
    assert "which noise alone could do" in said and "so that none is left" in said  # all lie within 25 km
    remembered = np.where(nearest < 1, 1.0, 3000.0)
    assert "beyond noise" in split_memory.verdict(nearest, remembered, np.arange(400), n=200)
    apart = split_memory.verdict(nearest + 100, km, np.arange(400), n=50)
    assert apart.startswith("0.0% of the test images have a training place within 1 km.")
    assert "empty" in split_memory.verdict(np.zeros(0), np.zeros(0), np.zeros(0))


def test_figures_to_keep():
    kept = split_memory.records(NEAREST, KM, BLOCKS, n=50)
    assert kept["nearest_train_km"] == pytest.approx((1.0 + 24.9) / 2) and kept["test_within_1km"] == pytest.approx(
        1 / 3
    )
    assert set(kept) == {
        "nearest_train_km",
        "test_within_1km",
        "geoscore_change_without_1km",
        "geoscore_change_without_25km",
    }
    assert split_memory.records(np.zeros(0), np.zeros(0), np.zeros(0)) == {}


@pytest.fixture
def beside(trained_run, tmp_path):
    """Folder of runs with a copy of the tiny run, and another whose split calls itself spatial."""
    for name, kind in (("mine", "stratified"), ("mine-spatial", "spatial"), ("again", "stratified")):
        shutil.copytree(trained_run.folder, tmp_path / name)
        path = tmp_path / name / "splits.json"
        write_json(path, json.loads(path.read_text()) | {"kind": kind})
    return tmp_path


def run(folder, name):
    from geocbm.run import Run

    return Run(folder / name)


def test_runs_of_the_other_kind_are_found(beside):
    assert [other.name for other in split_memory.siblings(run(beside, "mine"))] == ["mine-spatial"]
    assert [other.name for other in split_memory.siblings(run(beside, "mine-spatial"))] == ["again", "mine"]
    table = split_memory.sibling_table(run(beside, "mine"), n=30)
    assert table["run"].tolist() == ["mine", "mine-spatial"]
    assert table["split"].tolist() == ["stratified", "spatial, blocks of 1 km"]
    # the copies answered the same images
    assert table["GeoScore"].nunique() == 1


def test_runs_of_another_table_and_broken_ones_are_passed_over(beside):
    path = beside / "mine-spatial" / "splits.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"csv_sha256": "0" * 64})
    for name, text in (("damaged", "{"), ("listed", "[]")):
        (beside / name).mkdir()
        (beside / name / "splits.json").write_text(text)
    assert split_memory.siblings(run(beside, "mine")) == []
    write_json(path, content)
    (beside / "mine-spatial" / "predictions.parquet").unlink()
    assert split_memory.siblings(run(beside, "mine")) == []
    assert split_memory.sibling_table(run(beside, "mine"), n=30)["run"].tolist() == ["mine"]


def test_the_run_of_the_other_kind(beside):
    name, changes = split_memory.sibling_plan(run(beside, "mine"))
    assert name == "mine-spatial" and changes == {"01.split": "spatial", "01.held_out_country": ""}
    name, changes = split_memory.sibling_plan(run(beside, "mine-spatial"))
    assert name == "mine-stratified" and changes["01.split"] == "stratified"


def test_nearness_of_a_run_is_that_of_its_own_split(beside):
    files = run(beside, "mine")
    nearest = data.nearest_train_km(files.table, data.load_splits(files.path("splits.json"), files.table))
    shown = split_memory.sibling_table(files, n=30)["nearest training place (median), km"].iloc[0]
    assert shown == f"{np.median(nearest):,.1f}"


def test_no_test_images_give_empty_tables():
    none = np.zeros(0)
    table = split_memory.by_distance(none, {"a": none}, none)
    assert table.empty and "median_km" in table
    assert split_memory.distance_table(table, 0).empty
    assert split_memory.without_near_table(none, {"a": none}, none).empty
