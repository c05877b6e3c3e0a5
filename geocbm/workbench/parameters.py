"""Parameters of a notebook: read from its parameters cell without running it, and checked before anything starts.

Papermill passes what it guesses: ``true`` arrives as the text ``'true'``, ``[5,6]`` as a text, ``1e-3`` from YAML as a
text, and an unknown name is only a warning. Here every value is brought to the annotated type or refused.
"""

import ast
import difflib
import io
import math
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError, ParameterError

_MARKER = re.compile(r"^# %%(?P<rest>.*)$")
_TAGS = re.compile(r"tags=(\[[^\]]*\])")
_SCALARS = {"bool", "int", "float", "str"}


@dataclass(frozen=True)
class Cell:
    """One cell of a percent script.

    Attributes:
        kind: ``"code"``, ``"markdown"`` or ``"raw"``.
        source: text of the cell; of a markdown cell still with its comment signs.
        tags: tags of the cell's marker.
        line: line of the file on which the source begins, counted from 1.
    """

    kind: str
    source: str
    tags: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``name: type = default  # comment``."""

    name: str
    type: str
    default: Any
    comment: str
    line: int = 0


class _Mistyped(Exception):
    """The value does not fit the annotation."""


def read_cells(py_file: str | Path) -> list[Cell]:
    """Split a percent script into its cells; the header before the first marker is left out."""
    path = Path(py_file)
    if not path.is_file():
        raise MissingInputError(f"there is no notebook source {path.name} in {path.parent.name}/; look at the name")
    cells: list[Cell] = []
    marker: re.Match[str] | None = None
    begin = 0
    lines: list[str] = []

    def close() -> None:
        if marker is None:
            return
        rest = marker["rest"]
        tags = _TAGS.search(rest)
        named = re.search(r"\[(markdown|md|raw)\]", rest)
        kind = {"md": "markdown"}.get(named[1], named[1]) if named else "code"
        source = "\n".join(lines).strip("\n")
        blank = next((at for at, line in enumerate(lines) if line.strip()), 0)
        cells.append(Cell(kind, source, tuple(ast.literal_eval(tags[1])) if tags else (), begin + blank))

    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if match := _MARKER.match(line):
            close()
            marker, begin, lines = match, number + 1, []
        else:
            lines.append(line)
    close()
    return cells


def read_parameters(py_file: str | Path) -> dict[str, Parameter]:
    """Read the cell tagged ``parameters`` of a notebook's ``.py`` without running it.

    Returns:
        Parameters by name, in the order of the cell; empty when the notebook has no such cell.

    Raises:
        ParameterError: If a line of the cell is not ``name: type = literal``, or its default does not fit its type.
        MissingInputError: If the file does not exist.
    """
    path = Path(py_file)
    found: dict[str, Parameter] = {}
    for cell in read_cells(path):
        if cell.kind != "code" or "parameters" not in cell.tags:
            continue
        for statement in ast.parse(cell.source).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                continue
            where = f"{path.name}, parameters cell, line {statement.lineno}"
            comment = _comment(cell.source, statement.lineno, statement.end_lineno or statement.lineno)
            parameter = _declared(statement, where, comment)
            found[parameter.name] = parameter
    return found


def read_settings(py_file: str | Path) -> dict[str, Parameter]:
    """Read the fields of the one dataclass of a module without running it, so that no heavy import is needed.

    Args:
        py_file: a `config.py` of the package.

    Returns:
        Fields by name, in their order, without comments.
    """
    path = Path(py_file)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (settings,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    fields = [_declared(node, path.name, "") for node in settings.body if isinstance(node, ast.AnnAssign)]
    return {field.name: field for field in fields}


def _declared(statement: ast.stmt, where: str, comment: str) -> Parameter:
    """The parameter that ``name: type = literal`` declares."""
    if not (
        isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is not None
    ):
        raise ParameterError(f"{where}: write every parameter as `name: type = value  # what it means`")
    name, annotation = statement.target.id, ast.unparse(statement.annotation)
    try:
        default = ast.literal_eval(statement.value)
    except ValueError:
        raise ParameterError(f"{where}: the default of {name!r} must be a literal, not an expression") from None
    draft = Parameter(name, annotation, default, comment, statement.lineno)
    return Parameter(name, annotation, coerce(default, draft), comment, statement.lineno)


def _comment(source: str, first: int, last: int) -> str:
    """The comment on the lines of a statement (a formatter may spread a long one over several)."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [token.string for token in tokens if token.type == tokenize.COMMENT and first <= token.start[0] <= last]
    return " ".join(text.removeprefix("#").strip() for text in found)


def coerce(value: Any, parameter: Parameter) -> Any:
    """Bring a value to the annotated type of a parameter.

    Texts are read as the annotation asks (``'true'``, ``'1e-3'``, ``'[5,6]'``), whole floats serve as ints and ints as
    floats; NaN and infinity are refused.

    Raises:
        ParameterError: If the value does not fit; the message names parameter, value and expected type.
    """
    try:
        return _fit(value, ast.parse(parameter.type, mode="eval").body)
    except _Mistyped:
        expected = parameter.type.replace("Literal[", "one of [")
        raise ParameterError(
            f"parameter {parameter.name}={value!r} does not fit: it takes {expected}, such as {parameter.default!r}"
        ) from None


def resolve(parameters: Mapping[str, Parameter], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Complete the given values with the defaults.

    Args:
        parameters: what the notebook declares.
        given: values by name, of whatever type they arrived in.
        where: the notebook's name, for messages.

    Raises:
        ParameterError: If a name is unknown or a value does not fit its type.
    """
    for name in given:
        if name not in parameters:
            raise unknown(name, parameters, where)
    return {name: coerce(given.get(name, each.default), each) for name, each in parameters.items()}


def unknown(name: str, known: Iterable[str], where: str) -> ParameterError:
    """Error for a name that the notebook does not declare, with the nearest name and the list of all."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(known) if known else "none"
    return ParameterError(f"{where} has no parameter {name!r}; {hint}Its parameters are: {listed}")


def _fit(value: Any, annotation: ast.expr) -> Any:
    """Convert ``value`` to what the annotation's syntax tree asks for."""
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        sides = [annotation.left, annotation.right]
        # None first: the text 'None' or 'null' must not be taken for a name where None is allowed.
        for side in sorted(sides, key=lambda side: not _is_none(side)):
            try:
                return _fit(value, side)
            except _Mistyped:
                continue
        raise _Mistyped
    if _is_none(annotation):
        if value is None or (isinstance(value, str) and value.strip().lower() in {"none", "null"}):
            return None
        raise _Mistyped
    if ast.unparse(annotation) in ("dict", "dict[str, Any]"):
        return _as_mapping(value)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name | ast.Attribute):
        kind = annotation.value.id if isinstance(annotation.value, ast.Name) else annotation.value.attr
        if kind == "Literal":
            inner = annotation.slice
            choices = [ast.literal_eval(each) for each in (inner.elts if isinstance(inner, ast.Tuple) else [inner])]
            for choice in choices:
                if (type(choice) is type(value) and choice == value) or (
                    isinstance(choice, int | float) and str(choice).lower() == str(value).lower()
                ):
                    return choice
            raise _Mistyped
        if kind == "list":
            return [_fit(each, annotation.slice) for each in _as_list(value)]
    if isinstance(annotation, ast.Name) and annotation.id == "list":
        return _as_list(value)
    if isinstance(annotation, ast.Name) and annotation.id in _SCALARS:
        return _scalar(value, annotation.id)
    raise ParameterError(
        f"the annotation {ast.unparse(annotation)!r} is not supported; use bool, int, float, str, list[...], "
        "dict[str, Any], Literal[...] or one of these with | None"
    )


def _is_none(annotation: ast.expr) -> bool:
    return isinstance(annotation, ast.Constant) and annotation.value is None


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, str):
        text = value.strip()
        if not (text.startswith("[") and text.endswith("]")):
            raise _Mistyped
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = [each.strip() for each in text[1:-1].split(",") if each.strip()]
    if not isinstance(value, list | tuple):
        raise _Mistyped
    return list(value)


def _as_mapping(value: Any) -> dict[str, Any]:
    """A mapping of names to values; a text is read as YAML, which holds JSON and Python's own way of writing one."""
    if isinstance(value, str):
        import yaml

        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise _Mistyped from None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _Mistyped
    return dict(value)


def _scalar(value: Any, kind: str) -> Any:
    if kind == "str":
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)  # a run named 2024 arrives as a number
        raise _Mistyped
    if isinstance(value, str):
        value = _number_or_flag(value.strip(), kind)
    if kind == "bool":
        if isinstance(value, bool):
            return value
        raise _Mistyped
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Mistyped
    if kind == "float":
        return float(value)
    if isinstance(value, float) and not value.is_integer():
        raise _Mistyped
    return int(value)


def _number_or_flag(text: str, kind: str) -> Any:
    if kind == "bool":
        flags = {"true": True, "false": False}
        if text.lower() in flags:
            return flags[text.lower()]
        raise _Mistyped
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise _Mistyped from None
