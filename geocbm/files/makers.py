"""Makers: which notebook writes which file of a run, and where making one again must begin."""

from __future__ import annotations

from pathlib import Path

ADOPTED = "_adopted"
"""Ends the stem of a file that a run took from another run in place of its own."""

_WRITES = {
    "01": ("table.parquet", "concepts.json", "splits.json"),
    "02": ("geocells.npz",),
    "03": ("prototypes.safetensors", "features.json", "stage0.safetensors"),
    "04": ("stage1.safetensors", "concept_scores.npz", "stage1_floor.json"),
    "05": ("stage2.safetensors", "predictions.parquet", "cell_scores.npz", "novelty.safetensors"),
    "06": ("evaluation.parquet",),
    "07": ("map_tests.parquet",),
    "07b": ("trust.parquet",),
    "08": ("interventions.parquet",),
    "09": ("field_guide.parquet",),
}
MADE_BY = {file: number for number, files in _WRITES.items() for file in files}
"""Which notebook writes which file of a run; the files beside a checkpoint and its variants begin with its stem."""

_BEFORE = {"01": (), "02": ("01",), "03": ("01",), "04": ("01", "03"), "05": ("01", "02", "03", "04")}
"""What each notebook reads the files of; those behind 05 need all five."""

_BY_THE_WAY = ("stage1_floor.json", "concept_scores.npz", "cell_scores.npz", "novelty.safetensors")
"""Files without which later notebooks can run."""


def maker(name: str) -> str:
    """Number of the notebook that writes a file of a run, after which files such as `records/05.json` are called."""
    stem = Path(name).stem.removesuffix(ADOPTED).removeprefix("history_")
    if stem[:2].isdigit() and len(stem) <= len("06b"):
        return stem
    number = next((number for file, number in MADE_BY.items() if stem.startswith(Path(file).stem)), "01")
    # What was taken from another run is written by the stage that trains upon it.
    return {"03": "04", "04": "05"}[number] if Path(name).stem.endswith(ADOPTED) else number


def in_use(folder: Path, name: str) -> Path:
    """Path of a file of a run, or of the one that was taken from another run in its place."""
    path = folder / name
    adopted = path.with_name(f"{path.stem}{ADOPTED}{path.suffix}")
    return adopted if adopted.exists() else path


def first_to_run(folder: Path, notebook: str) -> str:
    """The earliest notebook before a wanted one that has not left its files in a run's folder, else the wanted one."""
    before = _BEFORE.get(notebook, ("01", "02", "03", "04", "05"))
    needed = [(file, number) for file, number in MADE_BY.items() if number in before and file not in _BY_THE_WAY]
    return min([notebook, *(number for file, number in needed if not in_use(folder, file).exists())])
