"""Parameters of a notebook: read from its parameters cell without running it, and checked before anything starts.

Papermill passes what it guesses: ``true`` arrives as the text ``'true'``, ``[5,6]`` as a text, ``1e-3`` from YAML as a
text, and an unknown name is only a warning. Here every value is brought to the annotated type or refused.
"""

import ast
import functools
import io
import operator
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from geocbm.errors import MissingInputError, ParameterError, did_you_mean
from geocbm.files import read_yaml

_MARKER = re.compile(r"^# %%(?P<rest>.*)\n?", re.MULTILINE)
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cell:
    """One cell of a percent script."""

    kind: str  # "code", "markdown" or "raw"
    source: str  # of a markdown cell still with its comment signs
    tags: tuple[str, ...]
    line: int  # of the file on which the source begins, counted from 1


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``name: type = default  # comment``."""

    name: str
    type: str
    default: Any
    comment: str
    line: int = 0


def read_cells(py_file: Path) -> list[Cell]:
    """Split a percent script into its cells; the header before the first marker is left out."""
    if not py_file.is_file():
        place = f"{py_file.name} in {py_file.parent.name}/"
        raise MissingInputError(f"there is no notebook source {place}; look at the name")
    text = py_file.read_text(encoding="utf-8")
    markers = list(_MARKER.finditer(text))
    ends = [marker.start() for marker in markers[1:]] + [len(text)]
    cells = []
    for marker, end in zip(markers, ends, strict=True):
        tags = re.search(r"tags=(\[[^\]]*\])", marker["rest"])
        kind = re.search(r"\[(markdown|md|raw)\]", marker["rest"])
        body = text[marker.end() : end]
        first = marker.end() + len(body) - len(body.lstrip())
        cells.append(
            Cell(
                kind[1].replace("md", "markdown") if kind else "code",
                body.strip("\n"),
                tuple(ast.literal_eval(tags[1])) if tags else (),
                text.count("\n", 0, first) + 1,
            )
        )
    return cells


def read_parameters(py_file: Path) -> dict[str, Parameter]:
    """Parameters of the cell tagged ``parameters`` of a notebook's ``.py`` by name, in its order, without running it.

    Raises:
        ParameterError: If a line of the cell is not ``name: type = literal``, or its default does not fit its type.
        MissingInputError: If the file does not exist.
    """
    cells = [cell.source for cell in read_cells(py_file) if cell.kind == "code" and "parameters" in cell.tags]
    return {name: one for source in cells for name, one in parameters_of_source(source, py_file.name).items()}


def parameters_of_source(source: str, where: str) -> dict[str, Parameter]:
    """Parameters that the text of a parameters cell declares; `where` names its file in messages."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    found: dict[str, Parameter] = {}
    for statement in ast.parse(source).body:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            parameter = _declared(statement, f"{where}, parameters cell, line {statement.lineno}")
            # A formatter may spread a long one over several lines.
            own = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
            comment = " ".join(text.removeprefix("#").strip() for line, text in comments.items() if line in own)
            found[parameter.name] = replace(parameter, comment=comment)
    return found


@functools.cache
def read_config(class_name: str) -> dict[str, Parameter]:
    """Fields of a dataclass of settings, inherited ones first, read from the package's source without importing it."""
    for file in sorted(path for room in ("geocells", "models", "training") for path in (_PACKAGE / room).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if re.search(rf"^class {class_name}\b", text, re.MULTILINE):
            tree = ast.parse(text)
            (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
            inherited = [read_config(base.id).values() for base in found.bases if isinstance(base, ast.Name)]
            own = [_declared(node, file.name) for node in found.body if isinstance(node, ast.AnnAssign)]
            return {field.name: field for fields in (*inherited, own) for field in fields}
    return {}


def _declared(statement: ast.stmt, where: str) -> Parameter:
    """The parameter that ``name: type = literal`` declares, without its comment."""
    if not (
        isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is not None
    ):
        raise ParameterError(f"{where}: write every parameter as `name: type = value  # what it means`")
    name = statement.target.id
    try:
        default = ast.literal_eval(statement.value)
    except ValueError:
        raise ParameterError(f"{where}: the default of {name!r} must be a literal, not an expression") from None
    parameter = Parameter(name, ast.unparse(statement.annotation), default, "", statement.lineno)
    return replace(parameter, default=coerce(default, parameter))


def coerce(value: Any, parameter: Parameter) -> Any:
    """Bring a value to the annotated type of a parameter.

    Texts are read as the annotation asks (``'true'``, ``'1e-3'``, ``'[5,6]'``), whole floats serve as ints and ints as
    floats; NaN and infinity are refused.

    Raises:
        ParameterError: If the value does not fit; the message names parameter, value and expected type.
    """
    from pydantic import ValidationError

    hint, adapter = _adapter(parameter.type)
    # The text 'None' or 'null' must not be taken for a name where None is allowed.
    if NoneType in get_args(hint) and str(value).strip().lower() in {"none", "null"}:
        return None
    try:
        return adapter.validate_python(value)
    except ValidationError:
        expected = parameter.type.replace("Literal[", "one of [")
        takes = f"it takes {expected}, such as {parameter.default!r}{_nearest_choice(value, hint)}"
        raise ParameterError(f"parameter {parameter.name}={value!r} does not fit: {takes}") from None


@functools.cache
def _adapter(annotation: str) -> tuple[Any, Any]:
    """The type that an annotation names, and its validator."""
    from pydantic import ConfigDict, TypeAdapter

    names = {kind.__name__: kind for kind in (bool, int, float, str, list, dict)} | {"Literal": Literal, "Any": Any}
    try:
        hint = eval(annotation, {"__builtins__": {}}, names)
    except (NameError, TypeError, SyntaxError):
        raise ParameterError(
            f"the annotation {annotation!r} is not supported; use bool, int, float, str, list[...], "
            "dict[str, Any], Literal[...] or one of these with | None"
        ) from None
    return hint, TypeAdapter(_lenient(hint), config=ConfigDict(allow_inf_nan=False))


def _lenient(hint: Any) -> Any:
    """A type as pydantic is to read it.

    Its own leniency is narrowed where it would guess (1 and "yes" for a flag, True for a number) and widened where a
    command line or papermill brings a text for a list, a mapping or a number of a `Literal`.
    """
    from pydantic import BeforeValidator, Field, Strict

    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return functools.reduce(operator.or_, map(_lenient, inner))
    if origin is Literal:
        return Annotated[hint, BeforeValidator(functools.partial(_as_choice, choices=inner))]
    if origin is list:
        return Annotated[list[_lenient(inner[0]) if inner else Any], BeforeValidator(_as_list)]  # type: ignore[misc]
    read = {
        bool: Annotated[bool, Strict(), BeforeValidator(_as_flag)],
        int: Annotated[int, BeforeValidator(_no_flag)],
        float: Annotated[float, BeforeValidator(_no_flag)],
        str: Annotated[str, Field(coerce_numbers_to_str=True)],  # a run named 2024 arrives as a number
        dict: Annotated[dict[str, Any], BeforeValidator(_as_mapping)],
    }
    return read.get(origin, hint)


def _as_flag(value: Any) -> Any:
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a flag is no number")
    return value.strip() if isinstance(value, str) else value


def _as_choice(value: Any, choices: tuple[Any, ...]) -> Any:
    numbers = {str(choice).lower(): choice for choice in choices if not isinstance(choice, str)}
    return value if value in choices else numbers.get(str(value).lower(), value)


def _as_list(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    text = value.strip() if isinstance(value, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return value
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # plain words, as a shell passes them
        return [each.strip() for each in text[1:-1].split(",") if each.strip()]


def _as_mapping(value: Any) -> Any:
    """A mapping of names to values; a text is read as YAML, which holds JSON and Python's own way of writing one."""
    return read_yaml(value) if isinstance(value, str) else value


def resolve(parameters: Mapping[str, Parameter], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Complete the given values, of whatever type they arrived in, with the defaults of what a notebook declares.

    Raises:
        ParameterError: If a name is unknown to `where`, the notebook, or a value does not fit its type.
    """
    for name in given:
        if name not in parameters:
            raise unknown(name, parameters, where)
    return {name: coerce(given.get(name, each.default), each) for name, each in parameters.items()}


def unknown(name: str, known: Iterable[str], where: str) -> ParameterError:
    """Error for a name that the notebook does not declare, with the nearest name and the list of all."""
    known = list(known)
    listed = ", ".join(known) or "none"
    return ParameterError(f"{where} has no parameter {name!r}; {did_you_mean(name, known)}Its parameters are: {listed}")


def _nearest_choice(value: Any, hint: Any) -> str:
    """The question after the choice that a wrong value, or the first wrong one of a list, may stand for."""
    choices = [str(choice) for choice in _choices(hint)]
    given = _as_list(value)
    wrong = [str(each) for each in (given if isinstance(given, list) else [given]) if str(each) not in choices]
    return f"; {did_you_mean(wrong[0], choices)}".rstrip("; ") if wrong else ""


def _choices(hint: Any) -> list[Any]:
    """What the `Literal` types within a type allow."""
    inner = get_args(hint)
    return list(inner) if get_origin(hint) is Literal else [choice for each in inner for choice in _choices(each)]
