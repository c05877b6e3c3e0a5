"""Runs that differ in the seed of training alone, taken together: how much of a difference is luck of the seed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from geocbm.evaluation.compare_runs.differences import COMPARED, aligned, comparable
from geocbm.evaluation.compare_runs.load_runs import ComparedRun
from geocbm.evaluation.compare_runs.parameters import TRAINING_SEEDS, differing, settings
from geocbm.metrics import interval_text, metric, over_seeds, spatial_blocks, verdict
from geocbm.metrics.table import LOWER


@dataclass(frozen=True)
class SeedGroup:
    """Runs on the same test images that differ in the seed of training alone, in the order of their seeds."""

    runs: tuple[ComparedRun, ...]
    seeds: tuple[str, ...]  # a seed, or the seeds of the notebooks where these differ

    @property
    def name(self) -> str:
        """The first run, and how many others."""
        return self.runs[0].name if len(self.runs) == 1 else f"{self.runs[0].name} and {len(self.runs) - 1} more"

    def values(self, key: str, seeds: Sequence[str], images: pd.DataFrame) -> np.ndarray:
        """Values `[n_seeds, n_images]` of a metric, in the order of `images`."""
        chosen = [self.runs[self.seeds.index(seed)] for seed in seeds]
        return np.stack([run.answers.loc[images.index, COMPARED[key][0]].to_numpy(float) for run in chosen])


def seed_groups(runs: Sequence[ComparedRun]) -> list[SeedGroup]:
    """Runs gathered by what they have in common apart from seeds; runs of one seed stand alone.

    Runs without predictions or without known parameters are left out, and so is a second run with the same seed.
    """
    gathered: list[dict[str, ComparedRun]] = []
    for run in runs:
        if run.images is None or not settings(run):
            continue
        for group in gathered:
            one = next(iter(group.values()))
            if set(differing([one, run])) <= set(TRAINING_SEEDS) and aligned(one, run) is not None:
                group.setdefault(_seed(run), run)
                break
        else:
            gathered.append({_seed(run): run})

    def padded(seed: str) -> str:  # 10 comes after 2
        return re.sub(r"\d+", lambda number: number[0].zfill(20), seed)

    ordered = [{seed: group[seed] for seed in sorted(group, key=padded)} for group in gathered]
    return [SeedGroup(tuple(group.values()), tuple(group)) for group in ordered]


def _seed(run: ComparedRun) -> str:
    # The cells come from 02; their seed is worth naming only where it is not the usual one.
    cells, *seeds = (str(settings(run).get(key, "")) for key in TRAINING_SEEDS)
    text = seeds[0] if len(set(seeds)) == 1 else "/".join(seeds)
    return text if cells in ("", "0") else f"{text} (cells {cells})"


def _shared_metrics(one: SeedGroup, others: Sequence[ComparedRun]) -> Iterator[tuple[str, str]]:
    """Keys and statistics of the metrics that mean the same in a group and other runs."""
    for key, (_, statistic) in COMPARED.items():
        if all(comparable(key, one.runs[0], run) for run in (*one.runs, *others)):
            yield key, statistic


def pooled(groups: Sequence[SeedGroup], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Mean over seeds of each metric, with its interval over images and seeds (`n` resamples), and the spread.

    A row per group of several runs and metric: `group, seeds` (how many), `metric` (key), `value, low, high`, and the
    standard deviation `spread`, `least` and `most` over its seeds.
    """
    rows = []
    for group in (group for group in groups if len(group.runs) > 1):
        images = group.runs[0].answers
        blocks = spatial_blocks(images["true_lat"], images["true_lng"])
        for key, statistic in _shared_metrics(group, ()):
            values = group.values(key, group.seeds, images)
            single = np.median(values, axis=1) if statistic == "median" else values.mean(axis=1)
            rows.append(
                {"group": group.name, "seeds": len(group.runs), "metric": key}
                | over_seeds(values, None, blocks, statistic, n, seed)
                | {"spread": float(single.std(ddof=1)), "least": float(single.min()), "most": float(single.max())}
            )
    columns = ["group", "seeds", "metric", "value", "low", "high", "spread", "least", "most"]
    return pd.DataFrame(rows, columns=columns)


def pooled_table(table: pd.DataFrame) -> pd.DataFrame:
    """The pooled metrics in words."""
    heads = ["runs", "seeds", "metric", "mean over seeds", "standard deviation over seeds", "from worst to best"]
    rows = []
    for row in table.to_dict("records"):
        own = metric(row["metric"])
        worst, best = sorted((row["least"], row["most"]), reverse=own.better == LOWER)
        mean, spread = interval_text(row, own.write), own.write(row["spread"])
        rows.append([row["group"], row["seeds"], own.label, mean, spread, f"{own.write(worst)} to {own.write(best)}"])
    return pd.DataFrame(rows, columns=heads)


def group_differences(groups: Sequence[SeedGroup], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Differences between groups that share at least two seeds, over images and seeds.

    Columns are `first, second` (groups), `seeds` (shared), `metric` (key), `value, low, high` (second minus first) and
    `verdict`.
    """
    rows = []
    for one, two in combinations([group for group in groups if len(group.runs) > 1], 2):
        shared = [name for name in one.seeds if name in two.seeds]
        if len(shared) < 2 or aligned(one.runs[0], two.runs[0]) is None:
            continue
        images = one.runs[0].answers
        blocks = spatial_blocks(images["true_lat"], images["true_lng"])
        for key, statistic in _shared_metrics(one, two.runs):
            values, than = two.values(key, shared, images), one.values(key, shared, images)
            own = over_seeds(values, than, blocks, statistic, n, seed)
            row = {"first": one.name, "second": two.name, "seeds": len(shared), "metric": key} | own
            rows.append(row | {"verdict": verdict(own, metric(key).better != LOWER)})
    return pd.DataFrame(rows, columns=["first", "second", "seeds", "metric", "value", "low", "high", "verdict"])


def group_difference_table(table: pd.DataFrame) -> pd.DataFrame:
    """The differences between groups in words."""
    rows = []
    for row in table.to_dict("records"):
        own = metric(row["metric"])
        runs, change = f"{row['second']} against {row['first']}", interval_text(row, own.as_change.write)
        rows.append([runs, row["seeds"], own.label, change, row["verdict"]])
    return pd.DataFrame(rows, columns=["runs", "seeds", "metric", "difference", "verdict"])
