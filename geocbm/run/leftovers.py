"""Checkpoints that an earlier execution of a notebook left, and that the run's settings do not name any more."""

from __future__ import annotations

from collections.abc import Iterable

from geocbm.files.lineage import ADOPTED
from geocbm.run import Run

_COMPANIONS = ("_neighbours", "_decoding")


def remove_leftovers(files: Run, stage: str, trained: Iterable[str]) -> list[str]:
    """Remove the further checkpoints of a stage that were not trained this time, so that no page reads them.

    Args:
        files: the run.
        stage: stem of the run's own checkpoint, such as `stage2`; it stays.
        trained: what was trained beside it: ablation modes, and `recipe NAME` for those of a recipe.

    Returns:
        Names of the removed files.
    """
    kept = {stage} | {f"{stage}_{name.replace(' ', '_')}" for name in trained}
    removed = []
    for file in sorted(files.folder.glob(f"*{stage}_*")):
        # history_<stem>.parquet, <stem>.resume.safetensors and what ends in `_COMPANIONS` belong to a checkpoint.
        stem = file.name.partition(".")[0].removeprefix("history_")
        for companion in _COMPANIONS:
            stem = stem.removesuffix(companion)
        taken = stem.endswith(ADOPTED)  # from another run, by another notebook
        if stem.startswith(f"{stage}_") and stem not in kept and not taken and file.is_file():
            file.unlink()
            removed.append(file.name)
    return removed
