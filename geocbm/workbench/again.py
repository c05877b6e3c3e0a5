"""The command that makes a run like an existing one, with something changed."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from geocbm.files import read_json
from geocbm.workbench import settings
from geocbm.workbench.stages import read_chain

Values = dict[str, dict[str, Any]]


def command_like(folder: Path, run: str, changes: Mapping[str, Any]) -> str:
    """The command for a run with the profile, the recipe and the options of another, but for some parameters.

    Which options those were is read from the stamps of the stages that the chain has run. A run that was made in
    another way has none; it is taken to have the options of the profile of its name, else of `smoke`.

    Args:
        folder: folder of the run to follow, `data/runs/<run>`.
        run: name of the new run.
        changes: values by `NN.name`; names that a notebook does not declare are passed over.
    """
    chain = read_chain()
    declared = settings.read_declared(chain)
    stamps = {file.stem: read_json(file) for file in sorted((folder / "stamps").glob("[0-9][0-9].json"))}
    named = [stamp.get("profile") for stamp in stamps.values()] + [folder.name]
    name = next((each for each in named if each in settings.profile_names()), "smoke")
    profile = settings.read_profile(name)
    best: tuple[list[str], list[str]] | None = None
    # The profile's own recipe first; another one where it says the same with fewer words.
    for recipe in [None, *settings.recipe_names()]:
        own = replace(profile, recipe=recipe) if recipe else profile
        base = settings.resolve_all(chain, declared, own, [], run)
        target = {number: dict(values) for number, values in base.items()}
        for number, stamp in stamps.items():
            old = stamp.get("key", {}).get("parameters", {})
            target.get(number, {}).update({key: value for key, value in old.items() if key in base.get(number, {})})
        for key, value in changes.items():
            number, _, parameter = key.partition(".")
            if parameter in target.get(number, {}):
                target[number][parameter] = value
        found = (["--recipe", recipe] if recipe else [], _assignments(base, target))
        if best is None or len(found[1]) + len(found[0]) / 2 < len(best[1]) + len(best[0]) / 2:
            best = found
    assert best is not None
    words = ["geocbm", "run", "--profile", name, *best[0], "--run", run]
    return shlex.join([*words, *(part for text in best[1] for part in ("--set", text))])


def _assignments(base: Values, target: Values) -> list[str]:
    """Texts for `--set` that turn one set of values into another; one for all stages where all have the same value."""
    differ = [
        (number, name)
        for number, values in target.items()
        for name, value in values.items()
        if name != "run" and value != base[number][name]
    ]
    texts: dict[str, None] = {}
    for number, name in differ:
        value = target[number][name]
        if name == settings.OPTIONS:
            texts |= dict.fromkeys(_option_texts(number, base[number][name], value))
            continue
        everywhere = [values[name] for values in target.values() if name in values]
        alike = len(everywhere) > 1 and all(each == value for each in everywhere)
        texts[("" if alike else f"{number}.") + f"{name}={_written(value)}"] = None
    return list(texts)


def _option_texts(number: str, base: Mapping[str, Any], target: Mapping[str, Any]) -> list[str]:
    """Texts for `--set` that turn the options of a stage into others; one that is gone has its default again."""
    chain = read_chain()
    known = settings.settings_of(number, settings.read_declared(chain)[number])
    defaults = {name: field.default for name, field in known.items()}
    return [
        f"{number}.{name}={_written(target.get(name, defaults.get(name)))}"
        for name in sorted({*base, *target})
        if base.get(name, ...) != target.get(name, ...)
    ]


def _written(value: Any) -> str:
    """A value as `--set` reads it; lists of plain words without quotes, which a shell would have to escape."""
    if isinstance(value, list) and all(isinstance(each, str) and re.fullmatch(r"[\w.+-]+", each) for each in value):
        return f"[{','.join(value)}]"
    return str(value)
