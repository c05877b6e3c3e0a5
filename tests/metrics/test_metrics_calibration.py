"""Temperature, likelihood and calibration error, held against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from geocbm import metrics


def test_likelihood_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    expected = -(np.log(0.25) + np.log(0.8)) / 2
    assert metrics.negative_log_likelihood(logits, [1, 1]) == pytest.approx(expected)
    # A constant added to a row changes nothing; a temperature of 2 takes the root of the odds.
    assert metrics.negative_log_likelihood(logits + 7, [1, 1]) == pytest.approx(expected)
    root = np.sqrt([0.25, 0.5, 0.25])
    assert metrics.negative_log_likelihood(logits[:1], [1], 2.0) == pytest.approx(
        -np.log(root[0] / (root[1] + 2 * root[0]))
    )


def test_the_temperature_that_was_applied_is_found_again():
    generator = np.random.default_rng(0)
    logits = 2 * generator.standard_normal((20_000, 6))
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = (generator.random((len(logits), 1)) > probability.cumsum(axis=1)).sum(axis=1)
    assert metrics.fit_temperature(3 * logits, true) == pytest.approx(3.0, rel=0.05)
    assert metrics.fit_temperature(logits / 2, true) == pytest.approx(0.5, rel=0.05)


def test_two_classes_by_hand():
    # Three of four are right with logits (1, 0): the odds must be 3, so the temperature is 1 / log 3.
    temperature = metrics.fit_temperature(np.tile([1.0, 0.0], (4, 1)), [0, 0, 0, 1])
    assert temperature == pytest.approx(1 / np.log(3), rel=1e-5)


@pytest.mark.parametrize("logits", [np.zeros((3, 1)), np.full((3, 4), 2.5)])
def test_nothing_to_fit_leaves_the_temperature_at_one(logits):
    assert metrics.fit_temperature(logits, [0, 0, 0]) == 1.0


def test_a_fit_without_bound_stops_at_the_last_temperature():
    from geocbm.metrics.calibration import TEMPERATURES

    logits = np.array([[4.0, 0.0], [4.0, 0.0]])
    assert metrics.fit_temperature(logits, [0, 0]) == pytest.approx(TEMPERATURES[0], rel=1e-4)
    assert metrics.fit_temperature(logits, [1, 1]) == pytest.approx(TEMPERATURES[1], rel=1e-4)


def test_half_precision_and_many_rows_do_not_matter():
    generator = np.random.default_rng(1)
    logits = np.round(generator.standard_normal((500, 4)), 1)
    true = generator.integers(0, 4, 500)
    expected = metrics.negative_log_likelihood(logits, true)
    assert metrics.negative_log_likelihood(logits.astype(np.float16), true) == pytest.approx(expected, abs=1e-3)


def test_calibration_error_by_chance_shrinks_with_more_photographs():
    confidence = np.full(100, 0.5)
    # One bin: the mean absolute gap of a fair coin thrown n times is about sqrt(1 / (2 pi n)).
    assert metrics.calibration_error_by_chance(confidence, draws=2000) == pytest.approx(0.0399, abs=0.003)
    assert metrics.calibration_error_by_chance(np.full(10_000, 0.5)) == pytest.approx(0.004, abs=0.001)
    assert metrics.calibration_error_by_chance(np.ones(10)) == 0
    generator = np.random.default_rng(0)
    mixed = generator.random(300)
    drawn = [metrics.expected_calibration_error(mixed, generator.random(300) < mixed) for _ in range(100)]
    assert metrics.calibration_error_by_chance(mixed) == pytest.approx(np.mean(drawn), rel=0.05)


@pytest.mark.parametrize(
    ("logits", "target", "temperature", "message"),
    [
        (np.zeros((2, 3)), [0, 3], 1.0, "target 3 of row 1 is none of the 3 classes"),
        (np.zeros((2, 3)), [-1, 0], 1.0, "target -1 of row 0"),
        (np.zeros((2, 3)), [0], 1.0, "logits has 2, target has 1"),
        (np.zeros(2), [0, 0], 1.0, r"its shape is \(2,\)"),
        (np.zeros((2, 3)), [0, 0], 0.0, "temperature must be above 0"),
        (np.zeros((0, 3)), [], 1.0, "target is empty"),
    ],
)
def test_what_does_not_fit_is_refused(logits, target, temperature, message):
    with pytest.raises(ValueError, match=message):
        metrics.negative_log_likelihood(logits, target, temperature)
