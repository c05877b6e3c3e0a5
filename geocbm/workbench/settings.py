"""Parameters of all stages of a run: notebook defaults, the profile's file, its recipe, then the command line."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError, ParameterError
from geocbm.workbench import paths
from geocbm.workbench.options import OPTIONS, check_agreement, check_parameters, checked_options, settings_of
from geocbm.workbench.parameters import Parameter, coerce, read_parameters, resolve, unknown
from geocbm.workbench.recipes import Recipe, read_recipe
from geocbm.workbench.stages import NUMBER, Chain

_ASSIGNMENT = re.compile(rf"(?:(?P<number>{NUMBER})\.)?(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)
ATLAS_KEYS = ("scenes", "seed", "size")


@dataclass(frozen=True)
class Profile:
    """One file of ``notebooks/params``.

    Attributes:
        name: its name; ``smoke`` has no file, it is what the notebooks say themselves.
        common: values for every notebook that declares the parameter.
        stages: values by the stage's number.
        atlas: ``scenes``, ``seed`` and ``size`` of the generated world.
        timeout: limit of a stage in seconds, or None.
        recipe: name of the recipe in ``notebooks/recipes`` whose options the stages take, or None.
    """

    name: str
    common: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    atlas: dict[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    recipe: str | None = None


def recipe_names() -> list[str]:
    """Names of all recipes."""
    return sorted(file.stem for file in (paths.notebooks_folder() / "recipes").glob("*.yaml"))


def recipe_values(name: str) -> Recipe:
    """Parameters of a recipe by the stage's number.

    Raises:
        ParameterError: If there is no such recipe.
    """
    if name not in recipe_names():
        raise ParameterError(f"there is no recipe {name!r}; the recipes are: {', '.join(recipe_names())}")
    return read_recipe(paths.notebooks_folder() / "recipes" / f"{name}.yaml")


def profile_names() -> list[str]:
    """Names of all profiles."""
    return sorted({"smoke", *(file.stem for file in (paths.notebooks_folder() / "params").glob("*.yaml"))})


def read_profile(name: str) -> Profile:
    """Read a profile.

    Raises:
        ParameterError: If there is no such profile or its file is not understood.
    """
    file = paths.notebooks_folder() / "params" / f"{name}.yaml"
    if not file.is_file():
        if name == "smoke":
            return Profile(name)
        raise ParameterError(f"there is no profile {name!r}; the profiles are: {', '.join(profile_names())}")
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as problem:
        raise ParameterError(f"notebooks/params/{file.name} is no YAML: {problem}") from None
    where = f"notebooks/params/{file.name}"
    if not isinstance(content, dict):
        raise ParameterError(f"{where} must map stage numbers to parameters")
    common: dict[str, Any] = {}
    stages: dict[str, dict[str, Any]] = {}
    atlas: dict[str, Any] = {}
    timeout: float | None = None
    recipe: str | None = None
    for key, entry in content.items():
        if key == "timeout":
            timeout = coerce(entry, Parameter("timeout", "float", 600.0, ""))
            continue
        if key == "recipe":
            recipe = coerce(entry, Parameter("recipe", "str", "seed", ""))
            continue
        if not isinstance(entry, dict | None):
            raise ParameterError(f"{where}: {key!r} must hold parameters, one a line, as `name: value`")
        # YAML reads 05 as the number 5, and 08 as a text.
        label = f"{key:02d}" if isinstance(key, int) else str(key)
        if label == "all":
            common = dict(entry or {})
        elif label == "atlas":
            atlas = dict(entry or {})
        elif re.fullmatch(NUMBER, label):
            stages[label] = dict(entry or {})
        else:
            raise ParameterError(
                f"{where}: {key!r} is neither a stage number, nor `all`, `atlas`, `recipe` or `timeout`"
            )
    return Profile(name, common, stages, atlas, timeout, recipe)


def read_declared(chain: Chain) -> dict[str, dict[str, Parameter]]:
    """Parameters that each notebook of the chain declares, by the stage's number."""
    return {stage.number: read_parameters(stage.source) for stage in chain.stages}


def split_assignment(text: str, option: str) -> tuple[str | None, str, str]:
    """Split ``[NN.]name=value``.

    Raises:
        ParameterError: If the text is not of that form.
    """
    match = _ASSIGNMENT.fullmatch(text)
    if not match:
        raise ParameterError(
            f"{option} {text!r} is not understood; write {option} name=value or {option} 05.name=value"
        )
    return match["number"], match["name"], match["value"]


def resolve_all(
    chain: Chain,
    declared: Mapping[str, Mapping[str, Parameter]],
    profile: Profile,
    settings: Sequence[str],
    run: str,
) -> dict[str, dict[str, Any]]:
    """Values of all parameters of all stages.

    A name without a number is set wherever it is a parameter or a setting of a stage. Settings that a notebook does not
    declare go into its `options`.

    Args:
        chain: the stages.
        declared: what each notebook declares.
        profile: the profile's values; those of its recipe win over its own, for they belong together.
        settings: the command line's ``[NN.]name=value``, later ones win.
        run: name of the run, given to every notebook.

    Raises:
        ParameterError: If a name is known to none of the notebooks it is meant for, a value has the wrong type, or a
            stage is to start from one of another shape.
    """
    given: dict[str, dict[str, Any]] = {stage.number: {} for stage in chain.stages}
    optional = {number: settings_of(number, names) for number, names in declared.items()}
    where = f"profile {profile.name!r}"

    def put(number: str | None, name: str, value: Any, source: str) -> None:
        if name == "run":
            raise ParameterError(f"{source} sets 'run'; name the run with --run")
        takers = [each for each in given if name in declared[each] or name in optional[each]]
        if number is not None:
            notebook = chain.stage(number).notebook
            if number not in takers:
                raise unknown(name, dict.fromkeys([*declared[number], *optional[number]]), f"{source}: {notebook}")
            takers = [number]
        if not takers:
            everything = dict.fromkeys(each for names in (*declared.values(), *optional.values()) for each in names)
            raise unknown(name, [each for each in everything if each != "run"], f"{source}: the chain")
        for each in takers:
            if name == OPTIONS:
                more = coerce(value, declared[each][OPTIONS])
            elif name in declared[each]:
                given[each][name] = value
                continue
            else:
                more = {name: value}
            given[each][OPTIONS] = given[each].get(OPTIONS, {}) | more

    for name, value in profile.common.items():
        put(None, name, value, where)
    for number, values in profile.stages.items():
        for name, value in values.items():
            put(number, name, value, where)
    for number, values in (recipe_values(profile.recipe) if profile.recipe else {}).items():
        for name, value in values.items():
            put(number, name, value, f"recipe {profile.recipe!r}")
    for text in settings:
        stage_number, name, value = split_assignment(text, "--set")
        put(stage_number, name, anchored(value), "--set")
    resolved = {}
    for stage in chain.stages:
        names = declared[stage.number]
        own = given[stage.number] | ({"run": run} if "run" in names else {})
        values = resolve(names, own, stage.notebook)
        if OPTIONS in names:
            check_parameters(stage.number, names, values)
            values[OPTIONS] = checked_options(stage.number, names, values[OPTIONS], stage.notebook)
        resolved[stage.number] = values
    check_agreement(declared, resolved)
    return resolved


def anchored(value: str) -> str:
    """A path seen from the caller's folder, as it reads from the project's; any other text as it is.

    A text counts as a path when it holds a slash or ends in ``.csv``, and something is there.
    """
    if "/" not in value and not value.lower().endswith(".csv"):
        return value
    place = Path(value).expanduser()
    if not place.exists():
        return value
    place = place.resolve()
    root = paths.project_root()
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else str(place)


def grid_runs(texts: Sequence[str], run: str) -> list[tuple[str, list[str]]]:
    """All combinations of a grid: the name of each run and its assignments.

    Args:
        texts: ``[NN.]name=value,value,...``.
        run: name of the run the grid starts from.

    Returns:
        Pairs of a run name such as ``demo-lr-0.001`` and its ``[NN.]name=value`` texts; none without a grid.
    """
    axes: list[list[tuple[str, str]]] = []
    for text in texts:
        number, name, values = split_assignment(text, "--grid")
        choices = _choices(values)
        if not choices:
            raise ParameterError(f"--grid {text!r} names no value; write --grid {name}=first,second")
        prefix = f"{number}." if number else ""
        axes.append(
            [
                (f"{name}-{re.sub('[^A-Za-z0-9._-]+', '_', each).strip('_')}", f"{prefix}{name}={each}")
                for each in choices
            ]
        )
    runs = []
    for combination in itertools.product(*axes) if axes else ():
        suffix = "-".join(label for label, _ in combination)
        runs.append((paths.check_run_name(f"{run}-{suffix}"), [assignment for _, assignment in combination]))
    names = [name for name, _ in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ParameterError(f"--grid gives two runs the name {twice[0]!r}; leave out the doubled value")
    return runs


def _choices(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts = re.findall(r"(?:\[[^\]]*\]|[^,\[\]])+", text)
    return [part.strip() for part in parts if part.strip()]


def atlas_request(chain: Chain, csv: str) -> tuple[str, dict[str, Any]] | None:
    """The generated world of a profile that a table belongs to.

    A world of one's own in the same place, drawn with ``geocbm atlas make``, is a table like any other.

    Args:
        chain: has the defaults.
        csv: resolved parameter of the first notebook.

    Returns:
        Name of the profile and the world's ``scenes``, ``seed`` and ``size``; None when the table is the user's own.

    Raises:
        MissingInputError: If the table is not there and no profile says how to draw it.
    """
    place = paths.locate(csv)
    home = paths.data_root() / "atlas"
    if place.name != "atlas.csv" or place.parent.parent != home:
        return None
    name = place.parent.name
    draw = f"geocbm atlas make --out {paths.portable(place.parent)}"
    if name not in profile_names():
        if place.exists():
            return None
        raise MissingInputError(f"{paths.portable(place)} does not exist; draw a world of your own there with: {draw}")
    own = read_profile(name).atlas
    request = {key: value for key, value in (chain.atlas | own).items()}
    if strange := set(request) - set(ATLAS_KEYS):
        raise ParameterError(f"atlas of profile {name!r}: {min(strange)!r} is unknown; known: {', '.join(ATLAS_KEYS)}")
    if "scenes" not in request:
        if place.exists():
            return None
        raise MissingInputError(
            f"profile {name!r} does not say how many scenes its atlas has; add `atlas: scenes:` to it, or draw the "
            f"world with: {draw}"
        )
    return name, {
        key: coerce(value, Parameter(f"atlas.{key}", "int", value, "")) for key, value in sorted(request.items())
    }
