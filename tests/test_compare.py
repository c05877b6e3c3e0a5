"""Runs side by side, made of small files whose differences are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geocbm import compare
from geocbm.errors import ParameterError
from geocbm.files import write_json

N = 40
LAT, LNG = np.linspace(-60, 60, N), np.linspace(-170, 170, N)  # each in a block of its own
DEGREE_KM = 6371.0 * np.pi / 180


def write_run(root, name, error_degrees, **changes):
    """Write the predictions of a run that errs by so many degrees to the north, and the same for a worse variant."""
    main = pd.DataFrame(
        {
            "pano_id": [f"p{number}" for number in range(N)],
            "meta_name": "pole",
            "main": True,
            "true_lat": LAT,
            "true_lng": LNG,
            "lat": LAT + error_degrees,
            "lng": LNG,
        }
    ).assign(**changes)
    folder = root / name
    folder.mkdir(parents=True)
    pd.concat([main, main.assign(main=False, lat=0.0)]).to_parquet(folder / "predictions.parquet")


@pytest.fixture
def reports(tmp_path):
    first = {
        "profile": "smoke",
        "stages": {
            "03": {"seconds": 10.4, "parameters": {"run": "first", "epochs": 2, "lr": 0.1}},
            "04": {"seconds": None, "parameters": {"run": "first", "dropout": 0.5}},
        },
    }
    second = {"stages": {"03": {"seconds": 5, "parameters": {"run": "second", "epochs": 4, "lr": 0.1}}}}
    write_json(tmp_path / "first" / "manifest.json", first)
    write_json(tmp_path / "second" / "manifest.json", second)
    interval = {"value": 123.456, "low": 100.0, "high": 150.0}
    write_json(tmp_path / "first" / "metrics.json", {"stage2.median_km": interval, "cells.n": 12})
    write_json(tmp_path / "second" / "metrics.json", {"stage2.median_km": {**interval, "value": 130}})
    return tmp_path


def test_the_asking_run_comes_first(reports):
    assert compare.runs_to_compare(reports, [], "second") == ["second", "first"]
    assert compare.runs_to_compare(reports, [], "new") == ["new", "first", "second"]
    assert compare.runs_to_compare(reports, ["first"], "new") == ["new", "first"]
    assert compare.runs_to_compare(reports / "absent", [], "new") == ["new"]
    with pytest.raises(ParameterError, match=r"'third' has no figures; runs with figures: first, second"):
        compare.runs_to_compare(reports, ["first", "third"], "second")


def test_overview_counts_stages_seconds_and_figures(reports):
    table = compare.overview(reports, ["first", "second", "new"])
    assert table.to_numpy().tolist() == [
        ["first", "smoke", 2, 10, 2],
        ["second", "", 1, 5, 1],
        ["new", "", 0, 0, 0],
    ]


def test_only_parameters_that_differ_are_listed(reports):
    table = compare.different_parameters(reports, ["first", "second"])
    assert list(table.columns) == ["parameter", "first", "second"]
    assert table.to_numpy().tolist() == [["03.epochs", "2", "4"], ["04.dropout", "0.5", ""]]
    assert compare.different_parameters(reports, ["first"]).empty
    assert compare.different_parameters(reports, []).empty


def test_figures_with_and_without_interval(reports):
    names = ["second", "first"]
    figures = compare.figures(reports, names)
    assert len(figures) == 3
    counted = figures[figures["key"] == "cells.n"].iloc[0]
    assert (counted["run"], counted["value"]) == ("first", 12) and np.isnan(counted["low"])
    printed = compare.printable(figures)
    assert printed.to_numpy().tolist() == [
        ["cells.n", "", "12"],
        ["stage2.median_km", "130 [100, 150]", "123.5 [100, 150]"],
    ]
    assert list(printed.columns) == ["figure", *names]
    assert list(compare.printable(compare.figures(reports, ["new"])).columns) == ["figure"]


@pytest.mark.parametrize(
    ("error", "difference", "verdict"),
    [
        (0.1, -0.9, "better"),
        (3.0, 2.0, "worse"),
        (1.0, 0.0, "no difference beyond noise"),
        (np.where(np.arange(N) % 2, 0.2, 1.9), 0.05, "no difference beyond noise"),  # median (0.2 + 1.9) / 2
    ],
)
def test_a_difference_is_held_against_noise(tmp_path, error, difference, verdict):
    write_run(tmp_path, "own", 1.0)
    write_run(tmp_path, "other", error)
    (row,) = compare.paired_differences(tmp_path, ["own", "other"], "own", n_resamples=200).to_dict("records")
    assert (row["run"], row["images"], row["verdict"]) == ("other", N, verdict)
    assert row["difference_km"] == pytest.approx(difference * DEGREE_KM, abs=0.5)
    assert row["median_km"] == pytest.approx((1 + difference) * DEGREE_KM, abs=0.5)
    assert row["low"] <= row["difference_km"] <= row["high"]


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({"pano_id": [f"p{number + 10}" for number in range(N)]}, N - 10),
        ({"pano_id": "q" + pd.Series(range(N)).astype(str)}, 0),
        ({"true_lat": LAT[::-1]}, N),  # another world whose scenes have the same names
    ],
)
def test_runs_on_other_test_images_are_not_compared(tmp_path, changes, images):
    write_run(tmp_path, "own", 1.0)
    write_run(tmp_path, "other", 0.1, **changes)
    (row,) = compare.paired_differences(tmp_path, ["own", "other"], "own").to_dict("records")
    assert (row["images"], row["verdict"]) == (images, "other test images: not comparable")
    assert np.isnan(row["difference_km"])


def test_runs_without_predictions_are_left_out(tmp_path):
    write_run(tmp_path, "own", 1.0)
    assert compare.paired_differences(tmp_path, ["own", "new"], "own").empty
    assert compare.paired_differences(tmp_path, ["new", "own"], "new").empty


def test_histories_of_all_stages_of_all_runs(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [3.0, 2.0], "val_loss": [2.5, 2.25]})
    history.to_parquet(tmp_path / "a" / "history_stage1.parquet")
    history.to_parquet(tmp_path / "a" / "history_stage2.parquet")
    history.to_parquet(tmp_path / "a" / "history_stage2_image_only.parquet")  # a variant is no stage
    history.drop(columns="val_loss").to_parquet(tmp_path / "b" / "history_stage1.parquet")
    table = compare.histories(tmp_path, ["a", "b", "new"])
    assert table.to_numpy().tolist() == [
        ["a", "Stage 1", 1, 2.5],
        ["a", "Stage 1", 2, 2.25],
        ["a", "Stage 2", 1, 2.5],
        ["a", "Stage 2", 2, 2.25],
    ]
    assert list(compare.histories(tmp_path, ["new"]).columns) == ["run", "stage", "epoch", "val_loss"]
