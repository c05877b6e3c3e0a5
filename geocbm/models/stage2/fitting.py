"""Training Stage 2."""

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

from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics import geoscore
from geocbm.models.losses import group_cross_entropy, smoothed_cell_labels
from geocbm.models.stage0 import Stage0PretrainingModel
from geocbm.models.stage2.config import Stage2Config
from geocbm.models.stage2.model import Stage2CrossAttentionGeoHead, Stage2Output
from geocbm.models.stage2.offsets import offset_targets
from geocbm.models.stage2.predicting import predict_stage2, residual_share
from geocbm.training import Batch, FitResult, RowSource, Step, digest_of, fit, parameter_groups, row_reader, seeded
from geocbm.training.distributed import gather_batch
from geocbm.training.examples import example_rows, place_examples

ROW_FIELDS = ("cell_logits", "offsets")
"""What the head computes per row and the losses read; several processes gather it."""


class Cells(Protocol):
    """What Stage 2 needs to know of geocells."""

    @property
    def centers(self) -> np.ndarray:
        """Unit vectors `(N, 3)`."""

    @property
    def country(self) -> np.ndarray:
        """Country of each cell `(N,)`; read only where `lambda_country` is above 0."""

    @property
    def scale_km(self) -> np.ndarray:
        """Scale of each cell `(N,)`, km; read only for the offset kind "tangent"."""

    @property
    def digest(self) -> str:
        """Hash of the cells."""


def stage2_losses(
    output: Stage2Output,
    cell: Tensor,
    target_offsets: Tensor,
    config: Stage2Config,
    cell_share: Tensor | None = None,
    country_of_cell: Tensor | None = None,
) -> dict[str, Tensor]:
    """Cell cross-entropy, offset error and their weighted sum (specification, section "Stage 2", Loss Functions).

    Args:
        output: of the head, its offsets those of the true cells (see `Stage2Output.offsets_at`).
        cell: `(B,)` true cells.
        target_offsets: `(B, 2 or 3)`, see `offset_targets`.
        config: weights, and the kind of offset: mean squared error, or Huber for "tangent".
        cell_share: `(B, N)` share of each cell in the label, see `losses.smoothed_cell_labels`; None: all for the true
            cell.
        country_of_cell: `(N,)` index of each cell's country, for the loss over countries; None leaves it out.

    Returns:
        Scalars `loss`, `cell`, `offset` and, with countries, `country`; terms without their weights.
    """
    cell_loss = functional.cross_entropy(output.cell_logits, cell if cell_share is None else cell_share)
    distance = functional.huber_loss if config.offset_kind == "tangent" else functional.mse_loss
    offset_loss = distance(output.offsets.float(), target_offsets)
    terms = {"cell": cell_loss, "offset": offset_loss}
    loss = config.lambda_cell * cell_loss + config.lambda_offset * offset_loss
    if country_of_cell is not None:
        terms["country"] = group_cross_entropy(output.cell_logits.float(), cell, country_of_cell)
        loss = loss + config.lambda_country * terms["country"]
    return {"loss": loss, **terms}


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
    """Train Stage 2 on concepts and patch tokens of frozen earlier stages.

    Mode `hybrid` trains twice: first the linear layers on the probabilities, as mode `concept_scores` does, then,
    with these frozen, the residual from the patches.

    Args:
        config: settings.
        concept_emb: `(n, c)` of all rows of the table: concept embeddings, or the probabilities of metas and parents
            in the modes that read them (`config.reads_scores`).
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
    read = row_reader(tokens, "tokens", half=True)
    token_dim = read(train_rows[:1]).shape[-1]
    cell = torch.as_tensor(cell_label, dtype=torch.long)
    held = concept_emb.detach().cpu().float()
    scale_km = cells.scale_km if config.offset_kind == "tangent" else None
    with seeded(config.seed):
        model = Stage2CrossAttentionGeoHead(
            held.shape[1], token_dim, len(cells.centers), cells.centers, config, scale_km
        )
    if config.init_from_stage0 and stage0 is not None:
        model.start_from(stage0)
    if config.ablation_mode == "concept_scores":
        model.standardise_by(held[train_rows])
    elif config.ablation_mode == "hybrid":
        report("the concepts alone:")
        concepts_alone = config.in_mode("concept_scores", tracking="disabled")
        given = (cells, cell_label, lat, lng, train_rows, val_rows)
        concept_head, _ = fit_stage2(concepts_alone, held, tokens, *given, row_names=row_names, report=report)
        model.start_from_concepts(concept_head)
        report("the residual from the patches:")
    targets = _all_targets(config, cells, cell, lat, lng)
    columns = {"concept_emb": held, "cell": cell, "offset": targets}
    if config.smooth_km:
        columns |= {"lat": torch.from_numpy(lat), "lng": torch.from_numpy(lng)}
    read_by_loss = [name for name in columns if name != "concept_emb"]
    country_of_cell = (
        torch.from_numpy(np.unique(cells.country, return_inverse=True)[1].reshape(-1))
        if config.lambda_country
        else None
    )

    def batch(rows: np.ndarray) -> Batch:
        content = {name: values[rows] for name, values in columns.items()}
        return content | ({"tokens": read(rows)} if config.reads_tokens else {})

    def compute(module: nn.Module, content: Batch) -> Step:
        output = module(content["concept_emb"], content.get("tokens"))
        pred_lat, pred_lng = model.decode(output)
        predictions = {"cell": output.cell_logits.argmax(-1), "lat": pred_lat, "lng": pred_lng}
        if output.residual_logits is not None:
            predictions["residual_share"] = residual_share(output)
        output = output._replace(offsets=output.offsets_at(content["cell"]))
        whole, true = gather_batch(output, ROW_FIELDS, content, read_by_loss)
        share = None
        if config.smooth_km:
            centers = cartesian_to_latlng(model.cell_centers)
            share = smoothed_cell_labels(true["lat"], true["lng"], *centers, config.smooth_km)
        return Step(stage2_losses(whole, true["cell"], true["offset"], config, share, country_of_cell), predictions)

    def measure(predictions: dict[str, Tensor], rows: np.ndarray) -> dict[str, float]:
        km = haversine_km(predictions["lat"].numpy(), predictions["lng"].numpy(), lat[rows], lng[rows])
        values = {
            "cell_top1": float((predictions["cell"] == cell[rows]).float().mean()),
            "median_km": float(np.median(km)),
            "geoscore": float(geoscore(km).mean()),
        }
        if "residual_share" in predictions:
            values["residual_share"] = float(predictions["residual_share"].mean())
        return values

    def examples() -> pd.DataFrame:
        rows = example_rows(val_rows, train_rows)
        said = predict_stage2(model, held, tokens, rows, top_k=1)
        place, sure = (said["lat"], said["lng"]), said["cell_probability"][:, 0]
        return place_examples(rows, row_names, (lat[rows], lng[rows]), place, cell_probability=sure)

    linear_only = config.ablation_mode == "concept_scores"
    rates = {"cell_head.": config.score_lr, "offset_head.": config.score_lr} if config.reads_scores else {}
    result = fit(
        model,
        compute,
        batch,
        train_rows,
        val_rows,
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
        epochs=config.score_epochs if linear_only else config.epochs,
        groups=parameter_groups(model, config.lr, config.weight_decay, rates),
        seed=config.seed,
        patience=_patience(config),
        monitor=config.monitor,
        higher_is_better=config.monitor in ("cell_top1", "geoscore"),
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
        gradient_clip=config.gradient_clip,
        warmup=config.warmup,
        reuse=True,
        data_digest=digest_of(held, tokens, cell, targets),
        report=report,
    )
    return model, result


def _patience(config: Stage2Config) -> int:
    """Epochs without improvement before stopping; the linear layer on the probabilities has short epochs."""
    if config.ablation_mode == "concept_scores" and config.patience:
        return max(config.patience, config.score_epochs // 5)
    return config.patience


def _all_targets(config: Stage2Config, cells: Cells, cell: Tensor, lat: np.ndarray, lng: np.ndarray) -> Tensor:
    """Offsets `(n, 2 or 3)` of all rows of the table from the centres of their cells."""
    # Subtracted in double precision: the difference of two unit vectors of one cell has few digits left in single.
    centers = functional.normalize(torch.as_tensor(np.asarray(cells.centers), dtype=torch.float64), dim=-1)
    scale_km = None
    if config.offset_kind == "tangent":
        scale_km = torch.as_tensor(np.asarray(cells.scale_km), dtype=torch.float64)[cell]
    place = torch.from_numpy(lat), torch.from_numpy(lng)
    return offset_targets(centers[cell], *place, config.offset_kind, scale_km).float()
