"""The command that makes a run like an existing one, with something changed."""

import itertools
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError
from geocbm.files import COMMAND_FILE, read_json_or_empty, write_json
from geocbm.workbench import profiles, settings, state
from geocbm.workbench.stages import NUMBER_GLOB, read_chain

Values = dict[str, dict[str, Any]]


def remedy(folder: Path, number: str, profile: str | None = None) -> str:
    """The command that makes right what a stage writes, and all that depends on it, with the run's own options.

    It begins with the earliest stage that the wanted one depends on and whose files are missing, changed by hand or
    stale. The chain skips what need not run. `folder` is `data/runs/<run>`; without a chain, or such a stage, it is a
    UserError.
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
    known = profile or _notes(folder / "stamps") or _notes(folder / "by_hand")
    if not known and folder.name not in profiles.profile_names():
        return shlex.join(["geocbm", "run", "--run", folder.name, "--from", first])
    return f"{command_like(folder, folder.name, {}, profile)} --from {first}"


def not_there(folder: Path, name: str, number: str, profile: str | None = None) -> MissingInputError:
    """Error for a file of a run that the stage of this number has not written yet, with the command that makes it."""
    command = remedy(folder, number, profile)
    return MissingInputError(f"{name!r} of run {folder.name!r} is not there yet; make it with: {command}")


def record(folder: Path, profile: str | None = None) -> None:
    """Write into the folder of a run which command makes it, for `geocbm.files.run_command` to read."""
    write_json(folder / COMMAND_FILE, {"command": command_like(folder, folder.name, {}, profile)})


def command_like(folder: Path, run: str, changes: Mapping[str, Any], profile: str | None = None) -> str:
    """The command for `run` with profile, recipe and options of the run in `folder`, but for some parameters.

    Which options those were is read from the stamps of the stages that the chain has run. A run that was made in
    another way has none; it is taken to have the options of the profile of its name, else of `smoke`. `changes` are
    values by `NN.name`; names that a notebook does not declare are passed over.
    """
    chain = read_chain()
    declared = settings.read_declared(chain)
    stamps, by_hand = _notes(folder / "stamps"), _notes(folder / "by_hand")
    named = [profile, *(stamp.get("profile") for stamp in stamps.values()), folder.name]
    likely = next((each for each in named if each in profiles.profile_names()), "smoke")
    # Whoever runs notebooks by hand begins with their own defaults, which are those of smoke, whatever the run's name.
    names: Iterable[str] = [likely] if stamps or profile or not by_hand else dict.fromkeys([likely, "smoke"])
    commands = []
    # The profile's own recipe first; another one where it says the same with fewer words.
    for name, recipe in itertools.product(names, [None, *profiles.recipe_names()]):
        own = profiles.read_profile(name)
        base = settings.resolve_all(chain, declared, replace(own, recipe=recipe or own.recipe), [], run)
        target = {number: dict(values) for number, values in base.items()}
        for number, note in (by_hand | stamps).items():
            if number in base:
                old = state.parameters_of(note)
                target[number] |= {key: value for key, value in old.items() if key in base[number]}
        for key, value in changes.items():
            number, _, parameter = key.partition(".")
            if parameter in target.get(number, {}):
                target[number][parameter] = value
        given = ["--profile", name, *(["--recipe", recipe] if recipe else [])]
        commands.append((given, _assignments(declared, base, target)))
    given, texts = min(commands, key=lambda command: len(command[1]) + len(command[0]) / 2)
    return shlex.join(["geocbm", "run", *given, "--run", run, *(word for text in texts for word in ("--set", text))])


def _notes(folder: Path) -> dict[str, dict[str, Any]]:
    """Readable notes on stages, by their numbers."""
    files = sorted(folder.glob(f"{NUMBER_GLOB}.json"))
    return {file.stem: note for file in files if (note := read_json_or_empty(file))}


def _assignments(declared: settings.Declared, base: Values, target: Values) -> list[str]:
    """Texts for `--set` that turn one set of values into another; one for all stages where all have the same value."""
    texts: list[str] = []
    for number, values in target.items():
        for name in [name for name in values if name != "run" and values[name] != base[number][name]]:
            if name == settings.OPTIONS:
                old, new = base[number][name], values[name]
                known = settings.settings_of(number, declared[number])
                defaults = {each: setting.default for each, setting in known.items()}  # of an option that is gone
                differ = [each for each in sorted({*old, *new}) if old.get(each, ...) != new.get(each, ...)]
                texts += [f"{number}.{each}={_written(new.get(each, defaults.get(each)))}" for each in differ]
                continue
            everywhere = [each[name] for each in target.values() if name in each]
            alike = len(everywhere) > 1 and all(each == values[name] for each in everywhere)
            texts.append(("" if alike else f"{number}.") + f"{name}={_written(values[name])}")
    return list(dict.fromkeys(texts))


def _written(value: Any) -> str:
    """A value as `--set` reads it; lists of plain words without quotes, which a shell would have to escape."""
    if isinstance(value, list) and all(isinstance(each, str) and re.fullmatch(r"[\w.+-]+", each) for each in value):
        return f"[{','.join(value)}]"
    return str(value)
