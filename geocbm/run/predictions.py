"""Predictions of a run's models for table rows, and the files that keep them for pages which load no model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.files import lineage
from geocbm.geocells.distribution import in_half_precision
from geocbm.geodesy import haversine_km

if TYPE_CHECKING:
    import torch

    from geocbm.encoders.features import FeatureStore
    from geocbm.models.decoder import Decoder
    from geocbm.models.refinement import NeighbourRefiner
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
    from geocbm.run.run import Run

Arrays = dict[str, np.ndarray]


def concept_probabilities(model: Stage1ConceptModel, features: FeatureStore) -> Arrays:
    """Concept probabilities of every row: `meta [n, k_m]`, `parent [n, k_p]`."""
    from geocbm.models.stage1 import predict_stage1

    out = predict_stage1(model, features.read_all("pooled"), tokens=features)
    return {"meta": out["meta_probabilities"].numpy(), "parent": out["parent_probabilities"].numpy()}


def save_concept_scores(path: str | Path, predicted: Arrays, made_from: Mapping[str, str] | None = None) -> None:
    """Write `concept_probabilities` to `concept_scores.npz`, for pages that do not load the model.

    By `made_from` (of `Run.made_from`) a run knows that they are its own.
    """
    content = {name: predicted[name].astype(np.float32) for name in ("meta", "parent")}
    if made_from is not None:
        content[lineage.KEY] = np.asarray(lineage.as_text(made_from))
    np.savez_compressed(path, **content)  # type: ignore[arg-type]


def predict_places(
    files: Run,
    model: Stage2CrossAttentionGeoHead,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    rows: np.ndarray,
    refiner: NeighbourRefiner | None = None,
    decoder: Decoder | None = None,
) -> Arrays:
    """Places of some rows: `km` and what `stage2.predict_stage2` returns; cells best first, `[m, k]`."""
    from geocbm.models.stage2_inference import concept_input, predict_stage2

    given = concept_input(model.config, concepts)
    predicted = predict_stage2(model, given, features, rows, refiner=refiner, pooled=features, decoder=decoder)
    predicted["km"] = haversine_km(predicted["lat"], predicted["lng"], files.lat[rows], files.lng[rows])
    return predicted


def save_predictions(path: str | Path, files: Run, by_mode: Mapping[str, Arrays], rows: np.ndarray) -> None:
    """Write the predicted places of all modes, one row per image and mode; the first mode is the main one.

    `lat` and `lng` are the answer, `lat_<point>` and `lng_<point>` the points it was chosen from, NaN where a mode has
    no such point.
    """
    labels = files.table.iloc[rows][["pano_id", "meta_name", "country"]].reset_index(drop=True)
    parts = [
        labels.assign(
            row=rows,
            mode=mode,
            main=number == 0,
            true_lat=files.lat[rows],
            true_lng=files.lng[rows],
            lat=places["lat"],
            lng=places["lng"],
            cell=places["cell"][:, 0],
            confidence=places["cell_probability"][:, 0],
            true_cell=files.cell_label[rows],
            **{name: values for name, values in places.items() if name.startswith(("lat_", "lng_"))},
        )
        for number, (mode, places) in enumerate(by_mode.items())
    ]
    others = [f"stage2_{mode.replace(' ', '_')}" for mode in list(by_mode)[1:]]
    kept = [name for name in others if files.path(f"{name}.safetensors").exists()]
    whole = pd.concat(parts, ignore_index=True)
    whole.attrs[lineage.KEY] = files.made_from("predictions.parquet", *kept)
    whole.to_parquet(path)


def save_cell_scores(
    path: str | Path,
    files: Run,
    model: Stage2CrossAttentionGeoHead,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
) -> None:
    """Write the logits of all cells for the validation and the test split, for pages that ask how sure the model is.

    `geocbm.evaluation.uncertainty.read_cell_scores` reads the file.

    Args:
        path: the file, `cell_scores.npz`.
        files: the run.
        model: the trained head of the main mode.
        concepts: of `stages.predict_concepts`.
        features: the adapted features.
    """
    from geocbm.encoders.loading import hash_weights
    from geocbm.models.stage2_inference import cell_logits, concept_input

    content: Arrays = {
        "cells_digest": np.asarray(files.cells.digest),
        lineage.KEY: np.asarray(lineage.as_text(files.made_from("cell_scores.npz"))),
        "head_digest": np.asarray(hash_weights(model.state_dict().items())),
    }
    for split in ("val", "test"):
        logits = cell_logits(model, concept_input(model.config, concepts), features, files.rows[split])
        content[f"{split}_rows"] = files.rows[split]
        content[f"{split}_logits"] = in_half_precision(logits)  # (n, N)
    np.savez_compressed(path, **content)  # type: ignore[arg-type]
