"""One training loop for all stages, and the checkpoints it leaves."""

from __future__ import annotations

from geocbm.training.batches import Batch, RowSource, batches_of, row_reader, seeded
from geocbm.training.checkpoints import FitResult, load_checkpoint, read_config, restore, save_checkpoint
from geocbm.training.loop import Step, evaluate, fit, learning_rate_factor, parameter_groups

__all__ = [
    "Batch",
    "FitResult",
    "RowSource",
    "Step",
    "batches_of",
    "evaluate",
    "fit",
    "learning_rate_factor",
    "load_checkpoint",
    "parameter_groups",
    "read_config",
    "restore",
    "row_reader",
    "save_checkpoint",
    "seeded",
]
