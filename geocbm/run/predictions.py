"""Predictions of a run's models, how its heads are decoded (chosen on the validation split), and the files of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from geocbm.encoders.features import FeatureStore
from geocbm.encoders.loading import hash_weights
from geocbm.errors import MismatchError
from geocbm.files import SEAL, lineage, write_json
from geocbm.files.stored import save_arrays, save_frame
from geocbm.geocells.distribution import in_half_precision
from geocbm.geodesy import haversine_km, latlng_to_cartesian
from geocbm.models.decoder import Decoder, Places, PointChoice, fit_decoder
from geocbm.models.stage1 import Stage1ConceptModel, predict_stage1
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
from geocbm.models.stage2_inference import NeighbourRefiner, concept_input, predict_stage2, undecoded
from geocbm.run.encoding import kept_tokens
from geocbm.run.run import Run

Arrays = dict[str, np.ndarray]


def concept_probabilities(model: Stage1ConceptModel, features: FeatureStore) -> Arrays:
    """Concept probabilities of every row: `meta [n, k_m]`, `parent [n, k_p]`."""
    out = predict_stage1(model, features.read_all("pooled"), tokens=features)
    return {"meta": out["meta_probabilities"].numpy(), "parent": out["parent_probabilities"].numpy()}


def save_concept_scores(path: str | Path, predicted: Arrays, made_from: Mapping[str, str] | None = None) -> None:
    """Write `concept_probabilities` to `concept_scores.npz`; by `made_from` a run knows that they are its own."""
    content = {name: predicted[name].astype(np.float32) for name in ("meta", "parent")}
    if made_from is not None:
        content[lineage.KEY] = np.asarray(lineage.as_text(made_from))
    save_arrays(path, content)


def read_concept_scores(files: Run) -> Arrays:
    """Read what `save_concept_scores` wrote: `meta [n, k_m]`, `parent [n, k_p]`.

    Raises:
        MismatchError: they are of another table or of other concepts.
    """
    stored = files.read("concept_scores.npz")
    scores = {name: stored[name] for name in ("meta", "parent") if name in stored}
    for name, labels in (("meta", files.concepts.metas), ("parent", files.concepts.parents)):
        shape = scores[name].shape if name in scores else "nothing"
        if shape != (len(files.table), len(labels)):
            raise MismatchError(
                f"{name} in concept_scores.npz of run {files.name!r} has the shape {shape}, its table has "
                f"{len(files.table)} rows and {len(labels)} {name}s; make it again with: "
                f"{files.remedy('concept_scores.npz')}"
            )
    return scores


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
    given, features = concept_input(model.config, concepts), kept_tokens(files, model.keeper, features)
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
    others = [f"stage2_{mode}" for mode in list(by_mode)[1:]]
    kept = [name for name in others if files.path(f"{name}.safetensors").exists()]
    whole = pd.concat(parts, ignore_index=True)
    whole.attrs = {}  # those of the table name folders of this machine
    whole.attrs[lineage.KEY] = files.made_from("predictions.parquet", *kept)
    save_frame(path, whole)


def save_cell_scores(
    path: str | Path,
    files: Run,
    model: Stage2CrossAttentionGeoHead,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
) -> None:
    """Write the logits of all cells for validation and test, which `uncertainty.read_cell_scores` reads.

    `concepts` are those of `stages.predict_concepts`.
    """
    content: Arrays = {
        "cells_digest": np.asarray(files.cells.digest),
        lineage.KEY: np.asarray(lineage.as_text(files.made_from("cell_scores.npz"))),
        "head_digest": np.asarray(_digest(model)),
    }
    features = kept_tokens(files, model.keeper, features)
    for split in ("val", "test"):
        logits, _ = undecoded(model, concept_input(model.config, concepts), features, files.pictures[split])
        content[f"{split}_rows"] = files.pictures[split]
        content[f"{split}_logits"] = in_half_precision(logits)  # (n, N)
    save_arrays(path, content)


def answer_places(files: Run) -> Places:
    """Cell centres and training places of a run, as a decoder needs them."""
    train = files.pictures["train"]
    training = latlng_to_cartesian(files.lat[train], files.lng[train])
    return Places(files.cells.centers, training, files.cells.sample_to_cell)


def make_decoder(
    files: Run,
    head: Stage2CrossAttentionGeoHead,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    refiner: NeighbourRefiner | None = None,
) -> Decoder:
    """Fit temperature and bandwidth of a head on the validation split and choose its point (`config.answer_point`).

    `concepts` are those of `stages.predict_concepts`; a `refiner` moves the answer, if the head uses one.
    """
    val, features = files.pictures["val"], kept_tokens(files, head.keeper, features)
    logits, own = undecoded(head, concept_input(head.config, concepts), features, val, refiner)
    return fit_decoder(
        logits,
        own,
        answer_places(files),
        files.cell_label[val],
        files.lat[val],
        files.lng[val],
        head.config.answer_point,
    )


def save_decoder(path: str | Path, files: Run, head: Stage2CrossAttentionGeoHead, decoder: Decoder) -> None:
    """Write what was chosen and fitted, the validation metrics of every candidate, and what they were made from."""
    write_json(
        path,
        {
            SEAL: "",
            "labels": {lineage.KEY: files.made_from(Path(path).name), "head_digest": _digest(head)},
            "choice": decoder.choice.record(),
            "temperature": decoder.temperature,
            "bandwidth_km": decoder.bandwidth_km,
        },
    )


def load_decoder(files: Run, head: Stage2CrossAttentionGeoHead, name: str = "stage2") -> Decoder:
    """The decoder of a checkpoint.

    Raises:
        MissingInputError: it is not there.
        MismatchError: it was made from another table, other splits or cells, or for another head.
    """
    file = f"{name}_decoding.json"
    choice, temperature, bandwidth_km, digest = _read(files, file)
    if digest != _digest(head):
        raise files.mismatch(file, f"was chosen for another head than {name}.safetensors holds")
    return Decoder(choice, temperature, bandwidth_km, answer_places(files))


def read_choice(files: Run, name: str = "stage2") -> PointChoice | None:
    """Which point a checkpoint answers and why; None where the run has no such file.

    Raises:
        MismatchError: it was made from another table, other splits or cells.
    """
    file = f"{name}_decoding.json"
    return _read(files, file)[0] if files.path(file).exists() else None


def _read(files: Run, file: str) -> tuple[PointChoice, float, float, str]:
    """Choice, temperature, bandwidth in km and digest of the head for which they were chosen."""
    with files.opened(file) as content:
        choice = PointChoice.read(content["choice"])
        return choice, float(content["temperature"]), float(content["bandwidth_km"]), content["labels"]["head_digest"]


def _digest(head: Stage2CrossAttentionGeoHead) -> str:
    return hash_weights(head.state_dict().items())
