"""Differences between runs held against noise: on the same test images where there are any, else between intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from geocbm.evaluation.compare_runs.figures import FIGURES, Figure
from geocbm.evaluation.compare_runs.load_runs import ComparedRun
from geocbm.evaluation.compare_runs.parameters import settings
from geocbm.metrics import FEWEST_BLOCKS, NO_INTERVAL, Resamples, simultaneous_intervals, spatial_blocks

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
            drawn[key] = (value, draws, own.n_blocks >= FEWEST_BLOCKS)
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
    return _judged(pd.DataFrame(rows, columns=[*COLUMNS, "draws", "known", "same"]), level)


def _judged(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """The same rows with intervals that hold together, and what they say."""
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
        return 0, NO_INTERVAL
    if row["low"] <= 0 <= row["high"]:
        return 0, NOISE
    gain = (row["difference"] < 0) == figure.less_is_better
    size = sorted((abs(row["low"]), abs(row["high"])))
    unit = f" {figure.unit}" if figure.unit else ""
    amount = f"{figure.write(abs(row['difference']))}{unit} {figure.bracketed(*size)}"
    return (1, f"better by {amount}") if gain else (-1, f"worse by {amount}")
