"""Small runs on disk whose answers, and so whose differences, are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.data.concepts import ConceptVocabulary
from geocbm.files import write_json

N = 60
LAT, LNG = np.linspace(-50, 60, N), np.linspace(-170, 170, N)  # each in a block of its own
METAS = ("pole", "road", "sign")
DEGREE_KM = 6371.0 * np.pi / 180
SETTINGS = {
    "01": {"csv": "data/table.csv", "seed": 0, "split": "stratified"},
    "02": {"min_samples_per_cell": 5, "seed": 0},
    "03": {"epochs": 2, "lr": 0.1, "seed": 0},
    "04": {"bottleneck": "mlp", "seed": 0, "examples": 6},
    "05": {"ablation_mode": "both", "seed": 0},
}


def write_manifest(
    root: Path, name: str, settings: dict[str, Any] | None = None, content: str = "digest", **stage: Any
) -> None:
    """Write the manifest of a run.

    Args:
        root: the folder of `reports`.
        name: name of the run.
        settings: `NN.name` with the values that differ from `SETTINGS`.
        content: digest of the table.
        **stage: further entries of each stage.
    """
    stages: dict[str, Any] = {}
    for number, parameters in SETTINGS.items():
        stages[number] = {"seconds": 10.4, "parameters": {"run": name, **parameters}, **stage}
    stages["01"]["inputs"] = {"parameter:csv": content}
    for key, value in (settings or {}).items():
        number, parameter = key.split(".")
        stages[number]["parameters"][parameter] = value
    write_json(root / "reports" / name / "manifest.json", {"profile": "smoke", "stages": stages})


def write_run(
    root: Path,
    name: str,
    error: Any = 1.0,
    right: Any = True,
    settings: dict[str, Any] | None = None,
    content: str = "digest",
    metas: tuple[str, ...] = METAS,
    **changes: Any,
) -> None:
    """Write a whole run: manifest, figures, predictions, scores of concepts, history.

    Args:
        root: folder that holds `reports` and `runs`.
        name: name of the run.
        error: degrees by which the answers lie to the north, one number or `[N]`.
        right: whether the concept of each image is named right, one or `[N]`.
        settings: `NN.name` with the values that differ from `SETTINGS`.
        content: digest of the table.
        metas: the vocabulary.
        **changes: other columns of the predictions.
    """
    write_manifest(root, name, settings, content)
    figures = {"stage2.median_km": {"value": 123.456, "low": 100.0, "high": 150.0}, "cells.n": 12}
    write_json(root / "reports" / name / "metrics.json", figures)
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    label = np.arange(N) % len(metas)
    main = pd.DataFrame(
        {
            "pano_id": [f"p{number}" for number in range(N)],
            "meta_name": np.array(metas)[label],
            "row": np.arange(N),
            "main": True,
            "true_lat": LAT,
            "true_lng": LNG,
            "lat": LAT + error,
            "lng": LNG,
            "cell": np.arange(N) % 4,
            "true_cell": np.arange(N) % 5,
        }
    ).assign(**changes)
    pd.concat([main, main.assign(main=False, lat=0.0)]).to_parquet(folder / "predictions.parquet")
    ConceptVocabulary(tuple(sorted(metas)), ("thing",), dict.fromkeys(metas, "thing")).save(folder / "concepts.json")
    named = np.where(right, label, (label + 1) % len(metas))
    np.savez(folder / "concept_scores.npz", meta=np.eye(len(metas), dtype=np.float32)[named])
    for stage in (0, 1, 2):
        history = pd.DataFrame({"epoch": [1, 2], "train_loss": [3.0, 2.0], "val_loss": [2.5, 2.25]})
        history.assign(val_median_km=[900.0, 800.0]).to_parquet(folder / f"history_stage{stage}.parquet")
