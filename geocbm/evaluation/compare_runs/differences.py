"""Differences between runs held against noise: on the same test images where there are any, else between intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geocbm import metrics
from geocbm.evaluation.compare_runs.load_runs import ComparedRun
from geocbm.metrics.table import LOWER, in_brackets

COMPARED = {
    "stage2.median_km": ("km", "median"),
    "stage2.geoscore": ("geoscore", "mean"),
    "stage2.country_acc": ("country_right", "mean"),
    "stage2.cell_top1": ("cell_right", "mean"),
    "stage1.meta_top1": ("meta_right", "mean"),
}
"""What runs are held against one another by: column of `ComparedRun.images` and its statistic, by key of the metric."""

SAME = "the same on every image"
LEVEL = 0.95
"""Probability with which all intervals of a kind hold together."""

COLUMNS = [
    "run", "metric", "images", "paired", "reference", "value", "difference", "low", "high", "better", "verdict"
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


def comparable(key: str, one: ComparedRun, other: ComparedRun) -> bool:
    """Whether a metric means the same in two runs: cells must be the same cells, concepts the same vocabulary."""
    if one.images is None or other.images is None:
        return False
    if key == "stage1.meta_top1":
        alike = one.metas == other.metas and all("meta_right" in run.answers for run in (one, other))
        return alike and one.metrics.get("data.guessed", 0) == other.metrics.get("data.guessed", 0)
    if key == "stage2.cell_top1":
        pair = aligned(one, other)
        return pair is not None and bool((pair[0]["true_cell"] == pair[1]["true_cell"]).all())
    return True


def differences(runs: Sequence[ComparedRun], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Each run against the first, in every metric that means the same in both.

    Runs with the same test images are compared image by image: both are resampled with the same draws of spatial
    blocks. Others are compared by two independent bootstraps, which is less sharp and mixes the difference of the runs
    with that of the images. The intervals of all paired comparisons hold together with the probability `LEVEL`, and so
    do those of all unpaired ones (see `metrics.simultaneous_intervals`).

    Returns:
        A row per run and metric: `run, metric` (key), `images` (of the run), `paired`, `reference` and `value` (of
        the first run and of this one), `difference` (this one minus the first), its interval `low, high`,
        `better` (1: this run is, -1: the first is, 0: neither beyond noise) and the `verdict` in words.
    """
    if not runs or runs[0].images is None:
        return pd.DataFrame(columns=COLUMNS)
    one, rows = runs[0], []
    of_first = _resamples(one.answers, n, seed)
    first_draws: dict[str, np.ndarray] = {}
    for position, other in enumerate(runs[1:], 1):
        if other.images is None:
            continue
        pair = aligned(one, other)
        before, after = pair or (one.answers, other.images)
        # The draws of another split's images must not go along with those of the first run.
        resamples = of_first if pair else _resamples(after, n, seed + position)
        for key, (column, statistic) in COMPARED.items():
            if not comparable(key, one, other):
                continue
            values = before[column].to_numpy(float), after[column].to_numpy(float)
            if key not in first_draws:
                first_draws[key] = of_first.draws(values[0], statistic)
            first, own = (float(np.median(each) if statistic == "median" else np.nanmean(each)) for each in values)
            rows.append(
                {
                    "run": other.name,
                    "metric": key,
                    "images": len(after),
                    "paired": pair is not None,
                    "reference": first,
                    "value": own,
                    "difference": own - first,
                    "draws": resamples.draws(values[1], statistic) - first_draws[key],
                    "known": min(of_first.n_blocks, resamples.n_blocks) >= metrics.FEWEST_BLOCKS,
                    "same": pair is not None and np.array_equal(*values, equal_nan=True),
                }
            )
    table = pd.DataFrame(rows, columns=[*COLUMNS, "draws", "known", "same"])
    for paired in (True, False):
        family = table.index[(table["paired"] == paired) & table["known"].astype(bool)]
        if len(family):
            chosen = table.loc[family]
            ends = metrics.simultaneous_intervals(chosen["difference"], np.stack(chosen["draws"].tolist()), LEVEL)
            table.loc[family, "low"], table.loc[family, "high"] = ends
    table[["low", "high"]] = table[["low", "high"]].astype(float)
    lower = table["metric"].map(lambda key: metrics.metric(key).better == LOWER).astype(bool)
    beyond = ~table["same"].astype(bool) & ((table["low"] > 0) | (table["high"] < 0))
    table["better"] = np.where(beyond, np.where((table["difference"] < 0) == lower, 1, -1), 0)
    table["verdict"] = [_verdict(row) for _, row in table.iterrows()]
    return table[COLUMNS]


def _resamples(images: pd.DataFrame, n: int, seed: int) -> metrics.Resamples:
    return metrics.Resamples(metrics.spatial_blocks(images["true_lat"], images["true_lng"]), n, seed)


def _verdict(row: pd.Series) -> str:
    if row["same"]:
        return SAME
    if np.isnan(row["low"]):
        return metrics.NO_INTERVAL
    if not row["better"]:
        return metrics.NOISE
    own, ends = metrics.metric(row["metric"]), sorted((abs(row["low"]), abs(row["high"])))
    amount = in_brackets(f"{own.write(abs(row['difference']))} {own.unit.difference}".rstrip(), *map(own.write, ends))
    return f"{'better' if row['better'] > 0 else 'worse'} by {amount}"


def verdicts(table: pd.DataFrame, runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """The verdicts of `differences` in words: a row per run, a column per metric."""
    rows = []
    for run in runs[1:]:
        own = table[table["run"] == run.name]
        if len(own):
            images = f"{own['images'].iloc[0]:,}, " + ("the same" if own["paired"].iloc[0] else "others")
            words = own.set_index("metric")["verdict"].reindex(list(COMPARED), fill_value="not comparable")
            rows.append([run.name, images, *words])
    return pd.DataFrame(rows, columns=["run", "test images", *(metrics.metric(key).label for key in COMPARED)])


def detail(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind the verdicts, a row per run and metric."""
    rows = []
    for row in table.to_dict("records"):
        own, half = metrics.metric(row["metric"]), (row["high"] - row["low"]) / 2
        change = metrics.interval_text(row | {"value": row["difference"]}, own.as_change.write)
        of_runs = own.write(row["reference"]), own.write(row["value"])
        rows.append([row["run"], own.axis, *of_runs, change, own.write(half) if half > 0 else "–"])
    heads = ["run", "metric", "first run", "this run", "difference", "smallest it could show"]
    return pd.DataFrame(rows, columns=heads)


def drawable(table: pd.DataFrame) -> pd.DataFrame:
    """The differences in the units in which they are written: columns `run, panel, value, low, high, better`."""
    factor = table["metric"].map(lambda key: metrics.metric(key).unit.factor).astype(float)
    drawn = table[["difference", "low", "high"]].astype(float).mul(factor, axis=0)
    drawn = drawn.rename(columns={"difference": "value"}).join(table[["run", "better"]])
    return drawn.assign(panel=table["metric"].map(lambda key: metrics.metric(key).axis))
