"""Training of each stage on arrays in memory, as `run.stages` trains it on the files of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geocbm.encoders.location import location_embeddings
from geocbm.models.stage0 import Stage0PretrainingModel
from geocbm.models.stage1 import Stage1ConceptModel
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
from geocbm.models.stage_losses import Stage0Loss, Stage1Loss, Stage2Loss
from geocbm.training import Checkpoint, RowLoader, fit, seeded
from geocbm.training.loader import digest_of, row_reader


@dataclass
class StageTraining:
    """What every stage is trained on: its settings and rows, and who is told of each epoch."""

    config: Any
    train_rows: Sequence[int] | np.ndarray
    val_rows: Sequence[int] | np.ndarray
    report: Callable[[str], None] = print

    def loaders(self, columns: dict[str, Tensor], readers: dict[str, Any]) -> tuple[RowLoader, RowLoader]:
        """Loaders of both splits; batches hold rows of the columns, and what the readers give."""

        def read(rows: np.ndarray) -> dict[str, Tensor]:
            return {name: values[rows] for name, values in columns.items()} | {
                name: reader(rows) for name, reader in readers.items()
            }

        digest = digest_of(*(each for pair in columns.items() for each in pair))
        train, val = (RowLoader(rows, read, digest=digest) for rows in (self.train_rows, self.val_rows))
        return train, val


def checkpoint_of(out: Path | None, description: dict[str, Any], labels: dict[str, Any] | None) -> Checkpoint | None:
    return None if out is None else Checkpoint(out, description, labels, reuse=True)


@dataclass(kw_only=True)
class Stage0Training(StageTraining):
    encoder: Any
    location_encoder: nn.Module
    meta_prototypes: Tensor
    parent_prototypes: Tensor
    hidden_features: Any
    vanilla_features: Any
    lat: np.ndarray
    lng: np.ndarray
    meta: np.ndarray
    parent: np.ndarray
    prompts: Any = None

    def fit(self, out=None, labels=None):
        config, gps = self.config, location_embeddings(self.location_encoder, self.lat, self.lng)
        given = (self.encoder, self.location_encoder, self.meta_prototypes, self.parent_prototypes)
        with seeded(config.seed):
            model = Stage0PretrainingModel(*given, config, gps.shape[1], self.prompts)
        columns = {
            "gps": gps,
            "lat": torch.as_tensor(self.lat),
            "lng": torch.as_tensor(self.lng),
            "concept_idx": torch.as_tensor(self.meta),
            "parent_idx": torch.as_tensor(self.parent),
        }
        readers = {
            "hidden": row_reader(self.hidden_features, f"hidden:{config.unfreeze_layers}"),
            "pooled": row_reader(self.vanilla_features, "pooled"),
        }
        checkpoint = checkpoint_of(out, model.description, labels)
        loaders = self.loaders(columns, readers)
        return model, fit(model, Stage0Loss(config), *loaders, config, checkpoint, report=self.report)


@dataclass(kw_only=True)
class Stage1Training(StageTraining):
    features: Any
    meta: np.ndarray
    parent: np.ndarray
    meta_prototypes: Tensor
    parent_prototypes: Tensor
    meta_to_parent: Tensor | np.ndarray
    tokens: Any = None

    def fit(self, out=None, stage0=None):
        config, read = self.config, row_reader(self.features, "pooled")
        width = read(np.asarray(self.train_rows[:1])).shape[1]
        token_dim = None if self.tokens is None else self.tokens.shape[-1]
        hierarchy = torch.as_tensor(self.meta_to_parent, dtype=torch.long)
        given = (width, self.meta_prototypes, self.parent_prototypes, hierarchy)
        with seeded(config.seed):
            model = Stage1ConceptModel(*given, config, token_dim)
        if config.init_from_stage0 and stage0 is not None:
            model.start_from(stage0, self.report)
        columns = {"concept_idx": torch.as_tensor(self.meta), "parent_idx": torch.as_tensor(self.parent)}
        readers = {"pooled": read}
        if model.needs_tokens:
            readers["patch_tokens"] = row_reader(self.tokens, "tokens")
        train, val = self.loaders(columns, readers)
        labelled = train.rows[np.asarray(self.meta)[train.rows] >= 0]
        loss = Stage1Loss(model, columns["concept_idx"][labelled], columns["parent_idx"][labelled])
        checkpoint = checkpoint_of(out, model.description, None)
        return model, fit(model, loss, train, val, config, checkpoint, report=self.report)


@dataclass(kw_only=True)
class Stage2Training(StageTraining):
    concept_emb: Tensor
    tokens: Any
    cells: Any
    cell_label: np.ndarray
    lat: np.ndarray
    lng: np.ndarray

    def fit(self, out=None, stage0=None):
        config, cells, read = self.config, self.cells, row_reader(self.tokens, "tokens", half=True)
        concept_emb = self.concept_emb.detach().cpu().float()
        scale_km = cells.scale_km if config.offset_kind == "tangent" else None
        widths = (concept_emb.shape[1], read(np.asarray(self.train_rows[:1])).shape[-1])
        with seeded(config.seed):
            model = Stage2CrossAttentionGeoHead(*widths, len(cells.centers), cells.centers, config, scale_km)
        if config.init_from_stage0 and stage0 is not None:
            model.start_from(stage0)
        if config.ablation_mode == "concept_scores":
            model.standardise_by(concept_emb[np.asarray(self.train_rows)])
        elif config.ablation_mode == "hybrid":
            model.start_from_concepts(replace(self, config=config.in_mode("concept_scores")).fit()[0])
        columns = {
            "concept_emb": concept_emb,
            "cell_label": torch.as_tensor(self.cell_label),
            "lat": torch.as_tensor(self.lat, dtype=torch.float64),
            "lng": torch.as_tensor(self.lng, dtype=torch.float64),
        }
        loaders = self.loaders(columns, {"patch_tokens": read} if config.reads_tokens else {})
        checkpoint = checkpoint_of(out, model.description(cells.digest), None)
        return model, fit(model, Stage2Loss(config, cells), *loaders, config.training, checkpoint, report=self.report)
