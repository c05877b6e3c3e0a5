"""A simulated world is known by the mark beside its pictures, and by nothing else."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from PIL import Image

from geocbm import data
from geocbm.data.simulated import from_simulator, is_simulated, picture_noun
from geocbm_atlas.dataset import write_atlas


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    return write_atlas(tmp_path_factory.mktemp("worlds") / "mine", 2, size=48, workers=1)


def test_a_table_of_the_simulator_is_simulated(atlas, tmp_path):
    table = data.load_table(atlas)
    assert table.attrs["simulated"] is True and picture_noun(table) == "scene"
    data.save_table(table, tmp_path / "table.parquet")
    assert is_simulated(data.read_table(tmp_path / "table.parquet"))


def test_a_table_of_ones_own_with_pictures_of_the_simulator_is_too(atlas, tmp_path):
    rows = pd.read_csv(atlas)
    rows["image_path"] = [str(atlas.parent / path) for path in rows["image_path"]]
    rows.to_csv(tmp_path / "photographs.csv", index=False)
    assert data.load_table(tmp_path / "photographs.csv", allow_outside=True).attrs["simulated"] is True


def test_neither_a_name_nor_ground_truth_makes_a_world_simulated(atlas, tmp_path):
    rows = pd.read_csv(atlas)
    folder = tmp_path / "data" / "atlas" / "demo"
    (folder / "images").mkdir(parents=True)
    for number, path in enumerate(rows["image_path"]):
        Image.new("RGB", (48, 48), (number, 0, 0)).save(folder / path)
    (folder / "ground_truth.jsonl.gz").write_bytes((atlas.parent / "ground_truth.jsonl.gz").read_bytes())
    rows.to_csv(folder / "atlas.csv", index=False)
    table = data.load_table(folder / "atlas.csv")
    assert table.attrs["simulated"] is False and picture_noun(table) == "photograph"


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"simulated": False}), json.dumps({"n": 3})])
def test_another_file_of_that_name_is_no_mark(tmp_path, content):
    (tmp_path / "atlas.json").write_text(content)
    assert not from_simulator(tmp_path, ["images/a.jpg"])
