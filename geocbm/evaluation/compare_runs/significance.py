"""What the differences between runs come to, in words and as something to draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geocbm.evaluation.compare_runs.differences import NOISE, SAME, same_table
from geocbm.evaluation.compare_runs.figures import FIGURES
from geocbm.evaluation.compare_runs.load_runs import ComparedRun
from geocbm.evaluation.compare_runs.parameters import only_seeds_differ, only_stage0_differs, skips_stage0, what_differs


def verdicts(table: pd.DataFrame, runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """The verdicts in words: a row per run, a column per figure."""
    rows = []
    for run in runs[1:]:
        own = table[table["run"] == run.name]
        if own.empty:
            continue
        words = dict(zip(own["figure"], own["verdict"], strict=True))
        images = f"{own['images'].iloc[0]:,}, " + ("the same" if own["paired"].iloc[0] else "others")
        rows.append(
            {"run": run.name, "test images": images}
            | {figure.words: words.get(figure.key, "not comparable") for figure in FIGURES}
        )
    return pd.DataFrame(rows, columns=["run", "test images", *(figure.words for figure in FIGURES)])


def detail(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind the verdicts, a row per run and figure."""
    rows = []
    for row in table.to_dict("records"):
        figure = next(figure for figure in FIGURES if figure.key == row["figure"])
        known = np.isfinite(row["low"])
        half = (row["high"] - row["low"]) / 2
        rows.append(
            {
                "run": row["run"],
                "figure": figure.axis,
                "first run": figure.write(row["reference"]),
                "this run": figure.write(row["value"]),
                "difference": figure.write(row["difference"], sign=True),
                "interval": figure.bracketed(row["low"], row["high"], sign=True) if known else "–",
                "smallest it could show": figure.write(half) if known and half else "–",
            }
        )
    columns = ["run", "figure", "first run", "this run", "difference", "interval", "smallest it could show"]
    return pd.DataFrame(rows, columns=columns)


def how_many(table: pd.DataFrame, level: float = 0.95) -> list[str]:
    """Sentences on the number of comparisons, and on what they could not have seen."""
    sentences = []
    for paired, words in ((True, "on the same images"), (False, "between other images")):
        count = int(((table["paired"] == paired) & table["low"].notna()).sum())
        if count == 1:
            sentences.append(f"One comparison {words}; its interval holds with a probability of {100 * level:.0f} %.")
        elif count:
            together = f"all {count} intervals hold together with a probability of {100 * level:.0f} %"
            sentences.append(f"{count} comparisons {words}; {together}.")
    seen = table[table["paired"].astype(bool) & (table["high"] > table["low"])]
    parts = []
    for figure in FIGURES:
        own = seen[seen["figure"] == figure.key]
        if len(own):
            half = (own["high"] - own["low"]).to_numpy() / 2
            ends = dict.fromkeys((figure.write(half.min()), figure.write(half.max())))
            unit = f" {figure.unit}" if figure.unit else ""
            parts.append(f"{' to '.join(ends)}{unit} of {figure.words}")
    if parts:
        sentences.append(
            f"A smaller difference than {', '.join(parts)} could not have been seen with these images: where the "
            f'verdict is "{NOISE}", the runs may still differ by less.'
        )
    return sentences


def conclusions(table: pd.DataFrame, runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """What may be concluded of each run against the first, in sentences.

    Args:
        table: of `differences`.
        runs: the same runs.

    Returns:
        A row per run: `run`, `set differently` and `found`; a single row for a run that stands alone.
    """
    columns = ["run", "set differently", "found"]
    rows = [
        (other.name, what_differs(runs[0], other), _found(table[table["run"] == other.name], runs[0], other))
        for other in runs[1:]
    ]
    if len(runs) == 1:
        rows = [(runs[0].name, "–", "There is no other run to hold it against.")]
    return pd.DataFrame(rows, columns=columns)


def _found(own: pd.DataFrame, one: ComparedRun, other: ComparedRun) -> str:
    if own.empty:
        lacking = " and ".join(run.name for run in (one, other) if run.images is None)
        return f"{lacking} has no predictions to compare."
    paired = bool(own["paired"].iloc[0])
    head = ""
    if not paired and same_table(one, other):
        head = "The test images are others, so that part of a difference is luck with the images. "
    elif not paired:
        head = "The images come from another table: the figures say as much of the images as of the runs. "
    changed = own[own["better"] != 0]
    words = {figure.key: figure.words for figure in FIGURES}
    if (own["verdict"] == SAME).all():
        found = f"The runs are {SAME}, in {len(own)} figures."
    elif changed.empty:
        found = f"There is {NOISE} in any of {len(own)} figures."
    else:
        listed = [f"{words[row['figure']]} {row['verdict']}" for row in changed.to_dict("records")]
        found = f"Beyond noise: {'; '.join(listed)}."
        still = [words[row["figure"]] for row in own.to_dict("records") if row["better"] == 0]
        found += f" There is {NOISE} in: {', '.join(still)}." if still else ""
    if paired and only_stage0_differs(one, other):
        found += " " + _worth_of_stage0(own, one)
    if paired and len(changed) and not only_seeds_differ(one, other):
        found += " Another seed of training may move these figures too; the intervals are over images alone."
    return head + found


def _worth_of_stage0(own: pd.DataFrame, one: ComparedRun) -> str:
    """The same differences seen from the run with Stage 0."""
    flip = 1 if skips_stage0(one) else -1
    parts, sure = [], []
    for row in own.to_dict("records"):
        figure = next(figure for figure in FIGURES if figure.key == row["figure"])
        change = f"{figure.words} {figure.write(flip * row['difference'], sign=True)}"
        change += f" {figure.unit}" if figure.unit else ""
        if np.isfinite(row["low"]) and row["verdict"] != SAME:
            low, high = sorted((flip * row["low"], flip * row["high"]))
            change += f" {figure.bracketed(low, high, sign=True)}"
        parts.append(change)
        sure += [figure.words] if row["better"] else []
    beyond = f"beyond noise: {', '.join(sure)}" if sure else "none of it is beyond noise"
    return f"What Stage 0 is worth (with it minus without it): {'; '.join(parts)}; {beyond}."


def drawable(table: pd.DataFrame) -> pd.DataFrame:
    """The differences in the units in which they are written: columns `run, panel, value, low, high, better`."""
    rows = []
    for row in table.to_dict("records"):
        figure = next(figure for figure in FIGURES if figure.key == row["figure"])
        ends = {"value": row["difference"], "low": row["low"], "high": row["high"]}
        scaled = {name: figure.factor * number for name, number in ends.items()}
        rows.append({"run": row["run"], "panel": figure.axis} | scaled | {"better": row["better"]})
    return pd.DataFrame(rows, columns=["run", "panel", "value", "low", "high", "better"])
