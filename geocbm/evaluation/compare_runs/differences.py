"""Differences between runs held against noise: on the same test images where there are any, else between intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geocbm.evaluation.compare_runs.load_runs import ComparedRun
from geocbm.evaluation.compare_runs.parameters import (
    only_seeds_differ,
    only_stage0_differs,
    settings,
    skips_stage0,
    what_differs,
)
from geocbm.metrics import FEWEST_BLOCKS, NO_INTERVAL, Resamples, metric, simultaneous_intervals, spatial_blocks
from geocbm.metrics.table import LOWER

FIGURES = {
    "stage2.median_km": ("km", "median"),
    "stage2.geoscore": ("geoscore", "mean"),
    "stage2.country_acc": ("country_right", "mean"),
    "stage2.cell_top1": ("cell_right", "mean"),
    "stage1.meta_top1": ("meta_right", "mean"),
}
"""What runs are held against one another by: column of `ComparedRun.images` and its statistic, by key of the metric."""

NOISE = "no difference beyond noise"
SAME = "the same on every image"
LEVEL = 0.95
"""Probability with which all intervals of a kind hold together."""

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


def comparable(key: str, one: ComparedRun, other: ComparedRun) -> bool:
    """Whether a figure means the same in two runs: cells must be the same cells, concepts the same vocabulary."""
    if one.images is None or other.images is None:
        return False
    if key == "stage1.meta_top1":
        return one.metas == other.metas and all("meta_right" in run.answers for run in (one, other))
    if key == "stage2.cell_top1":
        pair = aligned(one, other)
        return pair is not None and bool((pair[0]["true_cell"] == pair[1]["true_cell"]).all())
    return True


def differences(runs: Sequence[ComparedRun], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Each run against the first, in every figure that means the same in both.

    Runs with the same test images are compared image by image: both are resampled with the same draws of spatial
    blocks. Others are compared by two independent bootstraps, which is less sharp and mixes the difference of the runs
    with that of the images. The intervals of all paired comparisons hold together with the probability `LEVEL`, and so
    do those of all unpaired ones (see `metrics.simultaneous_intervals`).

    Args:
        runs: as read; the first is the one the others are held against.
        n: resamples.
        seed: of the draws.

    Returns:
        A row per run and figure: `run, figure` (key), `images` (of the run), `paired`, `reference` and `value` (the
        figure of the first run and of this one), `difference` (this one minus the first), its interval `low, high`,
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
        for key, (column, statistic) in FIGURES.items():
            if not comparable(key, one, other):
                continue
            values = before[column].to_numpy(float), after[column].to_numpy(float)
            if key not in first_draws:
                first_draws[key] = of_first.draws(values[0], statistic)
            first, own = (float(np.median(each) if statistic == "median" else each.mean()) for each in values)
            rows.append(
                {
                    "run": other.name,
                    "figure": key,
                    "images": len(after),
                    "paired": pair is not None,
                    "reference": first,
                    "value": own,
                    "difference": own - first,
                    "draws": resamples.draws(values[1], statistic) - first_draws[key],
                    "known": min(of_first.n_blocks, resamples.n_blocks) >= FEWEST_BLOCKS,
                    "same": pair is not None and np.array_equal(*values),
                }
            )
    table = pd.DataFrame(rows, columns=[*COLUMNS, "draws", "known", "same"])
    for paired in (True, False):
        family = table.index[(table["paired"] == paired) & table["known"].astype(bool)]
        if len(family):
            chosen = table.loc[family]
            ends = simultaneous_intervals(chosen["difference"], np.stack(chosen["draws"].tolist()), LEVEL)
            table.loc[family, "low"], table.loc[family, "high"] = ends
    table[["low", "high"]] = table[["low", "high"]].astype(float)
    lower = table["figure"].map(lambda key: metric(key).better == LOWER).astype(bool)
    beyond = ~table["same"].astype(bool) & ((table["low"] > 0) | (table["high"] < 0))
    table["better"] = np.where(beyond, np.where((table["difference"] < 0) == lower, 1, -1), 0)
    table["verdict"] = [_verdict(row) for _, row in table.iterrows()]
    return table[COLUMNS]


def _resamples(images: pd.DataFrame, n: int, seed: int) -> Resamples:
    return Resamples(spatial_blocks(images["true_lat"], images["true_lng"]), n, seed)


def _verdict(row: pd.Series) -> str:
    if row["same"]:
        return SAME
    if np.isnan(row["low"]):
        return NO_INTERVAL
    if not row["better"]:
        return NOISE
    size = sorted((abs(row["low"]), abs(row["high"])))
    amount = f"{_with_unit(row['figure'], abs(row['difference']))} {_bracketed(row['figure'], *size)}"
    return f"{'better' if row['better'] > 0 else 'worse'} by {amount}"


def _with_unit(key: str, difference: float, sign: bool = False) -> str:
    return f"{metric(key).write(difference, sign)} {metric(key).unit.difference}".rstrip()


def _bracketed(key: str, low: float, high: float, sign: bool = False) -> str:
    return f"[{metric(key).write(low, sign)}, {metric(key).write(high, sign)}]"


def verdicts(table: pd.DataFrame, runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """The verdicts of `differences` in words: a row per run, a column per figure."""
    rows = []
    for run in runs[1:]:
        own = table[table["run"] == run.name]
        if len(own):
            images = f"{own['images'].iloc[0]:,}, " + ("the same" if own["paired"].iloc[0] else "others")
            words = own.set_index("figure")["verdict"].reindex(list(FIGURES), fill_value="not comparable")
            rows.append([run.name, images, *words])
    return pd.DataFrame(rows, columns=["run", "test images", *(metric(key).label for key in FIGURES)])


def detail(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind the verdicts, a row per run and figure."""
    rows = []
    for row in table.to_dict("records"):
        key, own = row["figure"], metric(row["figure"])
        half = (row["high"] - row["low"]) / 2
        rows.append(
            {
                "run": row["run"],
                "figure": own.axis,
                "first run": own.write(row["reference"]),
                "this run": own.write(row["value"]),
                "difference": own.write(row["difference"], sign=True),
                "interval": _bracketed(key, row["low"], row["high"], sign=True) if np.isfinite(half) else "–",
                "smallest it could show": own.write(half) if np.isfinite(half) and half else "–",
            }
        )
    return pd.DataFrame(rows)


def how_many(table: pd.DataFrame) -> list[str]:
    """Sentences on the number of comparisons, and on what they could not have seen."""
    sentences = []
    for paired, words in ((True, "on the same images"), (False, "between other images")):
        count = int(((table["paired"] == paired) & table["low"].notna()).sum())
        if count == 1:
            sentences.append(f"One comparison {words}; its interval holds with a probability of {100 * LEVEL:.0f} %.")
        elif count:
            together = f"all {count} intervals hold together with a probability of {100 * LEVEL:.0f} %"
            sentences.append(f"{count} comparisons {words}; {together}.")
    seen = table[table["paired"].astype(bool) & (table["high"] > table["low"])]
    half = {key: (own["high"] - own["low"]).to_numpy() / 2 for key, own in seen.groupby("figure")}
    parts = []
    for key in (key for key in FIGURES if key in half):
        least, most = metric(key).write(half[key].min()), metric(key).write(half[key].max())
        span = least if least == most else f"{least} to {most}"
        parts.append(f"{span} {metric(key).unit.difference}".rstrip() + f" of {metric(key).label}")
    if parts:
        sentences.append(
            f"A smaller difference than {', '.join(parts)} could not have been seen with these images: where the "
            f'verdict is "{NOISE}", the runs may still differ by less.'
        )
    return sentences


def conclusions(table: pd.DataFrame, runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """What may be concluded of each run against the first, in sentences: `run, set differently, found`.

    A single row for a run that stands alone.
    """
    rows = [
        (other.name, what_differs(runs[0], other), _found(table[table["run"] == other.name], runs[0], other))
        for other in runs[1:]
    ]
    if len(runs) == 1:
        rows = [(runs[0].name, "–", "There is no other run to hold it against.")]
    return pd.DataFrame(rows, columns=["run", "set differently", "found"])


def _found(own: pd.DataFrame, one: ComparedRun, other: ComparedRun) -> str:
    if own.empty:
        lacking = " and ".join(run.name for run in (one, other) if run.images is None)
        return f"{lacking} has no predictions to compare."
    paired = bool(own["paired"].iloc[0])
    label = own["figure"].map(lambda key: metric(key).label)
    changed = own["better"] != 0
    sentences = []
    if not paired:
        tables = [settings(run).get("01.csv (content)") for run in (one, other)]
        sentences.append(
            "The test images are others, so that part of a difference is luck with the images."
            if tables[0] is not None and tables[0] == tables[1]
            else "The images come from another table: the figures say as much of the images as of the runs."
        )
    if (own["verdict"] == SAME).all():
        sentences.append(f"The runs are {SAME}, in {len(own)} figures.")
    elif not changed.any():
        sentences.append(f"There is {NOISE} in any of {len(own)} figures.")
    else:
        sentences.append(f"Beyond noise: {'; '.join(label[changed] + ' ' + own['verdict'][changed])}.")
        if not changed.all():
            sentences.append(f"There is {NOISE} in: {', '.join(label[~changed])}.")
    if paired and only_stage0_differs(one, other):
        sentences.append(_worth_of_stage0(own, 1 if skips_stage0(one) else -1))
    if paired and changed.any() and not only_seeds_differ(one, other):
        sentences.append("Another seed of training may move these figures too; the intervals are over images alone.")
    return " ".join(sentences)


def _worth_of_stage0(own: pd.DataFrame, flip: int) -> str:
    """The same differences seen from the run with Stage 0: `flip` is 1 where that is the second one, else -1."""
    parts = []
    for row in own.to_dict("records"):
        key = row["figure"]
        change = f"{metric(key).label} {_with_unit(key, flip * row['difference'], sign=True)}"
        if np.isfinite(row["low"]) and row["verdict"] != SAME:
            low, high = sorted((flip * row["low"], flip * row["high"]))
            change += f" {_bracketed(key, low, high, sign=True)}"
        parts.append(change)
    sure = [metric(key).label for key in own["figure"][own["better"] != 0]]
    beyond = f"beyond noise: {', '.join(sure)}" if sure else "none of it is beyond noise"
    return f"What Stage 0 is worth (with it minus without it): {'; '.join(parts)}; {beyond}."


def drawable(table: pd.DataFrame) -> pd.DataFrame:
    """The differences in the units in which they are written: columns `run, panel, value, low, high, better`."""
    factor = table["figure"].map(lambda key: metric(key).unit.factor).astype(float)
    scaled = (
        table[["difference", "low", "high"]]
        .astype(float)
        .mul(factor, axis=0)
        .set_axis(["value", "low", "high"], axis=1)
    )
    panel = table["figure"].map(lambda key: metric(key).axis).rename("panel")
    return pd.concat([table["run"], panel, scaled.rename(columns={"difference": "value"}), table["better"]], axis=1)
