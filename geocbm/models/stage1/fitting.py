"""Training, loading and applying Stage 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from geocbm.errors import ParameterError
from geocbm.files import run_command
from geocbm.models import losses
from geocbm.models.stage0 import Stage0PretrainingModel
from geocbm.models.stage1.config import Stage1Config
from geocbm.models.stage1.model import Stage1ConceptModel, stage1_losses
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
from geocbm.training.examples import concept_examples, example_rows

NOTEBOOK = "04"

ROW_FIELDS = ("concept_emb", "meta_logits", "parent_logits")
"""What the model computes per row and the losses read; several processes gather it."""


def fit_stage1(
    config: Stage1Config,
    features: Tensor | RowSource,
    meta: np.ndarray,
    parent: np.ndarray,
    meta_prototypes: Tensor,
    parent_prototypes: Tensor,
    meta_to_parent: Tensor | np.ndarray,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    out: str | Path | None = None,
    stage0: Stage0PretrainingModel | None = None,
    labels: Mapping[str, Any] | None = None,
    row_names: Sequence[str] | None = None,
    report: Callable[[str], None] = print,
    tokens: Tensor | RowSource | None = None,
) -> tuple[Stage1ConceptModel, FitResult]:
    """Train Stage 1 on stored features of the frozen encoder.

    Args:
        config: settings.
        features: a store with kind `pooled`, or `(n, d)`.
        meta: `(n,)` meta indices of all rows.
        parent: `(n,)` parent indices.
        meta_prototypes: `(k_m, t)` base prototypes.
        parent_prototypes: `(k_p, t)`.
        meta_to_parent: `(k_m,)`.
        train_rows: row positions.
        val_rows: row positions.
        out: `stage1.safetensors` to write, or None.
        stage0: model to start from; ignored when `config.init_from_stage0` is False.
        labels: label names and digests for the JSON.
        row_names: `pano_id` of each row, for messages.
        report: called with one line per epoch.
        tokens: a store with kind `tokens`, or `(n, P, w)`, for a bottleneck that reads them; by default the store of
            the features.

    Returns:
        The model with its best weights, and what the run did.
    """
    read = row_reader(features, "pooled")
    read_tokens = _token_reader(config, features, tokens)
    train_rows, val_rows = np.asarray(train_rows, dtype=np.int64), np.asarray(val_rows, dtype=np.int64)
    in_memory = isinstance(features, Tensor)
    if not in_memory:
        # Pooled features are small (0.3 MB per hundred images): one read instead of one per step.
        needed = np.unique(np.concatenate([train_rows, val_rows]))
        held = read(needed)
    width = read(train_rows[:1]).shape[1]
    token_dim = read_tokens(train_rows[:1]).shape[2] if read_tokens else None
    meta_true = torch.as_tensor(meta, dtype=torch.long)
    parent_true = torch.as_tensor(parent, dtype=torch.long)
    meta_weights = losses.inverse_frequency(meta_true[train_rows], len(meta_prototypes))
    parent_weights = losses.inverse_frequency(parent_true[train_rows], len(parent_prototypes))
    with seeded(config.seed):
        model = Stage1ConceptModel(
            width,
            meta_prototypes,
            parent_prototypes,
            torch.as_tensor(meta_to_parent, dtype=torch.long),
            config,
            token_dim,
        )
    if config.init_from_stage0 and stage0 is not None and "bottleneck" not in model.start_from(stage0):
        report(
            f"bottleneck={config.bottleneck!r} starts afresh: Stage 0 trained {stage0.config.bottleneck!r}; its "
            "prototype projection is taken over"
        )

    def batch(rows: np.ndarray) -> Batch:
        pooled = read(rows) if in_memory else held[np.searchsorted(needed, rows)]
        content = {"pooled": pooled, "meta": meta_true[rows], "parent": parent_true[rows]}
        return content | ({"tokens": read_tokens(rows)} if read_tokens else {})

    def compute(module: nn.Module, content: Batch) -> Step:
        output = module(content["pooled"], content.get("tokens"))
        whole, true = gather_batch(output, ROW_FIELDS, content, ("meta", "parent"))
        values = stage1_losses(whole, model, true["meta"], true["parent"], meta_weights, parent_weights)
        return Step(values, {"meta": output.meta_logits.argmax(1), "parent": output.parent_logits.argmax(1)})

    def measure(predictions: dict[str, Tensor], rows: np.ndarray) -> dict[str, float]:
        return {
            "meta_top1": float((predictions["meta"] == meta_true[rows]).float().mean()),
            "parent_top1": float((predictions["parent"] == parent_true[rows]).float().mean()),
        }

    def examples() -> pd.DataFrame:
        rows = example_rows(val_rows, train_rows)
        said = predict_stage1(model, features, rows, tokens=tokens)["meta_probabilities"]
        return concept_examples(rows, row_names, meta_true[rows], said, (labels or {}).get("metas"))

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
        higher_is_better=config.monitor != "loss",
        measure=measure,
        out=out,
        metadata={
            "stage": 1,
            "config": asdict(config),
            "labels": dict(labels or {}),
            "in_dim": width,
            "token_dim": token_dim,
        },
        row_names=row_names,
        tracking=config.tracking,
        examples=examples,
        precision=config.precision,
        gradient_clip=config.gradient_clip,
        warmup=config.warmup,
        reuse=True,
        data_digest=digest_of(features, tokens, meta_true, parent_true),
        report=report,
    )
    return model, result


def load_stage1(path: str | Path) -> Stage1ConceptModel:
    """Load a checkpoint of Stage 1 in evaluation mode.

    Raises:
        MissingInputError: when it is not there.
        MismatchError: when its two files do not belong together, or are no whole checkpoint of Stage 1.
    """
    made_by = partial(run_command, path, NOTEBOOK)
    tensors, metadata = load_checkpoint(path, made_by, stage=1)
    model = Stage1ConceptModel(
        metadata["in_dim"],
        tensors["meta_base"],
        tensors["parent_base"],
        tensors["meta_to_parent"],
        read_config(Stage1Config, metadata, path, made_by),
        metadata["token_dim"],
    )
    restore(model, tensors, path)
    return model


def predict_stage1(
    model: Stage1ConceptModel,
    features: Tensor | RowSource,
    rows: np.ndarray | None = None,
    batch_size: int = 256,
    tokens: Tensor | RowSource | None = None,
) -> dict[str, Tensor]:
    """Concepts of many images.

    Args:
        model: the trained model.
        features: a store with kind `pooled`, or `(n, d)`.
        rows: row positions; None means all rows of a tensor.
        batch_size: rows at a time.
        tokens: a store with kind `tokens`, or `(n, P, w)`, for a bottleneck that reads them; by default the store of
            the features.

    Returns:
        float32 tensors on the CPU in the order of `rows`: `concept_emb (n, c)`, `meta_probabilities (n, k_m)`,
        `parent_probabilities (n, k_p)`.
    """
    if rows is None:
        if not isinstance(features, Tensor):
            raise ParameterError("rows=None needs features in memory; give the row positions to read from the store")
        rows = np.arange(len(features))
    rows = np.asarray(rows, dtype=np.int64)
    read, read_tokens = row_reader(features, "pooled"), _token_reader(model.config, features, tokens)
    device = model.meta_bias.device
    parts: dict[str, list[Tensor]] = {}
    model.eval()
    with torch.no_grad():
        for start in range(0, max(len(rows), 1), batch_size):  # no rows give empty tensors of the usual shape
            chosen = rows[start : start + batch_size]
            said = model(read(chosen).to(device), read_tokens(chosen).to(device) if read_tokens else None)
            for name, value in said.probabilities().items():
                parts.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def _token_reader(
    config: Stage1Config, features: Tensor | RowSource, tokens: Tensor | RowSource | None
) -> Callable[[np.ndarray], Tensor] | None:
    """Reader of patch tokens for a bottleneck that needs them, else None.

    Raises:
        ParameterError: when it needs them and there are none.
    """
    if config.bottleneck == "mlp":
        return None
    if tokens is None and isinstance(features, Tensor):
        raise ParameterError(f"bottleneck={config.bottleneck!r} reads patch tokens, but tokens is None; give a store")
    return row_reader(features if tokens is None else tokens, "tokens")
