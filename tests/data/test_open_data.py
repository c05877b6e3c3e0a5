from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geocbm.cli import main
from geocbm.data import image_files, load_table
from geocbm.data.public.benchmarks import convert_benchmark
from geocbm.data.public.osv5m import COLUMNS, convert_osv5m, with_legend
from geocbm.data.public.scoring import read_predictions, score_predictions, scores_in_words
from geocbm.data.table import SCHEMA
from geocbm.errors import BadTableError, MismatchError, MissingInputError, ParameterError
from geocbm.metrics import country_of

USUAL = {"land_cover": "4", "road_index": "4.66", "drive_side": "1", "climate": "15", "soil": "3", "dist_sea": "0.006"}
COLUMNS_OF_OSV = (
    "id latitude longitude thumb_original_url country sequence captured_at lon_bin lat_bin cell region sub-region city "
    "land_cover road_index drive_side climate soil dist_sea quadtree_10_1000 unique_country creator_username creator_id"
)
OSV_HEADER = COLUMNS_OF_OSV.split()


def osv_row(number: str, lat, lng, country: str, **values) -> dict[str, str]:
    row = {"id": number, "latitude": lat, "longitude": lng, "country": country, "unique_country": country}
    return dict.fromkeys(OSV_HEADER, "") | row | USUAL | {key: str(value) for key, value in values.items()}


def write(path, rows, header=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=header or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


@pytest.fixture
def osv(tmp_path):
    rows = [
        osv_row("3859149887465501", "-43.804", "-176.614", "NZ", cell="(0, 8)", city='Port "Hutt", north'),
        osv_row("100000000000002", "0.0", "32.5", "UG", climate="1.0", dist_sea="12"),
        osv_row("100000000000003", "-22.57", "17.08", "NA", climate="", drive_side="0"),
        osv_row("100000000000004", "48.85", "2.35", "", climate="31", soil="NaN"),
    ]
    write(tmp_path / "train.csv", rows)
    for seed, row in enumerate(rows):
        picture(tmp_path / "images" / "train" / f"0{seed % 2}" / f"{row['id']}.jpg", seed)
    return tmp_path


def test_osv5m_gives_a_valid_table_with_a_row_per_picture_and_parent(osv):
    done = convert_osv5m(osv)
    table = load_table(done.path)
    assert list(table.columns[: len(SCHEMA)]) == list(SCHEMA)
    assert (done.n_rows, done.n_images, done.n_dropped) == (22, 4, 0) == (len(table), table.pano_id.nunique(), 0)
    assert table.lat[table.pano_id == "100000000000002"].unique().tolist() == [0.0]
    assert all(path.is_file() for path in image_files(table))
    assert not any(path.startswith("/") for path in table.image_path)
    first = table[table.pano_id == "3859149887465501"].set_index("parent_concept")
    assert first.meta_name.to_dict() == {
        "land cover": "land cover 4",
        "climate": "climate: temperate, no dry season, warm summer (Cfb)",
        "soil": "soil 3",
        "driving side": "driving on the left",
        "road index": "road index 4 to 5",
        "distance to sea": "distance to sea below 0.01",
    }
    assert first.city.iloc[0] == 'Port "Hutt", north' and first.cell.iloc[0] == "(0, 8)"
    assert set(table.data_set) == {"osv5m"} and set(table.split) == {"train"}
    assert any("climate: 1 pictures have no value" in notice for notice in done.notices)
    assert any("soil: 1 pictures have no value" in notice for notice in done.notices)


def test_countries_are_named_as_the_geocoder_names_them(osv):
    table = load_table(convert_osv5m(osv, parent="drive_side").path).set_index("pano_id")
    # NA is Namibia, not a missing value; Paris has no code here and is found by its coordinates.
    assert table.country.tolist() == ["New Zealand", "Uganda", "Namibia", "France"]
    assert (table.country == country_of(table.lat, table.lng)).all()
    assert table.country_code.tolist() == ["NZ", "UG", "NA", ""]


def test_one_parent_and_an_unknown_code(osv, tmp_path):
    out = tmp_path / "elsewhere" / "climate.csv"
    done = convert_osv5m(osv, parent="climate", out=out)
    table = load_table(out, allow_outside=True)
    assert table.meta_name.tolist() == [
        "climate: temperate, no dry season, warm summer (Cfb)",
        "climate: tropical rainforest (Af)",
        "climate 31",
    ]
    assert done.path == out and all(path.startswith("/") for path in table.image_path)


def test_climate_codes_follow_koeppen_and_geiger():
    names = COLUMNS["climate"].names
    letters = {code: name.rpartition("(")[2][:-1] for code, name in names.items()}
    assert len(names) == len(set(names.values())) == 30
    known = "3 Aw, 4 BWh, 8 Csa, 15 Cfb, 17 Dsa, 20 Dsd, 27 Dfc, 29 ET, 30 EF"
    assert {tuple(pair.split()) for pair in known.split(", ")} <= set(letters.items())


def test_a_value_on_an_edge_belongs_to_the_upper_band():
    values = pd.Series(["0.0099", "0.01", "10", "", "NaN", "0"])
    assert COLUMNS["dist_sea"].metas(values).tolist() == [
        "distance to sea below 0.01",
        "distance to sea 0.01 to 0.1",
        "distance to sea 10 or more",
        "",
        "",
        "distance to sea below 0.01",
    ]


def test_legend_names_codes_and_bands(tmp_path):
    path = tmp_path / "legend.json"
    path.write_text(
        json.dumps({"land_cover": {"4": "grass"}, "dist_sea": {"edges": [1], "names": ["coast", "inland"]}})
    )
    columns = with_legend(path)
    assert columns["land_cover"].metas(pd.Series(["4.0", "5"])).tolist() == ["land cover: grass", "land cover 5"]
    assert columns["dist_sea"].metas(pd.Series(["0", "1"])).tolist() == [
        "distance to sea: coast",
        "distance to sea: inland",
    ]
    for content, words in [
        ('{"climat": {}}', "has climat; it may have land_cover"),
        ('{"dist_sea": {"edges": [1, 0], "names": ["a", "b", "c"]}}', "ascending edges"),
        ('{"dist_sea": {"edges": [1], "names": ["a"]}}', "1 names for the edges"),
        ("{", "is no JSON"),
    ]:
        path.write_text(content)
        with pytest.raises(ParameterError, match=words):
            with_legend(path)


def test_layout_of_the_publishers_code(tmp_path):
    write(tmp_path / "test" / "test.csv", [osv_row("7", "1", "2", "GA")])
    picture(tmp_path / "test" / "test" / "7.jpg")
    assert load_table(convert_osv5m(tmp_path, "test", "climate").path).split.tolist() == ["test"]


def test_bad_rows_are_counted_named_and_dropped_on_request(osv):
    rows = [osv_row(f"5{number}", "10", "10", "NG") for number in range(7)]
    rows += [osv_row("61", "", "10", "NG"), osv_row("62", "95", "10", "NG")]
    rows += [osv_row("3859149887465501", "-43.8", "-176.6", "NZ"), osv_row("", "1", "1", "GA")]
    picture(osv / "images" / "train" / "61.jpg")
    picture(osv / "images" / "train" / "62.jpg")
    write(osv / "train.csv", rows)
    out = osv / "osv5m_train_climate.csv"
    with pytest.raises(BadTableError) as caught:
        convert_osv5m(osv, parent="climate")
    assert "the image is missing in 7 rows: 50, 51, 52, 53, 54 and 2 more" in str(caught.value)
    assert "no number in 1 row: 61" in str(caught.value) and "62 at 95, 10" in str(caught.value)
    assert "the identifier is empty in 1 row: row 12" in str(caught.value)
    assert not out.exists()
    done = convert_osv5m(osv, parent="climate", on_bad="drop")
    assert (done.n_rows, done.n_dropped) == (1, 10) and len(load_table(out)) == 1


def test_what_is_missing_is_named(osv, tmp_path):
    with pytest.raises(MissingInputError, match="does not exist"):
        convert_osv5m(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match=r"no test\.csv"):
        convert_osv5m(osv, "test")
    with pytest.raises(ParameterError, match="parent='weather' is unknown; use 'land_cover'"):
        convert_osv5m(osv, parent="weather")
    header = [name for name in OSV_HEADER if name not in ("soil", "latitude")]
    write(osv / "train.csv", [{name: "1" for name in header}], header)
    with pytest.raises(BadTableError, match="lacks the columns latitude, soil of OSV-5M; it has id, longitude"):
        convert_osv5m(osv)
    write(osv / "train.csv", [], OSV_HEADER)
    with pytest.raises(BadTableError, match="header but no rows"):
        convert_osv5m(osv)
    (osv / "train.csv").write_text("")
    with pytest.raises(BadTableError, match="is empty"):
        convert_osv5m(osv)


def test_zipped_pictures_are_recognised(tmp_path):
    write(tmp_path / "train.csv", [osv_row("1", "1", "2", "GA")])
    with pytest.raises(MissingInputError, match="no folder images/train"):
        convert_osv5m(tmp_path)
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "00.zip").touch()
    with pytest.raises(MissingInputError, match=r"unzip 00\.zip"):
        convert_osv5m(tmp_path)


def benchmark_rows():
    rows = [
        ("1_a_78841376@N00.jpg", 'Ann "A", Lee', "32.3254", "-64.7644", "2"),
        ("2_b.JPG", "", "0.0", "122.39", ""),
        ("sub/3.v2", "x", "-33.86", "151.21", "0"),
    ]
    return [dict(zip(("IMG_ID", "AUTHOR", "LAT", "LON", "S3_Label"), row, strict=True)) for row in rows]


@pytest.fixture
def im2gps(tmp_path):
    write(tmp_path / "im2gps3k_places365.csv", benchmark_rows())
    for seed, name in enumerate(["1_a_78841376@N00.jpg", "2_b.JPG", "sub/3.v2.jpg"]):
        picture(tmp_path / "images" / name, seed)
    return tmp_path


def test_benchmark_gives_a_valid_table_for_evaluation(im2gps):
    done = convert_benchmark("im2gps3k", im2gps)
    table = load_table(done.path)
    assert set(table.meta_name) == set(table.parent_concept) == {"unlabelled"}
    assert table.country.tolist() == ["Bermuda", country_of([0.0], [122.39])[0], "Australia"]
    assert table.lat.tolist() == [32.3254, 0.0, -33.86] and table.lng[1] == 122.39
    assert set(table.data_set) == {"im2gps3k"} and set(table.split) == {"test"}
    assert table.AUTHOR[0] == 'Ann "A", Lee' and done.n_images == 3


def test_exchanged_headings_are_put_right(im2gps):
    path = im2gps / "im2gps3k_places365.csv"
    path.write_text(path.read_text().replace("LAT,LON", "LON,LAT"))
    done = convert_benchmark("im2gps3k", im2gps)
    assert load_table(done.path).lat.tolist() == [32.3254, 0.0, -33.86]
    assert any("exchanged" in notice for notice in done.notices)


def test_benchmark_says_what_is_wrong(im2gps):
    path = im2gps / "im2gps3k_places365.csv"
    (im2gps / "images" / "2_b.JPG").unlink()
    with pytest.raises(BadTableError, match=r"the image is missing in 1 row: 2_b\.JPG"):
        convert_benchmark("im2gps3k", im2gps)
    assert convert_benchmark("im2gps3k", im2gps, on_bad="drop").n_rows == 2
    with pytest.raises(ParameterError, match="use 'im2gps3k' or 'yfcc4k'"):
        convert_benchmark("im2gps", im2gps)
    path.write_text("name,LAT\nx,1\n")
    with pytest.raises(BadTableError, match="lacks the columns IMG_ID, LON; it has name, LAT"):
        convert_benchmark("im2gps3k", im2gps)
    path.write_text("IMG_ID,LAT,LON\n")
    with pytest.raises(BadTableError, match="header but no rows"):
        convert_benchmark("im2gps3k", im2gps)
    path.unlink()
    (im2gps / "geocbm_im2gps3k.csv").unlink()
    with pytest.raises(MissingInputError, match=r"no im2gps3k_places365\.csv"):
        convert_benchmark("im2gps3k", im2gps)


def predictions(path, places):
    path.write_text(json.dumps([{"photo": name, "lat": lat, "lng": lng} for name, lat, lng in places]))
    return path


def test_score_by_hand(im2gps, capsys):
    table = convert_benchmark("im2gps3k", im2gps).path
    # Exact; ten degrees of longitude on the equator off (1112 km); no answer.
    places = [("1_a_78841376@N00.jpg", 32.3254, -64.7644), ("2_b.JPG", 0.0, 112.39), ("other.jpg", 1.0, 1.0)]
    answers = read_predictions(predictions(im2gps / "answers.json", places))
    scores = score_predictions(load_table(table), answers, resamples=50)
    assert (scores["n"], scores["n_missing"], scores["n_unused"]) == (3, 1, 1)
    assert scores["acc_1km"]["value"] == scores["acc_750km"]["value"] == pytest.approx(1 / 3)
    assert scores["acc_2500km"]["value"] == pytest.approx(2 / 3)
    assert scores["median_km"]["value"] == pytest.approx(1111.9, abs=0.1)
    assert scores["geoscore"]["value"] == pytest.approx((5000 + 5000 * np.exp(-1111.95 / 1492.7)) / 3, abs=0.1)
    assert all(np.isnan(scores[f"acc_{km}km"]["low"]) for km in (1, 25, 200, 750, 2500))  # three blocks
    lines = scores_in_words(scores).splitlines()
    assert [line for line in lines if line.startswith("no interval: fewer than 8 blocks")] == lines[-2:-1]
    # Written as everywhere else: the unit behind the label, and what is no interval named.
    assert "within 2,500 km, %    66.7 (no interval)" in lines
    assert "median error, km      1,112 (no interval)" in lines
    assert "mean error, km        556 (no interval) (of the answers there are)" in lines
    with_interval = scores | {"acc_1km": {"value": 1 / 3, "low": 0.05, "high": 0.7}}
    with_interval |= {"median_km": {"value": 1111.9, "low": 3.21, "high": np.inf}}
    text = scores_in_words(with_interval)
    assert "within 1 km, %        33.3 [5.0, 70.0]\n" in text and "1,112 [3.2, no answer]\n" in text
    out = im2gps / "scores.json"
    arguments = f"data score --csv {table} --predictions {im2gps / 'answers.json'} --json {out}".split()
    assert main(arguments) == 0
    assert "within 1 km, %        33.3 (no interval)\n" in capsys.readouterr().out
    assert json.loads(out.read_text())["n_missing"] == 1
    assert main([*arguments[:-1], "-"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())


def test_several_rows_of_a_picture_count_once(osv):
    table = load_table(convert_osv5m(osv).path)
    answers = {"3859149887465501.jpg": (-43.804, -176.614)}
    scores = score_predictions(table, answers, resamples=10)
    assert scores["n"] == 4 and scores["acc_1km"]["value"] == 0.25


def test_predictions_that_do_not_fit_are_refused(im2gps, tmp_path):
    path = tmp_path / "answers.json"
    with pytest.raises(MissingInputError, match="geocbm predict PHOTOS --json"):
        read_predictions(path)
    for content, words in [
        ("{", "are no JSON"),
        ("{}", "no list of answers"),
        ('[{"photo": "a"}]', "Entry 1 .* lacks photo, lat or lng"),
        ('[{"photo": "a", "lat": 95, "lng": 0}]', "lat of 'a' in the predictions is 95"),
        ('[{"photo": "a", "lat": 5, "lng": 0}, {"photo": "a", "lat": 6, "lng": 0}]', "answer twice"),
    ]:
        path.write_text(content)
        with pytest.raises(ParameterError, match=words):
            read_predictions(path)
    assert np.isnan(read_predictions(predictions(path, [("a", None, None)]))["a"]).all()
    table = load_table(convert_benchmark("im2gps3k", im2gps).path)
    with pytest.raises(MismatchError, match=r"No prediction belongs .* predicted are zzz\.jpg"):
        score_predictions(table, {"zzz.jpg": (0.0, 0.0)})


def test_commands_of_the_terminal(osv, im2gps, capsys):
    assert main(["data", "osv5m", "--folder", str(osv), "--parent", "climate"]) == 0
    assert "3 rows, 3 pictures" in capsys.readouterr().out
    assert main(["data", "yfcc4k", "--folder", str(im2gps), "--csv", str(im2gps / "im2gps3k_places365.csv")]) == 0
    assert "geocbm_yfcc4k.csv: 3 rows, 3 pictures" in capsys.readouterr().out
    assert main(["data", "osv5m", "--folder", str(osv / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
