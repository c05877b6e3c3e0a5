"""The trust card of a run: all its lines, from what the page has measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geocbm.explain import trust_card as card
from geocbm.explain.ablation import CELL_FIGURES, FREQUENT, REMOVED, against_prior, interval_of

if TYPE_CHECKING:
    import pandas as pd

    from geocbm.explain.concept_information import Told

Figure = Mapping[str, float]


def card_lines(
    told: Told,
    left: pd.DataFrame,
    pointing: Mapping[str, Figure] | None = None,
    deletion: Mapping[str, Figure] | None = None,
    stability: Mapping[str, Figure] | None = None,
    seeds: pd.DataFrame | None = None,
) -> list[card.Line]:
    """Every question of the card with its verdict.

    Args:
        told: of `measure_told`.
        left: of `ablate_all_concepts`.
        pointing: figures `map`, `chance`, `centre` and `attention`; empty where nobody knows where concepts are.
        deletion: figures `random` and `centre`: what the true cell's probability loses beyond these controls.
        stability: figures `same` (rank correlation of the same picture over seeds) and `different` (of others).
        seeds: of `measure_stability`, where the run was trained with several seeds.

    Returns:
        The lines; a question whose figures are None was not asked and has none. What was measured of one trained
        model says so.
    """
    of_seeds = [] if seeds is None else [float(one) for one in seeds.attrs.get("pointing", [])]
    complete = told.completeness.get("probe_country")
    leakage = told.leakage
    lines = []
    if pointing is not None:
        chance, centre, attention = (_value(pointing.get(name)) for name in ("chance", "centre", "attention"))
        lines.append(card.points_at_it(pointing.get("map"), chance, centre, attention, of_seeds))
    if deletion is not None:
        lines.append(card.removal_hurts(deletion.get("random"), deletion.get("centre")))
    lines.append(card.adds_up(told.effective.gap))
    told_right = {
        name: float(told.readings[name].right.mean()) if name in told.readings else 0.0 for name in ("scores", "random")
    }
    about_places = [
        card.named_by_concepts(told.carried),
        card.nothing_smuggled(
            told.gains.get("beyond_truth"),
            None if leakage is None else leakage.concepts_task,
            None if leakage is None else leakage.concepts_task_null,
            told.gains.get("hidden"),
        ),
        card.suffices(
            None if complete is None else complete[3],
            told.gains.get("seen"),
            told_right["scores"],
            told_right["random"],
            told.gains.get("by_name"),
        ),
        card.falls_without_concepts(
            {name: interval_of(left, REMOVED, name) for name in CELL_FIGURES},
            {name: interval_of(left, FREQUENT, name) for name in CELL_FIGURES},
            against_prior(left),
        ),
    ]
    lines += about_places if told.answerable else [card.unanswerable(line) for line in about_places]
    exact = lines.index(next(line for line in lines if line.question == card.ADDS_UP_QUESTION))
    lines = [line if at == exact else card.of_one_seed(line) for at, line in enumerate(lines)]
    if stability is not None:
        lines.append(card.stable(stability.get("same"), _value(stability.get("different"))))
    return lines


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else float(figure["value"])
