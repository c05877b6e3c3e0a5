"""Tables become data sets of Hugging Face and come back; the library itself is the witness."""

from __future__ import annotations

import io
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from geocbm.cli import main
from geocbm.data import load_table, make_splits, save_splits, save_table

HEADER = "pano_id,image_path,meta_name,parent_concept,country,lat,lng,note,source\n"


def picture(seed: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def table(tmp_path):
    """A CSV of 20 pictures; the first shows two concepts."""
    (tmp_path / "images").mkdir()
    lines = ['p0,images/0.jpg,pole,posts,France,48.1,2.3,"a, ""b""",me']
    for row in range(20):
        (tmp_path / "images" / f"{row}.jpg").write_bytes(picture(row))
        lines.append(f"p{row},images/{row}.jpg,kerb {row % 2},kerbs,France,{48.1 + row / 7},{2.3 + row / 13},,you")
    path = tmp_path / "table.csv"
    path.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_that_goes_out_comes_back_the_same(table, tmp_path, capsys):
    assert main(["data", "export", str(table), str(tmp_path / "hf"), "--to", "datasets"]) == 0
    assert "21 rows" in capsys.readouterr().out
    stored = datasets.load_from_disk(str(tmp_path / "hf"))
    assert isinstance(stored.features["image"], datasets.Image) and stored.num_rows == 21
    assert stored[0]["image"].size == (16, 16) and stored[0]["lat"] == 48.1 and stored[0]["source"] == "me"
    for file in (tmp_path / "images").iterdir():
        file.unlink()  # the pictures are in the data set, not beside it
    assert main(["data", "import", str(tmp_path / "hf"), "--out", str(tmp_path / "back")]) == 0
    back = load_table(tmp_path / "back" / "table.csv")
    for row in range(20):
        (tmp_path / "images" / f"{row}.jpg").write_bytes(picture(row))
    before = load_table(table)
    pd.testing.assert_frame_equal(back[list(before)].drop(columns="image_path"), before.drop(columns="image_path"))
    assert len(list((tmp_path / "back" / "images").rglob("*.jpg"))) == 20


def test_a_run_goes_out_with_its_splits(table, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    run = tmp_path / "data" / "runs" / "mine"
    run.mkdir(parents=True)
    rows = load_table(table)
    save_table(rows, run / "table.parquet")
    splits = make_splits(rows, seed=3)
    save_splits(splits, run / "splits.json", rows, "stratified", 3)
    assert main(["data", "export", "mine", str(tmp_path / "hf")]) == 0
    stored = datasets.load_from_disk(str(tmp_path / "hf"))
    for split in ("train", "val", "test"):
        own = {pano for pano, part in zip(stored["pano_id"], stored["split"], strict=True) if part == split}
        assert own == set(splits[split]) and own


def test_splits_classes_and_lists_of_a_stranger_are_read(tmp_path):
    kinds = datasets.Features(
        {
            "photo": datasets.Image(),
            "latitude": datasets.Value("float64"),
            "lon": datasets.Value("float32"),
            "country": datasets.ClassLabel(names=["France", "Namibia"]),
            "concepts": datasets.List(datasets.ClassLabel(names=["pole", "kerb"])),
            "parents": datasets.Value("string"),
            "sound": datasets.Value("binary"),
            "views": datasets.List(datasets.Image()),
        }
    )
    rows = {
        "photo": [Image.new("RGB", (9, 9)), {"bytes": picture(1), "path": "../../x.JPG"}],
        **{"latitude": [48.5, -22.5], "lon": [2.5, 17.0], "country": [0, 1], "concepts": [[0, 1], [1]]},
        **{"parents": ["things", "things"], "sound": [b"a", b"b"], "views": [[], [Image.new("L", (9, 9))]]},
    }
    whole = datasets.Dataset.from_dict(rows, kinds)
    datasets.DatasetDict(train=whole.select([1]), test=whole.select([0])).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "flat" / "data").mkdir(parents=True)
    whole.select([0]).to_parquet(str(tmp_path / "flat" / "data" / "test-00000-of-00001.parquet"))
    whole.select([1]).to_parquet(str(tmp_path / "flat" / "data" / "train-00000-of-00001.parquet"))
    for source in ("saved", "flat"):
        assert main(["data", "import", str(tmp_path / source), "--out", str(tmp_path / f"{source}-out")]) == 0
        table = load_table(tmp_path / f"{source}-out" / "table.csv")
        assert list(table["meta_name"]) == ["pole", "kerb", "kerb"] and not {"sound", "views"} & set(table)
        assert list(table["country"]) == ["France", "France", "Namibia"] and table["lng"][2] == 17.0
        assert list(table["split"]) == ["test", "test", "train"]
        assert [path[-4:] for path in table["image_path"]] == [".png", ".png", ".jpg"]


def test_paths_in_place_of_pictures_are_not_followed(tmp_path, capsys):
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    images = [{"bytes": None, "path": str(tmp_path / "secret.jpg")}, {"bytes": None, "path": "https://example.org/x"}]
    images += [None, {"bytes": picture(2), "path": None}]
    (tmp_path / "in").mkdir()
    parquet.write_table(pa.table({"image": images, "lat": [1.0] * 4, "lng": [2.0] * 4}), tmp_path / "in" / "x.parquet")
    assert main(["data", "import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "not followed (2): x.parquet, row 0, x.parquet, row 1" in said and "missing (1): x.parquet, row 2" in said
    assert main(["data", "import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--on-bad", "drop"]) == 0
    assert [file.read_bytes() for file in (tmp_path / "out" / "images").rglob("*.*")] == [picture(2)]


def test_files_that_a_state_names_outside_of_the_folder_are_not_read(table, tmp_path, capsys):
    assert main(["data", "export", str(table), str(tmp_path / "hf")]) == 0
    state = tmp_path / "hf" / "state.json"
    (tmp_path / "data-00000-of-00001.arrow").write_bytes((tmp_path / "hf" / "data-00000-of-00001.arrow").read_bytes())
    (tmp_path / "hf" / "data-00000-of-00001.arrow").unlink()
    state.write_text(state.read_text().replace('"data-00000', '"../data-00000'))
    assert main(["data", "import", str(tmp_path / "hf"), "--out", str(tmp_path / "out")]) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "noise", "state"])
def test_damage_is_one_sentence(table, tmp_path, capsys, damage):
    assert main(["data", "export", str(table), str(tmp_path / "hf")]) == 0
    file = tmp_path / "hf" / "data-00000-of-00001.arrow"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3000])
    elif damage == "noise":
        file.write_bytes(b"noise" * 1000)
    else:
        (tmp_path / "hf" / "state.json").write_text("[]")
    capsys.readouterr()
    assert main(["data", "import", str(tmp_path / "hf"), "--out", str(tmp_path / "out")]) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "said"), [(["a"], "1 columns"), (["a", "b"], "2 columns"), ([], "0 columns")])
def test_the_column_of_pictures_must_be_plain(tmp_path, capsys, columns, said):
    frame = pa.table({name: [picture(1)] for name in columns} | {"lat": [1.0], "lng": [2.0]})
    parquet.write_table(frame, tmp_path / "x.parquet")
    status = main(["data", "import", str(tmp_path), "--out", str(tmp_path / "out")])
    assert status == (0 if len(columns) == 1 else 2)
    assert status == 0 or f"{said} of pictures" in capsys.readouterr().err


def test_what_cannot_go_out_is_one_sentence(table, tmp_path, capsys, monkeypatch):
    (tmp_path / "images" / "3.jpg").unlink()
    assert main(["data", "export", str(table), str(tmp_path / "hf")]) == 2
    assert "1 pictures of the table are missing" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main(["data", "export", str(table), str(tmp_path / "hf")]) == 2
    assert "pip install 'geocbm[datasets]'" in capsys.readouterr().err
    assert main(["data", "import", str(tmp_path / "images"), "--out", str(tmp_path / "out")]) == 2
    assert "There is no data set in" in capsys.readouterr().err
