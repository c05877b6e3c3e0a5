"""Decoding: which point of a distribution is answered, chosen on validation by one criterion."""

from __future__ import annotations

import numpy as np
import pytest

from geocbm.errors import ParameterError
from geocbm.geocells import distribution
from geocbm.geodesy import haversine_km, latlng_to_cartesian
from geocbm.metrics import fit_temperature
from geocbm.models.decoder import POINT_WORDS, Decoder, Places, PointChoice, choose_point, fit_decoder

# Three cells on the equator: two neighbours, and one far away that is a little likelier than each of them.
LNG = np.array([0.0, 10.0, 90.0])
CENTERS = latlng_to_cartesian(np.zeros(3), LNG)
LOGITS = np.log(np.array([[0.3, 0.3, 0.4]]))
TRAINING = latlng_to_cartesian(np.zeros(4), np.array([1.0, 9.0, 5.0, 90.0]))
PLACES = Places(CENTERS, TRAINING, np.array([0, 1, 1, 2]))
NOWHERE = np.zeros(0)


def decoder(point: str = "mode", bandwidth: float = 1600.0) -> Decoder:
    return Decoder(PointChoice(point, "argmax", 0, {}), 1.0, bandwidth, PLACES)


def at(lng: float, n: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(n), np.full(n, lng)


def test_points_of_a_distribution_whose_best_answers_are_known() -> None:
    points = decoder().points(LOGITS, {"offset": at(88.0)})
    assert list(points) == ["center", "offset", "mode", "expected_centers", "expected_places"]
    assert points["center"][1] == pytest.approx(90) and points["offset"][1] == 88
    assert points["mode"][1] == pytest.approx(5, abs=0.1)  # between the two that are likely together
    # One degree is 111.19 km, so that a degree off is worth exp(-0.07449) of the score. Centre 0 is worth
    # 0.3 * 0.928 + 0.3 * (0.511 + 0.689) / 2 = 0.459, centre 10 0.397 and centre 90 0.400 (its own place lies there).
    assert points["expected_centers"][1] == pytest.approx(0, abs=1e-6)
    # Of the places the one at 1: 0.3 * 1 + 0.3 * (0.551 + 0.742) / 2 = 0.494, against 0.484 at 5 and 0.427 at 9.
    assert points["expected_places"][1] == pytest.approx(1, abs=1e-6)


def test_the_answer_is_the_chosen_point() -> None:
    assert decoder("center").answer(LOGITS, {})[1] == pytest.approx(90)
    assert decoder("mode").answer(LOGITS, {})[1] == pytest.approx(5, abs=0.1)
    assert decoder("neighbours").answer(LOGITS, {"neighbours": at(7.0)})[1] == 7


def test_no_photographs_have_no_points() -> None:
    points = decoder().points(np.empty((0, 3)), {"offset": (NOWHERE, NOWHERE)})
    assert len(points) == 5 and all(len(lat) == len(lng) == 0 for lat, lng in points.values())


def test_the_best_point_is_that_of_the_highest_mean_geoscore() -> None:
    # 111.19 km per degree at the equator: 5000 exp(-d / 1492.7).
    truth = np.zeros(2), np.array([0.0, 40.0])
    points = {"offset": (np.zeros(2), np.array([0.0, 80.0])), "mode": (np.zeros(2), np.array([20.0, 20.0]))}
    choice = choose_point(points, *truth)
    far, middle = 40 * np.pi / 180 * 6371, 20 * np.pi / 180 * 6371
    assert choice.val_metrics["offset"]["geoscore"] == pytest.approx((5000 + 5000 * np.exp(-far / 1492.7)) / 2)
    assert choice.val_metrics["mode"]["geoscore"] == pytest.approx(5000 * np.exp(-middle / 1492.7))
    assert choice.val_metrics["mode"]["median_km"] == pytest.approx(middle)
    assert (choice.point, choice.n, choice.setting) == ("offset", 2, "validation")  # 2,627 against 1,127


def test_of_equal_scores_the_smaller_median_wins_and_then_the_order() -> None:
    truth = np.zeros(3), np.zeros(3)
    same = {"offset": at(3.0, 3), "mode": at(-3.0, 3), "center": at(3.0, 3)}
    assert choose_point(same, *truth).point == "center"
    # 0 and 120 degrees against twice a distance with the same mean score, but a smaller median of three.
    far = 120 * np.pi / 180 * 6371
    km = -1492.7 * np.log((2 + np.exp(-far / 1492.7)) / 3)
    even = np.rad2deg(km / 6371)
    points = {"center": at(even, 3), "offset": (np.zeros(3), np.array([0.0, 0.0, 120.0]))}
    choice = choose_point(points, *truth)
    assert choice.val_metrics["center"]["geoscore"] == pytest.approx(choice.val_metrics["offset"]["geoscore"])
    assert choice.point == "offset"


def test_a_setting_fixes_the_point_and_keeps_the_metrics_of_all() -> None:
    points = {"center": at(0.0), "offset": at(1.0), "neighbours": at(2.0), "mode": at(3.0)}
    for setting, expected in (("argmax", "neighbours"), ("mode", "mode"), ("validation", "center")):
        choice = choose_point(points, *at(0.0), setting)
        assert choice.point == expected and set(choice.val_metrics) == set(points)
    assert choose_point({name: points[name] for name in ("center", "offset")}, *at(0.0), "argmax").point == "offset"
    with pytest.raises(ParameterError, match="answer_point='best'"):
        choose_point(points, *at(0.0), "best")


def test_without_validation_the_argmax_is_answered_and_the_remark_says_so() -> None:
    choice = choose_point({"center": (NOWHERE, NOWHERE), "offset": (NOWHERE, NOWHERE)}, NOWHERE, NOWHERE)
    assert (choice.point, choice.n, choice.val_metrics, choice.optimism) == ("offset", 0, {}, None)
    assert "empty" in choice.remark
    fitted = fit_decoder(
        np.empty((0, 3)), {"offset": (NOWHERE, NOWHERE)}, PLACES, NOWHERE.astype(int), NOWHERE, NOWHERE
    )
    assert fitted.temperature == 1 and fitted.choice.point == "offset"


def test_optimism_is_what_choosing_among_equals_pretends() -> None:
    """Points that differ by noise alone: the best of them looks better than any is; one clear winner does not."""
    told, true = [], []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        n = 200
        lat, lng = generator.uniform(-60, 60, n), generator.uniform(-180, 180, n)
        noisy = {
            name: (np.clip(lat + generator.normal(0, 10, n), -90, 90), lng + generator.normal(0, 10, n))
            for name in POINT_WORDS
        }
        choice = choose_point(noisy, lat, lng)
        scores = [own["geoscore"] for own in choice.val_metrics.values()]
        told.append(choice.optimism)
        true.append(max(scores) - np.mean(scores))  # all are equally good in truth
    assert 0.3 * np.mean(true) < np.mean(told) < np.mean(true)
    clear = choose_point(noisy | {"mode": (lat, lng)}, lat, lng)
    assert clear.point == "mode" and clear.optimism == pytest.approx(0, abs=1e-6)


def test_temperature_and_choice_come_from_validation() -> None:
    generator = np.random.default_rng(1)
    cell = generator.integers(3, size=60)
    logits = generator.normal(size=(60, 3)) * 4
    logits[np.arange(60), cell] += 3
    lng = LNG[cell] + generator.normal(0, 0.1, 60)
    fitted = fit_decoder(logits, {"offset": (np.zeros(60), lng)}, PLACES, cell, np.zeros(60), lng)
    assert fitted.temperature == fit_temperature(distribution.in_half_precision(logits), cell)
    assert fitted.choice.point == "offset"  # which is told the truth here
    assert fitted.choice.val_metrics["offset"] == {"geoscore": 5000, "median_km": 0}
    center = fitted.points(logits, {})["center"]
    km = haversine_km(*center, np.zeros(60), lng)
    assert fitted.choice.val_metrics["center"]["median_km"] == pytest.approx(float(np.median(km)))
