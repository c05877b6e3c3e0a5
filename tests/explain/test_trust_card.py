"""The trust card: every verdict follows from figures by the stated rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geocbm.explain import ablation as removal
from geocbm.explain import sparsity as effective
from geocbm.explain import trust_card as card
from geocbm.explain.concept_information import measure_concept_information
from geocbm.explain.concept_labels import read_concept_labels
from geocbm.explain.localization import ATTENTION, CENTRE, CHANCE
from geocbm.explain.probes import ProbeResult
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
    controls = {CHANCE: chance, CENTRE: centre, ATTENTION: 0.95}
    known = {name: value for name, value in controls.items() if value is not None}
    line = card.judge_localization(pointing, known)
    assert line.verdict == verdict
    if verdict != card.UNKNOWN:
        assert line.against == known and line.measured == pointing


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
    assert card.judge_faithfulness(gain, beyond).verdict == verdict


@pytest.mark.parametrize(
    ("deviation", "verdict"),
    [(3e-6, card.YES), (1e-4, card.YES), (2e-4, card.NO)],
)
def test_adding_up(deviation: float, verdict: str) -> None:
    assert card.judge_additivity(deviation).verdict == verdict


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
    assert card.no_leakage(beyond, task, 0.0002).verdict == verdict


def kept(share: float, over_prior: dict, over_random: dict | None = None) -> Carried:
    rates = {"with these": 0.141, "with all": 0.141, "prior": 0.127, "random": 0.128}
    return Carried(figure(share), over_prior, over_random or figure(0.2), rates)


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.95, card.YES), (0.7, card.PARTLY), (0.3, card.NO)],
)
def test_few_concepts(share: float, verdict: str) -> None:
    assert card.judge_sparsity(kept(share, figure(0.3))).verdict == verdict


def test_concepts_carry_nothing_of_a_head_that_is_no_better_than_the_prior() -> None:
    """14.1 % of the cells right where the prior has 12.7: 110 % of that is no answer."""
    line = card.judge_sparsity(kept(1.1, figure(0.014, -0.03, 0.06)))
    assert line.verdict == card.CANNOT
    assert line.against["prior"] == 0.127 and line.against["with all"] == 0.141
    worse = card.judge_sparsity(kept(1.1, figure(-0.05)))
    assert worse.verdict == card.CANNOT


def test_few_concepts_must_carry_more_than_random_ones() -> None:
    assert card.judge_sparsity(kept(0.95, figure(0.3), figure(0.01, -0.02, 0.04))).verdict == card.NO


def test_a_few_concepts_are_counted_from_the_prior() -> None:
    """Of 20 pictures the prior has 4 right, all concepts 14, three concepts 9: half of what lies beyond the prior."""
    rights = {name: np.arange(20) < n for name, n in (("prior", 4), ("all", 14), ("some", 9), ("random", 5))}
    found = effective.EffectiveConcepts(
        counts=(3,),
        named=np.zeros(20),
        right={"decision": rights["some"][None], "random": rights["random"][None], "weights": rights["some"][None]},
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
    assert np.isnan(barely.share["value"]) and card.judge_sparsity(barely).verdict == card.CANNOT


@pytest.mark.parametrize(
    ("ratio", "random", "verdict"),
    [(0.99, 0.4, card.YES), (0.99, 0.6, card.PARTLY), (0.5, 0.1, card.NO)],
)
def test_completeness_is_held_against_random_directions(ratio: float, random: float, verdict: str) -> None:
    right = {"scores": 0.61, "random": random}
    line = card.judge_completeness(figure(ratio), figure(0.5), right)
    assert line.verdict == verdict and line.against["by random directions"] == random
    # nothing to be complete of
    assert card.judge_completeness(figure(ratio), figure(0.01), right).verdict == card.CANNOT
    within_noise = figure(0.61 - random, -0.01, 0.5)
    verdict_within_noise = card.judge_completeness(figure(ratio), figure(0.5), right, within_noise).verdict
    assert verdict_within_noise in (card.PARTLY, card.NO)


def test_without_concepts() -> None:
    removed = {"cell_acc": figure(0.017, 0.001, 0.046), "log_loss": figure(4.69)}
    prior = {"cell_acc": figure(0.015, 0.0, 0.044), "log_loss": figure(4.62)}
    assert card.judge_dependence(removed, prior, removal.AT).verdict == card.YES
    assert card.judge_dependence(removed, prior, removal.BETTER).verdict == card.NO
    below = card.judge_dependence(removed, prior, removal.WORSE)
    assert below.verdict == card.PARTLY and below.against["log loss of the prior"] == 4.62
    unmeasured = removed | {"log_loss": figure(4.7, float("nan"))}
    assert card.judge_dependence(unmeasured, prior, removal.AT).verdict == card.UNKNOWN


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


def test_what_could_not_be_found_has_not_been_excluded() -> None:
    """A test of leakage counts only where the features have something to leak, and more than the interval reaches."""
    beyond, task = figure(-0.01), figure(0.0001, 0.0, 0.0002)
    assert card.no_leakage(beyond, task, 0.0002, figure(0.1)).verdict == card.YES
    assert card.no_leakage(beyond, task, 0.0002, figure(0.01, -0.01, 0.03)).verdict == card.CANNOT
    assert card.no_leakage(figure(-0.01, -0.15, 0.13), task, 0.0002, figure(0.1)).verdict == card.CANNOT
    assert card.no_leakage(figure(0.05), task, 0.0002, figure(0.0, -0.1, 0.1)).verdict == card.NO


def test_the_worst_of_several_seeds_decides() -> None:
    controls = {CHANCE: 0.1, CENTRE: 0.2}
    measured = figure(0.82, 0.77, 0.88)
    assert card.judge_localization(measured, controls).verdict == card.YES
    assert card.judge_localization(measured, controls, of_seeds=[0.82, 0.97, 0.74]).verdict == card.PARTLY
    assert card.judge_localization(measured, controls, of_seeds=[0.82, 0.15]).verdict == card.NO


@pytest.mark.parametrize(
    ("correlation", "between", "verdict"),
    [
        (figure(0.9), 0.3, card.YES),
        (figure(0.9), 0.89, card.NO),
        (figure(0.5), 0.3, card.PARTLY),
        (figure(0.3), 0.1, card.NO),
        (None, 0.3, card.UNKNOWN),
    ],
)
def test_stability(correlation: dict | None, between: float, verdict: str) -> None:
    assert card.judge_stability(correlation, between).verdict == verdict


def test_the_card_is_a_table_of_numbers() -> None:
    lines = [card.judge_additivity(0.0), card.judge_additivity(1.0), card.judge_stability(figure(0.9), 0.3)]
    table = card.card_table(lines)
    assert table["verdict"].tolist() == [card.YES, card.NO, card.YES]
    assert table["measured"].tolist() == [0.0, 1.0, 0.9] and table["against"][2] == "different pictures 0.3"


def test_the_card_of_a_run_has_every_question(trained_run, features, linear) -> None:
    files = trained_run.files
    test, pooled = files.rows["test"], features.read_all("pooled").numpy()
    cells = files.cell_label[test]
    information = measure_concept_information(files, linear, read_concept_labels(files), pooled, cells, n_resamples=20)
    without = removal.ablate_all_concepts(files, linear, test, 20)
    unknown = card.map_tests(None, {})
    lines = card.trust_card(information, without, unknown)
    assert [line.question for line in lines] == list(card.QUESTIONS)
    by_question = {line.question: line.verdict for line in lines}
    assert by_question["additivity"] == card.YES
    for question in ("localization", "faithfulness", "randomization", "leakage", "stability"):
        assert by_question[question] == card.UNKNOWN
    unseen = {"prior": ProbeResult(np.zeros(len(test), bool), np.full(len(test), np.nan))}
    left_out = card.trust_card(replace(information, probes=unseen), without, unknown)
    assert {line.verdict for line in left_out if line.question != "additivity"} == {card.UNKNOWN}
