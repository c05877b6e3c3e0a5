"""Pairs of notebooks: the percent script is the source of truth, the ``.ipynb`` is made from it, never back."""

import ast
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError
from geocbm.files import atomic_path, sha256_text
from geocbm.workbench import paths

CONTRACT_TAG = "nbval-check-output"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources() -> list[Path]:
    """All numbered percent scripts in reading order.

    Raises:
        MissingInputError: If there is none.
    """
    found = sorted(paths.notebooks_folder().glob("[0-9][0-9]_*.py"))
    if not found:
        raise MissingInputError(
            f"there is no notebook source NN_*.py in {paths.portable(paths.notebooks_folder())}; start the command in "
            "the project's folder or set GEOCBM_ROOT to it"
        )
    return found


def pair_text(source: Path) -> str:
    """The ``.ipynb`` of a percent script as text; the same script always gives the same text.

    There are no outputs but the expected lines of a contract, which nbval compares.
    """
    import jupytext
    import nbformat

    notebook = jupytext.read(source, fmt="py:percent")
    cells = []
    for position, cell in enumerate(notebook.cells):
        metadata = {"tags": list(cell.metadata["tags"])} if cell.metadata.get("tags") else {}
        make = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        made = make(cell.source, metadata=metadata, id=sha256_text(f"{position}\n{cell.source}")[:8])
        if cell.cell_type == "code" and CONTRACT_TAG in metadata.get("tags", []):
            made["outputs"] = expected_output(cell.source)
        cells.append(made)
    new = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.validate(new)
    return nbformat.writes(new, version=4).rstrip("\n") + "\n"


def expected_output(source: str) -> list[Any]:
    """What a contract cell prints when everything holds, read from its call ``nb.contract(name=...)``."""
    import nbformat

    names = contract_names(source)
    text = "".join(f"{name}: holds\n" for name in names)
    return [nbformat.v4.new_output("stream", name="stdout", text=text)] if names else []


def contract_names(source: str) -> list[str]:
    """Names that the calls of ``contract`` in a cell state."""
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "contract"
    ]
    return [keyword.arg for call in calls for keyword in call.keywords if keyword.arg]


def write_pair(source: Path, target: Path) -> bool:
    """Write the ``.ipynb`` of a percent script.

    Returns:
        True when the file changed; one that is right already is left alone, its time included.
    """
    text = pair_text(source)
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return False
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def sync_all() -> list[Path]:
    """Make every pair again from its script.

    Returns:
        The ``.ipynb`` files that changed.
    """
    return [source.with_suffix(".ipynb") for source in sources() if write_pair(source, source.with_suffix(".ipynb"))]
