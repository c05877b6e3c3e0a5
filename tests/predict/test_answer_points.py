"""Answers as a table and as points on a map."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from geocbm.errors import ParameterError
from geocbm.predict.inputs import PredictRequest
from geocbm.predict.journal import Journal, write_answers, write_points

CELL = {"cell": 7, "country": "Chile", "lat": -30.0, "lng": -70.0, "probability": 0.5, "calibrated": None}
ENTRY = {
    "photo": "é.jpg",
    "path": "a, b/é.jpg",
    "lat": -33.5,
    "lng": -70.25,
    "country": "Chile",
    "cells": [CELL],
    "countries": [["Chile", 0.75], ["Peru", 0.125]],
    "concepts": [["bollard", 0.5]],
}


def test_points_are_geojson_with_longitude_first(tmp_path: Path) -> None:
    calibrated = ENTRY | {"photo": "b.jpg", "cells": [CELL | {"calibrated": 0.25}]}
    write_points(tmp_path / "a.geojson", [ENTRY, calibrated])
    content = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert set(content) == {"type", "features"} and content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert first["type"] == "Feature" and first["geometry"] == {"type": "Point", "coordinates": [-70.25, -33.5]}
    assert first["properties"]["countries"] == "Chile 0.750; Peru 0.125"
    assert [each["properties"]["cell_probability"] for each in (first, second)] == [0.5, 0.25]


def test_a_table_has_a_row_for_each_answer(tmp_path: Path) -> None:
    write_points(tmp_path / "a.csv", [ENTRY])
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["path"], float(row["lat"]), float(row["lng"]), row["cell"]) == ("a, b/é.jpg", -33.5, -70.25, "7")
    assert row["concepts"] == "bollard 0.500"


def test_a_parquet_table_takes_what_only_late_answers_have(tmp_path: Path) -> None:
    journal, keys = Journal(tmp_path / "a.partial", {}), [f"{number:04}" for number in range(501)]
    for key in keys:
        journal.add(key, ENTRY | {"parents": [], "promise_holds": None if key != keys[-1] else False, "notes": []})
    write_answers(journal, None, tmp_path / "a.parquet", keys, {})
    found = pd.read_parquet(tmp_path / "a.parquet")
    assert len(found) == 501 and found["promise_holds"].isna().sum() == 500 and not found["promise_holds"].iloc[-1]


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"name a \.csv or a \.geojson"):
        PredictRequest(["a.jpg"], out=tmp_path / "a.shp").check(is_launched=False)
