"""Run: the files, features, batches and trained stages of one run."""

from geocbm.run.run import Batch, Run, folder_of, open_run
