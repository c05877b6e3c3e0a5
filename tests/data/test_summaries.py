"""Counts about a data set, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from geocbm import data
from geocbm.data import summaries


@pytest.fixture
def table(tmp_path):
    metas = ["red pole"] * 4 + ["grey pole"] * 2 + ["sign"]
    frame = pd.DataFrame(
        {
            "pano_id": ["a", "a", "b", "c", "d", "e", "f"],
            "image_path": [f"{number}.jpg" for number in range(7)],
            "meta_name": metas,
            "parent_concept": ["pole"] * 6 + ["board"],
            "country": ["Chile"] * 5 + ["Japan"] * 2,
            "lat": [-1.5, -1.5, -2.0, -3.0, -4.25, 35.0, 36.0],
            "lng": [-70.0, -70.0, -71.0, -72.0, -73.0, 139.0, 140.128],
            "image_sha256": ["x", "x", "y", "z", "u", "v", "w"],
        }
    )
    frame.attrs = {"folder": str(tmp_path), "n_rejected": 3, "csv_sha256": "0"}
    return frame


def test_the_table_at_a_glance(table):
    assert dict(summaries.at_a_glance(table).to_numpy().tolist()) == {
        "rows": "7",
        "panoramas": "6",
        "distinct pictures": "6",
        "countries": "2",
        "metas": "3",
        "parents": "2",
        "rows per meta": "1 to 4, median 2",
        "latitudes": "-4.25 to 36.00",
        "longitudes": "-73.00 to 140.13",
        "rows rejected": "3",
    }


def test_sizes_of_the_splits(table):
    splits = {"train": ["a", "b", "c", "f"], "val": ["d"], "test": ["e"], "pretrain_train": ["a"], "pretrain_val": []}
    sizes = summaries.split_sizes(splits, table).set_index("split")
    assert sizes.loc["train"].tolist() == [5, 0.714, 4, 2, 2]
    assert sizes.loc["test"].tolist() == [1, 0.143, 1, 1, 1]
    assert sizes.loc["pretrain_val"].tolist() == [0, 0, 0, 0, 0]


def test_dropped_rows_are_counted_by_reason_whatever_the_columns_are_called(tmp_path):
    lines = ["id,image,meta,parent,country,latitude,longitude,note"]
    for number in range(4):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"p{number},{number}.png,pole,poles,Chile,{[1, 95, 96, 2][number]},{[3, 3, 3, ''][number]},")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    rejected = tmp_path / "rejected.csv"
    assert summaries.rejected(rejected).to_numpy().tolist() == [["none were dropped", 0, ""]]
    table = data.load_table(tmp_path / "table.csv", on_bad="drop", rejected_csv=rejected)
    assert len(table) == 1
    counted = summaries.rejected(rejected)
    assert counted["rows"].sum() == 3
    assert counted["rows"].is_monotonic_decreasing
    assert set(counted["first line"]) <= {"3", "4", "5"}
    assert len(summaries.rejected(rejected, limit=1)) == 1


def test_examples_show_every_meta_before_any_twice(table):
    files, captions = summaries.examples_by_parent(table, columns=3)
    assert set(captions[:3]) == {"grey pole", "red pole"}
    assert captions[:3] == sorted(captions[:3])
    assert captions[3:] == ["sign"]
    names = dict(zip(data.image_files(table), table["meta_name"], strict=True))
    assert [names[Path(file)] for file in files] == captions
    assert len(set(files)) == 4
    assert summaries.examples_by_parent(table, columns=3) == (files, captions)
    assert summaries.examples_by_parent(table, columns=2)[1] == ["grey pole", "red pole", "sign"]
    assert summaries.examples_by_parent(table, columns=2, parents=1)[1] == ["grey pole", "red pole"]


def test_what_the_test_split_means(table):
    splits = {"train": ["a", "b"], "val": ["c"], "test": ["d", "e", "f"]}
    assert summaries.split_remark(table, splits) == "Test images come from 2 of 2 countries."
    said = summaries.split_remark(table, splits, "Japan")
    assert said.startswith("The test split is Japan, which training and validation never show.")
    # "d" lies in Chile; of its metas and those of Japan, "grey pole" and "sign" are not among "a" and "b"
    assert "where they share a panorama or a picture with it (1)." in said
    assert said.endswith("cannot be named (2): grey pole, sign.")
    only = summaries.split_remark(table, splits | {"test": ["f"], "val": ["c", "d", "e"]}, "Japan")
    assert "elsewhere" not in only and "cannot be named (1): sign." in only
    assert "empty" in summaries.split_remark(table, splits | {"test": []})
