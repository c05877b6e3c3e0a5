"""The two sides of a notebook pair: what each says, which of them has changed, and how they differ.

Only what a reader would call the notebook counts: kind, source and tags of the cells, in order, and pictures attached
to prose. Outputs, execution counts, cell ids and other metadata, which JupyterLab writes as it likes, are no changes.
"""

from __future__ import annotations

import difflib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from geocbm.errors import UserError
from geocbm.files import sha256_text

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
DIFF_LINES = 16
"""Lines of a difference that are shown; the rest is counted."""


class PairError(UserError, ValueError):
    """One side of a pair cannot be read or cannot be made from the other; the message names file and remedy."""


@dataclass(frozen=True)
class Content:
    """One cell as far as it counts.

    Attributes:
        kind: "code", "markdown" or "raw".
        source: its text without blank lines at its ends, which a script does not keep.
        tags: its tags.
        attached: digest of the pictures attached to it; empty when there are none.
    """

    kind: str
    source: str
    tags: tuple[str, ...] = ()
    attached: str = ""

    def lines(self) -> list[str]:
        """The cell as a percent script would hold it, for a difference."""
        kind = "" if self.kind == "code" else f" [{self.kind}]"
        tags = f" tags={json.dumps(list(self.tags))}" if self.tags else ""
        attached = [f"(attached picture {self.attached})"] if self.attached else []
        return [f"# %%{kind}{tags}", *self.source.split("\n"), *attached]

    def as_nbformat(self) -> Any:
        """The cell as a new one of a notebook, without what is attached and with an id by chance."""
        import nbformat

        others = {"code": nbformat.v4.new_code_cell, "raw": nbformat.v4.new_raw_cell}
        make = others.get(self.kind, nbformat.v4.new_markdown_cell)
        return make(self.source, metadata={"tags": list(self.tags)} if self.tags else {})


def contents(notebook: Any) -> tuple[Content, ...]:
    """What counts of a notebook object."""
    return tuple(
        Content(
            cell.cell_type,
            _trimmed(cell.source),
            tuple(cell.metadata.get("tags") or ()),
            sha256_text(json.dumps(cell["attachments"], sort_keys=True))[:8] if cell.get("attachments") else "",
        )
        for cell in notebook.cells
    )


def _trimmed(source: str) -> str:
    lines = source.split("\n")
    kept = [at for at, line in enumerate(lines) if line.strip()]
    return "\n".join(lines[kept[0] : kept[-1] + 1]) if kept else ""


def cell_ids(cells: Sequence[Content]) -> list[str]:
    """Ids that tell what a notebook held when it was made.

    JupyterLab keeps the id of a cell whose source is edited, so that ids which no longer fit betray an edit, without a
    second file and without a trace in what is committed. The first also stands for kind, number and tags of all.
    """
    frame = json.dumps([[cell.kind, cell.tags, cell.attached] for cell in cells])
    return [
        sha256_text(f"{position}\n{cell.source}" + ("" if position else f"\n{frame}"))[:8]
        for position, cell in enumerate(cells)
    ]


def read_script(text: str) -> Any:
    """A percent script as a notebook object."""
    import jupytext

    notebook = jupytext.reads(text, fmt="py:percent")
    # jupytext takes prose such as "# Why?" for IPython's help and uncomments it once more (seen in 1.19).
    plain = jupytext.reads(text, fmt={"extension": ".py", "format_name": "percent", "comment_magics": False})
    for cell, own in zip(notebook.cells, plain.cells, strict=True):
        if cell.cell_type != "code":
            cell.source = own.source
    return notebook


def read_ipynb(text: str, name: str) -> Any:
    """An ``.ipynb`` as a notebook object.

    Raises:
        PairError: If it is none, such as one with the marks of a merge.
    """
    import nbformat

    try:
        return nbformat.reads(text, as_version=4)
    except (ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as problem:
        reason = (str(problem).splitlines() or [""])[0][:80]
        raise PairError(f"{name} cannot be read as a notebook ({reason}); is it in the middle of a merge?") from None


class Pair:
    """A percent script and its ``.ipynb``.

    Args:
        script: the ``.py``; it need not exist when the other does.
    """

    def __init__(self, script: Path) -> None:
        self.script, self.ipynb = script, script.with_suffix(".ipynb")

    @cached_property
    def script_cells(self) -> tuple[Content, ...]:
        """What the script says."""
        return contents(read_script(self.script.read_text(encoding="utf-8")))

    @cached_property
    def ipynb_notebook(self) -> Any:
        """The ``.ipynb`` as an object."""
        return read_ipynb(self.ipynb.read_text(encoding="utf-8"), self.ipynb.name)

    @cached_property
    def ipynb_cells(self) -> tuple[Content, ...]:
        """What the ``.ipynb`` says."""
        return contents(self.ipynb_notebook)

    @cached_property
    def common(self) -> tuple[Content, ...] | None:
        """What both sides said in the last commit; None outside git, or where they differed there or were not yet."""
        sides = [_committed(path) for path in (self.script, self.ipynb)]
        if None in sides:
            return None
        try:
            script, ipynb = contents(read_script(sides[0] or "")), contents(read_ipynb(sides[1] or "", self.ipynb.name))
        except PairError:
            return None
        return script if script == ipynb else None

    @property
    def untouched(self) -> bool:
        """Whether the ``.ipynb`` says what it said when it was made, by the ids of its cells."""
        return [cell.get("id") for cell in self.ipynb_notebook.cells] == cell_ids(self.ipynb_cells)

    def changed(self) -> set[str]:
        """Sides, "py" and "ipynb", that have changed since they were the same; none when they are.

        Where nothing tells what they had in common, both count as changed.
        """
        if self.script_cells == self.ipynb_cells:
            return set()
        if self.untouched:
            return {"py"}
        if self.common is not None:
            sides = {"py": self.script_cells, "ipynb": self.ipynb_cells}
            return {side for side, cells in sides.items() if cells != self.common}
        # An edited cell keeps its id, which still names the source that an unchanged script has; a changed script would
        # lack an id of the .ipynb and have one of its own.
        own, ids = cell_ids(self.script_cells), [cell.get("id") for cell in self.ipynb_notebook.cells]
        unchanged = own[:1] == [each for each in ids if each in own[:1]] and (
            set(own) <= set(ids) or set(ids) <= set(own)
        )
        return {"ipynb"} if unchanged else {"py", "ipynb"}

    def difference(self) -> list[str]:
        """A few lines of what differs, ``-`` for the script and ``+`` for the ``.ipynb``."""
        old, new = (
            [line for cell in cells for line in cell.lines()] for cells in (self.script_cells, self.ipynb_cells)
        )
        lines = list(difflib.unified_diff(old, new, self.script.name, self.ipynb.name, n=1, lineterm=""))
        more = len(lines) - DIFF_LINES
        return lines if more <= 1 else [*lines[:DIFF_LINES], f"... and {more} more lines"]

    def script_text(self) -> str:
        """The script that the ``.ipynb`` makes; what it has in common with the old one keeps its text.

        Raises:
            PairError: If a percent script cannot hold one of the cells.
        """
        import jupytext

        notebook = self._merged()
        made = jupytext.writes(notebook, fmt="py:percent").rstrip("\n") + "\n"
        back = contents(read_script(made))
        if back != self.ipynb_cells:
            at = next((i for i, (one, two) in enumerate(zip(back, self.ipynb_cells, strict=False)) if one != two), -1)
            raise PairError(
                f"{self.ipynb.name}, cell {at % len(self.ipynb_cells) + 1} cannot be kept in {self.script.name} (an "
                "attached picture, or a line that begins a cell); save the picture as a file, or change the line"
            )
        return made

    def _merged(self) -> Any:
        """Cells of the ``.ipynb`` in a notebook with the script's header; unchanged cells are the script's own."""
        import nbformat

        new = nbformat.v4.new_notebook()
        old: list[Any] = []
        if self.script.is_file():
            before = read_script(self.script.read_text(encoding="utf-8"))
            new.metadata, old = before.metadata, before.cells
        else:
            new.metadata["kernelspec"] = KERNEL
        # The settings of pyproject.toml, which jupytext finds for files of the project only.
        new.metadata["jupytext"] = {
            "notebook_metadata_filter": "kernelspec,-jupytext",
            "cell_metadata_filter": "tags",
        }
        before_cells = self.script_cells if old else ()
        matcher = difflib.SequenceMatcher(a=before_cells, b=self.ipynb_cells, autojunk=False)
        for tag, first, last, start, stop in matcher.get_opcodes():
            if tag == "equal":
                new.cells += old[first:last]
                continue
            new.cells += [cell.as_nbformat() for cell in self.ipynb_cells[start:stop]]
        return new


def _committed(path: Path) -> str | None:
    """Text of a file in the last commit; None outside git, or for a file that is not in it."""
    try:
        found = subprocess.run(
            ["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True, timeout=20, check=True
        )
        return found.stdout.decode("utf-8")
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
