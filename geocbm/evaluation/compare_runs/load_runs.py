"""What a run leaves behind, read so that a damaged or half-finished run costs its own row and not the page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from geocbm.data.concepts import UNKNOWN
from geocbm.errors import MissingInputError, ParameterError, UserError
from geocbm.files import lineage, paths, run_command
from geocbm.files.stored import opened
from geocbm.geodesy import KM_PER_DEGREE
from geocbm.metrics import HEADLINES, error_km, geoscore, metric, places_of
from geocbm.metrics.table import in_brackets
from geocbm.run import Run

FARTHEST_KM = 180 * KM_PER_DEGREE
"""Half way round the Earth: the error of a missing answer, which no answer exceeds."""

KEY = ["pano_id", "meta_name"]
_PLACES = ["true_lat", "true_lng", "lat", "lng", "cell", "true_cell"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class ComparedRun:
    """One run as far as it can be read; what is not known is empty.

    `images` has a row per test image of the main mode, indexed by `pano_id, meta_name`: `true_lat, true_lng, lat, lng,
    cell, true_cell, km` (a missing answer counts as half way round the Earth), `geoscore, true_country, answered,
    country_right, cell_right` and, where the concepts are stored, `named_meta, meta_right`.
    """

    name: str
    profile: str = ""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # what `manifest.json` says, by notebook number
    metrics: dict[str, Any] = field(default_factory=dict)  # its flat `metrics.json`
    images: pd.DataFrame | None = None
    metas: tuple[str, ...] = ()  # names of its concepts
    history: pd.DataFrame = field(default_factory=pd.DataFrame)  # `stage, epoch` and what was measured on validation
    problems: tuple[str, ...] = ()  # a sentence for everything that is missing or cannot be read

    @property
    def answers(self) -> pd.DataFrame:
        """`images` of a run that has predictions; a MissingInputError of one that has none."""
        if self.images is None:
            command = run_command(paths.data_root() / "runs" / self.name, "05")
            raise MissingInputError(f"run {self.name!r} has no predictions; make them with: {command}")
        return self.images


def runs_to_compare(reports: Path, run_root: Path, names: Sequence[str], run: str) -> list[str]:
    """The runs to put side by side, the asking `run` first; empty `names` mean every run with metrics or predictions.

    A named run that has left nothing is refused with the runs that have.
    """
    known = sorted({*paths.runs_in(reports, "metrics.json"), *paths.runs_in(run_root, "predictions.parquet")})
    missing = [name for name in names if name not in known and name != run]
    if missing:
        raise ParameterError(
            f"runs={list(names)!r}: {missing[0]!r} has no metrics; runs with metrics: {', '.join(known) or 'none'}"
        )
    known = [name for name in known if not (run_root / name / paths.COPY_MARK).exists()]
    return list(dict.fromkeys([run, *(names or known)]))


def read_runs(reports: Path, run_root: Path, names: Sequence[str]) -> list[ComparedRun]:
    """Read runs in the given order; what is missing or damaged becomes a sentence in `problems`."""
    return [_read_run(reports / name, run_root / name, name) for name in names]


def problems(runs: Sequence[ComparedRun]) -> list[str]:
    """Everything that could not be read, a sentence each, beginning with the run."""
    return [f"{run.name}: {problem}" for run in runs for problem in run.problems]


def overview(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """One row per run: profile, stages that ran, seconds they took, test images, number of metrics."""
    rows = [
        {
            "run": run.name,
            "profile": run.profile,
            "stages": " ".join(sorted(run.stages)),
            "seconds": round(sum(float(stage.get("seconds") or 0) for stage in run.stages.values())),
            "test images": 0 if run.images is None else len(run.images),
            "metrics": len(run.metrics),
        }
        for run in runs
    ]
    return pd.DataFrame(rows, columns=["run", "profile", "stages", "seconds", "test images", "metrics"])


def _read_run(report: Path, folder: Path, name: str) -> ComparedRun:
    found: list[str] = []

    def attempt(path: Path, read: Callable[[Any], Result], otherwise: Result, absent: str = "") -> Result:
        if not path.exists():
            found.extend([absent] if absent else [])
            return otherwise
        try:
            if path.parent == folder and lineage.read_record(path):
                Run(folder).need(path.name)  # only what was made from the run as it is now
            with opened(path, partial(run_command, folder, "05")) as content:
                return read(content)
        except UserError as error:
            found.append(f"{path.name} cannot be read ({str(error).splitlines()[0]}) and is left out")
            return otherwise

    nothing: dict[str, Any] = {}
    manifest = attempt(report / "manifest.json", dict, nothing, "no manifest.json: its parameters are not known")
    measured = attempt(report / "metrics.json", _numbers, nothing, "no metrics.json: it has no metrics")
    images = attempt(
        folder / "predictions.parquet", _images, None, "no predictions.parquet: Stage 2 has not run to its end"
    )
    metas: tuple[str, ...] = attempt(folder / "concepts.json", lambda content: tuple(content["metas"]), ())
    if images is not None and metas:
        without = images
        absent = "no concept_scores.npz: its concepts are not compared"
        scores = folder / "concept_scores.npz"
        images = attempt(scores, lambda stored: _with_concepts(without, metas, stored["meta"]), without, absent)
    histories = [
        attempt(path, partial(_history, f"Stage {path.stem[-1]}"), pd.DataFrame())
        for path in sorted(folder.glob("history_stage[012].parquet"))
    ]
    if not any(len(history) for history in histories):
        found.append("no history of training: it has no learning curve")
    stages = manifest.get("stages")
    stages = stages if isinstance(stages, dict) else {}
    return ComparedRun(
        name=name,
        profile=str(manifest.get("profile") or ""),
        stages={number: stage for number, stage in stages.items() if isinstance(stage, dict)},
        metrics=measured,
        images=images,
        metas=metas,
        history=pd.concat(histories, ignore_index=True) if histories else pd.DataFrame(),
        problems=tuple(found),
    )


def _numbers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics that are numbers or intervals; others would break every table."""
    kept: dict[str, Any] = {}
    for key, entry in content.items():
        parts = entry if isinstance(entry, dict) else {"value": entry}
        if "value" in parts and all(type(value) in (int, float) for value in parts.values()):
            kept[key] = entry
    return kept


def _images(stored: pd.DataFrame) -> pd.DataFrame:
    """Predictions of the main mode, with what is right about them."""
    missing = {*KEY, *_PLACES, "main"} - set(stored)
    if missing:
        raise ValueError(f"its column {min(missing)} is missing")
    stored = stored[stored["main"].astype(bool)].drop_duplicates(KEY)
    if stored.empty:
        raise ValueError("it holds no test image")
    images = stored.set_index(KEY)[[*_PLACES, *(["row"] if "row" in stored else [])]].copy()
    km = error_km(images["lat"], images["lng"], images["true_lat"], images["true_lng"])
    images["km"] = np.where(np.isfinite(km), km, FARTHEST_KM)
    images["geoscore"] = geoscore(km)
    images["true_country"] = places_of(images["true_lat"], images["true_lng"])["country"].to_numpy()
    images["answered"] = places_of(images["lat"], images["lng"])["country"].to_numpy()
    known = images["true_country"] != ""
    images["country_right"] = (known & (images["answered"] == images["true_country"])).astype(float)
    images["cell_right"] = (images["cell"] == images["true_cell"]).astype(float)
    return images


def _with_concepts(images: pd.DataFrame, metas: Sequence[str], scores: np.ndarray) -> pd.DataFrame:
    """Add the concept that Stage 1 names for each image, by the scores `[n_table, k_m]`."""
    rows = images["row"].to_numpy()
    if scores.ndim != 2 or scores.shape[1] != len(metas) or rows.max() >= len(scores):
        raise ValueError(f"its shape is {scores.shape}, which does not fit the predictions")
    named = np.array(metas, dtype=object)[scores[rows].argmax(axis=1)]
    label = images.index.get_level_values("meta_name")
    right = (named == label.to_numpy()).astype(float)
    return images.assign(named_meta=named, meta_right=np.where(label == UNKNOWN, np.nan, right))


def _history(stage: str, history: pd.DataFrame) -> pd.DataFrame:
    """What was measured on validation in each epoch."""
    if not {"epoch", "val_loss"} <= set(history):
        raise ValueError("its column epoch or val_loss is missing")
    measured = [column for column in history if str(column).startswith("val_")]
    return history[["epoch", *measured]].assign(stage=stage)


FIRST_TABLE = (*HEADLINES, "stage2.acc_25km", "stage2.acc_200km", "stage2.acc_750km", "stage2.cell_top1")
"""Keys of the first table."""


def headlines(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """The metrics that matter most, a row per run, with the intervals that the run has measured.

    Metrics that no run has are left out.
    """
    keys = [key for key in FIRST_TABLE if any(key in run.metrics for run in runs)]
    rows = []
    for run in runs:
        row = {"run": run.name}
        for key in keys:
            own, entry = metric(key), run.metrics.get(key)
            parts = entry if isinstance(entry, dict) else {} if entry is None else {"value": entry}
            written = [own.write(parts[end]) for end in ("value", "low", "high") if end in parts]
            row[own.axis] = in_brackets(*written) if written else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def all_metrics(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """Every metric with its unit: one row per key, what it is called, and one column per run, intervals in brackets."""
    keys = sorted({key for run in runs for key in run.metrics})
    rows = [
        {"key": key, "metric": metric(key).label}
        | {run.name: metric(key).entry(run.metrics[key]) if key in run.metrics else "–" for run in runs}
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
