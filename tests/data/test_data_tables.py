from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geocbm.data import SCHEMA, checks, image_files, load_table, quality_report, read_table, save_table
from geocbm.errors import BadTableError, DamagedError, MismatchError, MissingInputError, ParameterError, UserError


def picture(seed: int, size: int = 48) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def good_rows(n: int = 6) -> list[dict[str, str]]:
    return [
        {
            "pano_id": f"{number:03d}", "image_path": f"images/{number}.jpg", "meta_name": f"meta {number % 2}",
            "parent_concept": "Poles", "country": "Chile", "lat": str(-30.5 - number), "lng": str(70.25 + number),
            "note": "<b>a note,\nof two lines</b>",
        }
        for number in range(n)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(6):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(picture(number))
    return tmp_path


def write(folder, rows, name="table.csv", encoding="utf-8"):
    path = folder / name
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def problems_of(path, **settings) -> list[str]:
    with pytest.raises(BadTableError) as caught:
        load_table(path, **settings)
    assert all(sentence in str(caught.value) for sentence in caught.value.problems)
    return caught.value.problems


def test_good_table(folder):
    rows = good_rows()
    rows[0]["lat"] = "0.0"
    rows = [{**row, "extra": " 7 "} for row in rows]
    table = load_table(write(folder, rows))
    assert list(table.columns) == [*SCHEMA, "extra", "image_sha256"]
    assert set(table["extra"]) == {"7"}
    assert table["pano_id"].tolist() == ["000", "001", "002", "003", "004", "005"]
    assert table["lat"].iloc[0] == 0.0 and table["lat"].dtype == np.float64
    assert table["note"].iloc[0] == "<b>a note,\nof two lines</b>"
    assert table["image_path"].iloc[0] == "images/0.jpg"
    assert image_files(table)[0] == folder / "images" / "0.jpg"
    assert table["image_sha256"].str.len().eq(64).all() and table["image_sha256"].is_unique
    assert table.attrs["n_rejected"] == 0 and len(table.attrs["csv_sha256"]) == 64


def test_all_problems_in_one_pass_with_lines_of_the_file(folder):
    rows = good_rows()
    rows[0]["lat"] = "north"
    rows[1]["lng"] = "-181"
    rows[2]["image_path"] = "images/none.jpg"
    rows[3]["country"] = ""
    rows[4]["meta_name"] = "cafÃ© sign"
    rows[5]["pano_id"] = "000"
    found = problems_of(write(folder, rows))
    # the note spans two lines, so row k starts on line 2 + 2k
    expected = [
        "country is empty in 1 row: line 8.",
        "meta_name holds garbled letters (mojibake) in 1 row: line 10 ('cafÃ© sign', perhaps 'café sign').",
        "lat is not a number in 1 row: line 2 ('north').",
        "lng lies outside -180..180 in 1 row: line 4 (-181).",
        "the image is missing in 1 row: line 6 (images/none.jpg).",
    ]
    assert len(found) == 5
    for start, sentence in zip(expected, found, strict=True):
        assert sentence.startswith(start)
        assert len(sentence) > len(start) + 10  # a remedy follows


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("lat", "", "lat is not a number in 1 row: line 2 (empty)"),
        ("lat", "nan", "lat is not a number"),
        ("lat", "46,2", "lat is not a number in 1 row: line 2 ('46,2')"),
        ("lng", "inf", "lng is infinite"),
        ("lat", "90.001", "lat lies outside -90..90"),
        ("lat", "-91", "lat lies outside -90..90 in 1 row: line 2 (-91). lat and lng look swapped"),
        ("pano_id", " ", "pano_id is empty"),
        ("meta_name", "nan", "meta_name is empty"),
        ("parent_concept", "", "parent_concept is empty"),
        ("country", "Espa\ufffda", "letters are lost"),
        ("image_path", "", "the image is missing in 1 row: line 2 (no path given)"),
    ],
)
def test_one_bad_cell(folder, column, value, message):
    rows = good_rows(3)
    rows[0][column] = value
    found = problems_of(write(folder, rows))
    assert any(message in sentence for sentence in found), found


def test_limits_of_coordinates_are_valid(folder):
    rows = good_rows(4)
    for row, (lat, lng) in zip(rows, [("90", "180"), ("-90", "-180"), ("0", "0"), ("-0.0", "1e2")], strict=True):
        row["lat"], row["lng"] = lat, lng
    table = load_table(write(folder, rows))
    assert table["lng"].tolist() == [180, -180, 0, 100]
    assert not np.signbit(table["lat"].to_numpy()[2:]).any()  # "-0.0" is 0


def test_longitudes_of_0_to_360_are_named(folder):
    rows = good_rows()
    rows[3]["lng"] = "288.9"
    (sentence,) = problems_of(write(folder, rows))
    assert "counts 0..360" in sentence and "Subtract 360" in sentence
    rows[0]["lng"] = "-20"
    (sentence,) = problems_of(write(folder, rows))
    assert "0..360" not in sentence


def test_images_are_decoded_to_the_end(folder):
    whole = picture(9)
    (folder / "images" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "images" / "1.jpg").write_bytes(b"")
    (folder / "images" / "2.jpg").write_text("<html>not found</html>")
    (sentence,) = problems_of(write(folder, good_rows()))
    assert sentence.startswith("the image is unreadable in 3 rows")
    for part in ("images/0.jpg: is cut off", "images/1.jpg: zero bytes", "images/2.jpg: is no picture"):
        assert part in sentence
    table = load_table(folder / "table.csv", check_images=False)
    assert len(table) == 6 and table["image_sha256"].str.len().eq(64).all()


def test_pano_id_at_two_places(folder):
    rows = good_rows()
    for row in rows[:3]:
        row["pano_id"], row["lat"], row["lng"] = "same", "10", "20"
    assert len(load_table(write(folder, rows))) == 6
    rows[2]["lng"] = "20.01"
    (sentence,) = problems_of(write(folder, rows))
    assert sentence.startswith(
        "pano_id is repeated with another location in 1 row: line 6 ('same' at 10.00000, 20.01000)"
    )
    rows[1]["pano_id"] = "other"
    (sentence,) = problems_of(write(folder, rows))  # one against one: neither can be trusted
    assert "in 2 rows: 2 " not in sentence and "in 2 rows: lines 2 " in sentence


def test_meta_under_two_parents_lists_them_and_drops_the_minority(folder):
    rows = good_rows()
    rows[4]["parent_concept"] = "Signs"
    path = write(folder, rows)
    (sentence,) = problems_of(path)
    assert "in 1 row: line 10 ('meta 0' is under 'Poles' x2, 'Signs' x1)" in sentence
    table = load_table(path, on_bad="drop")
    assert table["pano_id"].tolist() == ["000", "001", "002", "003", "005"]
    rows[2]["parent_concept"] = "Trees"
    table = load_table(write(folder, rows), on_bad="drop")  # a tie of three: all rows of the meta go
    assert set(table["meta_name"]) == {"meta 1"}


def test_a_garbled_name_does_not_outvote_a_sound_row(folder):
    rows = good_rows(3)
    rows[2]["parent_concept"] = "PolÃ©s"  # rows 0 and 2 have one meta
    assert load_table(write(folder, rows), on_bad="drop")["pano_id"].tolist() == ["000", "001"]


def test_drop_counts_and_writes_the_rejected_rows(folder, capsys):
    rows = good_rows()
    rows[1]["lat"], rows[1]["country"] = "100", ""
    rows[3]["image_path"] = "nowhere.jpg"
    table = load_table(write(folder, rows), on_bad="drop")
    assert len(table) == 4 and table.attrs["n_rejected"] == 2 and table.index.tolist() == [0, 1, 2, 3]
    rejected = pd.read_csv(folder / "rejected.csv", dtype=str)
    assert rejected["line"].tolist() == ["4", "8"]
    assert rejected["reason"].iloc[0] == "country is empty; lat lies outside -90..90 (100)"
    assert rejected["pano_id"].tolist() == ["001", "003"] and rejected["lat"].iloc[0] == "100"
    assert "2 of 6 rows were rejected" in capsys.readouterr().out


def test_rejected_rows_go_to_the_current_folder_when_the_table_is_in_a_closed_one(folder, tmp_path, monkeypatch):
    rows = good_rows()
    rows[0]["lat"] = "x"
    path = write(folder, rows)
    (folder / "rejected.csv").mkdir()  # cannot be replaced by a file
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert len(load_table(path, on_bad="drop")) == 5
    assert (tmp_path / "here" / "rejected.csv").is_file()
    with pytest.raises(ParameterError, match=r"rejected_csv .* cannot be written"):
        load_table(path, on_bad="drop", rejected_csv=folder / "rejected.csv")


def test_every_row_rejected_is_an_error(folder):
    rows = good_rows(2)
    for row in rows:
        row["lat"] = "x"
    with pytest.raises(BadTableError, match="Every row is rejected"):
        load_table(write(folder, rows), on_bad="drop")


def test_long_lists_are_cut_and_counted(folder):
    rows = [{**good_rows(1)[0], "pano_id": str(number), "lat": "x", "note": ""} for number in range(50)]
    (sentence,) = problems_of(write(folder, rows))
    assert "in 50 rows" in sentence and "and 30 more" in sentence


def test_aliases_are_mapped_and_printed(folder, capsys):
    old = {"lat": "Latitude", "lng": "lon", "image_path": "image", "note": "Notes"}
    rows = [{old.get(name, name): value for name, value in row.items()} for row in good_rows()]
    rows[0]["Latitude"] = "0.0"
    table = load_table(write(folder, rows))
    assert table["lat"].iloc[0] == 0.0 and list(table.columns[:8]) == list(SCHEMA)
    printed = capsys.readouterr().out
    for pair in ("Latitude -> lat", "lon -> lng", "image -> image_path", "Notes -> note"):
        assert pair in printed


def test_own_names_of_columns(folder):
    rows = [{("wo" if name == "country" else name): value for name, value in row.items()} for row in good_rows()]
    path = write(folder, rows)
    assert load_table(path, columns={"wo": "country"})["country"].iloc[0] == "Chile"
    with pytest.raises(ParameterError, match="'wer' \\(not in the file\\)"):
        load_table(path, columns={"wer": "country"})


def test_missing_columns_are_all_named(folder):
    rows = [{name: value for name, value in row.items() if name not in ("lat", "country")} for row in good_rows()]
    found = problems_of(write(folder, rows), on_bad="drop")
    assert [sentence.split(" (")[0] for sentence in found] == ["Column 'country' is missing", "Column 'lat' is missing"]
    assert "latitude" in found[1]


def test_files_that_are_no_table(folder):
    with pytest.raises(MissingInputError, match=r"There is no table at .*gone\.csv"):
        load_table(folder / "gone.csv")
    path = folder / "x.csv"
    for content, message in [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \r\n", "is empty"),
        (b",,,\n", "a header but no rows"),
        (",".join(SCHEMA).encode(), "a header but no rows"),
        ("pano_id,café\n".encode("latin-1"), "not UTF-8: byte 0xe9 on line 1"),
        (",".join(SCHEMA).encode("utf-16"), "not UTF-8"),
        (";".join(SCHEMA).encode() + b"\na;b\n", "separated by ';'"),
        (",".join(SCHEMA).encode() + b'\n"a,b,c\n', "cannot be read as CSV: .* line 2"),
        (",".join((*SCHEMA, "lat")).encode() + b"\na\n", "'lat' stands twice"),
        (",".join((*SCHEMA, "Concepts")).encode() + b"\na\n", "'meta_name' and 'concepts' both name concepts"),
    ]:
        path.write_bytes(content)
        with pytest.raises(BadTableError, match=message):
            load_table(path)
    with pytest.raises(BadTableError, match="is a folder"):
        load_table(folder)
    with pytest.raises(ParameterError, match="on_bad='ignore' is unknown"):
        load_table(path, on_bad="ignore")
    assert issubclass(BadTableError, UserError)


def test_wrong_number_of_fields(folder):
    path = write(folder, good_rows(2))
    with path.open("a", encoding="utf-8") as stream:
        stream.write("9,images/2.jpg,meta 0,Poles,Chile,1,2,a,b\n")
    (sentence,) = problems_of(path)
    assert sentence.startswith("the number of fields is wrong in 1 row: line 6 (9 fields)")


def test_names_are_stripped_and_composed_and_that_is_said(folder, capsys):
    rows = good_rows()
    rows[0]["meta_name"] = "  meta  0 "
    rows[1]["country"] = "Cura\u0063\u0327ao"  # c + cedilla, two characters
    rows[2]["country"] = "Cura\u00e7ao"
    table = load_table(write(folder, rows, encoding="utf-8-sig"))  # a byte order mark is no part of the header
    assert table["meta_name"].iloc[0] == "meta 0"
    assert table["country"].iloc[1] == table["country"].iloc[2] == "Cura\u00e7ao"
    printed = capsys.readouterr().out
    assert "meta_name: surrounding" in printed and "country: surrounding" in printed


def test_namibia_is_not_a_missing_value(folder):
    rows = good_rows()
    rows[0]["country"] = "NA"
    assert load_table(write(folder, rows))["country"].iloc[0] == "Namibia"


def test_a_country_has_one_spelling(folder, capsys):
    rows = good_rows()
    for row, country in zip(rows, ["USA", "United States", "Czech Republic", "Narnia"], strict=False):
        row["country"] = country
    table = load_table(write(folder, rows))
    expected = ["United States", "United States", "Czechia", "Narnia"][: len(rows)]
    assert table["country"].tolist()[:4] == expected
    printed = capsys.readouterr().out
    assert "'USA' -> 'United States' (1 row)" in printed
    assert ("no country is known by the name 'Narnia'" in printed) == (len(rows) > 3)
    assert table.attrs["notices"]


def test_parquet_keeps_everything(folder):
    table = load_table(write(folder, good_rows()))
    table["cell_label"] = np.arange(6)
    save_table(table, folder / "run" / "table.parquet")
    back = read_table(folder / "run" / "table.parquet")
    pd.testing.assert_frame_equal(back, table)
    assert back.attrs == table.attrs
    with pytest.raises(MissingInputError, match="--from 01"):
        read_table(folder / "gone.parquet")
    (folder / "other.parquet").write_text("no parquet")
    with pytest.raises(DamagedError, match="--from 01"):
        read_table(folder / "other.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(folder / "other.parquet")
    with pytest.raises(MismatchError, match="not a validated table"):
        read_table(folder / "other.parquet")


def test_quality_report_finds_what_was_planted(folder):
    rows = good_rows()
    (folder / "images" / "1.jpg").write_bytes(picture(0))  # the bytes of image 0
    Image.new("RGB", (64, 64), (3, 3, 3)).save(folder / "images" / "2.jpg")
    Image.new("RGB", (64, 64), (200, 200, 200)).save(folder / "images" / "3.jpg")
    rows[4].update(lat="10", lng="20", country="Peru", note="")
    rows[5].update(lat="10.0002", lng="20", meta_name="Meta 1")  # 22 m north of row 4
    report = quality_report(load_table(write(folder, rows))).set_index("check")
    counted = {check: int(count) for check, count in report["rows"].items() if count}
    assert counted == {
        "identical images": 2,
        "nearly black images": 1,
        "very dark images": 1,
        "nearly constant images": 2,
        "metas with one sample": 1,
        "metas with two samples": 2,
        "metas that differ in case only": 3,
        "countries with one sample": 1,
        "places less than 50 m apart": 2,
        "whole degrees": 1,
        "in another country than the table says": 6,  # east of Greenwich, where Chile is not
        "empty notes": 1,
    }
    assert report.loc["identical images", "examples"] == "000 (x2)"
    assert report.loc["countries with one sample", "examples"] == "Peru"
    assert report.loc["whole degrees", "share"] == pytest.approx(1 / 6)


def test_a_nul_byte_in_an_image_path_is_a_problem_of_its_row(folder):
    rows = good_rows()
    rows[2]["image_path"] = "images/2\0.jpg"
    (problem,) = problems_of(write(folder, rows))
    assert "the image is unreadable in 1 row: line 6" in problem and "null byte" in problem


def test_several_concepts_of_a_line_become_rows_of_one_picture(folder, capsys):
    rows = good_rows(3)
    for row, concepts, parents in zip(
        rows, ("pole | red sign|pole", "hill", "a lake|a shore"), ("post | sign | post", "land", "water"), strict=True
    ):
        row |= {"concepts": concepts, "parents": parents}
        del row["meta_name"], row["parent_concept"]
    table = load_table(write(folder, rows))
    assert "concepts -> meta_name, parents -> parent_concept" in capsys.readouterr().out
    found = list(table[["pano_id", "meta_name", "parent_concept"]].itertuples(index=False, name=None))
    assert found == [
        ("000", "pole", "post"),
        ("000", "red sign", "sign"),
        ("001", "hill", "land"),
        ("002", "a lake", "water"),
        ("002", "a shore", "water"),
    ]
    assert table["lat"].tolist() == [-30.5, -30.5, -31.5, -32.5, -32.5]


def test_parents_that_fit_no_concepts_are_named_with_their_line(folder):
    rows = good_rows(3)
    for row, concepts, parents in zip(rows, ("a|b", "a|b|c", ""), ("p", "p|q", "p"), strict=True):
        row |= {"note": "", "concepts": concepts, "parent_concept": parents}
        del row["meta_name"]
    problems = problems_of(write(folder, rows))
    assert any("differ in number" in each and "line 3" in each and "3 concepts, 2 parents" in each for each in problems)
    assert any("line 4" in each for each in problems)  # no concept at all
    kept = load_table(folder / "table.csv", on_bad="drop")
    assert kept["meta_name"].tolist() == ["a", "b"] and kept["pano_id"].tolist() == ["000", "000"]
    assert "a|b|c" in (folder / "rejected.csv").read_text(encoding="utf-8")


def test_a_mark_in_a_single_name_stays(folder):
    rows = good_rows(2)
    rows[0]["meta_name"] = "a|b"
    assert load_table(write(folder, rows))["meta_name"].tolist() == ["a|b", "meta 1"]


def test_the_byte_that_is_no_utf_8_is_found_in_long_files_and_behind_a_mark(folder):
    path = folder / "long.csv"
    header = ",".join(SCHEMA).encode() + b"\n"
    path.write_bytes(header + b"a,b,c\n" * 400_000 + b"caf\xe9,\n")  # 2.4 MB: read in parts
    with pytest.raises(BadTableError, match="byte 0xe9 on line 400002 "):
        load_table(path)
    path.write_bytes("\ufeff".encode() + header + b"\xe9")
    with pytest.raises(BadTableError, match="byte 0xe9 on line 2 "):
        load_table(path)
    path.write_bytes(header + "é".encode()[:1])
    with pytest.raises(BadTableError, match="byte 0xc3 on line 2 "):
        load_table(path)


def test_a_table_read_in_parts_is_the_same_and_says_the_same(folder, monkeypatch):
    rows = good_rows(6)
    for row in rows:
        row["concepts"] = f"{row.pop('meta_name')}|pole"
    rows[2]["lat"], rows[4]["concepts"], rows[4]["parent_concept"] = " x ", "a|b|c", "p|q"
    path = write(folder, rows)
    content = path.read_bytes()
    path.write_bytes(b"\r\n,,\r\n" + content.rstrip() + b'\r\n" 9 ",images/2.jpg,"a ""b"", c",Chile,1,2\r\n\r\n')
    found = []
    for at_once in (20_000, 1, 2, 3):
        monkeypatch.setattr("geocbm.data.table._ROWS_AT_ONCE", at_once)
        with pytest.raises(BadTableError) as caught:
            load_table(path)
        kept = load_table(path, on_bad="drop")
        found.append((caught.value.problems, kept.to_dict(), kept.attrs, (folder / "rejected.csv").read_bytes()))
    assert all(each == found[0] for each in found)
    listed = list(csv.reader((folder / "rejected.csv").open(encoding="utf-8", newline="")))
    # a blank line and one of commas stand before the header on line 3, a row has two lines
    assert [row[0] for row in listed[1:]] == ["8", "8", "12", "16"]
    assert listed[-1][2:] == [" 9 ", "images/2.jpg", 'a "b", c', "Chile", "1", "2"]
    assert "number of fields is wrong (6 fields)" in listed[-1][1]


def test_images_of_a_folder_that_does_not_exist_are_missing_unless_the_name_itself_is_wrong(folder):
    rows = good_rows(4)
    for row, path in zip(rows, ("gone/1.jpg", "gone/2\0.jpg", f"{'g' * 300}/3.jpg", "gone/../../4.jpg"), strict=True):
        row["image_path"] = path
    missing, unreadable, outside = problems_of(write(folder, rows))
    assert missing.startswith("the image is missing in 1 row: line 2 ")
    assert unreadable.startswith("the image is unreadable in 2 rows: lines 4 ") and "File name too long" in unreadable
    assert outside.startswith("the image lies outside of the table's folder in 1 row: line 8 ")
    assert len(load_table(folder / "table.csv", on_bad="drop", check_images=False)) == 3


def test_a_line_with_several_concepts_is_named_once():
    """A line that became two rows has one wrong country, which is one problem of the file."""
    far = checks.Problem("the place lies far from its country", {0: "France", 1: "France", 2: "Spain"}, "Correct it.")
    assert far.sentence(np.array([2, 2, 3])) == (
        "the place lies far from its country in 2 rows: lines 2 (France), 3 (Spain). Correct it."
    )
