"""Profiles and recipes: named values of parameters, as files below ``notebooks/``."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geocbm.errors import ParameterError, did_you_mean
from geocbm.files import MOST_YAML, paths, read_yaml
from geocbm.workbench.parameters import Parameter, coerce
from geocbm.workbench.stages import NUMBER


@dataclass(frozen=True)
class Profile:
    """One file of ``notebooks/params``; ``smoke`` has no file, it is what the notebooks say themselves."""

    name: str
    common: dict[str, Any] = field(default_factory=dict)  # for every notebook that declares the parameter
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the stage's number
    atlas: dict[str, Any] = field(default_factory=dict)  # `scenes`, `seed` and `size` of the generated world
    timeout: float | None = None  # limit of a stage in seconds
    recipe: str | None = None  # of `notebooks/recipes`, whose options the stages take


def profile_names() -> list[str]:
    """Names of all profiles."""
    return sorted({"smoke", *(file.stem for file in (paths.notebooks_folder() / "params").glob("*.yaml"))})


def recipe_names() -> list[str]:
    """Names of all recipes."""
    return sorted(file.stem for file in (paths.notebooks_folder() / "recipes").glob("*.yaml"))


def recipe_values(name: str) -> dict[str, dict[str, Any]]:
    """Parameters of a recipe by the stage's number."""
    _known("recipe", name, recipe_names())
    recipe = {}
    for label, entry in _read_yaml(paths.notebooks_folder() / "recipes" / f"{name}.yaml").items():
        if not re.fullmatch(NUMBER, label) or not isinstance(entry, dict):
            raise ParameterError(f'{name}.yaml: {label!r} is no number of a notebook with parameters, as in "05": ...')
        recipe[label] = dict(entry)
    return recipe


def read_profile(name: str) -> Profile:
    """Read a profile."""
    _known("profile", name, profile_names())
    file = paths.notebooks_folder() / "params" / f"{name}.yaml"
    content = _read_yaml(file) if file.is_file() else {}
    timeout, recipe = (
        coerce(content.pop(each.name), each) if each.name in content else None
        for each in (Parameter("timeout", "float", 600.0, ""), Parameter("recipe", "str", "seed", ""))
    )
    where = f"notebooks/params/{file.name}"
    for label, entry in content.items():
        if not isinstance(entry, dict | None):
            raise ParameterError(f"{where}: {label!r} must hold parameters, one a line, as `name: value`")
        if label not in ("all", "atlas") and not re.fullmatch(NUMBER, label):
            raise ParameterError(
                f"{where}: {label!r} is neither a stage number, nor `all`, `atlas`, `recipe` or `timeout`"
            )
    values = {label: dict(entry or {}) for label, entry in content.items()}
    common, atlas = values.pop("all", {}), values.pop("atlas", {})
    return Profile(name, common, values, atlas, timeout, recipe)


def _known(kind: str, name: str, names: list[str]) -> None:
    if name not in names:
        hint = did_you_mean(name, names)
        raise ParameterError(f"there is no {kind} {name!r}; {hint}the {kind}s are: {', '.join(names)}")


def _read_yaml(path: Path) -> dict[str, Any]:
    """A file of parameters by its labels; YAML reads 05 as the number 5, and 08 as a text."""
    try:
        with path.open(encoding="utf-8") as stream:
            content = read_yaml(stream.read(MOST_YAML + 1)) or {}
    except ValueError as problem:
        raise ParameterError(f"{path.name} is no YAML: {problem}") from None
    if not isinstance(content, dict):
        raise ParameterError(f"{path.name} must map numbers of notebooks to parameters")
    return {f"{key:02d}" if isinstance(key, int) else str(key): entry for key, entry in content.items()}
