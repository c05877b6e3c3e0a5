"""Runs side by side: parameters that differ, figures, and differences held against noise.

Everything is read from what runs leave behind (`manifest.json`, `metrics.json`, `predictions.parquet`,
`history_stage*.parquet`), so that a run can be compared long after its features are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.files import read_json
from geocbm.metrics import error_km, paired_difference, spatial_blocks


def runs_to_compare(reports: Path, names: Sequence[str], run: str) -> list[str]:
    """The runs to put side by side, the asking run first.

    Args:
        reports: folder of all reports.
        names: runs to compare; empty means every run with a `metrics.json`.
        run: the run that asks; it is always part of the comparison.

    Raises:
        ParameterError: a named run has no figures; the message lists the runs that have.
    """
    known = sorted(path.parent.name for path in reports.glob("*/metrics.json"))
    missing = [name for name in names if name not in known and name != run]
    if missing:
        raise ParameterError(
            f"runs={list(names)!r}: {missing[0]!r} has no figures; runs with figures: {', '.join(known) or 'none'}"
        )
    return [run, *(name for name in (names or known) if name != run)]


def _manifest(reports: Path, run: str) -> dict[str, Any]:
    path = reports / run / "manifest.json"
    return read_json(path) if path.exists() else {}


def _figures_of(reports: Path, run: str) -> dict[str, Any]:
    path = reports / run / "metrics.json"
    return read_json(path) if path.exists() else {}


def overview(reports: Path, names: Sequence[str]) -> pd.DataFrame:
    """One row per run: profile, stages that ran, seconds they took, number of figures."""
    rows = []
    for name in names:
        manifest = _manifest(reports, name)
        stages = manifest.get("stages", {})
        rows.append(
            {
                "run": name,
                "profile": manifest.get("profile", ""),
                "stages": len(stages),
                "seconds": round(sum(stage.get("seconds") or 0 for stage in stages.values())),
                "figures": len(_figures_of(reports, name)),
            }
        )
    return pd.DataFrame(rows)


def different_parameters(reports: Path, names: Sequence[str]) -> pd.DataFrame:
    """Parameters that are not the same in all runs, one row each, one column per run."""
    columns: dict[str, dict[str, Any]] = {}
    for name in names:
        stages = _manifest(reports, name).get("stages", {})
        columns[name] = {
            f"{number}.{parameter}": value
            for number, stage in stages.items()
            for parameter, value in stage.get("parameters", {}).items()
            if parameter != "run"
        }
    keys = sorted(set().union(*columns.values())) if columns else []
    rows = [
        {"parameter": key, **{name: str(columns[name].get(key, "")) for name in names}}
        for key in keys
        if len({str(columns[name].get(key, "")) for name in names}) > 1
    ]
    return pd.DataFrame(rows, columns=["parameter", *names])


def figures(reports: Path, names: Sequence[str]) -> pd.DataFrame:
    """All figures of all runs: columns `run, key, value, low, high` (NaN where there is no interval)."""
    rows = []
    for name in names:
        for key, entry in _figures_of(reports, name).items():
            has_interval = isinstance(entry, dict)
            rows.append(
                {
                    "run": name,
                    "key": key,
                    "value": entry["value"] if has_interval else entry,
                    "low": entry["low"] if has_interval else np.nan,
                    "high": entry["high"] if has_interval else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=["run", "key", "value", "low", "high"])


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The figures as a reader wants them: one row per key, one column per run, intervals in brackets."""
    if table.empty:
        return pd.DataFrame(columns=["figure"])

    def cell(row: pd.Series) -> str:
        text = f"{row['value']:.4g}"
        return text if np.isnan(row["low"]) else f"{text} [{row['low']:.4g}, {row['high']:.4g}]"

    printed = table.assign(text=table.apply(cell, axis=1))
    wide = printed.pivot(index="key", columns="run", values="text").fillna("")
    return wide[list(dict.fromkeys(table["run"]))].rename_axis("figure").reset_index()


def paired_differences(
    run_root: Path, names: Sequence[str], run: str, n_resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Difference in median error between each run and `run`, on the test images both have predicted.

    Args:
        run_root: folder of all runs' data.
        names: runs to compare.
        run: the run they are compared with.
        n_resamples: resamples of the bootstrap, by spatial blocks.
        seed: seed of the resamples.

    Returns:
        Columns `run, images, median_km, difference_km, low, high, verdict`; runs with other test images say so.
    """
    own = _places(run_root / run / "predictions.parquet")
    rows: list[dict[str, Any]] = []
    for name in names:
        other = _places(run_root / name / "predictions.parquet")
        if name == run or own is None or other is None:
            continue
        joined = own.add_suffix("_own").join(other.add_suffix("_other"), how="inner")
        # Names alone do not tell two generated worlds apart: the places must be the same too.
        own_places, other_places = (joined[[f"true_lat_{side}", f"true_lng_{side}"]] for side in ("own", "other"))
        same_places = np.allclose(own_places.to_numpy(), other_places.to_numpy(), atol=1e-9)
        if len(joined) < max(len(own), len(other)) or not same_places:
            rows.append({"run": name, "images": len(joined), "verdict": "other test images: not comparable"})
            continue
        blocks = spatial_blocks(joined["true_lat_own"], joined["true_lng_own"])
        gap = paired_difference(
            joined["km_other"], joined["km_own"], blocks, statistic="median", n=n_resamples, seed=seed
        )
        noise = gap["low"] <= 0 <= gap["high"]
        verdict = "no difference beyond noise" if noise else "better" if gap["value"] < 0 else "worse"
        rows.append(
            {
                "run": name,
                "images": len(joined),
                "median_km": float(joined["km_other"].median()),
                "difference_km": gap["value"],
                "low": gap["low"],
                "high": gap["high"],
                "verdict": verdict,
            }
        )
    return pd.DataFrame(rows, columns=["run", "images", "median_km", "difference_km", "low", "high", "verdict"])


def _places(path: Path) -> pd.DataFrame | None:
    """Predictions of a run's main mode by row, with their error in km; None when the run has none."""
    if not path.exists():
        return None
    table = pd.read_parquet(path)
    table = table[table["main"]].drop_duplicates(["pano_id", "meta_name"]).set_index(["pano_id", "meta_name"])
    table["km"] = error_km(table["lat"], table["lng"], table["true_lat"], table["true_lng"])
    return table[["true_lat", "true_lng", "km"]]


def histories(run_root: Path, names: Sequence[str]) -> pd.DataFrame:
    """Validation loss by epoch of every stage of every run: columns `run, stage, epoch, val_loss`."""
    parts = []
    for name in names:
        for path in sorted((run_root / name).glob("history_stage?.parquet")):
            history = pd.read_parquet(path)
            if {"epoch", "val_loss"} <= set(history):
                stage = path.stem.removeprefix("history_stage")
                parts.append(history[["epoch", "val_loss"]].assign(run=name, stage=f"Stage {stage}"))
    columns = ["run", "stage", "epoch", "val_loss"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
