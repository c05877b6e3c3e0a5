"""Intervals of many figures at once: values by hand, and how often they hold together."""

from __future__ import annotations

import numpy as np
import pytest

from geocbm.metrics import Resamples, simultaneous_intervals


def test_every_interval_is_as_wide_in_standard_errors_as_the_others():
    # In standard errors: 1, 1, 1, 1 and 0, 0, sqrt(2), sqrt(2); the largest of each column: 1, 1, sqrt(2), sqrt(2).
    draws = [[6.0, 4.0, 6.0, 4.0], [100.0, 100.0, 120.0, 80.0]]
    low, high = simultaneous_intervals([5.0, 100.0], draws, level=0.99)
    factor = np.quantile([1, 1, np.sqrt(2), np.sqrt(2)], 0.99)
    np.testing.assert_allclose(high - [5, 100], factor * np.array([1, np.sqrt(200)]))
    np.testing.assert_allclose(high + low, [10, 200])


def test_one_figure_alone_gets_its_usual_interval():
    draws = np.random.default_rng(0).normal(3, 2, (1, 20_000))
    low, high = simultaneous_intervals([3.0], draws)
    assert low[0] == pytest.approx(3 - 1.96 * 2, abs=0.1)
    assert high[0] == pytest.approx(3 + 1.96 * 2, abs=0.1)


def test_figures_that_vary_together_cost_nothing_and_independent_ones_do():
    generator = np.random.default_rng(0)
    single = generator.normal(size=20_000)
    same = simultaneous_intervals(np.zeros(10), np.tile(single, (10, 1)))[1]
    apart = simultaneous_intervals(np.zeros(10), generator.normal(size=(10, 20_000)))[1]
    assert same[0] == pytest.approx(1.96, abs=0.05)
    assert apart[0] == pytest.approx(2.80, abs=0.06)  # the normal quantile of 0.95 ** (1 / 10), two-sided


def test_ten_figures_without_a_difference_are_all_found_so_in_about_95_of_100_cases():
    generator = np.random.default_rng(0)
    held = 0
    for case in range(300):
        gaps = generator.normal(size=(10, 120))  # differences of ten pairs of methods on 120 images, none on average
        drawn = Resamples(np.arange(120), 400, seed=case)
        low, high = simultaneous_intervals(gaps.mean(axis=1), np.stack([drawn.means(gap) for gap in gaps]))
        held += bool(((low <= 0) & (high >= 0)).all())
    assert 0.91 <= held / 300 <= 0.98  # the standard error of the share is 0.013


def test_a_figure_that_no_resample_changes_is_certain():
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
        ([1.0], [[2.0, 1.0]], 95, "level must lie between 0 and 1, it is 95"),
    ],
)
def test_impossible_input_is_named(values, draws, level, message):
    with pytest.raises(ValueError, match=message):
        simultaneous_intervals(values, draws, level)
