"""Makers: which notebook writes which file of a run, and where making one again must begin."""

from __future__ import annotations

from pathlib import Path

ADOPTED = "_adopted"
"""Ends the stem of a file that a run took from another run in place of its own."""

MADE_BY = {
    "table.parquet": "01",
    "concepts.json": "01",
    "splits.json": "01",
    "geocells.npz": "02",
    "prototypes.safetensors": "03",
    "features.json": "03",
    "stage0.safetensors": "03",
    "stage1.safetensors": "04",
    "concept_scores.npz": "04",
    "stage1_floor.json": "04",
    "stage2.safetensors": "05",
    "predictions.parquet": "05",
    "cell_scores.npz": "05",
    "novelty.safetensors": "05",
    "evaluation.parquet": "06",
    "trust.parquet": "07",
    "interventions.parquet": "08",
    "field_guide.parquet": "09",
}
"""Which notebook writes which file of a run; the files beside a checkpoint and its variants begin with its stem."""

_BEFORE = {"01": (), "02": ("01",), "03": ("01",), "04": ("01", "03"), "05": ("01", "02", "03", "04")}
"""What each notebook reads the files of; those behind 05 need all five."""

_BY_THE_WAY = ("stage1_floor.json", "concept_scores.npz", "cell_scores.npz", "novelty.safetensors")
"""Files without which later notebooks can run."""


def in_use(folder: Path, name: str) -> Path:
    """Path of a file of a run, or of the one that was taken from another run in its place."""
    path = folder / name
    adopted = path.with_name(f"{path.stem}{ADOPTED}{path.suffix}")
    return adopted if adopted.exists() else path


def first_to_run(folder: Path, notebook: str) -> str:
    """The notebook with which to begin so that another one finds what it reads.

    Args:
        folder: of the run.
        notebook: number of the notebook that is wanted.

    Returns:
        The earliest notebook before it that has not left its files yet, else the number itself.
    """
    before = _BEFORE.get(notebook, ("01", "02", "03", "04", "05"))
    needed = [(file, number) for file, number in MADE_BY.items() if number in before and file not in _BY_THE_WAY]
    return min([notebook, *(number for file, number in needed if not in_use(folder, file).exists())])
