"""Can I trust this explanation? One line for each way in which it may be untrue, judged by stated rules.

Every judgement is a function of measured figures, so that another run gets the judgement of its own figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from geocbm.explain.ablation import AT, BETTER, MARGIN_NATS, WORSE
from geocbm.explain.sparsity import Carried
from geocbm.metrics import NO_INTERVAL, figure_text

Figure = Mapping[str, float]
YES, PARTLY, NO, CANNOT, UNKNOWN = "yes", "partly", "no", "cannot be said", "not measured"
VERDICTS = (YES, PARTLY, NO, CANNOT, UNKNOWN)
"""`CANNOT`: it was measured, but what it is held against lies within the noise, or the question does not arise."""
ADDS_UP_QUESTION = "Do the contributions add up to the answer?"
ONE_SEED = "of one training seed"
POINTS_WELL = 0.8
ADDS_UP = 1e-4
SUFFICES = 0.9
STABLE, UNSTABLE = 0.7, 0.4


@dataclass(frozen=True)
class Line:
    """One line of the card.

    Attributes:
        question: what is asked; "yes" always speaks for the explanation.
        verdict: one of `VERDICTS`.
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
    return "{:+z.1f} [{:+z.1f}, {:+z.1f}] points".format(*(100 * figure[part] for part in ("value", "low", "high")))


def _number(figure: Figure, form: str = "{:.2f}") -> str:
    return "{} [{}, {}]".format(*(form.format(figure[part]) for part in ("value", "low", "high")))


def _measured(figure: Figure | None) -> bool:
    return figure is not None and bool(np.isfinite([figure["value"], figure["low"], figure["high"]]).all())


def _why(figure: Figure | None, otherwise: str) -> str:
    """Why there is no verdict: the figure is there without an interval, or it is not there."""
    return NO_INTERVAL if figure is not None and np.isfinite(figure["value"]) else otherwise


def points_at_it(
    pointing: Figure | None,
    chance: float | None,
    centre: float | None = None,
    attention: float | None = None,
    of_seeds: Sequence[float] = (),
) -> Line:
    """Does the map of a concept point at the concept?

    Args:
        pointing: share of maps whose maximum lies on the concept; None where nobody knows where concepts are.
        chance: the share for a patch drawn at random.
        centre: the share for a map that always points at the middle.
        attention: the share for the attention of Stage 2.
        of_seeds: the share in models trained with other seeds; the lowest one decides.
    """
    question = "Does a concept's map point at the concept?"
    rule = (
        f"yes: at least {POINTS_WELL:.0%}, the interval above chance and the middle; partly: the interval above both; "
        "with several training seeds, for each of them"
    )
    if not _measured(pointing) or chance is None:
        return Line(question, UNKNOWN, _why(pointing, "the data does not say where concepts are"), "", rule)
    assert pointing is not None
    controls = {"a random patch": chance, "the middle of the picture": centre, "attention": attention}
    known = {name: value for name, value in controls.items() if value is not None and np.isfinite(value)}
    floor = max(value for name, value in known.items() if name != "attention")
    least, lowest = min([pointing["low"], *of_seeds]), min([pointing["value"], *of_seeds])
    verdict = NO if least <= floor else YES if lowest >= POINTS_WELL else PARTLY
    yardstick = ", ".join(f"{name} {value:.0%}" for name, value in known.items())
    figure = f"where it is small and the label, the maximum lies on it in {_percent(pointing)}"
    if of_seeds:
        figure += f"; trained with {len(of_seeds)} seeds, {min(of_seeds):.0%} to {max(of_seeds):.0%}"
    return Line(question, verdict, figure, yardstick, rule)


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
        return Line(question, UNKNOWN, _why(gain, "no patches could be removed"), "", rule)
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
    question = ADDS_UP_QUESTION
    rule = f"yes: every logit is the sum of its contributions to {ADDS_UP:g}"
    if deviation is None or not np.isfinite(deviation):
        return Line(question, UNKNOWN, "the run has no head that sums concepts", "", rule)
    return Line(question, YES if deviation <= ADDS_UP else NO, f"largest gap {deviation:.1e}", f"{ADDS_UP:g}", rule)


def nothing_smuggled(
    beyond_truth: Figure | None,
    concepts_task: Figure | None = None,
    concepts_task_null: float | None = None,
    hidden: Figure | None = None,
) -> Line:
    """Do the scores tell of the place only what the concepts tell?

    Args:
        beyond_truth: how many more countries are told right by scores beside the true concepts; None without truth.
        concepts_task: concepts-task leakage of single scores.
        concepts_task_null: the same of scores that know their concept and nothing more.
        hidden: how many more countries are told right by the features beside the true concepts: the most that can leak.
    """
    question = "Do scores tell of the country only what the concepts tell?"
    rule = (
        "no: beside all true concepts scores tell more countries right, beyond the interval; partly: not so, but "
        "single scores tell more than their own concept; yes: neither, and the interval excludes what the features "
        "would add; where that is nothing, it cannot be said"
    )
    if not _measured(beyond_truth):
        return Line(question, UNKNOWN, _why(beyond_truth, "the data has no list of all visible concepts"), "", rule)
    assert beyond_truth is not None
    figure = f"scores add {_points(beyond_truth)} to the true concepts"
    verdict, yardstick = (NO if beyond_truth["low"] > 0 else YES), "0 points"
    if _measured(concepts_task) and concepts_task_null is not None:
        assert concepts_task is not None
        figure += f"; single scores leak {_number(concepts_task, '{:.4f}')} (CTL)"
        yardstick += f"; {concepts_task_null:.4f} where nothing leaks"
        verdict = PARTLY if verdict == YES and concepts_task["low"] > concepts_task_null else verdict
    if _measured(hidden):
        assert hidden is not None
        yardstick += f"; the features add {_points(hidden)}"
        # A test that could not find what is there to be found has found nothing out.
        if verdict == YES and not (hidden["low"] > 0 and beyond_truth["high"] < hidden["value"]):
            verdict = CANNOT
    return Line(question, verdict, figure, yardstick, rule)


def named_by_concepts(found: Carried | None) -> Line:
    """Can the reasons be read: how good is the answer with the few concepts that a person reads?

    Args:
        found: of `effective.carried`; None where the run has no head that sums concepts.
    """
    count = "a few" if found is None else str(found.count)
    question = f"Do {count} concepts carry the answer?"
    rule = (
        f"yes: at least {SUFFICES:.0%} of what the head knows beyond the prior is kept; partly: at least half; no: "
        "less, or no more than as many random concepts keep; of a head no better than the prior it cannot be said"
    )
    if found is None or not _measured(found.over_prior):
        return Line(question, UNKNOWN, "the run has no head that sums concepts, or too few pictures", "", rule)
    right = {name: f"{share:.1%}" for name, share in found.right.items()}
    yardstick = f"prior {right['prior']}, all concepts {right['with all']}, {found.count} random ones {right['random']}"
    if found.over_prior["low"] <= 0 or not _measured(found.share):
        figure = f"the head names {_points(found.over_prior)} more cells right than the prior: no better beyond noise"
        return Line(question, CANNOT, figure, yardstick, rule)
    kept = found.share["value"]
    verdict = YES if kept >= SUFFICES else PARTLY if kept >= 0.5 else NO
    if not (_measured(found.over_random) and found.over_random["low"] > 0):
        verdict = NO
    figure = (
        f"the {found.count} largest contributions name {right['with these']} of the cells right and keep "
        f"{_percent(found.share)} of what lies beyond the prior"
    )
    return Line(question, verdict, figure, yardstick, rule)


def suffices(
    ratio: Figure | None, seen: Figure | None, concepts: float, random: float, by_name: Figure | None = None
) -> Line:
    """Do the concepts suffice, and is it the concepts that do?

    Args:
        ratio: completeness of the scores.
        seen: how many more countries the features tell than guessing does.
        concepts: share of countries told right by the scores.
        random: the same by as many random directions of the features.
        by_name: the difference of the two, paired.
    """
    question = "Do the concepts suffice, and is it due to them?"
    rule = (
        f"yes: completeness at least {SUFFICES} and random directions tell less than the scores by 5 points, beyond "
        f"the interval; partly: completeness at least {SUFFICES}; where the features tell no more than guessing, it "
        "cannot be said"
    )
    if not _measured(seen):
        return Line(question, UNKNOWN, _why(seen, "the country could not be read"), "", rule)
    assert seen is not None
    if seen["low"] <= 0 or not _measured(ratio):
        return Line(question, CANNOT, f"features tell {_points(seen)} more than guessing", "0 points", rule)
    assert ratio is not None
    enough = ratio["value"] >= SUFFICES
    verdict = NO if not enough else YES if concepts - random >= 0.05 else PARTLY
    figure = f"completeness {_number(ratio)}: scores tell {concepts:.0%} of the countries"
    yardstick = f"as many random directions tell {random:.0%}"
    if _measured(by_name):
        assert by_name is not None
        yardstick += f"; scores {_points(by_name)} more"
        verdict = PARTLY if verdict == YES and by_name["low"] <= 0 else verdict
    return Line(question, verdict, figure, yardstick, rule)


def falls_without_concepts(removed: Mapping[str, Figure], prior: Mapping[str, Figure], stands: str) -> Line:
    """Does the answer fall to the prior when all concepts are removed?

    Args:
        removed: what is left without concepts: `cell_acc`, the share of right cells, and `log_loss`, in nats.
        prior: the same of the most frequent cell and of the frequencies of the cells.
        stands: of `removal.against_prior`.
    """
    question = "Without concepts, is nothing left but the prior?"
    rule = (
        "yes: cells named and belief in the true cell are the prior's, by the paired intervals; partly: below it, "
        f"nothing is known but the belief is worse than the prior's by more than {MARGIN_NATS} nats; no: better than it"
    )
    own, guess = (
        f"{figure_text(one['cell_acc'], '{:.0f}', 100)} % of the cells right, log loss "
        f"{figure_text(one['log_loss'], '{:.2f}')}"
        for one in (removed, prior)
    )
    measured = all(_measured(figure) for one in (removed, prior) for figure in one.values())
    verdict = {AT: YES, WORSE: PARTLY, BETTER: NO}[stands] if measured else UNKNOWN
    return Line(question, verdict, f"{stands}: {own}" if measured else own, f"prior: {guess}", rule)


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
        return Line(question, UNKNOWN, _why(correlation, "needs stability_seeds"), "", rule)
    assert correlation is not None
    above = between is None or correlation["low"] > between
    verdict = YES if correlation["value"] >= STABLE else PARTLY if correlation["value"] >= UNSTABLE else NO
    yardstick = "" if between is None else f"{between:.2f} between different pictures"
    return Line(question, verdict if above else NO, f"rank correlation {_number(correlation)}", yardstick, rule)


def of_one_seed(line: Line) -> Line:
    """The line of figures that were measured of one trained model: another seed may move them beyond the interval."""
    return line if line.verdict == UNKNOWN else replace(line, figure=f"{line.figure} ({ONE_SEED})")


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
