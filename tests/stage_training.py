"""Training of each stage on arrays in memory, as `run.stages` trains it on the files of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocbm.encoders.location import location_embeddings
from geocbm.models.stage0 import Stage0PretrainingModel
from geocbm.models.stage0_loss import Stage0Loss
from geocbm.models.stage1 import Stage1ConceptModel, token_reader
from geocbm.models.stage1_loss import Stage1Loss
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
from geocbm.models.stage2_loss import Stage2Loss
from geocbm.training import Checkpoint, RowLoader, fit, seeded
from geocbm.training.loader import digest_of, row_reader


def loaders(train_rows, val_rows, columns: dict[str, Tensor], readers: dict[str, Any], names=None):
    """Loaders of both splits; batches hold rows of the columns, and what the readers give."""

    def read(rows: np.ndarray) -> dict[str, Tensor]:
        return {name: values[rows] for name, values in columns.items()} | {
            name: reader(rows) for name, reader in readers.items()
        }

    digest = digest_of(*(each for pair in columns.items() for each in pair))
    return tuple(RowLoader(rows, read, names=names, digest=digest) for rows in (train_rows, val_rows))


def checkpoint_of(out, description, labels) -> Checkpoint | None:
    return None if out is None else Checkpoint(out, description, labels, reuse=True)


def fit_stage0(
    config, encoder, location_encoder, meta_prototypes, parent_prototypes, hidden_features, vanilla_features, lat, lng,
    meta, parent, train_rows, val_rows, out=None, labels=None, row_names=None, prompts=None, report=print,
):  # fmt: skip
    gps = location_embeddings(location_encoder, lat, lng)
    with seeded(config.seed):
        model = Stage0PretrainingModel(
            encoder, location_encoder, meta_prototypes, parent_prototypes, config, gps.shape[1], prompts
        )
    columns = {
        "gps": gps, "lat": torch.as_tensor(lat), "lng": torch.as_tensor(lng),
        "concept_idx": torch.as_tensor(meta), "parent_idx": torch.as_tensor(parent),
    }  # fmt: skip
    readers = {
        "hidden": row_reader(hidden_features, f"hidden:{config.unfreeze_layers}"),
        "pooled": row_reader(vanilla_features, "pooled"),
    }
    train, val = loaders(train_rows, val_rows, columns, readers, row_names)
    checkpoint = checkpoint_of(out, model.description, labels)
    return model, fit(model, Stage0Loss(config), train, val, config, checkpoint, report=report)


def fit_stage1(
    config, features, meta, parent, meta_prototypes, parent_prototypes, meta_to_parent, train_rows, val_rows, out=None,
    stage0=None, labels=None, row_names=None, report=print, tokens=None, bottleneck=None,
):  # fmt: skip
    read = row_reader(features, "pooled")
    width = read(np.asarray(train_rows[:1])).shape[1]
    token_dim = None if tokens is None else tokens.shape[-1]
    hierarchy = torch.as_tensor(meta_to_parent, dtype=torch.long)
    with seeded(config.seed):
        model = Stage1ConceptModel(width, meta_prototypes, parent_prototypes, hierarchy, config, token_dim, bottleneck)
    if config.init_from_stage0 and stage0 is not None:
        model.start_from(stage0, report)
    columns = {"concept_idx": torch.as_tensor(meta), "parent_idx": torch.as_tensor(parent)}
    reader = token_reader(model, features, tokens)
    readers = {"pooled": read} | ({"patch_tokens": reader} if reader else {})
    train, val = loaders(train_rows, val_rows, columns, readers, row_names)
    loss = Stage1Loss(model, columns["concept_idx"][train.rows], columns["parent_idx"][train.rows])
    checkpoint = checkpoint_of(out, model.description, labels)
    return model, fit(model, loss, train, val, config, checkpoint, report=report)


def fit_stage2(
    config, concept_emb, tokens, cells, cell_label, lat, lng, train_rows, val_rows, out=None, stage0=None, labels=None,
    row_names=None, report=print,
):  # fmt: skip
    read = row_reader(tokens, "tokens", half=True)
    concept_emb = concept_emb.detach().cpu().float()
    scale_km = cells.scale_km if config.offset_kind == "tangent" else None
    width = read(np.asarray(train_rows[:1])).shape[-1]
    with seeded(config.seed):
        model = Stage2CrossAttentionGeoHead(
            concept_emb.shape[1], width, len(cells.centers), cells.centers, config, scale_km
        )
    if config.init_from_stage0 and stage0 is not None:
        model.start_from(stage0)
    if config.ablation_mode == "concept_scores":
        model.standardise_by(concept_emb[np.asarray(train_rows)])
    elif config.ablation_mode == "hybrid":
        given = (concept_emb, tokens, cells, cell_label, lat, lng, train_rows, val_rows)
        model.start_from_concepts(fit_stage2(config.in_mode("concept_scores"), *given, report=report)[0])
    columns = {
        "concept_emb": concept_emb, "cell_label": torch.as_tensor(cell_label),
        "lat": torch.as_tensor(lat, dtype=torch.float64), "lng": torch.as_tensor(lng, dtype=torch.float64),
    }  # fmt: skip
    readers = {"patch_tokens": read} if config.reads_tokens else {}
    train, val = loaders(train_rows, val_rows, columns, readers, row_names)
    checkpoint = checkpoint_of(out, model.description(cells.digest), labels)
    return model, fit(model, Stage2Loss(config, cells), train, val, config.training, checkpoint, report=report)
