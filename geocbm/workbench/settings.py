"""Parameters of all stages of a run: notebook defaults, the profile's file, its recipe, then the command line."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from geocbm.errors import ParameterError
from geocbm.files import paths
from geocbm.workbench.parameters import Parameter, coerce, read_config, read_parameters, resolve, unknown
from geocbm.workbench.profiles import Profile, recipe_values
from geocbm.workbench.stages import Chain

OPTIONS = "options"
"""Parameter of a notebook that holds the settings of its stage which it does not declare one by one."""
CONFIGS = {"02": "GeocellsConfig", "03": "Stage0Config", "04": "Stage1Config", "05": "Stage2Config"}
"""Dataclass whose fields are the settings of a notebook's stage."""

GPS_DIM = 512
"""Width of GeoCLIP's place embeddings, to which Stage 0 projects the patches."""

Declared = Mapping[str, Mapping[str, Parameter]]
"""Parameters of each notebook, by its number."""


def read_declared(chain: Chain) -> dict[str, dict[str, Parameter]]:
    """Parameters that each notebook of the chain declares, by the stage's number."""
    return {stage.number: read_parameters(stage.source) for stage in chain.stages}


def settings_of(number: str, declared: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """All fields of the dataclass behind a notebook of a number; none where the notebook takes no options."""
    return read_config(CONFIGS[number]) if OPTIONS in declared and number in CONFIGS else {}


def resolve_all(
    chain: Chain, declared: Declared, profile: Profile, settings: Sequence[str], run: str
) -> dict[str, dict[str, Any]]:
    """Values of all parameters of all stages of a run.

    A name without a number is set wherever it is a parameter or a setting of a stage. Settings that a notebook does not
    declare go into its `options`. The values of the profile's recipe win over its own, for they belong together; those
    of the command line, ``[NN.]name=value``, win over both, and later ones over earlier.

    Raises:
        ParameterError: If a name is known to none of the notebooks it is meant for, a value has the wrong type, or a
            stage is to start from one of another shape.
    """
    where = f"profile {profile.name!r}"
    wanted: list[tuple[str | None, str, Any, str]] = [(None, *item, where) for item in profile.common.items()]
    recipe = recipe_values(profile.recipe) if profile.recipe else {}
    for source, by_stage in ((where, profile.stages), (f"recipe {profile.recipe!r}", recipe)):
        wanted += [(number, *item, source) for number in by_stage for item in by_stage[number].items()]
    for text in settings:
        stage_name, name, value = _split_assignment(text, "--set")
        wanted.append((stage_name, name, anchored(value), "--set"))
    given: dict[str, dict[str, Any]] = {stage.number: {} for stage in chain.stages}
    for asked, name, value, source in wanted:
        for number in _takers(chain, declared, asked, name, source):
            if name in declared[number] and name != OPTIONS:
                given[number][name] = value
            else:
                more = coerce(value, declared[number][OPTIONS]) if name == OPTIONS else {name: value}
                given[number][OPTIONS] = given[number].get(OPTIONS, {}) | more
    resolved = {}
    for stage in chain.stages:
        names = declared[stage.number]
        own = given[stage.number] | ({"run": run} if "run" in names else {})
        resolved[stage.number] = complete(stage.number, names, own, stage.notebook)
    _check_agreement(declared, resolved)
    return resolved


def _split_assignment(text: str, option: str) -> tuple[str | None, str, str]:
    """Split ``[stage.]name=value``."""
    match = re.fullmatch(r"(?:(?P<stage>\w+)\.)?(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", text, re.DOTALL)
    if not match:
        raise ParameterError(
            f"{option} {text!r} is not understood; write {option} name=value or {option} 05.name=value"
        )
    return match["stage"], match["name"], match["value"]


def _takers(chain: Chain, declared: Declared, stage: str | None, name: str, source: str) -> list[str]:
    """Numbers of the notebooks that take a name, as a parameter or as a setting of their stage."""
    if name == "run":
        raise ParameterError(f"{source} sets 'run'; name the run with --run")
    known = {number: {**names, **settings_of(number, names)} for number, names in declared.items()}
    if stage is not None:
        asked = chain.stage(stage)
        if name not in known[asked.number]:
            raise unknown(name, known[asked.number], f"{source}: {asked.notebook}")
        return [asked.number]
    takers = [number for number, names in known.items() if name in names]
    if not takers:
        everything = dict.fromkeys(each for names in known.values() for each in names if each != "run")
        raise unknown(name, everything, f"{source}: the chain")
    return takers


def complete(number: str, declared: Mapping[str, Parameter], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values of a notebook's parameters, options and settings of its stage included, all checked; `where` gave them."""
    values = resolve(declared, given, where)
    if OPTIONS not in values:
        return values
    known = settings_of(number, declared)
    for name in [each for each in known if each in values]:
        coerce(values[name], known[name])  # it names the choices where a notebook says `str`
    options = {}
    for name, value in values[OPTIONS].items():
        if name in declared:
            raise ParameterError(f"{where}: {name!r} is a parameter of its own; set {name}, not options")
        if name not in known:
            raise unknown(name, [each for each in known if each not in declared], f"{where}: options")
        options[name] = coerce(value, known[name])
    # Those that say what is the default anyway are left out.
    return values | {OPTIONS: {name: value for name, value in options.items() if value != known[name].default}}


def _check_agreement(declared: Declared, resolved: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse settings of stages that do not fit one another, before any of them trains."""
    stages = []
    for number in ("03", "04", "05"):
        if number not in resolved or not (known := settings_of(number, declared[number])):
            return
        defaults = {name: setting.default for name, setting in known.items()}
        stages.append(defaults | dict(resolved[number]) | resolved[number][OPTIONS])
    first, second, third = stages
    shape = {"mlp": ["hidden_dim"], "transformer": ["transformer_width", "transformer_layers", "transformer_heads"]}
    same = shape.get(first["bottleneck"], []) if first["bottleneck"] == second["bottleneck"] else []
    for name in ["concept_emb_dim", *same] if second["init_from_stage0"] else []:
        if first[name] != second[name]:
            raise ParameterError(
                f"04.{name}={second[name]} does not fit 03.{name}={first[name]}, from which Stage 1 starts; give both "
                f"the same with {name}=..., or set 04.init_from_stage0=false"
            )
    reading = [
        mode for mode in (third["ablation_mode"], *third["variants"]) if mode not in ("concept_only", "concept_scores")
    ]
    if third["tokens"] == "none" and reading:
        raise ParameterError(
            f"05.tokens='none' keeps no patch tokens, but mode {reading[0]!r} reads them; leave it out of "
            "05.ablation_mode and 05.variants, or set 05.tokens=top-k"
        )
    if third["tokens"] == "top-k" and reading and second["bottleneck"] != "patch":
        raise ParameterError(
            f"05.tokens='top-k' keeps the patches on which Stage 1 sees concepts best, but 04.bottleneck="
            f"{second['bottleneck']!r} scores no patches; set 04.bottleneck=patch"
        )
    if third["init_from_stage0"] and third["ablation_mode"] in reading and third["embed_dim"] != GPS_DIM:
        raise ParameterError(
            f"05.embed_dim={third['embed_dim']} does not fit the patch projection of Stage 0, {GPS_DIM} wide, from "
            "which Stage 2 starts; set 05.init_from_stage0=false too"
        )


def anchored(value: str) -> str:
    """A path seen from the caller's folder, as it reads from the project's; any other text as it is.

    A text counts as a path when it holds a slash or ends in ``.csv``, and something is there.
    """
    place = Path(value).expanduser()
    if ("/" not in value and not value.lower().endswith(".csv")) or not place.exists():
        return value
    place, root = place.resolve(), paths.project_root()
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else str(place)


def grid_runs(texts: Sequence[str], run: str) -> list[tuple[str, list[str]]]:
    """All combinations of a grid of ``[NN.]name=value,value,...``: names such as ``demo-lr-0.001``, and assignments."""
    axes = []
    for text in texts:
        number, name, values = _split_assignment(text, "--grid")
        parts = re.findall(r"(?:\[[^\]]*\]|[^,\[\]])+", values)  # at commas outside of brackets
        choices = [part.strip() for part in parts if part.strip()]
        if not choices:
            raise ParameterError(f"--grid {text!r} names no value; write --grid {name}=first,second")
        prefix = f"{number}." if number else ""
        axes.append([(_label(name, each), f"{prefix}{name}={each}") for each in choices])
    runs: dict[str, list[str]] = {}
    for combination in itertools.product(*axes) if axes else ():
        labels, assignments = zip(*combination, strict=True)
        named = paths.check_run_name("-".join([run, *labels]))
        if named in runs:
            raise ParameterError(f"--grid gives two runs the name {named!r}; leave out the doubled value")
        runs[named] = list(assignments)
    return list(runs.items())


def _label(name: str, value: str) -> str:
    """What a value of a grid adds to the name of its run."""
    return f"{name}-{re.sub('[^A-Za-z0-9._-]+', '_', value).strip('_')}"


def config_fields(config_class: type, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of `values`, and of their `options`, that are settings of a stage's dataclass.

    Raises:
        ParameterError: when `options` names no setting of the stage.
    """
    known = [field.name for field in fields(config_class)]
    options = dict(values.get(OPTIONS, {}))
    for name in options:
        if name not in known:
            raise ParameterError(f"options: {name!r} is no setting of {config_class.__name__}; its settings: {known}")
    return {name: values[name] for name in known if name in values} | options
