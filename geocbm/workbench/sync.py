"""Pairs of notebooks: the ``.ipynb`` is made from the percent script, and brought back into it when that is asked for.

No side is ever overwritten while it has changes that the other lacks, unless the user names the side to keep.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import atomic_path, paths
from geocbm.workbench.pairs import KERNEL, Pair, PairError, cell_ids, contents, read_script
from geocbm.workbench.stages import NUMBER_GLOB, number_of

CONTRACT_TAG = "nbval-check-output"
SIDES = ("py", "ipynb")


def sources() -> list[Path]:
    """All numbered percent scripts in reading order.

    Raises:
        MissingInputError: If there is none.
    """
    found = sorted(paths.notebooks_folder().glob(f"{NUMBER_GLOB}_*.py"))
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
    import nbformat

    read = contents(read_script(source.read_text(encoding="utf-8")))
    cells = []
    for cell, identity in zip(read, cell_ids(read), strict=True):
        made = cell.as_nbformat()
        made["id"] = identity
        if cell.kind == "code" and CONTRACT_TAG in cell.tags:
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
    """Names that the calls of ``contract`` in a cell state; none of a cell that is not Python yet."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "contract"
    ]
    return [keyword.arg for call in calls for keyword in call.keywords if keyword.arg]


def write_pair(source: Path, target: Path) -> bool:
    """Write the ``.ipynb`` of a percent script over whatever is there.

    Returns:
        True when the file changed; one that is right already is left alone, its time included.
    """
    return _write(target, pair_text(source))


def _write(target: Path, text: str) -> bool:
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return False
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def state(pair: Pair) -> str:
    """One word for a pair: "missing" (no ``.ipynb``), "same", "py", "ipynb" or "both" (what has changed).

    Raises:
        PairError: If the ``.ipynb`` cannot be read.
    """
    if not pair.ipynb.is_file():
        return "missing"
    changed = pair.changed()
    return "both" if len(changed) == 2 else next(iter(changed), "same")


def ways(pair: Pair) -> str:
    """Both ways out of a difference, by name."""
    number = number_of(pair.script.stem)
    return (
        f"to bring the changes into the script: geocbm sync --take ipynb {number}; to drop them and make the .ipynb "
        f"from the script: geocbm sync --take py {number}"
    )


@dataclass
class Outcome:
    """What a synchronisation did.

    Attributes:
        changed: files that were written.
        refused: for each pair that was left alone, what differs and both ways out.
    """

    changed: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def synchronise(names: Sequence[str] = (), take: str | None = None) -> Outcome:
    """Make each ``.ipynb`` from its script where nothing is lost by it, and refuse the others.

    Args:
        names: numbers or names of notebooks; all of them when there are none.
        take: "py" or "ipynb", the side that is kept whatever the other says; only for notebooks that are named.

    Raises:
        ParameterError: If a name fits no notebook, or a side is taken without names.
        PairError: If the named ``.ipynb`` cannot be brought into its script; nothing of it is written then.
    """
    if take and not names:
        raise ParameterError(
            f"--take {take} drops changes of the other side; name the notebooks, as in: geocbm sync --take {take} 03"
        )
    done = Outcome()
    for script in _chosen(names):
        pair = Pair(script)
        if take == "ipynb":
            if not pair.ipynb.is_file():
                raise MissingInputError(
                    f"{pair.ipynb.name} is not there; make it with: geocbm sync {number_of(script.stem)}"
                )
            if _write(script, pair.script_text()):
                done.changed.append(script)
        elif not script.is_file():
            remedy = f"geocbm sync --take ipynb {number_of(script.stem)}"
            done.refused.append(f"{pair.ipynb.name} has no script; make it with: {remedy}")
            continue
        elif take is None and (why := _refusal(pair)):
            done.refused.append(why)
            continue
        if write_pair(script, pair.ipynb):
            done.changed.append(pair.ipynb)
    return done


def unheard() -> list[str]:
    """Sentences on pairs whose ``.ipynb`` has changes that a run would not see, since it executes the script."""
    found = []
    for pair in map(Pair, sources()):
        try:
            # The ids are asked first: they need no parser of scripts.
            if not pair.ipynb.is_file() or pair.untouched or state(pair) not in ("ipynb", "both"):
                continue
        except PairError:
            continue  # `geocbm check` names it; the script can be run all the same
        found.append(
            f"{pair.ipynb.name} has changes that {pair.script.name} lacks, and the script is run; {ways(pair)}"
        )
    return found


def _refusal(pair: Pair) -> str:
    """Why a pair must be left alone; empty when its ``.ipynb`` can be made from the script."""
    try:
        found = state(pair)
    except PairError as problem:
        number = number_of(pair.script.stem)
        return f"{problem}\nIf nothing in it is needed, make it from the script: geocbm sync --take py {number}"
    if found in ("missing", "same", "py"):
        return ""
    said = {
        "ipynb": f"{pair.ipynb.name} has changes that {pair.script.name} lacks; nothing was overwritten",
        "both": f"{pair.ipynb.name} and {pair.script.name} differ, and each may have changes of its own; nothing was "
        "overwritten",
    }
    return "\n".join([said[found], *(f"  {line}" for line in pair.difference()), ways(pair)])


def _chosen(names: Sequence[str]) -> list[Path]:
    """Scripts of the named notebooks; one that exists as an ``.ipynb`` only is named by the script it would have."""
    folder = paths.notebooks_folder()
    if not names:
        return sources()
    known = sorted({path.with_suffix(".py") for suffix in SIDES for path in folder.glob(f"{NUMBER_GLOB}_*.{suffix}")})
    chosen = []
    for name in names:
        wanted = re.sub(r"\.(py|ipynb)$", "", Path(name).name)
        found = [path for path in known if wanted in (path.stem, number_of(path.stem))]
        if len(found) != 1:
            listed = ", ".join(path.stem for path in known) or "none"
            raise ParameterError(f"{name!r} names {len(found) or 'no'} notebooks; there are: {listed}")
        chosen += found
    return list(dict.fromkeys(chosen))
