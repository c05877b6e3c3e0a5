"""Trust card: can I trust this explanation? A criterion for each way in which it may be untrue, judged by thresholds.

Every verdict is a function of measured metrics, so that another run gets the verdict of its own. "yes" always speaks
for the explanation. What the questions and the rules are in words stands on the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np
import pandas as pd

from geocbm.explain.ablation import AT, BETTER, CELL_METRICS, FREQUENT, REMOVED, WORSE, against_prior, interval_of
from geocbm.explain.concept_information import ConceptInformation
from geocbm.explain.faithfulness import CONCEPTS, DELETION, MIDDLE, DeletionInsertion, headline
from geocbm.explain.localization import ATTENTION, CENTRE, CHANCE, CONCEPT, Localization
from geocbm.explain.randomization import randomized
from geocbm.explain.sparsity import Carried
from geocbm.explain.stability import MAPS
from geocbm.metrics import NOT_MEASURED, Estimate, columns_of, entries_of, entry_of

YES, PARTLY, NO, CANNOT, UNKNOWN = "yes", "partly", "no", "cannot be said", "not measured"
VERDICTS = (YES, PARTLY, NO, CANNOT, UNKNOWN)
"""`CANNOT`: it was measured, but what it is held against lies within the noise, or the question does not arise."""
QUESTIONS = (
    "localization", "faithfulness", "randomization", "additivity", "sparsity", "leakage", "completeness", "dependence",
    "stability",
)  # fmt: skip
POINTS_WELL = 0.8  # share of hits in the pointing game
ADDS_UP = 1e-4  # largest gap between a logit and the sum of its contributions
SUFFICES = 0.9  # part of the accuracy beyond the prior
BEYOND_RANDOM = 0.05  # countries that scores tell more than random directions, as a share
STABLE, UNSTABLE = 0.7, 0.4  # rank correlations over seeds
BEYOND_MIDDLE = "deletion beyond the middle"


@dataclass(frozen=True)
class Criterion:
    """One line of the card."""

    question: str  # one of `QUESTIONS`
    verdict: str  # one of `VERDICTS`
    measured: Estimate = field(default_factory=lambda: NOT_MEASURED)  # what the verdict is about
    against: Mapping[str, float] = field(default_factory=dict)  # what it is held against, by name


def _measured(estimate: Estimate | None) -> TypeGuard[Estimate]:
    return estimate is not None and bool(np.isfinite([estimate["value"], estimate["low"], estimate["high"]]).all())


def judge_localization(
    pointing: Estimate | None, controls: Mapping[str, float], of_seeds: Sequence[float] = ()
) -> Criterion:
    """Does the map of a concept point at the concept? Yes: at least `POINTS_WELL`, and above chance and the middle.

    `pointing` and `controls` are shares of maps whose maximum lies on the concept, `of_seeds` the same in models
    trained with other seeds, of which the lowest one decides.
    """
    if not _measured(pointing) or CHANCE not in controls:
        return Criterion("localization", UNKNOWN, pointing or NOT_MEASURED)
    least, lowest = min([pointing["low"], *of_seeds]), min([pointing["value"], *of_seeds])
    floor = max(controls[name] for name in (CHANCE, CENTRE) if name in controls)
    verdict = NO if least <= floor else YES if lowest >= POINTS_WELL else PARTLY
    return Criterion("localization", verdict, pointing, dict(controls))


def judge_faithfulness(gain: Estimate | None, beyond_middle: Estimate | None = None) -> Criterion:
    """Does it hurt the answer to remove the patches that the map names? Partly: not more than those in the middle.

    The true cell's loss of probability, beyond that with as many random patches and with patches from the middle
    outwards; both intervals should lie above 0.
    """
    if not _measured(gain):
        return Criterion("faithfulness", UNKNOWN, gain or NOT_MEASURED)
    verdict, against = (YES if gain["low"] > 0 else NO), {"random patches": 0.0}
    if _measured(beyond_middle):
        against["beyond the middle"] = beyond_middle["value"]
        verdict = PARTLY if verdict == YES and beyond_middle["low"] <= 0 else verdict
    return Criterion("faithfulness", verdict, gain, against)


def judge_randomization(similarity: Mapping[str, Estimate], chance: float = 0.0) -> Criterion:
    """Do maps change when all weights are random? Yes: all intervals below `UNSTABLE`; no: one at `STABLE` or above.

    Rank correlations, without their sign, of each map with itself before; where that of unrelated maps reaches
    `UNSTABLE` by `chance`, of a few patches, it cannot be said. The most similar map is shown.
    """
    known = {name: one for name, one in similarity.items() if _measured(one)}
    if not known:
        return Criterion("randomization", UNKNOWN)
    worst = max(known.values(), key=lambda one: one["value"])
    if chance >= UNSTABLE:
        verdict = CANNOT
    elif worst["value"] >= STABLE:
        verdict = NO
    else:
        verdict = YES if max(one["high"] for one in known.values()) < UNSTABLE else PARTLY
    against = {name: one["value"] for name, one in known.items()} | {"unrelated maps": chance}
    return Criterion("randomization", verdict, worst, against)


def judge_additivity(gap: float) -> Criterion:
    """Do the contributions of the concepts add up to the answer, to `ADDS_UP`? `gap` is the largest difference."""
    return Criterion("additivity", YES if gap <= ADDS_UP else NO, NOT_MEASURED | {"value": gap}, {"rounding": ADDS_UP})


def judge_sparsity(found: Carried) -> Criterion:
    """Can the reasons be read: do a few concepts keep `SUFFICES` of what the head knows beyond the prior?

    Partly: half. No: less, or no more than random ones keep. Of a head no better than the prior it cannot be said.
    """
    if not _measured(found.over_prior):
        return Criterion("sparsity", UNKNOWN)
    kept = found.share["value"]
    if found.over_prior["low"] <= 0 or not _measured(found.share):
        verdict = CANNOT
    elif not found.over_random["low"] > 0:
        verdict = NO
    else:
        verdict = YES if kept >= SUFFICES else PARTLY if kept >= 0.5 else NO
    return Criterion("sparsity", verdict, found.share, found.right)


def no_leakage(
    beyond_truth: Estimate | None,
    concepts_task: Estimate | None = None,
    concepts_task_null: float = 0.0,
    hidden: Estimate | None = None,
) -> Criterion:
    """Do the scores tell of the place only what the concepts tell?

    No: beside all true concepts scores tell more countries right (`beyond_truth`), beyond the interval. Partly: not so,
    but single scores tell more than their own concept (the concepts-task leakage lies above its null). Yes: neither,
    and the interval excludes what the features would add there (`hidden`, the most that can leak); else it cannot be
    said.
    """
    if not _measured(beyond_truth):
        return Criterion("leakage", UNKNOWN, beyond_truth or NOT_MEASURED)
    verdict, against = (NO if beyond_truth["low"] > 0 else YES), {"nothing": 0.0}
    if _measured(concepts_task):
        against |= {"single scores (CTL)": concepts_task["value"], "CTL where nothing leaks": concepts_task_null}
        verdict = PARTLY if verdict == YES and concepts_task["low"] > concepts_task_null else verdict
    if _measured(hidden):
        against["features add"] = hidden["value"]
        # A test that could not find what is there to be found has found nothing out.
        if verdict == YES and not (hidden["low"] > 0 and beyond_truth["high"] < hidden["value"]):
            verdict = CANNOT
    return Criterion("leakage", verdict, beyond_truth, against)


def judge_completeness(
    ratio: Estimate | None, seen: Estimate | None, right: Mapping[str, float], by_name: Estimate | None = None
) -> Criterion:
    """Do the concepts suffice, and is it the concepts that do?

    Yes: completeness (`ratio`) is at least `SUFFICES`, and as many random directions of the features tell fewer
    countries `right` than the scores by `BEYOND_RANDOM`, beyond the paired interval `by_name`. Partly: the first alone.
    Where the features tell no more than guessing (`seen`) it cannot be said.
    """
    if not _measured(seen):
        return Criterion("completeness", UNKNOWN)
    if seen["low"] <= 0 or not _measured(ratio):
        return Criterion("completeness", CANNOT, ratio or NOT_MEASURED, {"features beyond guessing": seen["value"]})
    verdict = NO
    if ratio["value"] >= SUFFICES:
        beyond = right["scores"] - right["random"] >= BEYOND_RANDOM
        verdict = YES if beyond and not (_measured(by_name) and by_name["low"] <= 0) else PARTLY
    against = {"countries by scores": right["scores"], "by random directions": right["random"]}
    return Criterion("completeness", verdict, ratio, against)


def judge_dependence(removed: Mapping[str, Estimate], prior: Mapping[str, Estimate], stands: str) -> Criterion:
    """Does the answer fall to the prior when all concepts are removed? Yes: at it; partly: below; no: better.

    `removed` and `prior` hold `ablation.CELL_METRICS`, `stands` is of `ablation.against_prior`.
    """
    measured = all(_measured(estimate) for one in (removed, prior) for estimate in one.values())
    verdict = {AT: YES, WORSE: PARTLY, BETTER: NO}[stands] if measured else UNKNOWN
    against = {"log loss of the prior": prior["log_loss"]["value"], "cells right": removed["cell_acc"]["value"]}
    return Criterion("dependence", verdict, removed["log_loss"], against)


def judge_stability(correlation: Estimate | None, between: float = -1.0) -> Criterion:
    """Is it the same explanation when the model is trained again? Yes from `STABLE`, partly from `UNSTABLE` on.

    Rank correlations of the same picture over seeds; the interval must lie above that of different pictures, `between`.
    """
    if not _measured(correlation):
        return Criterion("stability", UNKNOWN, correlation or NOT_MEASURED)
    verdict = YES if correlation["value"] >= STABLE else PARTLY if correlation["value"] >= UNSTABLE else NO
    verdict = verdict if correlation["low"] > between else NO
    return Criterion("stability", verdict, correlation, {"different pictures": between})


def map_tests(located: Localization | None, removed: Mapping[tuple[str, str], DeletionInsertion]) -> pd.DataFrame:
    """What the card asks of the maps: `value` with `_low` and `_high` by test; no row for one that was not made."""
    found = {} if located is None else {way: located.estimate(way) for way in (CONCEPT, CHANCE, CENTRE, ATTENTION)}
    if own := headline(removed):
        found |= {DELETION: own.gain(CONCEPTS), BEYOND_MIDDLE: own.gain(CONCEPTS, MIDDLE)}
    measured = {name: columns_of("value", figure) for name, figure in found.items() if figure is not None}
    return pd.DataFrame.from_dict(measured, orient="index", columns=list(columns_of("value", NOT_MEASURED)))


def trust_card(
    information: ConceptInformation,
    left: pd.DataFrame,
    maps: pd.DataFrame,
    seeds: pd.DataFrame | None = None,
    drawn: pd.DataFrame | None = None,
) -> list[Criterion]:
    """Every question of the card with its verdict, in the order of `QUESTIONS`.

    Of `ablation.ablate_all_concepts`, `map_tests` and, if measured, `measure_stability` and `measure_randomization`.
    """
    of_seeds = [] if seeds is None else seeds.attrs["pointing"]
    of_maps = {str(test): entry_of(row, "value") for test, row in maps.to_dict("index").items()}
    controls = {way: of_maps[way]["value"] for way in (CHANCE, CENTRE, ATTENTION) if way in of_maps}
    gains, leakage, complete = information.gains, information.leakage, information.completeness.get("probe_country")
    task, task_null = (None, 0.0) if leakage is None else (leakage.concepts_task, leakage.concepts_task_null)
    ratio = None if complete is None else entry_of(complete, "completeness")
    right = {name: float(probe.right.mean()) for name, probe in information.probes.items()}
    without, prior = (
        {name: interval_of(left, method, name) for name in CELL_METRICS} for method in (REMOVED, FREQUENT)
    )
    about_places = [
        judge_sparsity(information.carried),
        no_leakage(gains.get("beyond_truth"), task, task_null, gains.get("hidden")),
        judge_completeness(ratio, gains.get("seen"), right, gains.get("by_name")),
        judge_dependence(without, prior, against_prior(left)),
    ]
    if not information.answerable:  # of a left-out country nothing could be told right
        about_places = [Criterion(line.question, UNKNOWN) for line in about_places]
    same, different = (entries_of(seeds, "explanation", name).get(MAPS) for name in ("same", "different"))
    return [
        judge_localization(of_maps.get(CONCEPT), controls, of_seeds),
        judge_faithfulness(of_maps.get(DELETION), of_maps.get(BEYOND_MIDDLE)),
        judge_randomization(randomized(drawn), 0.0 if drawn is None or drawn.empty else float(drawn["chance"].iloc[0])),
        judge_additivity(information.effective.gap),
        *about_places,
        judge_stability(same, different["value"] if different else -1.0),
    ]


def card_table(card: Sequence[Criterion]) -> pd.DataFrame:
    """The card as numbers: `question, verdict, measured` with `_low` and `_high`, and `against`."""
    lines = []
    for line in card:
        against = "; ".join(f"{name} {value:.3g}" for name, value in line.against.items())
        measured = columns_of("measured", line.measured)
        lines.append({"question": line.question, "verdict": line.verdict} | measured | {"against": against})
    return pd.DataFrame(lines)
