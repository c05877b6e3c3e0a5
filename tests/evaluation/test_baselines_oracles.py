"""Oracles, the choice of k, and zero-shot prompts on places whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from geocbm.evaluation import baselines
from geocbm.geocells.geometric_median import medoid, spherical_mean
from geocbm.geodesy import haversine_km


def test_mean_across_the_antimeridian_and_around_a_pole():
    assert spherical_mean([10, 10], [179, -179]) == pytest.approx((10.0015, 180), abs=1e-3)
    lat, _ = spherical_mean([80, 80, 80, 80], [0, 90, 180, -90])
    assert lat == pytest.approx(90)


def test_mean_of_antipodes_is_one_of_them():
    assert spherical_mean([0, 0], [0, 180]) in ((0, 0), (0, 180))
    with pytest.raises(ValueError, match="at least one place"):
        spherical_mean([], [])


def test_medoid_by_hand():
    lng = np.array([0.0, 10.0, 11.0, 50.0, 12.0])
    assert medoid(np.zeros(5), lng) == 2  # distances 11, 1, 0, 39, 1: the smallest median, and of equals the mean
    assert medoid(np.zeros(1), np.zeros(1)) == 0


def test_medoid_of_many_is_sought_among_some():
    generator = np.random.default_rng(1)
    lat, lng = generator.normal(0, 10, 3000), generator.normal(0, 10, 3000)
    row = medoid(lat, lng)
    assert haversine_km(lat[row], lng[row], 0, 0) < 200
    assert medoid(lat, lng) == row


def test_country_oracle_answers_the_mean_of_the_training_places():
    oracle = baselines.country_centroid(
        [0, 0, 60], [178, -178, 5], ["Fiji", "Fiji", "Norway"], ["Norway", "Fiji", "Chad", "Fiji"]
    )
    assert oracle.lat[[0, 1, 3]] == pytest.approx([60, 0, 0])
    assert np.abs(oracle.lng[[1, 3]]) == pytest.approx([180, 180])
    assert np.isnan(oracle.lat[2]) and np.isnan(oracle.lng[2])
    assert oracle.country.tolist() == ["Norway", "Fiji", "Chad", "Fiji"]


def test_a_missing_centroid_counts_as_a_miss():
    oracle = baselines.country_centroid([60], [5], ["Norway"], ["Norway", "Chad"])
    table = baselines.table([oracle], [60, 12], [5, 18], ["Norway", "Chad"], blocks=[0, 1], n=50)
    assert table["geoscore"][0] == 2500
    assert table["median_km"][0] == np.inf


def test_the_country_oracle_is_as_good_as_a_country_is_small():
    # Places spread evenly over a disc of radius r lie 2/3 r from its centre on average.
    generator = np.random.default_rng(0)
    radius, angle = 5 * np.sqrt(generator.uniform(size=4000)), generator.uniform(0, 2 * np.pi, 4000)
    lat, lng = radius * np.sin(angle), radius * np.cos(angle)
    oracle = baselines.country_centroid(lat[:2000], lng[:2000], ["x"] * 2000, ["x"] * 2000)
    km = haversine_km(oracle.lat, oracle.lng, lat[2000:], lng[2000:])
    assert km.mean() == pytest.approx(2 / 3 * 5 * 111.19, rel=0.03)


def test_label_oracle_answers_the_medoid_and_the_most_frequent_country():
    oracle = baselines.true_meta(
        train_lat=[0, 0, 0, 40, 41],
        train_lng=[0, 10, 11, 0, 0],
        train_meta=[0, 0, 0, 1, 1],
        meta=[1, 0, 2],
        train_country=["a", "b", "b", "d", "c"],
    )
    assert (oracle.lat[1], oracle.lng[1]) == (0, 10)
    assert oracle.lat[0] in (40, 41)
    assert np.isnan(oracle.lat[2])
    assert oracle.country.tolist() == ["c", "b", ""]  # of equals the first by name; a label without training rows
    assert oracle.meta.tolist() == [1, 0, 2]


def test_k_is_the_best_on_validation_and_needs_no_truth_but_its_own():
    # Each training place is an outlier with probability 0.3, so that one neighbour is often wrong and five seldom.
    generator = np.random.default_rng(0)
    group = generator.integers(0, 4, 600)
    features = np.eye(4)[group] + generator.normal(0, 0.05, (600, 4))
    lat = np.array([0.0, 20, 40, 60])[group]
    noisy = np.where(generator.uniform(size=600) < 0.3, -50.0, lat)
    arguments = {"lat": noisy[:500], "lng": np.zeros(500), "val_lat": lat[500:], "val_lng": np.zeros(100)}
    assert baselines.choose_k(features[:500], features[500:], **arguments, candidates=(1, 15)) == 15
    # Where every neighbour is right the smaller number is taken.
    arguments |= {"lat": lat[:500]}
    assert baselines.choose_k(features[:500], features[500:], **arguments, candidates=(15, 5)) == 5


def test_k_is_bounded_by_the_training_rows():
    x, zero = np.eye(3), np.zeros(3)
    assert baselines.choose_k(x, x, zero, zero, zero, zero) == 3
    assert baselines.choose_k(x, x, zero, zero, zero, zero, candidates=(2, 9)) == 2
    assert baselines.choose_k(np.eye(30), np.zeros((0, 30)), np.zeros(30), np.zeros(30), [], [], (5, 10)) == 5


def test_neighbours_name_their_number():
    x, zero = np.eye(3), np.zeros(3)
    assert baselines.nearest_neighbour(x, x, zero, zero, k=2).detail == "k = 2"
    assert baselines.nearest_neighbour(x, x, zero, zero).detail == ""


def test_of_equally_similar_neighbours_the_earlier_comes_first():
    from geocbm.evaluation.baselines.neighbours import _nearest

    base = np.ones((8, 2), dtype=np.float32)
    base[5] = [1, 0]
    assert _nearest(np.ones((1, 2), dtype=np.float32), base, 8, "cosine", 4)[0, -1] == 5
    order = _nearest(np.array([[1.0, 0.1]], dtype=np.float32), base, 8, "cosine", 4)[0]
    assert order.tolist() == [5, 0, 1, 2, 3, 4, 6, 7]


def test_zero_shot_names_the_most_alike_prompt_and_answers_its_training_places():
    prompts = np.array([[2.0, 0, 0], [0, 1, 0], [0, 0, 5]])
    pictures = np.array([[0, 0.3, 0.1], [7, 0, 1]])
    answer = baselines.zero_shot_country(
        pictures, prompts, ["Fiji", "Norway", "Peru"], [0, 0, 60], [178, -178, 5], ["Fiji", "Fiji", "Norway"]
    )
    assert answer.country.tolist() == ["Norway", "Fiji"]
    assert answer.lat == pytest.approx([60, 0])
    assert answer.meta is None
    assert baselines.zero_shot_concept(pictures, prompts).meta.tolist() == [1, 0]
    with pytest.raises(ValueError, match="features have width 3, prototypes 2"):
        baselines.zero_shot_concept(pictures, prompts[:, :2])
