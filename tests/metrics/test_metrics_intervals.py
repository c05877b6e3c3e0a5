"""Intervals that belong together must not contradict one another, nor pretend to know what few blocks cannot tell."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resampled import bootstrap, paired_difference

from geocbm import metrics
from geocbm.metrics import FEWEST_BLOCKS, THRESHOLDS_KM, Resamples

METRES = st.one_of(st.just(np.nan), st.floats(0, 20000))


def at_distance(km):
    """Predictions on the equator so far east of (0, 0), and the true places."""
    return np.zeros(len(km)), np.asarray(km) / (6371 * np.pi / 180), np.zeros(len(km)), np.zeros(len(km))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(METRES, st.integers(0, 30)), min_size=1, max_size=60),
    st.integers(0, 9),
    st.sampled_from([0.5, 0.9, 0.95]),
)
def test_intervals_of_nested_thresholds_are_nested(rows, seed, level):
    km, blocks = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    lat, lng, *true = at_distance(km)
    figures = metrics.geolocation_intervals(lat, lng, *true, blocks=blocks, n=50, seed=seed, level=level)
    shares = [figures[f"acc_{limit}km"] for limit in THRESHOLDS_KM]
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
    figures = metrics.geolocation_intervals(*at_distance(km), blocks=np.arange(25))
    none, two = figures["acc_750km"], figures["acc_2500km"]
    assert none == {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.025 ** (1 / 25))}
    assert none["high"] == pytest.approx(0.1372, abs=1e-4)
    assert two["value"] == pytest.approx(2 / 25) and two["high"] > none["high"]


def test_too_few_blocks_have_no_interval():
    values = np.random.default_rng(0).normal(size=700)
    enough, few = np.arange(700) % FEWEST_BLOCKS, np.arange(700) % (FEWEST_BLOCKS - 1)
    assert np.isfinite(list(bootstrap(values, enough).values())).all()
    for figure in (
        bootstrap(values, few),
        bootstrap(values > 9, few),
        bootstrap(values, few, "median"),
        bootstrap(values, few, groups=values > 0),
        paired_difference(values, -values, few),
        metrics.over_seeds([values, values + 1], blocks=few),
    ):
        assert np.isfinite(figure["value"]) and np.isnan(figure["low"]) and np.isnan(figure["high"])
        assert metrics.recordable(figure) == figure["value"]
        assert metrics.estimate_text(figure).endswith("(no interval)")


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
        figure = Resamples(owner, 400, trial).estimate(generator.random(len(owner)) < chance[owner])
        inside += figure["low"] <= share <= figure["high"]
    assert inside / trials >= 0.91


def test_intervals_of_medians_cover():
    generator, inside, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        owner = np.repeat(np.arange(10), generator.geometric(1 / 4, 10))
        values = generator.normal(size=10)[owner] + generator.normal(size=len(owner))
        figure = Resamples(owner, 400, trial).estimate(values, "median")
        inside += figure["low"] <= 0 <= figure["high"]
    assert 0.90 <= inside / trials <= 0.99


def test_student_widens_the_interval_of_few_blocks():
    # t(0.975; 9) = 2.2622, times sqrt(10 / 9) = 2.3846, a normal quantile of 98.29 %; of 300 blocks 95.13 %.
    draws = np.linspace(-1, 1, 100_001)
    for blocks, reach in ((10, 0.9829), (300, 0.9513)):
        low, high = Resamples(np.arange(blocks), 1).interval(draws)
        assert (low, high) == (pytest.approx(-reach, abs=1e-4), pytest.approx(reach, abs=1e-4))
