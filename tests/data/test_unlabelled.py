"""Tables without the column `meta_name`: pictures with their places alone, and a column for each concept."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from geocbm.data import load_table, make_splits, split_rows
from geocbm.data.concept_list import ABSENT, ConceptList, read_concept_list
from geocbm.data.concepts import UNKNOWN, ConceptVocabulary
from geocbm.errors import BadTableError

PLACES = ((48.85, 2.35), (-33.45, -70.66), (35.68, 139.69), (-25.27, 133.78), (46.95, 7.45), (0.0, -30.0))
COUNTRIES = ["France", "Chile", "Japan", "Australia", "Switzerland"]


@pytest.fixture
def listed(tmp_path: Path) -> ConceptList:
    (tmp_path / "list.yaml").write_text("Poles: [wooden pole, steel pole]\nSigns: [stop sign]\n", encoding="utf-8")
    return read_concept_list(tmp_path / "list.yaml")


def write(folder: Path, n: int = 5, **columns: list[str]) -> Path:
    """A table of pictures and places with further columns."""
    for number in range(n):
        Image.new("RGB", (32, 32), (40 * number, 90, 10)).save(folder / f"{number}.png")
    own = {"image_path": [f"{number}.png" for number in range(n)]}
    own |= {"lat": [str(lat) for lat, _ in PLACES[:n]], "lng": [str(lng) for _, lng in PLACES[:n]]} | columns
    with (folder / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(own)
        writer.writerows(zip(*own.values(), strict=True))
    return folder / "table.csv"


def test_pictures_and_places_are_a_table_where_a_list_of_concepts_is_given(tmp_path: Path, listed: ConceptList) -> None:
    table = load_table(write(tmp_path), concepts=listed)
    assert table["country"].tolist() == COUNTRIES and table["pano_id"].tolist() == table["image_path"].tolist()
    assert set(table["meta_name"]) == set(table["parent_concept"]) == {UNKNOWN} and set(table["note"]) == {""}
    with pytest.raises(BadTableError, match="guess_with"):
        load_table(write(tmp_path))


def test_what_the_table_says_itself_is_kept(tmp_path: Path, listed: ConceptList) -> None:
    own = {"country": ["USA", *COUNTRIES[1:]], "id": ["a", "a2", "b", "c", "d"], "note": ["hm", "", "", "", ""]}
    table = load_table(write(tmp_path, **own), concepts=listed)
    assert table["country"].iloc[0] == "United States" and table["pano_id"].iloc[1] == "a2"
    assert table["note"].iloc[0] == "hm"


def test_a_place_in_no_country_is_told(tmp_path: Path, listed: ConceptList) -> None:
    with pytest.raises(BadTableError, match=r"country is empty in 1 row: line 7"):
        load_table(write(tmp_path, 6), concepts=listed)


def test_a_table_with_labels_does_not_look_at_the_list(tmp_path: Path, listed: ConceptList) -> None:
    own = {"meta_name": ["m"] * 5, "parent_concept": ["p"] * 5, "country": COUNTRIES, "pano_id": list("abcde")}
    table = load_table(write(tmp_path, **own, note=[""] * 5, **{"stop sign": ["1"] * 5}), concepts=listed)
    assert set(table["meta_name"]) == {"m"} and "stop sign" in table and ABSENT not in table
    with pytest.raises(BadTableError, match="'note' is missing"):
        load_table(write(tmp_path, **own), concepts=listed)
    with pytest.raises(BadTableError, match="'meta_name' is missing"):
        load_table(write(tmp_path, parent_concept=["p"] * 5), concepts=listed)


def test_columns_headed_by_concepts_hold_one_zero_or_nothing(tmp_path: Path, listed: ConceptList) -> None:
    wide = {
        "Stop  Sign": ["1", "0", "", "1.0", "nan"],
        "wooden pole": ["true", "False", "0.0", "", ""],
        "other": list("vwxyz"),
    }
    table = load_table(write(tmp_path, **wide), concepts=listed)
    rows = table[["image_path", "meta_name", "parent_concept", ABSENT, "other"]].to_numpy().tolist()
    assert rows == [
        ["0.png", "wooden pole", "Poles", "", "v"],
        ["0.png", "stop sign", "Signs", "", "v"],
        ["1.png", UNKNOWN, UNKNOWN, "wooden pole|stop sign", "w"],
        ["2.png", UNKNOWN, UNKNOWN, "wooden pole", "x"],
        ["3.png", "stop sign", "Signs", "", "y"],
        ["4.png", UNKNOWN, UNKNOWN, "", "z"],
    ]
    assert "Stop  Sign" not in table
    vocabulary = ConceptVocabulary.from_table(table)
    assert vocabulary.metas == ("stop sign", "wooden pole")
    assert [part.tolist() for part in vocabulary.encode(table)] == [[1, 0, -1, -1, 0, -1], [0, 1, -1, -1, 1, -1]]


def test_anything_else_in_such_a_column_is_told_with_its_line(tmp_path: Path, listed: ConceptList) -> None:
    wide = {"stop sign": ["1", "2", "", "maybe", "0"]}
    with pytest.raises(BadTableError, match=r"neither 1, 0 nor empty in 2 rows: lines 3 \(stop sign: '2'\), 5") as told:
        load_table(write(tmp_path, **wide), concepts=listed)
    assert len(told.value.problems) == 1
    table = load_table(write(tmp_path, **wide), concepts=listed, on_bad="drop")
    assert table["image_path"].tolist() == ["0.png", "2.png", "4.png"]
    with pytest.raises(BadTableError, match="twice"):
        load_table(write(tmp_path, **wide, **{"Stop Sign": ["1"] * 5}), concepts=listed)


def test_pictures_without_a_label_are_split_by_country(tmp_path: Path, listed: ConceptList) -> None:
    table = load_table(write(tmp_path), concepts=listed)
    many = table.loc[table.index.repeat(20)].reset_index(drop=True)
    many["pano_id"], many["image_sha256"] = [f"{n:03d}" for n in range(100)], ""
    rows = split_rows(make_splits(many), many)
    for name, share in (("train", 14), ("val", 3), ("test", 3)):
        assert many["country"].iloc[rows[name]].value_counts().tolist() == [share] * 5
