"""Training, loading and applying Stage 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.errors import MismatchError
from geocbm.files import run_command
from geocbm.geodesy import cartesian_to_latlng, haversine_km, latlng_to_cartesian
from geocbm.stage0 import Stage0PretrainingModel
from geocbm.stage2.model import (
    Stage2Config,
    Stage2CrossAttentionGeoHead,
    Stage2Output,
)
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

NOTEBOOK = "05"

ROW_FIELDS = ("cell_logits", "offsets")
"""What the head computes per row and the losses read; several processes gather it."""


class Cells(Protocol):
    """What Stage 2 needs to know of geocells: unit vectors `centers` `(N, 3)` and a `digest`."""

    @property
    def centers(self) -> np.ndarray:
        """Unit vectors `(N, 3)`."""

    @property
    def digest(self) -> str:
        """Hash of the cells."""


def offset_targets(centers: Tensor, lat: Tensor, lng: Tensor, coord_output_dim: int) -> Tensor:
    """Offsets from the centre of the true cell to the true place (specification, section "Stage 2").

    Args:
        centers: `(B, 3)` unit vectors of the true cells.
        lat: `(B,)` degrees.
        lng: `(B,)` degrees.
        coord_output_dim: 3 for differences of unit vectors, 2 for degrees, the longitude by the short way round.

    Returns:
        `(B, coord_output_dim)`.
    """
    if coord_output_dim == 3:
        return latlng_to_cartesian(lat, lng) - centers
    center_lat, center_lng = cartesian_to_latlng(centers)
    return torch.stack([lat - center_lat, (lng - center_lng + 180.0) % 360.0 - 180.0], dim=-1)


def stage2_losses(
    output: Stage2Output, cell: Tensor, target_offsets: Tensor, config: Stage2Config
) -> dict[str, Tensor]:
    """Cell cross-entropy, offset mean squared error and their weighted sum.

    Args:
        output: of the head.
        cell: `(B,)` true cells.
        target_offsets: `(B, 2 or 3)`, see `offset_targets`.
        config: weights.

    Returns:
        Scalars `loss`, `cell`, `offset`; terms without their weights.
    """
    cell_loss = functional.cross_entropy(output.cell_logits, cell)
    offset_loss = functional.mse_loss(output.offsets.float(), target_offsets)
    return {
        "loss": config.lambda_cell * cell_loss + config.lambda_offset * offset_loss,
        "cell": cell_loss,
        "offset": offset_loss,
    }


def fit_stage2(
    config: Stage2Config,
    concept_emb: Tensor,
    tokens: Tensor | RowSource,
    cells: Cells,
    cell_label: np.ndarray,
    lat: np.ndarray,
    lng: np.ndarray,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    out: str | Path | None = None,
    stage0: Stage0PretrainingModel | None = None,
    labels: Mapping[str, Any] | None = None,
    row_names: Sequence[str] | None = None,
    report: Callable[[str], None] = print,
) -> tuple[Stage2CrossAttentionGeoHead, FitResult]:
    """Train Stage 2 on concept embeddings and patch tokens of frozen earlier stages.

    Args:
        config: settings.
        concept_emb: `(n, c)` of all rows of the table.
        tokens: a store with kind `tokens`, or `(n, P, w)`.
        cells: geocells.
        cell_label: `(n,)` cell of each row.
        lat: `(n,)` degrees.
        lng: `(n,)` degrees.
        train_rows: row positions.
        val_rows: row positions.
        out: `stage2.safetensors` to write, or None.
        stage0: model whose patch projection to start from; ignored when `config.init_from_stage0` is False.
        labels: label names and digests for the JSON.
        row_names: `pano_id` of each row, for messages.
        report: called with one line per epoch.

    Returns:
        The model with its best weights, and what the run did.
    """
    lat, lng = np.asarray(lat, dtype=np.float64), np.asarray(lng, dtype=np.float64)
    train_rows, val_rows = np.asarray(train_rows, dtype=np.int64), np.asarray(val_rows, dtype=np.int64)
    read = row_reader(tokens, "tokens")
    needs_tokens = config.ablation_mode != "concept_only"
    token_dim = read(train_rows[:1]).shape[-1]
    cell = torch.as_tensor(cell_label, dtype=torch.long)
    held = concept_emb.detach().cpu().float()
    with seeded(config.seed):
        model = Stage2CrossAttentionGeoHead(held.shape[1], token_dim, len(cells.centers), cells.centers, config)
    if config.init_from_stage0 and stage0 is not None:
        model.start_from(stage0)
    centers = torch.as_tensor(np.asarray(cells.centers), dtype=torch.float64)
    # Subtracted in double precision: the difference of two unit vectors of one cell has few digits left in single.
    targets = offset_targets(
        functional.normalize(centers, dim=-1)[cell],
        torch.from_numpy(lat),
        torch.from_numpy(lng),
        config.coord_output_dim,
    ).float()  # (n, 2 or 3)

    def batch(rows: np.ndarray) -> Batch:
        content = {"concept_emb": held[rows], "cell": cell[rows], "offset": targets[rows]}
        return content | ({"tokens": read(rows)} if needs_tokens else {})

    def compute(module: nn.Module, content: Batch) -> Step:
        output = module(content["concept_emb"], content.get("tokens"))
        pred_lat, pred_lng = model.decode(output)
        predictions = {"cell": output.cell_logits.argmax(-1), "lat": pred_lat, "lng": pred_lng}
        whole, true = gather_batch(output, ROW_FIELDS, content, ("cell", "offset"))
        return Step(stage2_losses(whole, true["cell"], true["offset"], config), predictions)

    def measure(predictions: dict[str, Tensor], rows: np.ndarray) -> dict[str, float]:
        km = haversine_km(predictions["lat"].numpy(), predictions["lng"].numpy(), lat[rows], lng[rows])
        cell_top1 = float((predictions["cell"] == cell[rows]).float().mean())
        return {"cell_top1": cell_top1, "median_km": float(np.median(km))}

    def examples() -> pd.DataFrame:
        rows = example_rows(val_rows, train_rows)
        said = predict_stage2(model, held, tokens, rows, top_k=1)
        place, sure = (said["lat"], said["lng"]), said["cell_probability"][:, 0]
        return place_examples(rows, row_names, (lat[rows], lng[rows]), place, cell_probability=sure)

    result = fit(
        model,
        compute,
        batch,
        train_rows,
        val_rows,
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
        epochs=config.epochs,
        groups=parameter_groups(model, config.lr, config.weight_decay),
        seed=config.seed,
        patience=config.patience,
        monitor=config.monitor,
        higher_is_better=config.monitor == "cell_top1",
        measure=measure,
        out=out,
        metadata={
            "stage": 2,
            "config": asdict(config),
            "labels": dict(labels or {}),
            "cells_digest": cells.digest,
            "concept_dim": held.shape[1],
            "token_dim": token_dim,
        },
        row_names=row_names,
        tracking=config.tracking,
        examples=examples,
        precision=config.precision,
        data_digest=digest_of(held, tokens, cell, targets),
        report=report,
    )
    return model, result


def load_stage2(path: str | Path, cells_digest: str | None = None) -> Stage2CrossAttentionGeoHead:
    """Load a checkpoint of Stage 2 in evaluation mode.

    Args:
        path: `stage2.safetensors`.
        cells_digest: digest of the geocells in use, to be sure that they are the ones it was trained on.

    Raises:
        MissingInputError: when it is not there.
        MismatchError: when it was trained on other geocells, or is no whole checkpoint of Stage 2.
    """
    made_by = run_command(path, NOTEBOOK)
    tensors, metadata = load_checkpoint(path, made_by, stage=2)
    if cells_digest is not None and cells_digest != metadata["cells_digest"]:
        raise MismatchError(f"{path} was trained on other geocells than the ones in use; train again with `{made_by}`")
    centers = tensors["cell_centers"]
    model = Stage2CrossAttentionGeoHead(
        metadata["concept_dim"],
        metadata["token_dim"],
        len(centers),
        centers,
        read_config(Stage2Config, metadata, path, made_by),
    )
    restore(model, tensors, path)
    return model


def predict_stage2(
    model: Stage2CrossAttentionGeoHead,
    concept_emb: Tensor,
    tokens: Tensor | RowSource,
    rows: np.ndarray,
    top_k: int = 5,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Places of many images.

    Args:
        model: the trained head.
        concept_emb: `(n, c)` of all rows of the table.
        tokens: a store with kind `tokens`, or `(n, P, w)`.
        rows: row positions to predict.
        top_k: cells to keep per image (at most all of them).
        batch_size: rows at a time.

    Returns:
        In the order of `rows`: `lat` and `lng` `(m,)` degrees, `cell` `(m, k)` the most probable cells and
        `cell_probability` `(m, k)` with the first the highest, `attention` `(m, P)` averaged over the heads.
    """
    read = row_reader(tokens, "tokens")
    rows = np.asarray(rows, dtype=np.int64)
    device = model.cell_head.weight.device
    top_k = min(top_k, model.cell_head.out_features)
    parts: dict[str, list[np.ndarray]] = {}
    model.eval()
    with torch.no_grad():
        for start in range(0, max(len(rows), 1), batch_size):  # no rows give empty arrays of the usual shape
            chosen = rows[start : start + batch_size]
            output = model(concept_emb[chosen].float().to(device), read(chosen).to(device))
            lat, lng = model.decode(output)
            probability, cell = output.cell_logits.softmax(-1).topk(top_k, dim=-1)
            values = {"lat": lat, "lng": lng, "cell": cell, "cell_probability": probability}
            for name, value in (values | {"attention": output.attention.mean(1)}).items():
                value = value.float() if value.is_floating_point() else value
                parts.setdefault(name, []).append(value.cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}
