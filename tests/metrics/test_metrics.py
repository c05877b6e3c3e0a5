"""Metrics against values worked out by hand."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resampled import bootstrap, concept_metrics, paired_difference, place_accuracy

from geocbm import metrics

DEGREE = 6371.0 * np.pi / 180  # km along a great circle

points = st.lists(
    st.tuples(st.floats(-90, 90), st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180)),
    min_size=1,
    max_size=30,
)


def test_geolocation_by_hand():
    # Errors along the equator: 0, 0.1, 1, 10 degrees and one missing prediction.
    measured = metrics.geolocation_metrics([0, 0, 0, 0, np.nan], [0, 0.1, 1, 10, 0], np.zeros(5), np.zeros(5))
    assert measured["median_km"] == pytest.approx(DEGREE)
    assert measured["mean_km"] == pytest.approx(DEGREE * 11.1 / 4)
    shares = [measured[f"acc_{limit}km"] for limit in (1, 25, 200, 750, 2500)]
    assert shares == pytest.approx([1 / 5, 2 / 5, 3 / 5, 3 / 5, 4 / 5])
    scores = [5000 * np.exp(-DEGREE * angle / 1492.7) for angle in (0, 0.1, 1, 10)]
    assert measured["geoscore"] == pytest.approx(sum(scores) / 5)
    assert (measured["n"], measured["n_missing"]) == (5, 1)


def test_threshold_counts_its_own_distance():
    km = metrics.error_km([0.0], [25 / DEGREE], [0.0], [0.0])[0]
    measured = metrics.geolocation_metrics([0.0], [25 / DEGREE - 1e-12], [0.0], [0.0])
    assert km == pytest.approx(25)
    assert measured["acc_25km"] == 1.0
    assert measured["acc_1km"] == 0.0


def test_antimeridian_is_not_a_wall():
    assert metrics.error_km([0], [179.5], [0], [-179.5])[0] == pytest.approx(DEGREE)


def test_half_missing_makes_the_median_infinite_and_none_present_the_mean_nan():
    assert metrics.geolocation_metrics([np.nan, 0], [0, 0], [0, 0], [0, 0])["median_km"] == np.inf
    nothing = metrics.geolocation_metrics([np.nan], [np.nan], [1], [1])
    assert np.isnan(nothing["mean_km"])
    assert nothing["geoscore"] == 0
    assert nothing["acc_2500km"] == 0


@settings(max_examples=30, deadline=None)
@given(points)
def test_more_missing_predictions_never_help(rows):
    lat, lng, true_lat, true_lng = np.array(rows).T
    before = metrics.geolocation_metrics(lat, lng, true_lat, true_lng)
    lat = lat.copy()
    lat[0] = np.nan
    after = metrics.geolocation_metrics(lat, lng, true_lat, true_lng)
    assert after["n_missing"] == 1
    assert after["median_km"] >= before["median_km"]
    assert after["geoscore"] <= before["geoscore"]
    for limit in metrics.THRESHOLDS_KM:
        assert 0 <= after[f"acc_{limit}km"] <= before[f"acc_{limit}km"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], [], []), "pred_lat is empty"),
        (([0, 0], [0, 0], [0], [0]), "true_lat has 1"),
        (([0], [0], [np.nan], [0]), "row 0 is nan"),
        (([120], [0], [0], [0]), "latitude and longitude swapped"),
        (([[0]], [0], [0], [0]), "one-dimensional"),
        ((["north"], [0], [0], [0]), "must hold numbers"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.geolocation_metrics(*arguments)


def test_scores():
    assert metrics.geoscore(0) == 5000
    assert metrics.geoscore(1492.7) == pytest.approx(5000 / np.e)
    assert metrics.geoscore(np.array([np.nan, np.inf])).tolist() == [0, 0]
    assert metrics.geoguessr_points(0) == 5000
    assert metrics.geoguessr_points(1491.6862) == 1839
    assert metrics.geoguessr_points([[0.0, 20000.0]]).tolist() == [[5000, 0]]
    with pytest.raises(ValueError, match="negative"):
        metrics.geoscore(-1.0)


def test_tensors_are_accepted():
    torch = pytest.importorskip("torch")
    zero = torch.zeros(3)
    assert metrics.geolocation_metrics(zero, zero, zero, zero)["median_km"] == 0
    assert concept_metrics(torch.eye(3, requires_grad=True), torch.arange(3))["meta_top1"] == 1


def test_concepts_by_hand():
    # Metas 0, 1 belong to parent 0, metas 2, 3 to parent 1.
    probabilities = np.array(
        [
            [0.40, 0.35, 0.15, 0.10],  # true 0: right
            [0.40, 0.30, 0.20, 0.10],  # true 1: second
            [0.36, 0.00, 0.33, 0.31],  # true 2: wrong, but its parent has 0.64
            [0.10, 0.20, 0.30, 0.40],  # true 0: last
        ]
    )
    similarity = np.eye(4)
    similarity[0, 1] = similarity[1, 0] = 0.7
    parent_scores = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    measured = concept_metrics(probabilities, [0, 1, 2, 0], parent_scores, [0, 0, 1, 1], similarity)
    assert measured["meta_top1"] == 1 / 4
    assert measured["meta_top5"] == 1
    assert measured["meta_macro_recall"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert measured["parent_top1"] == 2 / 4
    assert measured["parent_top5"] == 1
    assert measured["parent_macro_recall"] == pytest.approx((1 / 3 + 1) / 2)
    assert measured["parent_top1_marginal"] == 3 / 4
    assert measured["semantic_close"] == 2 / 4  # rows 0 (itself) and 1 (0 is close to 1)
    assert measured["semantic_close_random"] == pytest.approx((2 + 2 + 1 + 2) / 16)


def test_equal_scores_are_no_free_hits():
    measured = concept_metrics(np.zeros((10, 10)), np.arange(10))
    assert measured["meta_top1"] == 0.1
    assert measured["meta_top5"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": np.full((1, 2), np.nan), "meta": [0]}, "row 0 holds NaN"),
        ({"scores": np.zeros((1, 2)), "meta": [2]}, "but 2 occurs"),
        ({"scores": np.zeros((0, 2)), "meta": []}, "non-empty"),
        ({"scores": np.zeros((1, 2)), "meta": [0], "meta_to_parent": [0]}, "meta_to_parent has 1 entries"),
        ({"scores": np.zeros((1, 2)), "meta": [0], "similarity": np.eye(3)}, "those of the 2 metas"),
    ],
)
def test_bad_concepts_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        concept_metrics(**arguments)


def test_spatial_blocks():
    near = metrics.spatial_blocks([48.01, 48.02, 48.01], [2.01, 2.02, 40.0], km=100)
    assert near[0] == near[1] != near[2]
    wrapped = metrics.spatial_blocks([10.1, 10.1], [179.0, -181.0], km=100)
    assert wrapped[0] == wrapped[1]
    # At the pole a row has one block only.
    assert len(set(metrics.spatial_blocks([89.99] * 4, [0, 90, 180, 270], km=1000))) == 1
    generator = np.random.default_rng(0)
    lat, lng = np.rad2deg(np.arcsin(generator.uniform(-1, 1, 4000))), generator.uniform(-180, 180, 4000)
    blocks = metrics.spatial_blocks(lat, lng, km=500)
    for block in np.unique(blocks)[:50]:
        rows = np.flatnonzero(blocks == block)
        apart = metrics.error_km(
            lat[rows], lng[rows], np.full(len(rows), lat[rows[0]]), np.full(len(rows), lng[rows[0]])
        )
        assert apart.max() < 2 * 500 * np.sqrt(2)


def _slow_bootstrap(values, block, statistic, n, seed):
    """Draw the same blocks, but build every resample row by row."""
    count = block.max() + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n)
    return np.array([statistic(np.repeat(values, drawn[block])) for drawn in draws])


@pytest.mark.parametrize(("name", "statistic"), [("mean", np.mean), ("median", np.median)])
def test_bootstrap_equals_the_slow_way(name, statistic):
    generator = np.random.default_rng(1)
    values, block = generator.exponential(size=60), generator.integers(0, 12, 60)
    slow = np.sort(_slow_bootstrap(values, block, statistic, 200, 3))
    interval = bootstrap(values, block, name, n=200, seed=3)
    assert interval["value"] == pytest.approx(statistic(values))
    # t(0.975; 11) = 2.2010, times sqrt(12 / 11) = 2.2989: 1.08 % of 200 draws lie beyond, 2 on either side.
    assert interval["low"] == pytest.approx(slow[2])
    assert interval["high"] == pytest.approx(slow[197])


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        interval = bootstrap(generator.normal(size=80), n=300, seed=trial)
        inside += interval["low"] <= 0 <= interval["high"]
    assert 0.88 <= inside / 200 <= 0.99


def test_blocks_widen_the_interval_of_repeated_evidence():
    values = np.repeat(np.random.default_rng(0).normal(size=20), 30)
    alone = bootstrap(values)
    together = bootstrap(values, np.repeat(np.arange(20), 30))
    assert together["high"] - together["low"] > 3 * (alone["high"] - alone["low"])


def test_macro_recall_is_the_mean_over_classes():
    correct, classes = np.array([1, 0, 1, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 2])
    interval = bootstrap(correct, groups=classes)
    assert interval["value"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    interval = bootstrap(np.tile(correct, 3), groups=np.tile(classes, 3))
    assert interval["value"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert interval["low"] <= interval["value"] <= interval["high"]


def test_bootstrap_with_missing_predictions():
    interval = bootstrap([1.0, 2.0, 3.0, np.inf] * 3, statistic="median", n=500)
    assert interval["value"] == 2.5
    assert interval["high"] == np.inf
    assert bootstrap([1.0, np.nan, 3.0])["value"] == 2


def test_intervals_hold_the_metrics():
    generator = np.random.default_rng(0)
    true_lat, true_lng = generator.uniform(-60, 60, 80), generator.uniform(-180, 180, 80)
    pred_lat = np.where(np.arange(80) == 0, np.nan, true_lat + generator.normal(0, 5, 80))
    plain = metrics.geolocation_metrics(pred_lat, true_lng, true_lat, true_lng)
    intervals = metrics.geolocation_intervals(pred_lat, true_lng, true_lat, true_lng, n=200)
    for name, interval in intervals.items():
        assert interval["value"] == pytest.approx(plain[name])
        assert interval["low"] <= interval["value"] <= interval["high"]
    assert intervals == metrics.geolocation_intervals(pred_lat, true_lng, true_lat, true_lng, n=200)


def test_paired_difference_sees_what_two_intervals_hide():
    generator = np.random.default_rng(0)
    first = generator.normal(0, 10, 200)
    difference = paired_difference(first + 1, first)
    assert difference["value"] == pytest.approx(1)
    assert difference["low"] == pytest.approx(1)
    same = paired_difference(first, generator.permutation(first))
    assert same["low"] < 0 < same["high"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "empty"),
        ({"values": [1.0], "statistic": "mode"}, "'mean' or 'median'"),
        ({"values": [1.0, 2.0], "blocks": [0]}, "blocks has 1"),
        ({"values": [1.0], "level": 95}, "between 0 and 1"),
        ({"values": [1.0], "n": 0}, "at least 1"),
        ({"values": [1.0], "groups": [0], "statistic": "median"}, "must be 'mean'"),
    ],
)
def test_bad_bootstrap_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(**arguments)


def test_calibration_by_hand():
    confidence, correct = [0.95, 0.95, 0.55, 0.55], [1, 1, 1, 0]
    table = metrics.reliability_bins(confidence, correct)
    assert table["n"].tolist() == [2, 2]
    assert table["accuracy"].tolist() == [0.5, 1.0]
    assert metrics.expected_calibration_error(confidence, correct, 10) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    assert metrics.expected_calibration_error([1.0, 1.0], [1, 0]) == 0.5
    with pytest.raises(ValueError, match=r"row 1 is 1\.2"):
        metrics.reliability_bins([0.5, 1.2], [1, 1])


def test_places():
    assert metrics.country_of([48.85, -25.3, np.nan], [2.35, 131.0, 0.0]).tolist() == ["France", "Australia", ""]
    # Paris, Lyon for Paris, Berlin for Paris, nothing.
    true = ([48.85] * 4, [2.35] * 4)
    shares = place_accuracy([48.85, 45.76, 52.52, np.nan], [2.35, 4.84, 13.4, np.nan], *true)
    assert shares == {"country_acc": 2 / 4, "region_acc": 1 / 4, "city_acc": 1 / 4}
    assert place_accuracy([0.0], [-30.0], [48.85], [2.35])["country_acc"] == 0


def test_metrics_do_not_import_torch():
    import subprocess

    code = "import sys, geocbm.metrics, geocbm.plots, geocbm.evaluation.baselines; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tensors_of_half_precision_are_accepted():
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16):
        zero = torch.zeros(3, dtype=dtype)
        assert metrics.geolocation_metrics(zero, zero, [1, 0, 0], [0, 0, 0])["median_km"] == 0
        assert concept_metrics(torch.eye(3, dtype=dtype), torch.arange(3))["meta_top1"] == 1


def test_labels_that_are_no_whole_numbers_are_named():
    for labels, message in (([0.5, 1, 2], "meta must be whole numbers, but 0.5"), ([np.nan, 1, 2], "but nan")):
        with pytest.raises(ValueError, match=message):
            concept_metrics(np.eye(3), labels)


def test_average_precision_by_hand():
    # Ranked by score: yes, no, yes, then two of equal score of which one shows it: (1 + 2/3 + 3/5) / 3.
    scores = np.array([[0.9], [0.8], [0.7], [0.1], [0.1]])
    named = np.array([[1], [0], [1], [0], [1]])
    assert metrics.average_precision(scores, named) == pytest.approx([(1 + 2 / 3 + 3 / 5) / 3])
    assert np.isnan(metrics.average_precision(scores, np.zeros((5, 1)))).all()
    with pytest.raises(ValueError, match="named must have the shape of scores"):
        metrics.average_precision(scores, named[:4])


def test_average_precision_is_sklearns_and_a_resample_is_a_table_of_its_rows():
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(0)
    scores, named = generator.integers(0, 6, (80, 4)) / 5, generator.random((80, 4)) < 0.2
    expected = [average_precision_score(named[:, k], scores[:, k]) for k in range(4)]
    np.testing.assert_allclose(metrics.average_precision(scores, named), expected)
    resamples = metrics.Resamples(np.arange(80) // 4, 7, seed=1)
    drawn = np.concatenate(list(resamples.counts()))
    found = metrics.average_precision(scores, named, drawn)
    assert drawn.shape == (7, 80) and found.shape == (7, 4)
    for counts, own in zip(drawn, found, strict=True):
        rows = np.repeat(np.arange(80), counts)
        np.testing.assert_allclose(own, metrics.average_precision(scores[rows], named[rows]))


def test_thresholds_have_the_best_f1():
    # From 0.4 on: two right of three, both found: F1 = 2 * 2 / (3 + 2) = 0.8; from 0.9 on 2 * 1 / (1 + 2) = 0.67.
    scores = np.array([[0.9, 0.1], [0.6, 0.2], [0.4, 0.3], [0.2, 0.4]])
    named = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], dtype=bool)
    best = metrics.best_thresholds(scores, named)
    assert best[0] == pytest.approx(0.4) and np.isnan(best[1])
