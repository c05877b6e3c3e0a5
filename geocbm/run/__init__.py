"""Run: the files, features, batches and trained stages of one run."""

from geocbm.run.run import Batch, Run, open_run
