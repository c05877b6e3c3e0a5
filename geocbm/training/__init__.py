"""One training loop for all stages, and the checkpoints it leaves."""

from __future__ import annotations

from geocbm.training.batches import Batch, RowSource, Step, batches_of, row_reader, seeded
from geocbm.training.checkpoints import FitResult, load_checkpoint, read_config, restore, save_checkpoint
from geocbm.training.loop import evaluate, fit
from geocbm.training.optimization import learning_rate_factor, parameter_groups
from geocbm.training.resume import digest_of

__all__ = [
    "Batch",
    "FitResult",
    "RowSource",
    "Step",
    "batches_of",
    "digest_of",
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
