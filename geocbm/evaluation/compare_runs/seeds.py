"""Runs that differ in the seed of training alone, taken together: how much of a difference is luck of the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from geocbm.evaluation.compare_runs.differences import NOISE, aligned, comparable
from geocbm.evaluation.compare_runs.figures import FIGURES, Figure
from geocbm.evaluation.compare_runs.load_runs import ComparedRun
from geocbm.evaluation.compare_runs.parameters import TRAINING_SEEDS, differing, settings
from geocbm.metrics import over_seeds, spatial_blocks


@dataclass(frozen=True)
class SeedGroup:
    """Runs on the same test images that differ in the seed of training alone.

    Attributes:
        runs: the runs, in the order of their seeds.
        seeds: what tells them apart: a seed, or the seeds of the notebooks where these differ.
    """

    runs: tuple[ComparedRun, ...]
    seeds: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first run, and how many others."""
        return self.runs[0].name if len(self.runs) == 1 else f"{self.runs[0].name} and {len(self.runs) - 1} more"

    def values(self, figure: Figure, seeds: Sequence[str]) -> np.ndarray:
        """Values `[n_seeds, n_images]` of a figure, images in the order of the group's first run."""
        index = self.runs[0].answers.index
        chosen = [self.runs[self.seeds.index(seed)] for seed in seeds]
        return np.stack([run.answers.loc[index, figure.column].to_numpy(float) for run in chosen])


def seed_groups(runs: Sequence[ComparedRun]) -> list[SeedGroup]:
    """Runs gathered by what they have in common apart from seeds; runs of one seed stand alone.

    Runs without predictions or without known parameters are left out, and so is a second run with the same seed.
    """
    gathered: list[list[ComparedRun]] = []
    for run in runs:
        if run.images is None or not settings(run):
            continue
        for group in gathered:
            different = differing([group[0], run])
            if all(key in TRAINING_SEEDS for key in different) and aligned(group[0], run) is not None:
                if _seed(run) not in [_seed(each) for each in group]:
                    group.append(run)
                break
        else:
            gathered.append([run])
    return [
        SeedGroup(tuple(ordered), tuple(_seed(run) for run in ordered))
        for ordered in (sorted(group, key=_seed) for group in gathered)
    ]


def _seed(run: ComparedRun) -> str:
    # The cells come from 02; their seed is worth naming only where it is not the usual one.
    seeds = [str(settings(run).get(key, "")) for key in TRAINING_SEEDS[1:]]
    cells = str(settings(run).get(TRAINING_SEEDS[0], "0"))
    text = seeds[0] if len(set(seeds)) == 1 else "/".join(seeds)
    return text if cells == "0" else f"{text} (cells {cells})"


def pooled(groups: Sequence[SeedGroup], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Mean over seeds of each figure, with its interval over images and seeds, and the spread over seeds.

    Args:
        groups: of `seed_groups`; those of a single run are left out.
        n: number of resamples.
        seed: seed of the draws.

    Returns:
        A row per group and figure: `group, seeds` (how many), `figure` (key), `value, low, high`, and the standard
        deviation `spread`, `least` and `most` over its seeds.
    """
    rows = []
    for group in groups:
        if len(group.runs) < 2:
            continue
        images = group.runs[0].answers
        blocks = spatial_blocks(images["true_lat"], images["true_lng"])
        for figure in FIGURES:
            if not all(comparable(figure, group.runs[0], run) for run in group.runs):
                continue
            values = group.values(figure, group.seeds)
            own = over_seeds(values, None, blocks, figure.statistic, n, seed)
            single = np.median(values, axis=1) if figure.statistic == "median" else values.mean(axis=1)
            rows.append(
                {"group": group.name, "seeds": len(group.runs), "figure": figure.key}
                | own
                | {"spread": float(single.std(ddof=1)), "least": float(single.min()), "most": float(single.max())}
            )
    columns = ["group", "seeds", "figure", "value", "low", "high", "spread", "least", "most"]
    return pd.DataFrame(rows, columns=columns)


def pooled_table(table: pd.DataFrame) -> pd.DataFrame:
    """The pooled figures in words."""
    words = {figure.key: figure for figure in FIGURES}
    rows = []
    for row in table.to_dict("records"):
        figure = words[row["figure"]]
        interval = f" {figure.bracketed(row['low'], row['high'])}" if np.isfinite(row["low"]) else ""
        rows.append(
            {
                "runs": row["group"],
                "seeds": row["seeds"],
                "figure": figure.words,
                "mean over seeds": figure.write(row["value"]) + interval,
                "standard deviation over seeds": figure.write(row["spread"]),
                "from worst to best": " to ".join(
                    figure.write(value) for value in sorted((row["least"], row["most"]), reverse=figure.less_is_better)
                ),
            }
        )
    columns = ["runs", "seeds", "figure", "mean over seeds", "standard deviation over seeds", "from worst to best"]
    return pd.DataFrame(rows, columns=columns)


def group_differences(groups: Sequence[SeedGroup], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Differences between groups that share at least two seeds, over images and seeds.

    Args:
        groups: of `seed_groups`; each is held against the ones before it.
        n: number of resamples.
        seed: seed of the draws.

    Returns:
        `first, second` (groups), `seeds` (shared), `figure` (key), `value, low, high` (second minus first), `verdict`.
    """
    rows = []
    for one, two in combinations([group for group in groups if len(group.runs) > 1], 2):
        shared = [name for name in one.seeds if name in two.seeds]
        if len(shared) < 2 or aligned(one.runs[0], two.runs[0]) is None:
            continue
        images = one.runs[0].answers
        blocks = spatial_blocks(images["true_lat"], images["true_lng"])
        again = SeedGroup((one.runs[0], *two.runs), ("", *two.seeds))  # the images in the order of the first group
        for figure in FIGURES:
            if not all(comparable(figure, one.runs[0], run) for run in (*one.runs, *two.runs)):
                continue
            own = over_seeds(
                again.values(figure, shared), one.values(figure, shared), blocks, figure.statistic, n, seed
            )
            better = (own["value"] < 0) == figure.less_is_better
            noise = not own["high"] < 0 and not own["low"] > 0
            verdict = NOISE if noise else "better" if better else "worse"
            row = {"first": one.name, "second": two.name, "seeds": len(shared), "figure": figure.key}
            rows.append(row | own | {"verdict": verdict})
    return pd.DataFrame(rows, columns=["first", "second", "seeds", "figure", "value", "low", "high", "verdict"])


def group_difference_table(table: pd.DataFrame) -> pd.DataFrame:
    """The differences between groups in words."""
    words = {figure.key: figure for figure in FIGURES}
    rows = [
        {
            "runs": f"{row['second']} against {row['first']}",
            "seeds": row["seeds"],
            "figure": words[row["figure"]].words,
            "difference": words[row["figure"]].write(row["value"], sign=True)
            + f" {words[row['figure']].bracketed(row['low'], row['high'], sign=True)}",
            "verdict": row["verdict"],
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows, columns=["runs", "seeds", "figure", "difference", "verdict"])


def seeds_remark(groups: Sequence[SeedGroup]) -> str:
    """In sentences, which runs are taken together, and what the intervals over few seeds are worth."""
    several = [group for group in groups if len(group.runs) > 1]
    if not several:
        return "No two of these runs differ in the seed of training alone: nothing can be said of the luck of a seed."
    parts = [f"{', '.join(run.name for run in group.runs)} (seeds {', '.join(group.seeds)})" for group in several]
    text = f"Taken together: {'; '.join(parts)}."
    fewest = min(len(group.runs) for group in several)
    if fewest < 5:
        text += f" With {fewest} seeds the intervals understate how far another seed may lie off."
    return text
