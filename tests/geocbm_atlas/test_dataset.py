from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geocbm.data.simulated import load_ground_truth
from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import owners, sha256_file
from geocbm_atlas.dataset import COLUMNS, write_atlas
from geocbm_atlas.facts import META_TO_PARENT

ROOT = Path(__file__).resolve().parents[2]


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_atlas(tmp_path_factory.mktemp("atlas") / "small", 70, seed=3, workers=1)


def test_the_table_keeps_the_schema(atlas: Path) -> None:
    with atlas.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 70 and tuple(rows[0]) == COLUMNS
    assert len({row["pano_id"] for row in rows}) == 70
    for row in rows:
        assert META_TO_PARENT[row["meta_name"]] == row["parent_concept"]
        assert -90 <= float(row["lat"]) <= 90 and -180 <= float(row["lng"]) <= 180
        assert row["region"].startswith(row["country"])
        assert row["note"].startswith("<p>") and "<b>" in row["note"] and row["meta_name"].lower() in row["note"]
    with Image.open(atlas.parent / rows[0]["image_path"]) as picture:
        assert picture.size == (144, 144) and picture.format == "JPEG"


def test_the_ground_truth_contains_every_label(atlas: Path) -> None:
    truth = load_ground_truth(atlas)
    assert truth == load_ground_truth(atlas.parent)
    with atlas.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            entry = truth[row["pano_id"]]
            assert entry["labelled"] == row["meta_name"]
            assert row["meta_name"] in {concept["meta_name"] for concept in entry["concepts"]}
            for concept in entry["concepts"]:
                x0, y0, x1, y1 = concept["box"]
                assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and concept["box"] == concept["boxes"][0]


def test_the_description_says_that_it_is_simulated(atlas: Path) -> None:
    described = json.loads((atlas.parent / "atlas.json").read_text())
    assert described["simulated"] is True
    assert (described["seed"], described["n"], described["size"]) == (3, 70, 144)
    assert len(described["digest"]) == 64


def test_same_bytes_for_any_number_of_workers(atlas: Path, tmp_path: Path) -> None:
    again = write_atlas(tmp_path / "parallel", 70, seed=3, workers=2)
    assert digests(again.parent) == digests(atlas.parent)


def test_a_scene_does_not_depend_on_how_many_there_are(atlas: Path, tmp_path: Path) -> None:
    few = write_atlas(tmp_path / "few", 3, seed=3, workers=1)
    for name in sorted((few.parent / "images").iterdir()):
        assert sha256_file(name) == sha256_file(atlas.parent / "images" / name.name)


def test_an_atlas_is_replaced_and_anything_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_atlas(folder, 2, seed=1, workers=1)
    write_atlas(folder, 1, seed=2, workers=1)
    assert len(list((folder / "images").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years of work")
    with pytest.raises(ParameterError, match="is no data set of the atlas"):
        write_atlas(precious, 1)
    assert (precious / "chapter.txt").read_text() == "years of work"


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_atlas(tmp_path / "data", 1, workers=1)
    assert list(tmp_path.iterdir()) == []


DIES = """
import os, sys
from geocbm_atlas import dataset
setattr(dataset, sys.argv[2], lambda *_: os._exit(9))
dataset.write_atlas(sys.argv[1], 1, workers=1)
"""


@pytest.mark.parametrize("at", ["_write_tables", "_replace"])
def test_what_a_killed_process_was_drawing_is_removed_by_the_next(tmp_path: Path, at: str) -> None:
    ended = subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "data"), at], cwd=ROOT)
    assert ended.returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    owners.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n_scenes": 0}, "n_scenes is 0"),
    ({"n_scenes": 1, "size": 7}, "size is 7; choose 48 to 1024 pixels"),
    ({"n_scenes": 1, "workers": 0}, "workers is 0"),
    ({"n_scenes": 1, "seed": -1}, "seed is -1"),
])  # fmt: skip
def test_impossible_numbers_are_refused(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        write_atlas(tmp_path / "data", **arguments)


def test_a_real_data_set_has_no_ground_truth(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="geocbm atlas make"):
        load_ground_truth(tmp_path / "photos.csv")


def test_pictures_are_no_two_alike(atlas: Path) -> None:
    files = sorted((atlas.parent / "images").iterdir())[:12]
    small = [np.asarray(Image.open(file).resize((8, 8)), dtype=float).ravel() for file in files]
    assert min(np.abs(a - b).mean() for i, a in enumerate(small) for b in small[:i]) > 1.0
