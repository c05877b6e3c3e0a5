"""Differences between runs held against noise: on the same test images where there are any, else between intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from geocbm.compare.figures import FIGURES, Figure
from geocbm.compare.parameters import (
    only_seeds_differ,
    only_stage0_differs,
    settings,
    skips_stage0,
    what_differs,
)
from geocbm.compare.reading import ComparedRun
from geocbm.metrics import Resamples, simultaneous_intervals, spatial_blocks

NOISE = "no difference beyond noise"
SAME = "the same on every image"
COLUMNS = [
    "run", "figure", "images", "paired", "reference", "value", "difference", "low", "high", "better", "verdict"
]  # fmt: skip


def aligned(one: ComparedRun, other: ComparedRun) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The test images of two runs in the same order; None unless these are the same images at the same places.

    Names alone do not tell two generated worlds apart, so that the true places are compared too.
    """
    if one.images is None or other.images is None or len(one.images) != len(other.images):
        return None
    if not one.images.index.isin(other.images.index).all():
        return None
    again = other.images.loc[one.images.index]
    before, after = (images[["true_lat", "true_lng"]].to_numpy(float) for images in (one.images, again))
    return (one.images, again) if np.allclose(before, after, rtol=0, atol=1e-9) else None


def same_images(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The runs after the first that have answered the test images of the first."""
    return [other for other in runs[1:] if aligned(runs[0], other) is not None]


def other_images(runs: Sequence[ComparedRun]) -> str:
    """In a sentence, which runs cannot be compared with the first image by image."""
    shared = [run.name for run in same_images(runs)]
    names = [run.name for run in runs[1:] if run.name not in shared]
    if len(runs) == 1:
        return "There is no other run."
    if not names:
        return f"All {len(shared)} others have answered the same test images." if len(shared) > 1 else ""
    return f"Not on the same test images, and left out here: {', '.join(names)}."


def same_table(one: ComparedRun, other: ComparedRun) -> bool:
    """Whether two runs were made from the same CSV, as far as their manifests tell."""
    digests = [settings(run).get("01.csv (content)") for run in (one, other)]
    return digests[0] is not None and digests[0] == digests[1]


def comparable(figure: Figure, one: ComparedRun, other: ComparedRun) -> bool:
    """Whether a figure means the same in two runs: cells must be the same cells, concepts the same vocabulary."""
    if one.images is None or other.images is None:
        return False
    if figure.column == "meta_right":
        return one.metas == other.metas and all("meta_right" in run.answers for run in (one, other))
    if figure.column == "cell_right":
        pair = aligned(one, other)
        return pair is not None and bool((pair[0]["true_cell"] == pair[1]["true_cell"]).all())
    return True


def differences(runs: Sequence[ComparedRun], n: int = 1000, seed: int = 0, level: float = 0.95) -> pd.DataFrame:
    """Each run against the first, in every figure that means the same in both.

    Runs with the same test images are compared image by image: both are resampled with the same draws of spatial
    blocks. Others are compared by two independent bootstraps, which is less sharp and mixes the difference of the runs
    with that of the images. The intervals of all paired comparisons hold together with the probability `level`, and so
    do those of all unpaired ones (see `metrics.simultaneous_intervals`).

    Args:
        runs: runs as read; the first is the one the others are held against.
        n: number of resamples.
        seed: seed of the draws.
        level: probability that all intervals of a kind hold.

    Returns:
        A row per run and figure: `run, figure` (key), `images` (of the run), `paired`, `reference` and `value` (the
        figure of the first run and of this one), `difference` (this one minus the first), its interval `low, high`,
        `better` (1: this run is, -1: the first is, 0: neither beyond noise) and the `verdict` in words.
    """
    if not runs or runs[0].images is None:
        return pd.DataFrame(columns=COLUMNS)
    one, rows = runs[0], []
    drawn: dict[tuple[str, str], tuple[float, np.ndarray, bool]] = {}

    def figure_of(run: ComparedRun, images: pd.DataFrame, figure: Figure, stream: int) -> Any:
        key = (run.name, figure.key)
        if key not in drawn:
            blocks = spatial_blocks(images["true_lat"], images["true_lng"])
            if (run.name, "") not in resamples:
                resamples[run.name, ""] = Resamples(blocks, n, seed + stream)
            own = resamples[run.name, ""]
            values = images[figure.column].to_numpy(float)
            draws = own.draws(values, figure.statistic)
            value = float(np.median(values) if figure.statistic == "median" else values.mean())
            drawn[key] = (value, draws, own.n_blocks > 1)
        return drawn[key]

    resamples: dict[tuple[str, str], Resamples] = {}
    for position, other in enumerate(runs[1:], 1):
        if other.images is None:
            continue
        pair = aligned(one, other)
        for figure in FIGURES:
            if not comparable(figure, one, other):
                continue
            # The draws of another split's images must not go along with those of the first run.
            first = figure_of(one, one.answers, figure, 0)
            own = figure_of(other, other.images if pair is None else pair[1], figure, 0 if pair else position)
            same = pair is not None and np.array_equal(pair[0][figure.column], pair[1][figure.column])
            rows.append(
                {
                    "run": other.name,
                    "figure": figure.key,
                    "images": len(other.images),
                    "paired": pair is not None,
                    "reference": first[0],
                    "value": own[0],
                    "difference": own[0] - first[0],
                    "draws": own[1] - first[1],
                    "known": first[2] and own[2],
                    "same": same,
                }
            )
    table = pd.DataFrame(rows, columns=[*COLUMNS, "draws", "known", "same"])
    for paired in (True, False):
        family = np.flatnonzero((table["paired"] == paired) & table["known"].astype(bool))
        if len(family):
            chosen = table.iloc[family]
            low, high = simultaneous_intervals(chosen["difference"], np.stack(chosen["draws"].tolist()), level)
            table.loc[table.index[family], "low"] = low
            table.loc[table.index[family], "high"] = high
    table[["low", "high"]] = table[["low", "high"]].astype(float)
    judged = [_judge(row) for row in table.to_dict("records")]
    table["better"] = [sign for sign, _ in judged]
    table["verdict"] = [words for _, words in judged]
    return table[COLUMNS]


def _judge(row: dict[Any, Any]) -> tuple[int, str]:
    """Which run is better, and the words for it."""
    figure = next(figure for figure in FIGURES if figure.key == row["figure"])
    if row["same"]:
        return 0, SAME
    if np.isnan(row["low"]):
        return 0, "no interval: all images lie in one block"
    if row["low"] <= 0 <= row["high"]:
        return 0, NOISE
    gain = (row["difference"] < 0) == figure.less_is_better
    size = sorted((abs(row["low"]), abs(row["high"])))
    unit = f" {figure.unit}" if figure.unit else ""
    amount = f"{figure.write(abs(row['difference']))}{unit} {figure.bracketed(*size)}"
    return (1, f"better by {amount}") if gain else (-1, f"worse by {amount}")


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
