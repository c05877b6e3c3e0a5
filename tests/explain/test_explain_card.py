"""The trust card: every verdict follows from figures by the stated rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geocbm.explain import ablation as removal
from geocbm.explain import sparsity as effective
from geocbm.explain import trust_card as card
from geocbm.explain.sparsity import Carried
from geocbm.metrics import Resamples


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


def kept(share: float, over_prior: dict, over_random: dict | None = None) -> Carried:
    rates = {"with these": 0.141, "with all": 0.141, "prior": 0.127, "random": 0.128}
    return Carried(5, figure(share), over_prior, over_random or figure(0.2), rates)


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.95, card.YES), (0.7, card.PARTLY), (0.3, card.NO)],
)
def test_few_concepts(share: float, verdict: str) -> None:
    assert card.named_by_concepts(kept(share, figure(0.3))).verdict == verdict
    assert card.named_by_concepts(None).verdict == card.UNKNOWN


def test_concepts_carry_nothing_of_a_head_that_is_no_better_than_the_prior() -> None:
    """14.1 % of the cells right where the prior has 12.7: 110 % of that is no answer."""
    line = card.named_by_concepts(kept(1.1, figure(0.014, -0.03, 0.06)))
    assert line.verdict == card.CANNOT and "110" not in line.figure and "no better beyond noise" in line.figure
    assert "prior 12.7%" in line.yardstick and "all concepts 14.1%" in line.yardstick
    worse = card.named_by_concepts(kept(1.1, figure(-0.05)))
    assert worse.verdict == card.CANNOT


def test_few_concepts_must_carry_more_than_random_ones() -> None:
    assert card.named_by_concepts(kept(0.95, figure(0.3), figure(0.01, -0.02, 0.04))).verdict == card.NO


def test_a_few_concepts_are_counted_from_the_prior() -> None:
    """Of 20 pictures the prior has 4 right, all concepts 14, three concepts 9: half of what lies beyond the prior."""
    rights = {name: np.arange(20) < n for name, n in (("prior", 4), ("all", 14), ("some", 9), ("random", 5))}
    found = effective.Effective(
        counts=(3,),
        named=np.zeros(20),
        right={"decision": rights["some"][None], "random": rights["random"][None], "weights": rights["some"][None]},
        same={},
        all_right=rights["all"],
        number=np.ones(20),
        gap=0.0,
    )
    drawn = Resamples(np.arange(20), 500)
    carried = effective.carried(found, 3, rights["prior"], drawn)
    assert carried.share["value"] == pytest.approx(0.5)
    assert carried.over_prior["value"] == pytest.approx(0.5) and carried.over_random["value"] == pytest.approx(0.2)
    assert carried.right == {"with these": 0.45, "with all": 0.7, "prior": 0.2, "random": 0.25}
    barely = effective.carried(replace(found, all_right=np.arange(20) < 5), 3, rights["prior"], drawn)
    assert np.isnan(barely.share["value"]) and card.named_by_concepts(barely).verdict == card.CANNOT


@pytest.mark.parametrize(
    ("ratio", "random", "verdict"),
    [(0.99, 0.4, card.YES), (0.99, 0.6, card.PARTLY), (0.5, 0.1, card.NO)],
)
def test_completeness_is_held_against_random_directions(ratio: float, random: float, verdict: str) -> None:
    line = card.suffices(figure(ratio), figure(0.5), 0.61, random)
    assert line.verdict == verdict and f"{random:.0%}" in line.yardstick
    assert card.suffices(figure(ratio), figure(0.01), 0.61, random).verdict == card.CANNOT  # nothing to be complete of
    within_noise = figure(0.61 - random, -0.01, 0.5)
    assert card.suffices(figure(ratio), figure(0.5), 0.61, random, within_noise).verdict in (card.PARTLY, card.NO)


def test_without_concepts() -> None:
    removed = {"cell_acc": figure(0.017, 0.001, 0.046), "log_loss": figure(4.69)}
    prior = {"cell_acc": figure(0.015, 0.0, 0.044), "log_loss": figure(4.62)}
    assert card.falls_without_concepts(removed, prior, removal.AT).verdict == card.YES
    assert card.falls_without_concepts(removed, prior, removal.BETTER).verdict == card.NO
    below = card.falls_without_concepts(removed, prior, removal.WORSE)
    assert below.verdict == card.PARTLY and below.figure.startswith("below the prior")
    unmeasured = removed | {"log_loss": figure(4.7, float("nan"))}
    assert card.falls_without_concepts(unmeasured, prior, removal.AT).verdict == card.UNKNOWN
    assert "2 [0, 5] % of the cells right" in card.falls_without_concepts(removed, prior, removal.AT).figure


def left(removed: dict[str, dict], prior: dict[str, dict], change: dict[str, dict] | None = None) -> pd.DataFrame:
    rows = []
    for method, own in ((removal.REMOVED, removed), (removal.FREQUENT, prior), (removal.AS_SEEN, prior)):
        row: dict[str, object] = {"method": method}
        for name, values in [*own.items(), *((f"{name}_change", one) for name, one in (change or {}).items())]:
            row |= {f"{name}{'' if end == 'value' else '_' + end}": value for end, value in values.items()}
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("loss", "loss_change", "right_change", "stands"),
    [
        (3.60, (0.10, 0.26), (-0.02, 0.02), removal.WORSE),  # log loss 3.60 where the prior has 3.42
        (3.60, (-0.05, 0.41), (-0.02, 0.02), removal.AT),  # within noise
        (3.48, (0.02, 0.10), (-0.02, 0.02), removal.AT),  # beyond noise, but next to nothing
        (3.20, (-0.30, -0.14), (-0.02, 0.02), removal.BETTER),
        (3.42, (-0.05, 0.05), (0.01, 0.05), removal.BETTER),
    ],
)
def test_falling_to_the_prior_has_two_sides(loss: float, loss_change: tuple, right_change: tuple, stands: str) -> None:
    removed = {"cell_acc": figure(0.12), "log_loss": figure(loss, loss - 0.2, loss + 0.2)}
    prior = {"cell_acc": figure(0.12), "log_loss": figure(3.42, 3.2, 3.6)}
    change = {
        "cell_acc": figure(sum(right_change) / 2, *right_change),
        "log_loss": figure(loss - 3.42, *loss_change),
    }
    table = left(removed, prior, change)
    assert removal.against_prior(table) == stands
    assert removal.falls_to_prior(table) == (stands == removal.AT)
    words = {removal.AT: " falls to", removal.WORSE: " falls below", removal.BETTER: " does not fall to"}
    assert f"model{words[stands]} the prior" in removal.left_sentence(table)


def test_without_a_paired_difference_intervals_must_not_overlap() -> None:
    prior = {"cell_acc": figure(0.12), "log_loss": figure(3.42)}
    for loss, stands in ((3.43, removal.AT), (3.60, removal.WORSE), (3.2, removal.BETTER)):
        removed = {"cell_acc": figure(0.12), "log_loss": figure(loss)}
        assert removal.against_prior(left(removed, prior)) == stands


def test_what_could_not_be_found_has_not_been_excluded() -> None:
    """A test of leakage counts only where the features have something to leak, and more than the interval reaches."""
    beyond, task = figure(-0.01), figure(0.0001, 0.0, 0.0002)
    assert card.nothing_smuggled(beyond, task, 0.0002, figure(0.1)).verdict == card.YES
    assert card.nothing_smuggled(beyond, task, 0.0002, figure(0.01, -0.01, 0.03)).verdict == card.CANNOT
    assert card.nothing_smuggled(figure(-0.01, -0.15, 0.13), task, 0.0002, figure(0.1)).verdict == card.CANNOT
    assert card.nothing_smuggled(figure(0.05), task, 0.0002, figure(0.0, -0.1, 0.1)).verdict == card.NO


def test_a_line_says_that_it_is_of_one_seed_or_shows_the_spread() -> None:
    one = card.of_one_seed(card.points_at_it(figure(0.82, 0.77, 0.88), 0.1, 0.2))
    assert one.figure.endswith("82 % [77, 88] (of one training seed)") and one.verdict == card.YES
    several = card.points_at_it(figure(0.82, 0.77, 0.88), 0.1, 0.2, of_seeds=[0.82, 0.97, 0.74])
    assert "trained with 3 seeds, 74% to 97%" in several.figure and several.verdict == card.PARTLY
    assert card.points_at_it(figure(0.82), 0.1, 0.2, of_seeds=[0.82, 0.15]).verdict == card.NO
    assert card.of_one_seed(card.stable(None)) == card.stable(None)


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
