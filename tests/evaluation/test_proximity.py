"""Proximity to training places: metrics worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from geocbm.evaluation import proximity
from geocbm.metrics import Resamples, geoscore

NEAREST = np.array([0.5, 0.999, 1.0, 24.9, 25.0, 300.0])
KM = np.array([10.0, 20.0, 100.0, 300.0, 1000.0, np.inf])
BLOCKS = np.arange(6)


def test_bins_by_hand():
    table = proximity.by_distance(NEAREST, {"a": KM, "b": KM * 2}, Resamples(BLOCKS, 50))
    assert list(dict.fromkeys(table["bin"])) == ["0 to 1 km", "1 to 25 km", "25 to 50 km", "200 km and more"]
    own = table[table["method"] == "a"]
    assert own["n"].tolist() == [2, 2, 1, 1]
    assert own["median_km"].tolist() == [15, 200, 1000, np.inf]
    assert own["acc_25km"].tolist() == [1, 0, 0, 0]
    assert own["geoscore"].tolist()[0] == pytest.approx(geoscore(KM[:2]).mean())


def test_leaving_near_images_out_by_hand():
    table, score = proximity.without_near(NEAREST, {"a": KM}, Resamples(BLOCKS, 200)), geoscore(KM)
    first = table.iloc[0]
    assert table["left"].tolist() == [4, 2]
    assert first["geoscore"] == pytest.approx(score.mean())
    assert first["geoscore_far"] == pytest.approx(score[2:].mean())
    assert first["geoscore_change"] == pytest.approx(score[2:].mean() - score.mean())
    assert proximity.without_near(NEAREST[:2], {"a": KM[:2]}, Resamples(BLOCKS[:2])).empty  # no image is left


def test_scores_that_do_not_depend_on_nearness_do_not_change_beyond_noise():
    generator = np.random.default_rng(0)
    nearest, km = generator.uniform(0, 4, 400), generator.uniform(0, 3000, 400)
    remembered = np.where(nearest < 1, 1.0, 3000.0)
    table = proximity.without_near(nearest, {"chance": km, "memory": remembered}, Resamples(np.arange(400), 200))
    chance, memory = table.set_index("method").loc[["chance", "memory"]].to_dict("records")
    assert chance["geoscore_change_low"] < 0 < chance["geoscore_change_high"]
    assert memory["geoscore_change_high"] < 0


def test_metrics_to_keep():
    kept = proximity.records(NEAREST, KM, Resamples(BLOCKS, 50))
    assert kept["memory.nearest_train_km"] == pytest.approx((1.0 + 24.9) / 2)
    assert kept["memory.test_within_1km"] == pytest.approx(1 / 3)
    changes = {f"memory.geoscore_change_without_{limit}km" for limit in (1, 25)}
    assert set(kept) == {"memory.nearest_train_km", "memory.test_within_1km"} | changes
    assert proximity.records(np.zeros(0), np.zeros(0), Resamples([0])) == {}


def test_a_run_knows_its_split_and_how_near_its_training_places_are(trained_run):
    files = trained_run.files
    assert proximity.split_kind(files) == "stratified"
    assert proximity.nearest_train_km(files).shape == files.rows["test"].shape
