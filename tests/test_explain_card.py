"""The trust card: every verdict follows from figures by the stated rule."""

from __future__ import annotations

import pytest

from geocbm.explain import card


def figure(value: float, low: float | None = None, high: float | None = None) -> dict[str, float]:
    return {"value": value, "low": value - 0.02 if low is None else low, "high": value + 0.02 if high is None else high}


@pytest.mark.parametrize(
    ("pointing", "chance", "centre", "verdict"),
    [
        (figure(0.85), 0.1, 0.3, card.YES),
        (figure(0.85), 0.1, 0.84, card.NO),
        (figure(0.6), 0.1, 0.3, card.PARTLY),
        (figure(0.11), 0.1, None, card.NO),
        (None, None, None, card.UNKNOWN),
        (figure(0.9, float("nan")), 0.1, None, card.UNKNOWN),
    ],
)
def test_pointing(pointing: dict | None, chance: float | None, centre: float | None, verdict: str) -> None:
    line = card.points_at_it(pointing, chance, centre, attention=0.95)
    assert line.verdict == verdict
    if verdict not in (card.UNKNOWN,):
        assert "attention 95%" in line.yardstick and "a random patch 1" in line.yardstick


@pytest.mark.parametrize(
    ("gain", "beyond", "verdict"),
    [
        (figure(0.1), None, card.YES),
        (figure(0.1), figure(0.05), card.YES),
        (figure(0.1), figure(0.01), card.PARTLY),
        (figure(0.01), figure(0.05), card.NO),
        (figure(-0.1), None, card.NO),
        (None, None, card.UNKNOWN),
    ],
)
def test_removal(gain: dict | None, beyond: dict | None, verdict: str) -> None:
    assert card.removal_hurts(gain, beyond).verdict == verdict


@pytest.mark.parametrize(
    ("deviation", "verdict"),
    [(3e-6, card.YES), (1e-4, card.YES), (2e-4, card.NO), (None, card.UNKNOWN), (float("nan"), card.UNKNOWN)],
)
def test_adding_up(deviation: float | None, verdict: str) -> None:
    assert card.adds_up(deviation).verdict == verdict


@pytest.mark.parametrize(
    ("beyond", "task", "verdict"),
    [
        (figure(-0.01), figure(0.0001, 0.0, 0.0002), card.YES),
        (figure(-0.01), figure(0.01, 0.005, 0.015), card.PARTLY),
        (figure(0.05), figure(0.0, 0.0, 0.0), card.NO),
        (figure(-0.01), None, card.YES),
        (None, None, card.UNKNOWN),
    ],
)
def test_smuggling(beyond: dict | None, task: dict | None, verdict: str) -> None:
    assert card.nothing_smuggled(beyond, task, 0.0002).verdict == verdict


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.95, card.YES), (0.7, card.PARTLY), (0.3, card.NO)],
)
def test_few_concepts(share: float, verdict: str) -> None:
    assert card.named_by_concepts(figure(share), 5, 0.4).verdict == verdict
    assert card.named_by_concepts(None, 5, 0.4).verdict == card.UNKNOWN


@pytest.mark.parametrize(
    ("ratio", "random", "verdict"),
    [(0.99, 0.4, card.YES), (0.99, 0.6, card.PARTLY), (0.5, 0.1, card.NO)],
)
def test_completeness_is_held_against_random_directions(ratio: float, random: float, verdict: str) -> None:
    line = card.suffices(figure(ratio), figure(0.5), 0.61, random)
    assert line.verdict == verdict and f"{random:.0%}" in line.yardstick
    assert card.suffices(figure(ratio), figure(0.01), 0.61, random).verdict == card.UNKNOWN  # nothing to be complete of


def test_without_concepts() -> None:
    removed = {"cell_acc": figure(0.017, 0.001, 0.046), "log_loss": figure(4.69)}
    prior = {"cell_acc": figure(0.015, 0.0, 0.044), "log_loss": figure(4.62)}
    assert card.falls_without_concepts(removed, prior, True).verdict == card.YES
    assert card.falls_without_concepts(removed, prior, False).verdict == card.NO
    unmeasured = removed | {"log_loss": figure(4.7, float("nan"))}
    assert card.falls_without_concepts(unmeasured, prior, True).verdict == card.UNKNOWN
    assert "2 % [0, 5] of the cells right" in card.falls_without_concepts(removed, prior, True).figure


@pytest.mark.parametrize(
    ("correlation", "between", "verdict"),
    [
        (figure(0.9), 0.3, card.YES),
        (figure(0.9), 0.89, card.NO),
        (figure(0.5), 0.3, card.PARTLY),
        (figure(0.3), 0.1, card.NO),
        (figure(0.9), None, card.YES),
        (None, None, card.UNKNOWN),
    ],
)
def test_stability(correlation: dict | None, between: float | None, verdict: str) -> None:
    assert card.stable(correlation, between).verdict == verdict


def test_the_card_counts_its_verdicts_and_names_what_fails() -> None:
    lines = [card.adds_up(0.0), card.adds_up(1.0), card.stable(None)]
    text = card.card_summary(lines)
    assert text.startswith("Of 3 questions: 1 yes, 1 no, 1 not measured.")
    assert "add up to the answer?" in text
    assert card.card_summary([card.adds_up(0.0)]) == "Of 1 question: 1 yes."
    table = card.card_table(lines)
    assert table["verdict"].tolist() == [card.YES, card.NO, card.UNKNOWN]
    assert table["rule"].str.startswith("yes: ").all()
