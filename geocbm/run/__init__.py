"""Run: the files, features, batches and trained stages of one run."""

from geocbm.run.batch import Batch
from geocbm.run.run import Run, open_run

__all__ = ["Batch", "Run", "open_run"]
