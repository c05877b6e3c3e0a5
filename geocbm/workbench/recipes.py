"""Recipes: named settings of the stages, as files that a run, a notebook and a study read alike.

`notebooks/recipes/seed.yaml` holds what the specification writes, `refined.yaml` the options that won a measured
comparison. A recipe maps the number of a notebook to parameters of that notebook; parameters that are settings of a
stage become its configuration.
"""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from typing import Any, TypeVar

from geocbm.errors import ParameterError
from geocbm.workbench.profiles import read_recipe

__all__ = ["Recipe", "config_fields", "read_recipe", "with_recipe"]
Config = TypeVar("Config")
Recipe = dict[str, dict[str, Any]]
"""Parameters by the number of a notebook."""


def with_recipe(config: Config, values: dict[str, Any]) -> Config:
    """A stage's configuration with the settings of a recipe; parameters that are none of its settings are left out.

    Args:
        config: a dataclass such as `Stage1Config`.
        values: one notebook's part of a recipe; settings may also stand under `options`.

    Raises:
        ParameterError: when a value is impossible or of the wrong type, or a name is nearly that of a setting.
    """
    values = {name: value for name, value in values.items() if name != "options"} | dict(values.get("options", {}))
    kinds = {field.name: type(getattr(config, field.name)) for field in fields(config)}  # type: ignore[arg-type]
    given = {name: value for name, value in values.items() if name in kinds}
    for name in set(values) - set(kinds):
        # Other parameters of the notebook have no part in a configuration; a slip of the pen would have none either.
        if near := difflib.get_close_matches(name, kinds, n=1, cutoff=0.8):
            raise ParameterError(f"{name!r} in the recipe is no setting; did you mean {near[0]!r}?")
    for name, value in given.items():
        fits = isinstance(value, kinds[name]) and (kinds[name] is bool or not isinstance(value, bool))
        if not fits and not (kinds[name] is float and isinstance(value, int) and not isinstance(value, bool)):
            raise ParameterError(f"{name}={value!r} in the recipe does not fit; give a {kinds[name].__name__}")
    numbers = {name: float(value) if kinds[name] is float else value for name, value in given.items()}
    return replace(config, **numbers)  # type: ignore[type-var]


def config_fields(config_class: type, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of `values` that are settings of a stage, so that a notebook's parameters become its config.

    Args:
        config_class: the stage's dataclass.
        values: the notebook's names, with further settings under `options`.

    Raises:
        ParameterError: when `options` names no setting of the stage.
    """
    known = [field.name for field in fields(config_class)]
    options = dict(values.get("options", {}))
    for name in options:
        if name not in known:
            raise ParameterError(f"options: {name!r} is no setting of {config_class.__name__}; its settings: {known}")
    return {name: values[name] for name in known if name in values} | options
