"""Intervals that belong together must not contradict one another, nor pretend to know what few blocks cannot tell."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resampled import bootstrap, paired_difference

from geocbm import metrics
from geocbm.metrics import FEWEST_BLOCKS, THRESHOLDS_KM, Resamples, over_seeds, simultaneous_intervals

METRES = st.one_of(st.just(np.nan), st.floats(0, 20000))


def at_distance(km):
    """Predictions on the equator so far east of (0, 0), and the true places."""
    return np.zeros(len(km)), np.asarray(km) / (6371 * np.pi / 180), np.zeros(len(km)), np.zeros(len(km))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(METRES, st.integers(0, 30)), min_size=1, max_size=60), st.integers(0, 9))
def test_intervals_of_nested_thresholds_are_nested(rows, seed):
    km, blocks = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    lat, lng, *true = at_distance(km)
    found = metrics.geolocation_intervals(lat, lng, *true, blocks=blocks, n=50, seed=seed)
    shares = [found[f"acc_{limit}km"] for limit in THRESHOLDS_KM]
    if len(np.unique(blocks)) < FEWEST_BLOCKS:
        assert all(np.isnan(share["low"]) and np.isnan(share["high"]) for share in shares)
        return
    for smaller, larger in pairwise(shares):
        assert smaller["low"] <= larger["low"] and smaller["high"] <= larger["high"]
    for share in shares:
        assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
        assert share["low"] < 1 and share["high"] > 0  # nothing is certain


def test_nothing_within_750_km_and_two_of_25_within_2500():
    # 25 photographs each in its own block: no hit leaves up to 1 - 0.025^(1/25) = 13.7 %; 2 hits cannot leave less.
    km = np.full(25, 9000.0)
    km[:2] = 2000
    found = metrics.geolocation_intervals(*at_distance(km), blocks=np.arange(25))
    none, two = found["acc_750km"], found["acc_2500km"]
    assert none == {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.025 ** (1 / 25))}
    assert none["high"] == pytest.approx(0.1372, abs=1e-4)
    assert two["value"] == pytest.approx(2 / 25) and two["high"] > none["high"]


def test_too_few_blocks_have_no_interval():
    values = np.random.default_rng(0).normal(size=700)
    enough, few = np.arange(700) % FEWEST_BLOCKS, np.arange(700) % (FEWEST_BLOCKS - 1)
    assert np.isfinite(list(bootstrap(values, enough).values())).all()
    for entry in (
        bootstrap(values, few),
        bootstrap(values > 9, few),
        bootstrap(values, few, "median"),
        bootstrap(values, few, groups=values > 0),
        paired_difference(values, -values, few),
        metrics.over_seeds(np.stack([values, values + 1]), None, few),
    ):
        assert np.isfinite(entry["value"]) and np.isnan(entry["low"]) and np.isnan(entry["high"])
        assert metrics.recordable(entry) == entry["value"]
        assert metrics.estimate_text(entry).endswith("(no interval)")


def test_blocks_without_a_value_do_not_count():
    values = np.arange(90.0)
    kept = np.where(np.arange(90) // 3 < FEWEST_BLOCKS - 1, values, np.nan)
    draws = Resamples(np.arange(90) // 3)
    assert np.isfinite(draws.estimate(values)["low"])
    assert np.isnan(draws.estimate(kept)["low"])
    assert np.isnan(draws.difference(values, kept)["low"])


@pytest.mark.parametrize("blocks", [FEWEST_BLOCKS, 15, 30])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_intervals_of_shares_cover(blocks, share):
    # Blocks of 1 to about 15 photographs that are alike: hits have a beta distribution over blocks.
    generator, inside, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        size = generator.geometric(1 / 4, blocks)
        chance = generator.beta(2 * share, 2 * (1 - share), blocks)
        owner = np.repeat(np.arange(blocks), size)
        entry = Resamples(owner, 400, trial).estimate(generator.random(len(owner)) < chance[owner])
        inside += entry["low"] <= share <= entry["high"]
    assert inside / trials >= 0.91


def test_intervals_of_medians_cover():
    generator, inside, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        owner = np.repeat(np.arange(10), generator.geometric(1 / 4, 10))
        values = generator.normal(size=10)[owner] + generator.normal(size=len(owner))
        entry = Resamples(owner, 400, trial).estimate(values, "median")
        inside += entry["low"] <= 0 <= entry["high"]
    assert 0.90 <= inside / trials <= 0.99


def test_student_widens_the_interval_of_few_blocks():
    # t(0.975; 9) = 2.2622, times sqrt(10 / 9) = 2.3846, a normal quantile of 98.29 %; of 300 blocks 95.13 %.
    draws = np.linspace(-1, 1, 100_001)
    for blocks, reach in ((10, 0.9829), (300, 0.9513)):
        low, high = Resamples(np.arange(blocks), 1).interval(draws)
        assert (low, high) == (pytest.approx(-reach, abs=1e-4), pytest.approx(reach, abs=1e-4))


def test_one_seed_is_the_plain_bootstrap():
    values, blocks = np.random.default_rng(0).normal(size=60), np.arange(60) // 3
    for statistic in ("mean", "median"):
        assert over_seeds(values[None], None, blocks, statistic) == bootstrap(
            values, blocks=blocks, statistic=statistic
        )
    other = values + np.random.default_rng(1).normal(size=60)
    assert over_seeds(values[None], other[None], blocks) == paired_difference(values, other, blocks)


def test_the_value_is_the_mean_over_seeds_by_hand():
    values = np.array([[1.0, 2.0, 9.0], [3.0, 3.0, 3.0]])
    assert over_seeds(values, None, np.arange(3), "median")["value"] == 2.5
    assert over_seeds(values, np.zeros((2, 3)), np.arange(3))["value"] == 3.5


def test_seeds_that_disagree_widen_the_interval():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=400)
    same = np.stack([rows, rows, rows])
    apart = same + np.array([[-1.0], [0.0], [1.0]])
    rows = np.arange(same.shape[1])
    narrow, wide = over_seeds(same, None, rows), over_seeds(apart, None, rows)
    assert narrow["value"] == pytest.approx(wide["value"])
    assert wide["high"] - wide["low"] > 3 * (narrow["high"] - narrow["low"])
    # A shift that both methods share is no difference: seeds are drawn as pairs.
    paired = over_seeds(apart, apart - 0.5, rows)
    assert (paired["low"], paired["high"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) and than \(3, 3\)"):
        over_seeds(np.zeros((2, 3)), np.zeros((3, 3)), np.arange(3))


def test_every_interval_is_as_wide_in_standard_errors_as_the_others():
    # In standard errors: 1, 1, 1, 1 and 0, 0, sqrt(2), sqrt(2); the largest of each column: 1, 1, sqrt(2), sqrt(2).
    draws = [[6.0, 4.0, 6.0, 4.0], [100.0, 100.0, 120.0, 80.0]]
    low, high = simultaneous_intervals([5.0, 100.0], draws, level=0.99)
    factor = np.quantile([1, 1, np.sqrt(2), np.sqrt(2)], 0.99)
    np.testing.assert_allclose(high - [5, 100], factor * np.array([1, np.sqrt(200)]))
    np.testing.assert_allclose(high + low, [10, 200])


def test_one_metric_alone_gets_its_usual_interval():
    draws = np.random.default_rng(0).normal(3, 2, (1, 20_000))
    low, high = simultaneous_intervals([3.0], draws)
    assert low[0] == pytest.approx(3 - 1.96 * 2, abs=0.1)
    assert high[0] == pytest.approx(3 + 1.96 * 2, abs=0.1)


def test_metrics_that_vary_together_cost_nothing_and_independent_ones_do():
    generator = np.random.default_rng(0)
    single = generator.normal(size=20_000)
    same = simultaneous_intervals(np.zeros(10), np.tile(single, (10, 1)))[1]
    apart = simultaneous_intervals(np.zeros(10), generator.normal(size=(10, 20_000)))[1]
    assert same[0] == pytest.approx(1.96, abs=0.05)
    assert apart[0] == pytest.approx(2.80, abs=0.06)  # the normal quantile of 0.95 ** (1 / 10), two-sided


def test_ten_metrics_without_a_difference_are_all_found_so_in_about_95_of_100_cases():
    generator = np.random.default_rng(0)
    held = 0
    for case in range(300):
        gaps = generator.normal(size=(10, 120))  # differences of ten pairs of methods on 120 images, none on average
        drawn = Resamples(np.arange(120), 400, seed=case)
        low, high = simultaneous_intervals(gaps.mean(axis=1), np.stack([drawn.means(gap) for gap in gaps]))
        held += bool(((low <= 0) & (high >= 0)).all())
    assert 0.91 <= held / 300 <= 0.98  # the standard error of the share is 0.013


def test_a_metric_that_no_resample_changes_is_certain():
    low, high = simultaneous_intervals([2.0, 1.0], [[2.0, 2.0], [0.0, 2.0]])
    assert (low[0], high[0]) == (2, 2)
    assert low[1] < 1 < high[1]
    low, high = simultaneous_intervals([2.0], [[2.0, 2.0]])
    assert (low[0], high[0]) == (2, 2)


@pytest.mark.parametrize(
    ("values", "draws", "level", "message"),
    [
        ([1.0, 2.0], [[1.0, 2.0]], 0.95, r"shape \(2,\) and draws \(1, 2\)"),
        ([1.0], [[np.inf, 1.0]], 0.95, "must be finite"),
        ([1.0], [[2.0, 1.0]], 95, r"must be in the range \[0, 1\]"),
    ],
)
def test_impossible_input_is_named(values, draws, level, message):
    with pytest.raises(ValueError, match=message):
        simultaneous_intervals(values, draws, level)
