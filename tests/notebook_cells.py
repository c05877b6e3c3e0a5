"""Notebooks in the process of the tests: the code cells of the pair, one after the other, without a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geocbm.workbench.parameters import read_cells

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def run_notebook(name: str, **parameters: Any) -> dict[str, Any]:
    """Run a notebook as papermill would, with other parameters behind its parameters cell.

    Args:
        name: of the notebook, without suffix.
        **parameters: values that replace the defaults.

    Returns:
        The names the notebook has defined.
    """
    space: dict[str, Any] = {"__name__": name}
    source = NOTEBOOKS / f"{name}.py"
    for cell in read_cells(source):
        if cell.kind != "code":
            continue
        exec(compile("\n" * (cell.line - 1) + cell.source, str(source), "exec"), space)
        if "parameters" in cell.tags:
            space |= parameters
    return space
