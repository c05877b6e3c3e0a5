"""Stage 0: contrastive pretraining that brings the image encoder near to places and concepts."""

from __future__ import annotations

from geocbm.models.stage0.config import Stage0Config
from geocbm.models.stage0.fitting import fit_stage0, load_stage0, read_base_prototypes, restore_text_encoder
from geocbm.models.stage0.model import Stage0Output, Stage0PretrainingModel, location_embeddings, stage0_losses
from geocbm.models.stage0.probe import class_mean_accuracy, nearest_class_mean
from geocbm.models.stage0.prompts import PromptPrototypes
from geocbm.models.stage0.retrieval import retrieval_by_row, retrieval_metrics

__all__ = [
    "PromptPrototypes",
    "Stage0Config",
    "Stage0Output",
    "Stage0PretrainingModel",
    "class_mean_accuracy",
    "fit_stage0",
    "load_stage0",
    "location_embeddings",
    "nearest_class_mean",
    "read_base_prototypes",
    "restore_text_encoder",
    "retrieval_by_row",
    "retrieval_metrics",
    "stage0_losses",
]
