"""The command that makes a run like an existing one, with something changed."""

import itertools
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from geocbm.files import COMMAND_FILE, write_json
from geocbm.workbench import keys, profiles, settings, state
from geocbm.workbench.stages import NUMBER_GLOB, read_chain

Values = dict[str, dict[str, Any]]


def remedy(folder: Path, number: str, profile: str | None = None) -> str:
    """The command that makes right what a stage writes, and all that depends on it, with the run's own options.

    It begins with the earliest stage that the wanted one depends on and whose files are missing, changed by hand or
    stale. The chain skips what need not run.

    Args:
        folder: folder of the run, `data/runs/<run>`.
        number: number of the wanted stage.
        profile: the run's profile where it is known.

    Raises:
        UserError: there is no chain here, or it has no such stage.
    """
    chain = read_chain()
    wanted = chain.stage(number)
    states = state.run_states(folder, chain)
    needed = [stage for stage in chain.stages if wanted.number in chain.downstream(stage.number)]
    read = {name for stage in needed for name in stage.reads}
    first = next(
        stage.number
        for stage in needed
        if stage is wanted
        or states[stage.number].wrong
        or any(name in read and not (folder / name).exists() for name in stage.promised)
    )
    known = profile or _read_all(folder / "stamps") or _read_all(folder / "by_hand")
    if not known and folder.name not in profiles.profile_names():
        return shlex.join(["geocbm", "run", "--run", folder.name, "--from", first])
    return f"{command_like(folder, folder.name, {}, profile)} --from {first}"


def _read_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Readable notes on stages, by their numbers."""
    files = sorted(folder.glob(f"{NUMBER_GLOB}.json"))
    return {file.stem: note for file in files if (note := keys.read_json_or_empty(file))}


def command_like(folder: Path, run: str, changes: Mapping[str, Any], profile: str | None = None) -> str:
    """The command for a run with the profile, the recipe and the options of another, but for some parameters.

    Which options those were is read from the stamps of the stages that the chain has run. A run that was made in
    another way has none; it is taken to have the options of the profile of its name, else of `smoke`.

    Args:
        folder: folder of the run to follow, `data/runs/<run>`.
        run: name of the new run.
        changes: values by `NN.name`; names that a notebook does not declare are passed over.
        profile: its profile where that is known.
    """
    chain = read_chain()
    declared = settings.read_declared(chain)
    stamps = _read_all(folder / "stamps")
    by_hand = _read_all(folder / "by_hand")
    named = [profile] + [stamp.get("profile") for stamp in stamps.values()] + [folder.name]
    name = next((each for each in named if each in profiles.profile_names()), "smoke")
    # Whoever runs notebooks by hand begins with their own defaults, which are those of smoke, whatever the run's name.
    names: Iterable[str] = [name] if stamps or profile or not by_hand else dict.fromkeys([name, "smoke"])
    best: tuple[list[str], list[str]] | None = None
    # The profile's own recipe first; another one where it says the same with fewer words.
    for name, recipe in itertools.product(names, [None, *profiles.recipe_names()]):
        own = profiles.read_profile(name)
        own = replace(own, recipe=recipe) if recipe else own
        base = settings.resolve_all(chain, declared, own, [], run)
        target = {number: dict(values) for number, values in base.items()}
        for number, stamp in (by_hand | stamps).items():
            known = base.get(number, {})
            old = {key: value for key, value in keys.parameters_of(stamp).items() if key in known}
            target.get(number, {}).update(old)
        for key, value in changes.items():
            number, _, parameter = key.partition(".")
            if parameter in target.get(number, {}):
                target[number][parameter] = value
        found = (["--profile", name, *(["--recipe", recipe] if recipe else [])], _assignments(base, target))
        if best is None or len(found[1]) + len(found[0]) / 2 < len(best[1]) + len(best[0]) / 2:
            best = found
    assert best is not None
    words = ["geocbm", "run", *best[0], "--run", run]
    return shlex.join([*words, *(part for text in best[1] for part in ("--set", text))])


def record(folder: Path, profile: str | None = None) -> None:
    """Write into the folder of a run which command makes it, for `geocbm.files.run_command` to read."""
    write_json(folder / COMMAND_FILE, {"command": command_like(folder, folder.name, {}, profile)})


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
