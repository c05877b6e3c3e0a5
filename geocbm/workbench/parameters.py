"""Parameters of a notebook: read from its parameters cell without running it, and checked before anything starts.

Papermill passes what it guesses: ``true`` arrives as the text ``'true'``, ``[5,6]`` as a text, ``1e-3`` from YAML as a
text, and an unknown name is only a warning. Here every value is brought to the annotated type or refused.
"""

import ast
import difflib
import functools
import io
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from geocbm.errors import MissingInputError, ParameterError

_MARKER = re.compile(r"^# %%(?P<rest>.*)$")
_TAGS = re.compile(r"tags=(\[[^\]]*\])")


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
    cells = [cell for cell in read_cells(path) if cell.kind == "code" and "parameters" in cell.tags]
    return {name: one for cell in cells for name, one in parameters_of_source(cell.source, path.name).items()}


def parameters_of_source(source: str, where: str) -> dict[str, Parameter]:
    """Parameters that the text of a parameters cell declares; `where` names its file in messages.

    Raises:
        ParameterError: If a line is not ``name: type = literal``, or its default does not fit its type.
    """
    found: dict[str, Parameter] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        place = f"{where}, parameters cell, line {statement.lineno}"
        comment = _comment(source, statement.lineno, statement.end_lineno or statement.lineno)
        parameter = _declared(statement, place, comment)
        found[parameter.name] = parameter
    return found


def read_fields(py_file: Path, class_name: str) -> tuple[list[str], dict[str, Parameter]]:
    """Read the fields of a dataclass from its source, so that no heavy import is needed.

    Args:
        py_file: the module that holds it.
        class_name: the dataclass.

    Returns:
        Names of its base classes, and its own fields by name, in their order, without comments.
    """
    tree = ast.parse(py_file.read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    fields = [_declared(node, py_file.name, "") for node in found.body if isinstance(node, ast.AnnAssign)]
    return [base.id for base in found.bases if isinstance(base, ast.Name)], {field.name: field for field in fields}


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
    from pydantic import ValidationError

    adapter, takes_none = _adapter(parameter.type)
    # The text 'None' or 'null' must not be taken for a name where None is allowed.
    if takes_none and isinstance(value, str) and value.strip().lower() in {"none", "null"}:
        return None
    try:
        return adapter.validate_python(value)
    except ValidationError:
        expected = parameter.type.replace("Literal[", "one of [")
        takes = f"it takes {expected}, such as {parameter.default!r}{_nearest_choice(value, parameter.type)}"
        raise ParameterError(f"parameter {parameter.name}={value!r} does not fit: {takes}") from None


@functools.cache
def _adapter(annotation: str) -> tuple[Any, bool]:
    """Validator of an annotation, and whether it allows None.

    Pydantic's own leniency is narrowed where it would guess (1 and "yes" for a flag, True for a number) and widened
    where a command line or papermill brings a text for a list, a mapping or a number of a `Literal`.
    """
    from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter

    class List:
        def __class_getitem__(cls, item: Any) -> Any:
            return Annotated[list[item], BeforeValidator(_as_list)]

    class Dict:
        def __class_getitem__(cls, _items: Any) -> Any:
            return Annotated[dict[str, Any], BeforeValidator(_as_mapping)]

    class Choice:
        def __class_getitem__(cls, choices: Any) -> Any:
            choices = choices if isinstance(choices, tuple) else (choices,)
            return Annotated[Literal[choices], BeforeValidator(lambda value: _as_choice(value, choices))]

    names = {
        "bool": Annotated[bool, Strict(), BeforeValidator(_as_flag)],
        "int": Annotated[int, BeforeValidator(_no_flag)],
        "float": Annotated[float, BeforeValidator(_no_flag)],
        "str": Annotated[str, Field(coerce_numbers_to_str=True)],  # a run named 2024 arrives as a number
        "list": List,
        "dict": Dict,
        "Literal": Choice,
        "Any": Any,
    }
    try:
        kind: Any = eval(annotation, {"__builtins__": {}}, names)
    except (NameError, TypeError, SyntaxError):
        raise ParameterError(
            f"the annotation {annotation!r} is not supported; use bool, int, float, str, list[...], "
            "dict[str, Any], Literal[...] or one of these with | None"
        ) from None
    if kind in (List, Dict):
        kind = kind.__class_getitem__(Any)
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)), type(None) in get_args(kind)


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
    listed = ", ".join(known) if known else "none"
    return ParameterError(f"{where} has no parameter {name!r}; {did_you_mean(name, known)}Its parameters are: {listed}")


def _nearest_choice(value: Any, annotation: str) -> str:
    """The question after the choice that a wrong value, or the first wrong one of a list, may stand for."""
    groups = [node for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Subscript)]
    groups = [node for node in groups if ast.unparse(node.value) == "Literal"]
    choices = [str(each.value) for node in groups for each in ast.walk(node.slice) if isinstance(each, ast.Constant)]
    given = _as_list(value)
    wrong = [str(each) for each in (given if isinstance(given, list) else [given]) if str(each) not in choices]
    return f"; {did_you_mean(wrong[0], choices)}".rstrip("; ") if wrong else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question after the nearest known name, with a space behind it; empty when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


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
    if not isinstance(value, str):
        return value
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as problem:
        raise ValueError(str(problem)) from None
