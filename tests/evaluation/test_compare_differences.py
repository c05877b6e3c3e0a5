"""Differences of runs held against noise: verdicts by hand, and how often equal runs are called different."""

from __future__ import annotations

import numpy as np
import pytest
from run_files import DEGREE_KM, LAT, METAS, N, write_manifest, write_run

from geocbm import metrics
from geocbm.evaluation.compare_runs.differences import (
    detail,
    differences,
    drawable,
    same_images,
    verdicts,
)
from geocbm.evaluation.compare_runs.load_runs import ComparedRun, read_runs

HALF = np.arange(N) % 2 == 0


def read(root, *names):
    return read_runs(root / "reports", root / "runs", names)


def row_of(table, run, key):
    (row,) = table[(table["run"] == run) & (table["metric"] == key)].to_dict("records")
    return row


@pytest.mark.parametrize(
    ("error", "difference", "verdict", "better"),
    [
        (0.1, -0.9, "better by 100 km [100, 100]", 1),
        (3.0, 2.0, "worse by 222 km [222, 222]", -1),
        (1.0, 0.0, "the same on every image", 0),
        (np.where(HALF, 0.2, 1.9), 0.05, "no difference beyond noise", 0),  # median (0.2 + 1.9) / 2
    ],
)
def test_a_difference_is_held_against_noise(tmp_path, error, difference, verdict, better):
    write_run(tmp_path, "own", 1.0)
    write_run(tmp_path, "other", error)
    table = differences(read(tmp_path, "own", "other"), n=200)
    row = row_of(table, "other", "stage2.median_km")
    assert (row["images"], row["paired"], row["verdict"], row["better"]) == (N, True, verdict, better)
    assert row["difference"] == pytest.approx(difference * DEGREE_KM, abs=0.5)
    assert row["value"] == pytest.approx((1 + difference) * DEGREE_KM, abs=0.5)
    assert row["reference"] == pytest.approx(DEGREE_KM, abs=0.1)
    assert row["low"] - 1e-6 <= row["difference"] <= row["high"] + 1e-6


def test_more_is_better_but_for_a_distance(tmp_path):
    write_run(tmp_path, "own", 1.0, right=HALF)
    write_run(tmp_path, "other", 3.0, right=True)
    table = differences(read(tmp_path, "own", "other"), n=500)
    assert [row_of(table, "other", key)["better"] for key in ("stage2.median_km", "stage2.geoscore")] == [-1, -1]
    concept = row_of(table, "other", "stage1.meta_top1")
    assert (concept["reference"], concept["value"], concept["better"]) == (0.5, 1.0, 1)
    assert concept["verdict"].startswith(
        "better by 50.0 percentage points [3"
    )  # half of 60 images: a standard error of 6.5


def test_the_order_of_the_images_does_not_matter(tmp_path):
    generator = np.random.default_rng(0)
    error = generator.uniform(0, 5, N)
    write_run(tmp_path, "own", generator.uniform(0, 5, N))
    write_run(tmp_path, "other", error)
    own, other = read(tmp_path, "own", "other")
    shuffled = ComparedRun("other", images=other.answers.sample(frac=1, random_state=0), metas=METAS)
    columns = ["difference", "low", "high"]
    tables = [differences([own, each], n=100)[columns].to_numpy() for each in (other, shuffled)]
    np.testing.assert_allclose(*tables)


def test_more_comparisons_make_wider_intervals(tmp_path):
    generator = np.random.default_rng(1)
    for name in ("own", "a", "b", "c", "d", "e"):
        write_run(tmp_path, name, generator.uniform(0, 5, N), right=generator.uniform(size=N) < 0.5)
    runs = read(tmp_path, "own", "a", "b", "c", "d", "e")
    few, many = (row_of(differences(some, n=500), "a", "stage2.geoscore") for some in (runs[:2], runs))
    assert few["difference"] == many["difference"]
    assert many["high"] - many["low"] > 1.1 * (few["high"] - few["low"])
    assert differences(runs, n=100)["low"].notna().sum() == 25


def test_equal_runs_are_rarely_called_different(tmp_path):
    write_run(tmp_path, "own")
    images = read(tmp_path, "own")[0].answers
    generator, found = np.random.default_rng(0), 0
    for case in range(100):

        def luck(name):
            drawn = images.assign(
                km=generator.gamma(1, 500, N), geoscore=generator.uniform(0, 5000, N),
                country_right=generator.uniform(size=N) < 0.6, cell_right=generator.uniform(size=N) < 0.4,
                meta_right=generator.uniform(size=N) < 0.7,
            )  # fmt: skip
            return ComparedRun(name, images=drawn.astype({"country_right": float}), metas=METAS)

        runs = [luck("own"), luck("a"), luck("b")]
        found += bool((differences(runs, n=300, seed=case)["better"] != 0).any())
    assert found <= 12  # ten comparisons each, all quiet in 95 of 100 cases; without the correction about 40 are found


@pytest.mark.parametrize(
    "changes",
    [
        {"pano_id": [f"p{number + 10}" for number in range(N)]},
        {"true_lat": LAT[::-1]},  # scenes of the same names
    ],
)
def test_other_test_images_are_compared_unpaired_and_said_to_be(tmp_path, changes):
    write_run(tmp_path, "own", np.linspace(0, 2, N))
    write_run(tmp_path, "other", np.linspace(0, 2, N), **changes)
    runs = read(tmp_path, "own", "other")
    table = differences(runs, n=300)
    assert not table["paired"].any()
    assert "stage2.cell_top1" not in set(table["metric"])  # cells of another split are other cells
    assert same_images(runs) == []
    assert table["low"].notna().sum() == 4
    (row,) = verdicts(table, runs).to_dict("records")
    assert row["test images"] == f"{N}, others"
    assert row["cell right"] == "not comparable"


def test_unpaired_intervals_are_wider_than_paired_ones(tmp_path):
    error = np.random.default_rng(0).uniform(0, 20, N)
    write_run(tmp_path, "own", error)
    write_run(tmp_path, "paired", error + 0.5)
    write_run(tmp_path, "unpaired", error + 0.5, pano_id=[f"q{number}" for number in range(N)])
    table = differences(read(tmp_path, "own", "paired", "unpaired"), n=300)
    paired, unpaired = (row_of(table, name, "stage2.geoscore") for name in ("paired", "unpaired"))
    assert paired["difference"] == pytest.approx(unpaired["difference"])
    assert paired["better"] == -1
    assert unpaired["better"] == 0
    assert unpaired["high"] - unpaired["low"] > 5 * (paired["high"] - paired["low"])


def test_other_cells_and_concepts_are_not_compared(tmp_path):
    write_run(tmp_path, "own")
    write_run(tmp_path, "cells", true_cell=np.arange(N) % 6)
    write_run(tmp_path, "concepts", metas=("gate", "pole", "road"), meta_name=np.array(METAS)[np.arange(N) % 3])
    table = differences(read(tmp_path, "own", "cells", "concepts"), n=50)
    keys = {name: set(table.loc[table["run"] == name, "metric"]) for name in ("cells", "concepts")}
    assert "stage2.cell_top1" not in keys["cells"]
    assert "stage1.meta_top1" in keys["cells"]
    assert "stage1.meta_top1" not in keys["concepts"]


def test_a_single_block_gives_no_verdict(tmp_path):
    near = {"true_lat": 10 + LAT / 1e4, "true_lng": 20.0, "lng": 20.0}
    write_run(tmp_path, "own", lat=11.0, **near)
    write_run(tmp_path, "other", lat=15.0, **near)
    table = differences(read(tmp_path, "own", "other"), n=50)
    row = row_of(table, "other", "stage2.median_km")
    assert (row["better"], row["verdict"]) == (0, metrics.NO_INTERVAL)
    assert np.isnan(row["low"])
    assert detail(table)["difference"].str.endswith(" (no interval)").all()


def test_what_could_not_have_been_seen_is_said(tmp_path):
    write_run(tmp_path, "own", np.where(HALF, 1.0, 2.0))
    write_run(tmp_path, "other", np.where(HALF, 2.0, 1.0))
    runs = read(tmp_path, "own", "other")
    table = differences(runs, n=500)
    row = row_of(table, "other", "stage2.geoscore")
    half = (row["high"] - row["low"]) / 2
    assert len(table) == 5 and not table["better"].any()
    shown = detail(table).set_index("metric").loc["GeoScore, points"]
    assert shown["difference"].startswith("0 [")
    assert shown["smallest it could show"] == f"{half:,.0f}"


def test_runs_without_predictions_have_no_differences(tmp_path):
    write_run(tmp_path, "own")
    write_manifest(tmp_path, "half")
    own, half = read(tmp_path, "own", "half")
    table = differences([own, half])
    assert table.empty
    assert verdicts(table, [own, half]).empty
    assert drawable(table).empty
    assert differences([half, own]).empty


def test_a_run_may_stand_alone(tmp_path):
    write_run(tmp_path, "own")
    (own,) = read(tmp_path, "own")
    assert differences([own]).empty
    assert differences([]).empty


def test_differences_are_drawn_in_the_units_they_are_written_in(tmp_path):
    write_run(tmp_path, "own", 1.0, right=HALF)
    write_run(tmp_path, "other", 3.0, right=True)
    drawn = drawable(differences(read(tmp_path, "own", "other"), n=100)).set_index("panel")
    assert drawn.loc["concept right, %", "value"] == pytest.approx(50)
    assert drawn.loc["median error, km", "value"] == pytest.approx(2 * DEGREE_KM, abs=0.1)
