"""Training, loading and applying Stage 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.errors import MismatchError, ParameterError
from geocbm.files import run_command
from geocbm.models.stage0.config import Stage0Config
from geocbm.models.stage0.model import Stage0PretrainingModel, location_embeddings, stage0_losses
from geocbm.models.stage0.prompts import PromptPrototypes
from geocbm.models.stage0.retrieval import retrieval_metrics
from geocbm.training import (
    Batch,
    FitResult,
    RowSource,
    Step,
    digest_of,
    fit,
    load_checkpoint,
    parameter_groups,
    read_config,
    restore,
    row_reader,
    seeded,
)
from geocbm.training.distributed import gather_batch
from geocbm.training.examples import example_rows, place_examples

if TYPE_CHECKING:
    from geocbm.encoders import TextEncoder

NOTEBOOK = "03"
ENCODERS = ("encoder.", "prompts.")
"""Parts of the model that train at the encoder's learning rate."""
_TEXT = "prompts.text_encoder."

ROW_FIELDS = ("pooled", "gps", "concept_emb", "meta_logits", "parent_logits", "patch_emb")
"""What the model computes per row and the losses read; several processes gather it."""

ROW_LABELS = ("gps", "vanilla", "meta", "parent", "lat", "lng")
"""What the losses read of a batch, all of it per row."""


def fit_stage0(
    config: Stage0Config,
    encoder: Any,
    location_encoder: nn.Module,
    meta_prototypes: Tensor,
    parent_prototypes: Tensor,
    hidden_features: Tensor | RowSource,
    vanilla_features: Tensor | RowSource,
    lat: np.ndarray,
    lng: np.ndarray,
    meta: np.ndarray,
    parent: np.ndarray,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    out: str | Path | None = None,
    labels: Mapping[str, Any] | None = None,
    row_names: Sequence[str] | None = None,
    prompts: PromptPrototypes | None = None,
    report: Callable[[str], None] = print,
) -> tuple[Stage0PretrainingModel, FitResult]:
    """Train Stage 0 from stored activations; the frozen trunk of the encoder is never computed here.

    Args:
        config: settings.
        encoder: image encoder; its last blocks are changed in place.
        location_encoder: frozen module `(B, 2)` degrees -> `(B, g)`.
        meta_prototypes: `(k_m, t)`.
        parent_prototypes: `(k_p, t)`.
        hidden_features: activations entering the unfrozen blocks: a store with kind `hidden:<unfreeze_layers>`, or a
            tensor `(n, ...)`.
        vanilla_features: pooled features of the untrained encoder: a store with kind `pooled`, or `(n, d)`.
        lat: `(n,)` degrees, of all rows of the table.
        lng: `(n,)` degrees.
        meta: `(n,)` meta indices.
        parent: `(n,)` parent indices.
        train_rows: row positions (`pretrain_train`).
        val_rows: row positions (`pretrain_val`).
        out: `stage0.safetensors` to write, or None.
        labels: label names and digests for the JSON.
        row_names: `pano_id` of each row, for messages.
        prompts: what `config.train_text_encoder` trains, changed in place; not used without it.
        report: called with one line per epoch.

    Returns:
        The model with its best weights, and what the run did; `result.initial` and `result.best` hold the retrieval
        figures before and after.

    Raises:
        ParameterError: when the text encoder is to be trained but there are no prompts.
    """
    if config.train_text_encoder and prompts is None:
        raise ParameterError("train_text_encoder=True needs the prompts; give prompts=PromptPrototypes(...)")
    prompts = prompts if config.train_text_encoder else None
    lat, lng = np.asarray(lat, dtype=np.float64), np.asarray(lng, dtype=np.float64)
    gps = location_embeddings(location_encoder, lat, lng)  # (n, g)
    read_hidden = row_reader(hidden_features, f"hidden:{config.unfreeze_layers}")
    read_vanilla = row_reader(vanilla_features, "pooled")
    columns = {
        "gps": gps,
        "meta": torch.as_tensor(meta, dtype=torch.long),
        "parent": torch.as_tensor(parent, dtype=torch.long),
        "lat": torch.from_numpy(lat).float(),
        "lng": torch.from_numpy(lng).float(),
    }
    started_from = {
        "encoder": {
            "name": encoder.name,
            "fingerprint": encoder.weights_fingerprint(),
            "preprocessing": encoder.preprocessing_name,
        }
    }
    if prompts is not None:
        text = prompts.text_encoder
        started_from["text_encoder"] = {"name": text.name, "fingerprint": text.fingerprint()}
    with seeded(config.seed):
        model = Stage0PretrainingModel(
            encoder, location_encoder, meta_prototypes, parent_prototypes, config, gps.shape[1], prompts
        )

    def batch(rows: np.ndarray) -> Batch:
        content = {name: values[rows] for name, values in columns.items()}
        return content | {"hidden": read_hidden(rows), "vanilla": read_vanilla(rows)}

    def compute(module: nn.Module, content: Batch) -> Step:
        output = module(content["hidden"], content["gps"])
        similarity = output.meta_logits
        if similarity is None:
            unit = functional.normalize(output.meta_prototypes, dim=-1)
            similarity = functional.normalize(output.concept_emb, dim=-1) @ unit.T  # (B, k_m)
        predictions = {"image": output.pooled, "place": output.gps, "meta": similarity.argmax(1)}
        whole, true = gather_batch(output, ROW_FIELDS, content, ROW_LABELS)
        return Step(stage0_losses(whole, true, config), predictions)

    def measure(predictions: dict[str, Tensor], rows: np.ndarray) -> dict[str, float]:
        values = retrieval_metrics(predictions["image"], predictions["place"], lat[rows], lng[rows])
        if config.concept_losses:  # untrained heads name concepts at random
            values["meta_top1"] = float((predictions["meta"] == columns["meta"][rows]).float().mean())
        if config.learn_temperature:
            values["temperature"] = float(model.temperature().detach())
        return values

    def examples() -> pd.DataFrame:
        rows = example_rows(val_rows, train_rows)
        content = {name: value.to(model.meta_base.device) for name, value in batch(rows).items()}
        with torch.no_grad():
            output = model(content["hidden"], content["gps"])
        image, place = (functional.normalize(each.float().cpu(), dim=-1) for each in (output.pooled, output.gps))
        cosine, first = (image @ place.T).max(1)  # (n,): of the place that is retrieved among those of these rows
        found = rows[first.numpy()]
        return place_examples(
            rows, row_names, (lat[rows], lng[rows]), (lat[found], lng[found]), similarity=cosine.numpy()
        )

    result = fit(
        model,
        compute,
        batch,
        train_rows,
        val_rows,
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
        epochs=config.epochs,
        groups=parameter_groups(model, config.lr, config.weight_decay, dict.fromkeys(ENCODERS, config.encoder_lr)),
        seed=config.seed,
        patience=config.patience,
        measure=measure,
        out=out,
        metadata={
            "stage": 0,
            "config": asdict(config),
            "labels": dict(labels or {}),
            "gps_dim": gps.shape[1],
        }
        | started_from,
        row_names=row_names,
        tracking=config.tracking,
        examples=examples,
        precision=config.precision,
        gradient_clip=config.gradient_clip,
        warmup=config.warmup,
        reuse=True,
        data_digest=digest_of(hidden_features, vanilla_features, *columns.values()),
        report=report,
    )
    return model, result


def load_stage0(path: str | Path, encoder: Any, location_encoder: nn.Module | None = None) -> Stage0PretrainingModel:
    """Load a checkpoint and put its trained blocks into the encoder.

    A text encoder that was trained too is not needed: the model has the prototypes it came to.

    Args:
        path: `stage0.safetensors`.
        encoder: the image encoder as it was before training; changed in place.
        location_encoder: needed only for `embed_places`.

    Returns:
        The model in evaluation mode.

    Raises:
        MissingInputError: when the checkpoint is not there.
        MismatchError: when it was trained from another encoder, or is no whole checkpoint of Stage 0.
    """
    made_by = partial(run_command, path, NOTEBOOK)
    tensors, metadata = load_checkpoint(path, made_by, stage=0)
    _check_start(encoder, encoder.weights_fingerprint(), "encoder", path, metadata)
    before = metadata["encoder"].get("preprocessing", encoder.preprocessing_name)
    if before != encoder.preprocessing_name:
        raise MismatchError(
            f"{path} was trained on pictures that {before} prepared, but {encoder.name!r} prepares them with "
            f"{encoder.preprocessing_name}, which gives other pixels; use the same, or train again with `{made_by}`"
        )
    model = Stage0PretrainingModel(
        encoder,
        location_encoder,
        tensors["meta_base"],
        tensors["parent_base"],
        read_config(Stage0Config, metadata, path, made_by),
        metadata["gps_dim"],
    )
    restore(model, {name: value for name, value in tensors.items() if not name.startswith(_TEXT)}, path)
    return model


def read_base_prototypes(path: str | Path) -> dict[str, Tensor]:
    """Base prototypes of a checkpoint, `meta (k_m, t)` and `parent (k_p, t)`: the ones Stage 1 builds upon.

    Raises:
        MissingInputError: when the checkpoint is not there.
        MismatchError: when its two files do not belong together or are of another stage.
    """
    tensors, _ = load_checkpoint(path, partial(run_command, path, NOTEBOOK), stage=0)
    return {"meta": tensors["meta_base"], "parent": tensors["parent_base"]}


def restore_text_encoder(path: str | Path, text_encoder: TextEncoder) -> bool:
    """Put the weights that Stage 0 trained into a text encoder, so that it can encode other words than the concepts.

    Args:
        path: `stage0.safetensors`.
        text_encoder: as it was before training; changed in place.

    Returns:
        Whether Stage 0 trained it; if not, it stays as it is.

    Raises:
        MissingInputError: when the checkpoint is not there.
        MismatchError: when another text encoder was trained.
    """
    tensors, metadata = load_checkpoint(path, partial(run_command, path, NOTEBOOK), stage=0)
    if "text_encoder" not in metadata:
        return False
    _check_start(text_encoder, text_encoder.fingerprint(), "text_encoder", path, metadata)
    trained = {name.removeprefix(_TEXT): value for name, value in tensors.items() if name.startswith(_TEXT)}
    text_encoder.load_state_dict(trained, strict=False)
    return True


def _check_start(model: Any, fingerprint: str, part: str, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Refuse an encoder whose weights are not those that training began with."""
    if fingerprint != metadata[part]["fingerprint"]:
        raise MismatchError(
            f"{path} was trained from the {part.replace('_', ' ')} {metadata[part]['name']!r} with other weights than "
            f"those of {model.name!r}; load that encoder afresh, or train again with `{run_command(path, NOTEBOOK)}`"
        )
