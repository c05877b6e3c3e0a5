"""A folder of photographs is a table of those that say where they were taken; the others are named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geocbm.cli import main
from geocbm.data import load_table
from geocbm.data.concept_list import read_concept_list
from geocbm.data.formats.photo_folder import convert_photographs
from geocbm.errors import BadTableError, MissingInputError

# EXIF's degrees, minutes and seconds: 46 + 12/60, 6 + 9/60 (Geneva) and -(33 + 52/60 + 10/3600), 151.2125 (Sydney).
GENEVA = {1: "N", 2: (46.0, 12.0, 0.0), 3: "E", 4: (6.0, 9.0, 0.0)}
SYDNEY = {1: "S", 2: (33.0, 52.0, 10.0), 3: "E", 4: (151.0, 12.0, 45.0)}
NOWHERE = {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}


def photograph(path, gps=None, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(gps or {})
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG", exif=exif)


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "photos"
    photograph(photos / "a.jpg", GENEVA, 1)
    photograph(photos / "down" / "under" / "B.JPEG", SYDNEY, 2)
    photograph(photos / "plain.jpg")
    photograph(photos / "zero.jpg", NOWHERE)
    photograph(photos / "void.jpg", GENEVA | {9: "V"})
    photograph(photos / ".thumbnails" / "a.jpg", GENEVA)
    photograph(photos / "._a.jpg", GENEVA)
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:400])
    (photos / "notes.txt").write_text("x")
    return photos


def test_positions_become_a_table_with_countries(folder):
    done = convert_photographs(folder)
    assert done.path == folder / "geocbm_photos.csv" and done.n_rows == 2
    table = pd.read_csv(done.path)
    assert list(table) == ["pano_id", "image_path", "lat", "lng", "country"]
    assert list(table["image_path"]) == list(table["pano_id"]) == ["a.jpg", "down/under/B.JPEG"]
    assert list(table["country"]) == ["Switzerland", "Australia"]
    assert table["lat"].to_numpy() == pytest.approx([46.2, -33.869444], abs=1e-5)
    assert table["lng"].to_numpy() == pytest.approx([6.15, 151.2125], abs=1e-5)
    assert done.path.read_text().endswith(",-33.8694444,151.2125,Australia\n")
    read = load_table(done.path, concepts=read_concept_list())
    assert list(read["country"]) == ["Switzerland", "Australia"] and read.attrs["n_rejected"] == 0


def test_what_is_left_out_is_named_with_the_reason(folder, capsys):
    assert main(["data", "folder", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "it carries no position (1): plain.jpg" in said and "2 .jpg" not in said and "1 .txt" in said
    rejected = pd.read_csv(folder / "geocbm_photos.rejected.csv").set_index("image_path")["reason"]
    assert set(rejected.index) == {"cut.jpg", "plain.jpg", "void.jpg", "zero.jpg"}
    assert "0, 0" in rejected["zero.jpg"] and "no fix" in rejected["void.jpg"] and "cut off" in rejected["cut.jpg"]
    for name in rejected.index:
        (folder / name).unlink()
    assert main(["data", "folder", str(folder)]) == 0
    assert not (folder / "geocbm_photos.rejected.csv").exists()


def test_a_table_elsewhere_has_whole_paths_and_says_how_to_read_them(folder, tmp_path):
    done = convert_photographs(folder, tmp_path / "tables" / "t.csv")
    assert pd.read_csv(done.path)["image_path"][0] == (folder / "a.jpg").resolve().as_posix()
    assert any("allow_outside" in notice for notice in done.notices)
    above = convert_photographs(folder, tmp_path / "t.csv")
    assert pd.read_csv(above.path)["image_path"][0] == "photos/a.jpg"


def test_a_folder_without_positions_or_no_folder_is_one_sentence(tmp_path):
    photograph(tmp_path / "photos" / "plain.jpg")
    with pytest.raises(BadTableError, match=r"No photograph of the 1 in .*\n.*it carries no position"):
        convert_photographs(tmp_path / "photos")
    assert not (tmp_path / "photos" / "geocbm_photos.csv").exists()
    with pytest.raises(MissingInputError, match="does not exist"):
        convert_photographs(tmp_path / "none")
