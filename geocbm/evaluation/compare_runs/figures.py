"""The figures of runs side by side: the few that matter, and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from geocbm.evaluation.compare_runs.load_runs import ComparedRun
from geocbm.metrics.table import LOWER, Metric, metric


@dataclass(frozen=True)
class Figure:
    """A metric that is measured on every test image; label, unit and direction are those of the table of metrics.

    Attributes:
        key: its name in `metrics.json`.
        column: its value for each image in `ComparedRun.images`.
        statistic: how the values of images become one figure, "mean" or "median".
    """

    key: str
    column: str
    statistic: str = "mean"

    @property
    def metric(self) -> Metric:
        """Its row in the table of metrics."""
        return metric(self.key)

    @property
    def words(self) -> str:
        """What it is called."""
        return self.metric.label

    @property
    def unit(self) -> str:
        """Unit of a difference; empty for points of a score."""
        return self.metric.unit.difference

    @property
    def less_is_better(self) -> bool:
        """Whether a smaller value is the better one."""
        return self.metric.better == LOWER

    @property
    def factor(self) -> float:
        """What a value is multiplied by before it is written."""
        return self.metric.unit.factor

    @property
    def axis(self) -> str:
        """What it is called with the unit of its values."""
        return self.metric.axis

    def write(self, value: float, sign: bool = False) -> str:
        """A value of the figure, without its unit."""
        return self.metric.write(value, sign)

    def bracketed(self, low: float, high: float, sign: bool = False) -> str:
        """An interval of the figure."""
        return f"[{self.write(low, sign)}, {self.write(high, sign)}]"


FIGURES = (
    Figure("stage2.median_km", "km", "median"),
    Figure("stage2.geoscore", "geoscore"),
    Figure("stage2.country_acc", "country_right"),
    Figure("stage2.cell_top1", "cell_right"),
    Figure("stage1.meta_top1", "meta_right"),
)
"""What runs are held against one another by."""

HEADLINES = (
    "stage2.median_km",
    "stage2.geoscore",
    "stage2.acc_25km",
    "stage2.acc_200km",
    "stage2.acc_750km",
    "stage2.country_acc",
    "stage2.cell_top1",
    "stage1.meta_top1",
)
"""Keys of the first table."""


def headlines(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """The figures that matter most, a row per run, with the intervals that the run has measured.

    Figures that no run has are left out.
    """
    rows = []
    for run in runs:
        row = {"run": run.name}
        for own in (metric(key) for key in HEADLINES if key in run.figures):
            entry = run.figures[own.key]
            parts = entry if isinstance(entry, dict) else {"value": entry}
            row[own.axis] = own.write(parts["value"])
            if "low" in parts and "high" in parts:
                row[own.axis] += f" [{own.write(parts['low'])}, {own.write(parts['high'])}]"
        rows.append(row)
    shown = [metric(key).axis for key in HEADLINES if any(metric(key).axis in row for row in rows)]
    return pd.DataFrame(rows, columns=["run", *shown]).fillna("–")


def all_figures(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """Every metric with its unit: one row per key, what it is called, and one column per run, intervals in brackets."""
    keys = sorted({key for run in runs for key in run.figures})
    rows = [
        {"key": key, "metric": metric(key).label}
        | {run.name: metric(key).entry(run.figures[key]) if key in run.figures else "–" for run in runs}
        for key in keys
    ]
    return pd.DataFrame(rows, columns=["key", "metric", *(run.name for run in runs)])


CURVES = {
    "Stage 0": ("val_loss", "val_retrieval_km"),
    "Stage 1": ("val_loss", "val_meta_top1"),
    "Stage 2": ("val_loss", "val_median_km"),
}
"""What is drawn of each stage: columns of its history."""


def learning_curves(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """What was measured on validation in each epoch: columns `run, stage, quantity, epoch, value`.

    Values are in the unit that the name of the quantity says.
    """
    parts = []
    for run in runs:
        for stage, shown in CURVES.items():
            own = run.history[run.history["stage"] == stage] if len(run.history) else run.history
            for column in shown:
                if len(own) and column in own:
                    chosen = own[["epoch", column]].rename(columns={column: "value"}).dropna()
                    drawn = metric(f"epoch.{column.removeprefix('val_')}")
                    chosen["value"] *= drawn.unit.factor
                    parts.append(chosen.assign(run=run.name, stage=stage, quantity=drawn.axis))
    columns = ["run", "stage", "quantity", "epoch", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
