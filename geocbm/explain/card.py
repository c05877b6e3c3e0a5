"""Can I trust this explanation? One line for each way in which it may be untrue, judged by stated rules.

Every judgement is a function of measured figures, so that another run gets the judgement of its own figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

Figure = Mapping[str, float]
YES, PARTLY, NO, UNKNOWN = "yes", "partly", "no", "not measured"
VERDICTS = (YES, PARTLY, NO, UNKNOWN)
POINTS_WELL = 0.8
ADDS_UP = 1e-4
SUFFICES = 0.9
STABLE, UNSTABLE = 0.7, 0.4


@dataclass(frozen=True)
class Line:
    """One line of the card.

    Attributes:
        question: what is asked; "yes" always speaks for the explanation.
        verdict: `YES`, `PARTLY`, `NO` or `UNKNOWN`.
        figure: what was measured, in words.
        yardstick: what it is held against, in words.
        rule: when the verdict would be yes, and when partly.
    """

    question: str
    verdict: str
    figure: str
    yardstick: str
    rule: str


def _percent(figure: Figure) -> str:
    return "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * figure[part] for part in ("value", "low", "high")))


def _points(figure: Figure) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}] points".format(*(100 * figure[part] for part in ("value", "low", "high")))


def _number(figure: Figure, form: str = "{:.2f}") -> str:
    return "{} [{}, {}]".format(*(form.format(figure[part]) for part in ("value", "low", "high")))


def _measured(figure: Figure | None) -> bool:
    return figure is not None and bool(np.isfinite([figure["value"], figure["low"], figure["high"]]).all())


def points_at_it(
    pointing: Figure | None, chance: float | None, centre: float | None = None, attention: float | None = None
) -> Line:
    """Does the map of a concept point at the concept?

    Args:
        pointing: share of maps whose maximum lies on the concept; None where nobody knows where concepts are.
        chance: the share for a patch drawn at random.
        centre: the share for a map that always points at the middle.
        attention: the share for the attention of Stage 2.
    """
    question = "Does a concept's map point at the concept?"
    rule = f"yes: at least {POINTS_WELL:.0%}, the interval above chance and the middle; partly: the interval above both"
    if not _measured(pointing) or chance is None:
        return Line(question, UNKNOWN, "the data does not say where concepts are", "", rule)
    assert pointing is not None
    controls = {"a random patch": chance, "the middle of the picture": centre, "attention": attention}
    known = {name: value for name, value in controls.items() if value is not None and np.isfinite(value)}
    floor = max(value for name, value in known.items() if name != "attention")
    verdict = NO if pointing["low"] <= floor else YES if pointing["value"] >= POINTS_WELL else PARTLY
    yardstick = ", ".join(f"{name} {value:.0%}" for name, value in known.items())
    return Line(
        question,
        verdict,
        f"where it is small and the label, the maximum lies on it in {_percent(pointing)}",
        yardstick,
        rule,
    )


def removal_hurts(gain: Figure | None, beyond: Figure | None = None, what: str = "the centre of the picture") -> Line:
    """Does it hurt the answer to remove the patches that the map names?

    Args:
        gain: mean fall of the true cell's probability beyond that of as many random patches, paired.
        beyond: the same beyond a further control.
        what: that control in words.
    """
    question = "Does removing the patches it names hurt the answer?"
    rule = (
        "yes: the interval of the extra fall lies above 0, for random patches and for the other control; partly: for "
        "random patches alone"
    )
    if not _measured(gain):
        return Line(question, UNKNOWN, "no patches could be removed", "", rule)
    assert gain is not None
    figure = f"the true cell loses {_points(gain)} more than with random patches"
    verdict, yardstick = (YES if gain["low"] > 0 else NO), "as many random patches"
    if _measured(beyond):
        assert beyond is not None
        yardstick += f"; beyond {what}: {_points(beyond)}"
        verdict = PARTLY if verdict == YES and beyond["low"] <= 0 else verdict
    return Line(question, verdict, figure, yardstick, rule)


def adds_up(deviation: float | None) -> Line:
    """Do the contributions of the concepts add up to the answer?

    Args:
        deviation: largest gap between a logit and the sum of its contributions; None where the run has no such head.
    """
    question = "Do the contributions add up to the answer?"
    rule = f"yes: every logit is the sum of its contributions to {ADDS_UP:g}"
    if deviation is None or not np.isfinite(deviation):
        return Line(question, UNKNOWN, "the run has no head that sums concepts", "", rule)
    return Line(question, YES if deviation <= ADDS_UP else NO, f"largest gap {deviation:.1e}", f"{ADDS_UP:g}", rule)


def nothing_smuggled(
    beyond_truth: Figure | None, concepts_task: Figure | None = None, concepts_task_null: float | None = None
) -> Line:
    """Do the scores tell of the place only what the concepts tell?

    Args:
        beyond_truth: how many more countries are told right by scores beside the true concepts; None without truth.
        concepts_task: concepts-task leakage of single scores.
        concepts_task_null: the same of scores that know their concept and nothing more.
    """
    question = "Do scores tell of the country only what the concepts tell?"
    rule = (
        "no: beside all true concepts scores tell more countries right, beyond the interval; partly: not so, but "
        "single scores tell more than their own concept; yes: neither"
    )
    if not _measured(beyond_truth):
        return Line(question, UNKNOWN, "the data has no list of all visible concepts", "", rule)
    assert beyond_truth is not None
    figure = f"scores add {_points(beyond_truth)} to the true concepts"
    verdict, yardstick = (NO if beyond_truth["low"] > 0 else YES), "0 points"
    if _measured(concepts_task) and concepts_task_null is not None:
        assert concepts_task is not None
        figure += f"; single scores leak {_number(concepts_task, '{:.4f}')} (CTL)"
        yardstick += f"; {concepts_task_null:.4f} where nothing leaks"
        verdict = PARTLY if verdict == YES and concepts_task["low"] > concepts_task_null else verdict
    return Line(question, verdict, figure, yardstick, rule)


def named_by_concepts(share: Figure | None, count: int, all_right: float | None) -> Line:
    """Can the reasons be read: how good is the answer with the few concepts that a person reads?

    Args:
        share: accuracy with the largest contributions of each decision alone, as a part of that with all.
        count: how many contributions.
        all_right: share of right cells with all concepts.
    """
    question = f"Do {count} concepts carry the answer?"
    rule = f"yes: at least {SUFFICES:.0%} of the accuracy is kept; partly: at least half"
    if not _measured(share) or all_right is None:
        return Line(question, UNKNOWN, "the run has no head that sums concepts", "", rule)
    assert share is not None
    verdict = YES if share["value"] >= SUFFICES else PARTLY if share["value"] >= 0.5 else NO
    figure = f"the {count} largest contributions keep {_percent(share)} of the right cells"
    return Line(question, verdict, figure, f"{all_right:.0%} of the cells are right with all concepts", rule)


def suffices(ratio: Figure | None, seen: Figure | None, concepts: float, random: float) -> Line:
    """Do the concepts suffice, and is it the concepts that do?

    Args:
        ratio: completeness of the scores.
        seen: how many more countries the features tell than guessing does.
        concepts: share of countries told right by the scores.
        random: the same by as many random directions of the features.
    """
    question = "Do the concepts suffice, and is it due to them?"
    rule = (
        f"yes: completeness at least {SUFFICES} and random directions tell less than the scores by 5 points; partly: "
        f"completeness at least {SUFFICES}"
    )
    if not _measured(ratio) or not _measured(seen):
        return Line(question, UNKNOWN, "the country could not be read", "", rule)
    assert ratio is not None and seen is not None
    if seen["low"] <= 0:
        return Line(question, UNKNOWN, f"features tell {_points(seen)} more than guessing", "0 points", rule)
    enough = ratio["value"] >= SUFFICES
    verdict = NO if not enough else YES if concepts - random >= 0.05 else PARTLY
    figure = f"completeness {_number(ratio)}: scores tell {concepts:.0%} of the countries"
    return Line(question, verdict, figure, f"as many random directions tell {random:.0%}", rule)


def falls_without_concepts(removed: Mapping[str, Figure], prior: Mapping[str, Figure], falls: bool) -> Line:
    """Does the answer fall to the prior when all concepts are removed?

    Args:
        removed: what is left without concepts: `cell_acc`, the share of right cells, and `log_loss`, in nats.
        prior: the same of the most frequent cell and of the frequencies of the cells.
        falls: of `explain.falls_to_prior`.
    """
    question = "Without concepts, is nothing left but the prior?"
    rule = "yes: neither the cell named nor the belief in the true cell is better than the prior's, by their intervals"
    own, guess = (
        f"{_percent(one['cell_acc'])} of the cells right, log loss {_number(one['log_loss'])}"
        for one in (removed, prior)
    )
    measured = all(_measured(figure) for one in (removed, prior) for figure in one.values())
    return Line(question, (YES if falls else NO) if measured else UNKNOWN, own, f"prior: {guess}", rule)


def stable(correlation: Figure | None, between: float | None = None) -> Line:
    """Is it the same explanation when the model is trained again?

    Args:
        correlation: mean rank correlation of the explanations of the same picture over seeds.
        between: the same between different pictures.
    """
    question = "Is it the same explanation after training again?"
    rule = (
        f"yes: rank correlation at least {STABLE} and above that of different pictures; partly: at least {UNSTABLE} "
        "and above it"
    )
    if not _measured(correlation):
        return Line(question, UNKNOWN, "needs stability_seeds", "", rule)
    assert correlation is not None
    above = between is None or correlation["low"] > between
    verdict = YES if correlation["value"] >= STABLE else PARTLY if correlation["value"] >= UNSTABLE else NO
    yardstick = "" if between is None else f"{between:.2f} between different pictures"
    return Line(question, verdict if above else NO, f"rank correlation {_number(correlation)}", yardstick, rule)


def unanswerable(line: Line) -> Line:
    """The line where no picture could have been answered right: a left-out country, which training never showed."""
    return replace(line, verdict=UNKNOWN, figure="no country of the test split is in the training split", yardstick="")


def card_table(lines: Sequence[Line]) -> pd.DataFrame:
    """The card as a table for a page."""
    return pd.DataFrame(
        [
            {
                "question": line.question,
                "verdict": line.verdict,
                "measured": line.figure,
                "held against": line.yardstick,
                "rule": line.rule,
            }
            for line in lines
        ]
    )


def card_summary(lines: Sequence[Line]) -> str:
    """The card in one sentence or two.

    Args:
        lines: at least one.
    """
    counts = Counter(line.verdict for line in lines)
    named = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    weak = [line.question for line in lines if line.verdict == NO]
    text = f"Of {len(lines)} {'question' if len(lines) == 1 else 'questions'}: {', '.join(named)}."
    return text + (f" The explanation does not hold where it says no: {' '.join(weak)}" if weak else "")
