"""Training: one loop for all stages and for models and losses of a notebook's own, and the checkpoints it leaves."""

from __future__ import annotations

from geocbm.training.checkpoints import Checkpoint, FitResult
from geocbm.training.epoch import gradient_norms, loss_terms
from geocbm.training.loader import RowLoader, seeded
from geocbm.training.loop import evaluate, fit
from geocbm.training.settings import TrainingSettings
