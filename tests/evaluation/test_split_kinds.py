"""Kinds of split of one table: what they are called, and that each is measured with its own training rows alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_run import N

from geocbm import data, pipeline
from geocbm.evaluation import split_comparison as split_kinds
from geocbm.files import write_json

WORDS = {"nearest_neighbour": "nearest neighbour", "linear_probe": "linear probe"}


@pytest.fixture
def files(trained_run):
    return trained_run.files


def test_all_kinds_of_a_stratified_run(files):
    kinds = split_kinds.split_kinds(files)
    assert [kind.name for kind in kinds] == ["stratified", "spatial, blocks of 1 km", "spatial, blocks of 25 km"]
    assert [kind.own for kind in kinds] == [True, False, False]
    for kind in kinds:
        parts = [kind.rows[name] for name in ("train", "val", "test")]
        assert sorted(np.concatenate(parts).tolist()) == list(range(N))
        assert len(kind.nearest_km) == len(kind.rows["test"])
    assert kinds[0].rows["test"].tolist() == files.rows["test"].tolist()
    blocks = data.spatial_blocks(files.lat, files.lng, 25.0)
    assert not set(blocks[kinds[2].rows["train"]]) & set(blocks[kinds[2].rows["test"]])


def rewrite(run, **entries):
    path = run.folder / "splits.json"
    content = json.loads(path.read_text())
    write_json(path, content | entries)


def test_the_own_split_is_one_of_the_kinds_and_wide_blocks_are_not_named_twice(copied_run):
    rewrite(copied_run, kind="spatial", settings={"block_km": 25.0})
    kinds = split_kinds.split_kinds(copied_run.files)
    assert [(kind.name, kind.own) for kind in kinds] == [("stratified", False), ("spatial, blocks of 25 km", True)]
    assert split_kinds.region_remark(copied_run.files).startswith("Validation and test are other blocks")


def test_a_country_that_is_left_out_stands_first(copied_run):
    files = copied_run.files
    splits = data.make_splits(files.table, "leave_country_out", country="Japan")
    data.save_splits(
        splits, files.path("splits.json"), files.table, "leave_country_out", 0, block_km=1.0, held_out_country="Japan"
    )
    files = copied_run.files
    kinds = split_kinds.split_kinds(files)
    assert [kind.name for kind in kinds][:2] == ["all but Japan", "stratified"] and kinds[0].own
    assert kinds[0].nearest_km.min() > 5000  # Tokyo is far from all other cities
    assert "void" in split_kinds.region_remark(files) and "Japan" in split_kinds.remark_of(files)
    assert split_kinds.split_settings(files)["held_out_country"] == "Japan"


def test_settings_that_an_old_file_lacks_have_their_defaults(copied_run):
    path = copied_run.folder / "splits.json"
    content = json.loads(path.read_text())
    del content["settings"]
    path.write_text(json.dumps(content))
    assert split_kinds.split_settings(copied_run.files) == {
        "kind": "stratified",
        "seed": 0,
        "block_km": 1.0,
        "held_out_country": "",
    }
    assert "drawn alike" in split_kinds.region_remark(copied_run.files)


def test_frozen_methods_learn_from_training_and_choose_on_validation(copied_run):
    files = copied_run.files
    vanilla = files.features("vanilla").read_all("pooled").numpy()
    for kind in split_kinds.split_kinds(files):
        train, test = kind.rows["train"], kind.rows["test"]
        neighbour, probe = split_kinds.frozen_answers(files, kind, vanilla)
        assert set(zip(neighbour.lat, neighbour.lng, strict=True)) <= set(
            zip(files.lat[train], files.lng[train], strict=True)
        )
        assert len(probe.lat) == len(test)
        # validation chooses the probe's penalty and its point, and nothing else
        other = vanilla.copy()
        other[kind.rows["val"]] = 0
        assert split_kinds.frozen_answers(files, kind, other)[0].lat.tolist() == neighbour.lat.tolist()
        assert probe.choice.n == len(kind.rows["val"])
        # where the test images were taken must not matter
        true = files.lat[test].copy()
        files.lat[test] = 0
        again = split_kinds.frozen_answers(files, kind, vanilla)
        files.lat[test] = true
        assert again[0].lat.tolist() == neighbour.lat.tolist() and again[1].lat.tolist() == probe.lat.tolist()


def test_features_that_tell_the_place_are_measured_as_such(files, trained_run, monkeypatch):
    class Store:
        def read_all(self, _):
            import torch

            xyz = np.stack(
                [np.sin(np.deg2rad(files.lat)), np.cos(np.deg2rad(files.lng)), np.sin(np.deg2rad(files.lng))]
            )
            return torch.tensor(xyz.T)

    monkeypatch.setattr(pipeline, "open_features", lambda *_: Store())
    kinds = split_kinds.split_kinds(files)
    measured = split_kinds.measure_kinds(files, kinds, trained_run.cache, n=30)
    assert len(measured) == 6 and measured["method"].tolist()[:2] == ["nearest_neighbour", "linear_probe"]
    assert (measured["median_km"] < 120).all()  # a city and its surroundings
    assert measured["n"].tolist()[0] == len(files.rows["test"]) and (measured["near"] == 0).all()
    table = split_kinds.kinds_table(measured, WORDS)
    assert table["split"].tolist()[0] == "stratified (this run)" and table["method"].tolist()[0] == "nearest neighbour"
    near = split_kinds.nearness_table(measured)
    assert near["split"].tolist() == ["stratified (this run)", "spatial, blocks of 1 km", "spatial, blocks of 25 km"]
    assert near["training place within 1 km"].tolist() == ["0.0%"] * 3


def test_a_kind_without_test_images_is_passed_over(files, trained_run):
    empty = split_kinds.SplitKind("none", files.rows | {"test": np.zeros(0, dtype=int)}, np.zeros(0), False)
    measured = split_kinds.measure_kinds(files, [empty], trained_run.cache)
    assert measured.empty
    assert split_kinds.kinds_table(measured, WORDS).empty and split_kinds.nearness_table(measured).empty


def test_names():
    assert split_kinds.split_name("spatial", 2.5) == "spatial, blocks of 2.5 km"
    assert split_kinds.split_name("leave_country_out", 1.0, "Peru") == "all but Peru"
