"""The figures of runs side by side: the few that matter, and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geocbm.compare.reading import ComparedRun


@dataclass(frozen=True)
class Figure:
    """A figure that is measured on every test image.

    Attributes:
        key: its name in `metrics.json`.
        column: its value for each image in `ComparedRun.images`.
        words: what it is called.
        unit: of a difference; empty for points of a score.
        statistic: how the values of images become one figure, "mean" or "median".
        less_is_better: whether a smaller value is the better one.
        factor: what a value is multiplied by before it is written.
        form: how a value is written.
    """

    key: str
    column: str
    words: str
    unit: str = "percentage points"
    statistic: str = "mean"
    less_is_better: bool = False
    factor: float = 100.0
    form: str = "{:,.1f}"

    def write(self, value: float, sign: bool = False) -> str:
        """A value of the figure, without its unit."""
        text = (self.form.replace("{:", "{:+") if sign else self.form).format(self.factor * value)
        if float(text.replace(",", "")) == 0:
            return text.lstrip("+-")
        return text.replace("-", "−")

    @property
    def axis(self) -> str:
        """What it is called with the unit of its values."""
        unit = {"percentage points": "%", "": "points"}.get(self.unit, self.unit)
        return f"{self.words}, {unit}"

    def bracketed(self, low: float, high: float, sign: bool = False) -> str:
        """An interval of the figure."""
        return f"[{self.write(low, sign)}, {self.write(high, sign)}]"


FIGURES = (
    Figure("stage2.median_km", "km", "median error", "km", "median", True, 1.0, "{:,.0f}"),
    Figure("stage2.geoscore", "geoscore", "GeoScore", "", factor=1.0, form="{:,.0f}"),
    Figure("stage2.country_acc", "country_right", "country right"),
    Figure("stage2.cell_top1", "cell_right", "cell right"),
    Figure("stage1.meta_top1", "meta_right", "concept right"),
)
"""What runs are held against one another by."""

HEADLINES = (
    ("stage2.median_km", "median error, km", "{:,.0f}", 1.0),
    ("stage2.geoscore", "GeoScore", "{:,.0f}", 1.0),
    ("stage2.acc_25km", "within 25 km, %", "{:.1f}", 100.0),
    ("stage2.acc_200km", "within 200 km, %", "{:.1f}", 100.0),
    ("stage2.acc_750km", "within 750 km, %", "{:.1f}", 100.0),
    ("stage2.country_acc", "country right, %", "{:.1f}", 100.0),
    ("stage2.cell_top1", "cell right, %", "{:.1f}", 100.0),
    ("stage1.meta_top1", "concept right, %", "{:.1f}", 100.0),
)
"""Keys of the first table, what they are called, how they are written, and the factor before."""


def figures(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """All figures of all runs: columns `run, key, value, low, high` (NaN where there is no interval)."""
    rows = []
    for run in runs:
        for key, entry in run.figures.items():
            parts = entry if isinstance(entry, dict) else {"value": entry}
            ends = {end: parts.get(end, np.nan) for end in ("low", "high")}
            rows.append({"run": run.name, "key": key, "value": parts["value"]} | ends)
    return pd.DataFrame(rows, columns=["run", "key", "value", "low", "high"])


def headlines(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """The figures that matter most, a row per run, with the intervals that the run has measured.

    Figures that no run has are left out.
    """
    rows = []
    for run in runs:
        row = {"run": run.name}
        for key, words, form, factor in HEADLINES:
            entry = run.figures.get(key)
            if entry is None:
                continue
            parts = entry if isinstance(entry, dict) else {"value": entry}
            row[words] = form.format(factor * parts["value"])
            if "low" in parts and "high" in parts:
                row[words] += f" [{form.format(factor * parts['low'])}, {form.format(factor * parts['high'])}]"
        rows.append(row)
    shown = [words for _, words, _, _ in HEADLINES if any(words in row for row in rows)]
    return pd.DataFrame(rows, columns=["run", *shown]).fillna("–")


def all_figures(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """Every figure in words: one row per key, one column per run, intervals in brackets."""
    table = figures(runs)
    names = [run.name for run in runs]
    if table.empty:
        return pd.DataFrame(columns=["figure", *names])

    def cell(row: pd.Series) -> str:
        text = f"{row['value']:.4g}"
        return text if np.isnan(row["low"]) else f"{text} [{row['low']:.4g}, {row['high']:.4g}]"

    written = table.assign(text=table.apply(cell, axis=1))
    wide = written.pivot(index="key", columns="run", values="text").reindex(columns=names)
    wide = wide.astype(object).fillna("–")
    return wide.rename_axis("figure").rename_axis(columns=None).reset_index()


CURVES = {
    "Stage 0": {"val_loss": "loss", "val_retrieval_km": "place retrieved, km off"},
    "Stage 1": {"val_loss": "loss", "val_meta_top1": "share of concepts right"},
    "Stage 2": {"val_loss": "loss", "val_median_km": "median error, km"},
}
"""What is drawn of each stage, by column of its history."""


def learning_curves(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """What was measured on validation in each epoch: columns `run, stage, quantity, epoch, value`."""
    parts = []
    for run in runs:
        for stage, shown in CURVES.items():
            own = run.history[run.history["stage"] == stage] if len(run.history) else run.history
            for column, words in shown.items():
                if len(own) and column in own:
                    chosen = own[["epoch", column]].rename(columns={column: "value"}).dropna()
                    parts.append(chosen.assign(run=run.name, stage=stage, quantity=words))
    columns = ["run", "stage", "quantity", "epoch", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
