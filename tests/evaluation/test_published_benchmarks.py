from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geocbm.evaluation.benchmarks import WITHIN, data_set_of, tables, with_ours
from geocbm.metrics import readable

TABLES = tables()
PHOTOS = pd.concat([TABLES["Photographs: Im2GPS3k"], TABLES["Photographs: YFCC4k"]], ignore_index=True)
STREET, OWN = TABLES["Street view: OSV-5M"], TABLES["Places: own data"]
METRICS = {"acc_1km": {"value": 0.05, "low": 0.0, "high": 0.1}, "acc_25km": 0.2, "geoscore": {"value": 3000.0}, "n": 3}


def table(data_set="im2gps3k", split="test", n=3):
    return pd.DataFrame({"image_path": [f"{i}.jpg" for i in range(n)], "data_set": data_set, "split": split})


def test_photo_benchmarks_by_hand():
    both = PHOTOS.set_index(["data_set", "system"])
    assert both.loc[("im2gps3k", "PlaNet"), list(WITHIN)].tolist() == [0.085, 0.248, 0.343, 0.484, 0.646]
    assert both.loc[("yfcc4k", "Pinpoint"), list(WITHIN)].tolist() == [0.33, 0.444, 0.575, 0.718, 0.845]
    assert np.isnan(both.loc[("im2gps3k", "StreetCLIP, zero-shot"), "acc_1km"])
    assert both.loc[("im2gps3k", "StreetCLIP, zero-shot"), "source"] == "model card"
    assert both.loc[("im2gps3k", "GeoCLIP"), "year"] == 2023
    assert PHOTOS["data_set"].value_counts().to_dict() == {"im2gps3k": 10, "yfcc4k": 9}
    assert ("yfcc4k", "StreetCLIP, zero-shot") not in both.index


def test_street_view_by_hand():
    rows = STREET.set_index("system")
    assert rows.loc["OSV-5M baseline", ["geoscore", "mean_km", "country_acc", "city_acc"]].tolist() == [
        3361,
        1814,
        0.68,
        0.059,
    ]
    assert rows.loc["Chipoint", "acc_200km"] == 0.706 and np.isnan(rows.loc["PLONK", "acc_200km"])
    assert set(rows.data_set) == {"osv5m test"} and len(rows) == 5


@pytest.mark.parametrize("rows", [PHOTOS, STREET, OWN])
def test_every_row_has_a_source_and_shares_that_grow_with_distance(rows):
    assert rows.source.str.len().gt(3).all() and not rows.duplicated(["data_set", "system"]).any()
    shares = rows[list(WITHIN)].to_numpy(dtype=float)
    assert ((shares > 0) & (shares < 1) | np.isnan(shares)).all()
    assert all((np.diff(row[~np.isnan(row)]) > 0).all() for row in shares)


def test_own_data_is_never_compared():
    assert OWN.set_index("system").loc["PIGEON, one view", "median_km"] == 131
    assert len(with_ours(OWN, table(), METRICS)) == len(OWN)


def test_a_row_of_ours_stands_with_its_own_data_set_only():
    rows = with_ours(PHOTOS, table(), METRICS, "run a")
    ours = rows[rows.system == "run a"]
    assert len(rows) == len(PHOTOS) + 1 and len(ours) == 1
    assert ours.data_set.tolist() == ["im2gps3k"] and ours.index.tolist() == [10]
    assert ours.acc_1km.tolist() == [0.05] and ours.acc_25km.tolist() == [0.2] and ours.acc_200km.isna().all()
    assert ours.source.tolist() == ["measured here on 3 pictures"] and ours.year.isna().all()
    assert "run a" not in with_ours(STREET, table(), METRICS, "run a").system.tolist()


def test_street_view_of_a_part_of_the_test_pictures_says_so():
    rows = with_ours(STREET, table("osv5m"), METRICS, "run a")
    assert rows.iloc[-1][["system", "geoscore"]].tolist() == ["run a", 3000.0]
    assert rows.iloc[-1].source == "measured here on 3 of 210,122 pictures"


@pytest.mark.parametrize(
    "other",
    [
        table().drop(columns=["data_set", "split"]),  # the demonstration, or a user's own table
        table("osv5m", "train"),
        table().iloc[:0],
        pd.concat([table(), table("yfcc4k")]),
        table("atlas"),
    ],
)
def test_no_row_for_any_other_table(other):
    assert data_set_of(other) is None
    for published in (PHOTOS, STREET):
        pd.testing.assert_frame_equal(with_ours(published, other, METRICS), published)


def test_concept_figures_by_hand():
    assert TABLES["Concepts: own data"][
        ["meta_top1", "meta_top5", "parent_top1", "parent_top5"]
    ].to_numpy().tolist() == [[0.461, 0.716, 0.48, 0.725]]


def test_tables_in_words_have_percentages_and_empty_cells():
    shown = readable(TABLES["Photographs: Im2GPS3k"]).set_index("system")
    assert shown.loc["StreetCLIP, zero-shot", [f"within {km} km, %" for km in (1, 25, 200)]].tolist() == [
        "",
        "22.4",
        "37.4",
    ]
    street = readable(STREET.dropna(axis=1, how="all")).set_index("system")
    shares = ["GeoScore, points", "mean error, km", "country right, %", "city right, %"]
    assert street.loc["OSV-5M baseline", shares].tolist() == ["3,361", "1,814", "68.0", "5.9"]
    assert "within 1 km, %" not in street  # nobody published one
