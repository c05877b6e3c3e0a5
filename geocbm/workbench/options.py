"""Settings of a stage that its notebook does not turn one by one: fields of the stage's dataclass, in `options`.

`--set 05.gating=false` works for every field of the dataclass: what the notebook declares goes to its parameter, the
rest into its parameter `options`, a mapping, brought to the types of the dataclass before a kernel starts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geocbm.errors import ParameterError
from geocbm.workbench.parameters import Parameter, coerce, read_settings, unknown

OPTIONS = "options"
_PACKAGE = Path(__file__).resolve().parents[1]
_STAGES = {"02": "geocells", "03": "models/stage0", "04": "models/stage1", "05": "models/stage2"}
"""Subpackage of a notebook's settings, whose `config.py` holds the dataclass."""

GPS_DIM = 512
"""Width of GeoCLIP's place embeddings, to which Stage 0 projects the patches."""


def settings_of(number: str, declared: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """All fields of the dataclass behind a notebook; none where the notebook takes no options.

    Args:
        number: number of the notebook.
        declared: its parameters.
    """
    if OPTIONS not in declared or number not in _STAGES:
        return {}
    return read_settings(_PACKAGE / _STAGES[number] / "config.py")


def checked_options(
    number: str, declared: Mapping[str, Parameter], options: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Options at the types of the dataclass; those that say what is the default anyway are left out.

    Args:
        number: number of the notebook.
        declared: its parameters.
        options: values by name.
        where: who gave them, for messages.

    Raises:
        ParameterError: If a name is no setting of the stage or a parameter of its own, or a value has the wrong type.
    """
    known = settings_of(number, declared)
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name in declared:
            raise ParameterError(f"{where}: {name!r} is a parameter of its own; set {name}, not options")
        if name not in known:
            raise unknown(name, [each for each in known if each not in declared], f"{where}: options")
        value = coerce(value, known[name])
        if value != known[name].default:
            found[name] = value
    return found


def check_parameters(number: str, declared: Mapping[str, Parameter], values: Mapping[str, Any]) -> None:
    """Refuse values of parameters that the dataclass does not take: it names the choices where a notebook says `str`.

    Raises:
        ParameterError: If there is one.
    """
    for name, field in settings_of(number, declared).items():
        if name in values:
            coerce(values[name], field)


def check_agreement(declared: Mapping[str, Mapping[str, Parameter]], resolved: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse settings of stages that cannot start from one another, before any of them trains.

    Args:
        declared: parameters of each notebook.
        resolved: their values.

    Raises:
        ParameterError: If Stage 1 is to start from a bottleneck, or Stage 2 from a patch projection, of another shape.
    """
    stages = {}
    for number in ("03", "04", "05"):
        if number not in resolved or not (fields := settings_of(number, declared[number])):
            return
        values = {name: field.default for name, field in fields.items()} | dict(resolved[number])
        stages[number] = values | resolved[number][OPTIONS]
    first, second, third = stages.values()
    shape = {"mlp": ("hidden_dim",), "transformer": ("transformer_width", "transformer_layers", "transformer_heads")}
    names = ["concept_emb_dim"]
    if first["bottleneck"] == second["bottleneck"]:
        names += shape.get(first["bottleneck"], ())
    for name in names if second["init_from_stage0"] else ():
        if first[name] != second[name]:
            raise ParameterError(
                f"04.{name}={second[name]} does not fit 03.{name}={first[name]}, from which Stage 1 starts; give both "
                f"the same with {name}=..., or set 04.init_from_stage0=false"
            )
    reads = third["ablation_mode"] not in ("concept_only", "concept_scores")
    if third["init_from_stage0"] and reads and third["embed_dim"] != GPS_DIM:
        raise ParameterError(
            f"05.embed_dim={third['embed_dim']} does not fit the patch projection of Stage 0, {GPS_DIM} wide, from "
            "which Stage 2 starts; set 05.init_from_stage0=false too"
        )
