"""Pairs of notebooks: the ``.ipynb`` is made from the percent script, and brought back into it when that is asked for.

No side is ever overwritten while it has changes that the other lacks, unless the user names the side to keep. Only what
a reader would call the notebook counts: kind, source and tags of the cells, in order, and pictures attached to prose.
Outputs, execution counts, cell ids and other metadata, which JupyterLab writes as it likes, are no changes.
"""

import ast
import difflib
import json
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from geocbm.errors import MissingInputError, ParameterError, UserError
from geocbm.files import paths, sha256_text, write_text
from geocbm.workbench.stages import NUMBER_GLOB, number_of

CONTRACT_TAG = "nbval-check-output"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_DIFF_LINES = 16


class PairError(UserError, ValueError):
    """One side of a pair cannot be read or cannot be made from the other; the message names file and remedy."""


class Content(NamedTuple):
    """One cell as far as it counts."""

    kind: str  # "code", "markdown" or "raw"
    source: str  # without blank lines at its ends, which a script does not keep
    tags: tuple[str, ...]
    attached: str  # digest of the pictures attached to it


def contents(notebook: Any) -> tuple[Content, ...]:
    """What counts of a notebook object."""
    return tuple(
        Content(
            cell.cell_type,
            re.sub(r"\A([^\S\n]*\n)+|(\n[^\S\n]*)+\Z", "", cell.source) if cell.source.strip() else "",
            tuple(cell.metadata.get("tags") or ()),
            sha256_text(json.dumps(cell["attachments"], sort_keys=True))[:8] if cell.get("attachments") else "",
        )
        for cell in notebook.cells
    )


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
    """An ``.ipynb`` as a notebook object; a PairError if it is none, such as one with the marks of a merge."""
    import nbformat

    try:
        return nbformat.reads(text, as_version=4)
    except (ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as problem:
        reason = (str(problem).splitlines() or [""])[0][:80]
        raise PairError(f"{name} cannot be read as a notebook ({reason}); is it in the middle of a merge?") from None


class Pair:
    """A percent script, which need not exist, and its ``.ipynb``, which need not either."""

    def __init__(self, script: Path) -> None:
        self.script, self.ipynb = script, script.with_suffix(".ipynb")
        self.number = number_of(script.stem)
        self.ways = (
            f"to bring the changes into the script: geocbm sync --take ipynb {self.number}; to drop them and make the "
            f".ipynb from the script: geocbm sync --take py {self.number}"
        )

    @cached_property
    def script_cells(self) -> tuple[Content, ...]:
        """What the script says."""
        return contents(read_script(self.script.read_text(encoding="utf-8")))

    @cached_property
    def ipynb_notebook(self) -> Any:
        """The ``.ipynb`` as an object."""
        try:
            return read_ipynb(self.ipynb.read_text(encoding="utf-8"), self.ipynb.name)
        except PairError as problem:
            way = f"geocbm sync --take py {self.number}"
            raise PairError(f"{problem} If nothing in it is needed, make it from the script: {way}") from None

    @cached_property
    def ipynb_cells(self) -> tuple[Content, ...]:
        """What the ``.ipynb`` says."""
        return contents(self.ipynb_notebook)

    @property
    def _ids(self) -> list[str | None]:
        return [cell.get("id") for cell in self.ipynb_notebook.cells]

    @property
    def untouched(self) -> bool:
        """Whether the ``.ipynb`` says what it said when it was made, by the ids of its cells; no script is parsed."""
        return self._ids == cell_ids(self.ipynb_cells)

    def state(self) -> str:
        """What has changed since both sides said the same: "missing" (no ``.ipynb``), "same", "py", "ipynb", "both".

        Where nothing tells what they had in common, both count as changed.
        """
        if not self.ipynb.is_file():
            return "missing"
        if self.script_cells == self.ipynb_cells:
            return "same"
        if self.untouched:
            return "py"
        if (common := self._committed()) is not None:
            changed = [self.script_cells != common, self.ipynb_cells != common]
            return "both" if all(changed) else "py" if changed[0] else "ipynb"
        # An edited cell keeps its id, which still names the source that an unchanged script has; a changed script would
        # lack an id of the .ipynb and have one of its own.
        own, ids = cell_ids(self.script_cells), self._ids
        first_kept = own[:1] == [each for each in ids if each in own[:1]]
        return "ipynb" if first_kept and (set(own) <= set(ids) or set(ids) <= set(own)) else "both"

    def _committed(self) -> tuple[Content, ...] | None:
        """What both sides said in the last commit; None outside git, or where they differed there or were not yet."""
        with suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError, PairError):
            script, ipynb = (
                subprocess.run(
                    ["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True, timeout=20, check=True
                ).stdout.decode("utf-8")
                for path in (self.script, self.ipynb)
            )
            cells = contents(read_script(script))
            return cells if cells == contents(read_ipynb(ipynb, self.ipynb.name)) else None
        return None

    def unique(self) -> str:
        """That the ``.ipynb`` says what the script does not, in words; empty when nothing is lost without it."""
        return {
            "ipynb": f"{self.ipynb.name} has changes that {self.script.name} lacks",
            "both": f"{self.ipynb.name} and {self.script.name} differ, and each may have changes of its own",
        }.get(self.state(), "")

    def refusal(self) -> str:
        """Why the pair must be left alone; empty when its ``.ipynb`` can be made from the script."""
        if not self.script.is_file():
            return f"{self.ipynb.name} has no script; make it with: geocbm sync --take ipynb {self.number}"
        try:
            unique = self.unique()
        except PairError as problem:
            return str(problem)
        return "\n".join([f"{unique}; nothing was overwritten", *self._difference(), self.ways]) if unique else ""

    def _difference(self) -> list[str]:
        """A few lines of what differs, ``-`` for the script and ``+`` for the ``.ipynb``."""
        old, new = self.script.read_text(encoding="utf-8").splitlines(), self._merged().splitlines()
        lines = list(difflib.unified_diff(old, new, self.script.name, self.ipynb.name, n=1, lineterm=""))
        if any(cell.attached for cell in self.ipynb_cells):
            lines.append("+(a picture attached to prose, which a script cannot keep)")
        more = len(lines) - _DIFF_LINES
        shown = lines if more <= 1 else [*lines[:_DIFF_LINES], f"... and {more} more lines"]
        return [f"  {line}" for line in shown]

    def script_text(self) -> str:
        """The script that the ``.ipynb`` makes; what it has in common with the old one keeps its text."""
        made = self._merged()
        back = contents(read_script(made))
        if back != self.ipynb_cells:
            at = next((i for i, (one, two) in enumerate(zip(back, self.ipynb_cells, strict=False)) if one != two), -1)
            raise PairError(
                f"{self.ipynb.name}, cell {at % len(self.ipynb_cells) + 1} cannot be kept in {self.script.name} (an "
                "attached picture, or a line that begins a cell); save the picture as a file, or change the line"
            )
        return made

    def _merged(self) -> str:
        """Cells of the ``.ipynb`` as a script with the old one's header; unchanged cells are the script's own."""
        import jupytext
        import nbformat

        new, old = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL}), []
        if self.script.is_file():
            before = read_script(self.script.read_text(encoding="utf-8"))
            new.metadata, old = before.metadata, before.cells
        # The settings of pyproject.toml, which jupytext finds for files of the project only.
        new.metadata["jupytext"] = {"notebook_metadata_filter": "kernelspec,-jupytext", "cell_metadata_filter": "tags"}
        matcher = difflib.SequenceMatcher(a=self.script_cells if old else (), b=self.ipynb_cells, autojunk=False)
        for tag, first, last, start, stop in matcher.get_opcodes():
            new.cells += old[first:last] if tag == "equal" else _new_cells(self.ipynb_cells[start:stop])
        return jupytext.writes(new, fmt="py:percent").rstrip("\n") + "\n"


def _new_cells(cells: Sequence[Content]) -> list[Any]:
    """New cells of a notebook, without what is attached and with ids by chance."""
    from nbformat import v4

    make = {"code": v4.new_code_cell, "raw": v4.new_raw_cell, "markdown": v4.new_markdown_cell}
    return [make[cell.kind](cell.source, metadata={"tags": list(cell.tags)} if cell.tags else {}) for cell in cells]


def sources() -> list[Path]:
    """All numbered percent scripts in reading order; there must be one."""
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
    cells = _new_cells(read)
    for made, cell, identity in zip(cells, read, cell_ids(read), strict=True):
        made["id"] = identity
        if cell.kind == "code" and CONTRACT_TAG in cell.tags and (names := contract_names(cell.source)):
            holds = "".join(f"{name}: holds\n" for name in names)
            made["outputs"] = [nbformat.v4.new_output("stream", name="stdout", text=holds)]
    new = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.validate(new)
    return nbformat.writes(new, version=4).rstrip("\n") + "\n"


def contract_names(source: str) -> list[str]:
    """Names that calls of ``nb.contract(name=...)`` in a cell state; none of a cell that is not Python yet."""
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return []
    contracts = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "contract"]
    return [keyword.arg for call in contracts for keyword in call.keywords if keyword.arg]


def write_pair(source: Path, target: Path) -> bool:
    """Write the ``.ipynb`` of a percent script over whatever is there; True when the file changed."""
    return _write(target, pair_text(source))


def _write(target: Path, text: str) -> bool:
    """Write a text; a file that is right already is left alone, its time included."""
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return False
    write_text(target, text)
    return True


@dataclass
class Outcome:
    """What a synchronisation did."""

    changed: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # for each pair left alone, what differs and both ways out


def synchronise(names: Sequence[str] = (), take: str | None = None) -> Outcome:
    """Make each ``.ipynb`` from its script where nothing is lost by it, and refuse the others.

    `names` are numbers or names of notebooks, by default all. For named ones `take` is the side, "py" or "ipynb", that
    is kept whatever the other says; an ``.ipynb`` that cannot be brought into its script is a PairError, and nothing of
    it is written then.
    """
    if take and not names:
        raise ParameterError(
            f"--take {take} drops changes of the other side; name the notebooks, as in: geocbm sync --take {take} 03"
        )
    done = Outcome()
    for pair in map(Pair, _chosen(names) if names else sources()):
        if take == "ipynb":
            if not pair.ipynb.is_file():
                raise MissingInputError(f"{pair.ipynb.name} is not there; make it with: geocbm sync {pair.number}")
            if _write(pair.script, pair.script_text()):
                done.changed.append(pair.script)
        elif (take is None or not pair.script.is_file()) and (why := pair.refusal()):
            done.refused.append(why)
            continue
        if write_pair(pair.script, pair.ipynb):
            done.changed.append(pair.ipynb)
    return done


def unheard() -> list[str]:
    """Sentences on pairs whose ``.ipynb`` has changes that a run would not see, since it executes the script."""
    found = []
    for pair in map(Pair, sources()):
        # `geocbm check` names one that cannot be read; the script can be run all the same.
        with suppress(PairError):
            if pair.ipynb.is_file() and not pair.untouched and (unique := pair.unique()):
                found.append(f"{unique}, and the script is run; {pair.ways}")
    return found


def _chosen(names: Sequence[str]) -> list[Path]:
    """Scripts of the named notebooks; one that exists as an ``.ipynb`` only is named by the script it would have."""
    files = paths.notebooks_folder().glob(f"{NUMBER_GLOB}_*.*")
    known = sorted({path.with_suffix(".py") for path in files if path.suffix in (".py", ".ipynb")})
    chosen: dict[Path, None] = {}
    for name in names:
        wanted = re.sub(r"\.(py|ipynb)$", "", Path(name).name)
        found = [path for path in known if wanted in (path.stem, number_of(path.stem))]
        if len(found) != 1:
            listed = ", ".join(path.stem for path in known) or "none"
            raise ParameterError(f"{name!r} names {len(found) or 'no'} notebooks; there are: {listed}")
        chosen[found[0]] = None
    return list(chosen)
