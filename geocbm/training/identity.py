"""Identity of a training: all that its result depends on, so that it goes on, or is taken over, only as the same."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geocbm.files import source
from geocbm.training.checkpoints import Checkpoint, trainable_state
from geocbm.training.loader import RowLoader, digest_of
from geocbm.training.settings import TrainingSettings

_NO_MATTER = (
    "tracking",
    "semantic_threshold",
    "answer_point",
    "refine_cells",
    "refine_neighbours",
    "refine_temperature",
)
"""Settings of the stages that leave the trained weights as they are: what is shown, or how an answer is read off."""

_LIBRARIES = ("accelerate", "numpy", "transformers")
_PACKAGE = __name__.partition(".")[0]
_PLAIN = (bool, int, float, str, bytes, tuple, list, dict, type(None), Tensor, np.ndarray)


def code_files(model: nn.Module, loss: Callable[..., Any]) -> dict[Path, str]:
    """Digest of each source file that loop, loss and the model's classes stand in, or import from this package."""
    files = [Path(file).resolve() for name in _own_modules(model, loss) if (file := _file_of(name))]
    return dict(sorted(source.module_digests(files).items()))


def _own_modules(model: nn.Module, loss: Callable[..., Any]) -> set[str]:
    """Modules of the loop, the loss and the model's classes, those of libraries left out."""
    home = str(_unwrapped(loss).__module__)
    own = (_PACKAGE, home.partition(".")[0], "__main__")
    named = {home, f"{_PACKAGE}.training.loop", *(type(each).__module__ for each in model.modules())}
    return {name for name in named if name.partition(".")[0] in own}


def _file_of(module: str) -> str | None:
    return getattr(sys.modules.get(module), "__file__", None)


def code_digest(model: nn.Module, loss: Callable[..., Any]) -> str:
    """Digest of the program that a training runs through: what another one left is not continued.

    Of what stands in cells of a notebook, which has no file, the source counts that IPython keeps, with the functions
    and the plain values that it names; of a loss that is an object also its plain values, such as weights.
    """
    cells = sorted({text for each in (loss, *model.modules()) for text in _cell_sources(each, set())})
    names = [_unwrapped(each).__qualname__ for each in (loss, *model.modules())]
    return digest_of(*code_files(model, loss).values(), *names, *cells, *_plain_state(loss))


def code_is_known(model: nn.Module, loss: Callable[..., Any]) -> bool:
    """Whether the program on the disk is the one that runs: all of it has files, none was edited since the start."""
    import psutil

    began = psutil.Process().create_time()
    has_files = all(_file_of(name) for name in _own_modules(model, loss))
    return has_files and all(file.stat().st_mtime < began for file in code_files(model, loss))


def _unwrapped(value: Any) -> Any:
    """The function that was called in the end, or the class of an object."""
    while isinstance(value, partial):
        value = value.func
    return value if hasattr(value, "__qualname__") else type(value)


def _cell_sources(value: Any, seen: set[int]) -> Iterator[str]:
    """Sources of a function or class that has no file, and of what it names, as long as that has no file either."""
    while isinstance(value, partial):
        yield repr([each for each in (*value.args, *value.keywords.values()) if isinstance(each, _PLAIN)])
        value = value.func
    value = inspect.unwrap(value) if callable(value) and not isinstance(value, nn.Module) else value
    code = value if isinstance(value, type | FunctionType) else type(value)
    if id(code) in seen or _file_of(code.__module__):
        return
    seen.add(id(code))
    try:
        yield inspect.getsource(code)
    except (OSError, TypeError):  # neither file nor cell, such as a class made by `exec`
        yield code.__qualname__
    members = [each for each in vars(code).values() if isinstance(each, FunctionType)] if isinstance(code, type) else []
    for function in members or ([code] if isinstance(code, FunctionType) else []):
        named = {
            name: function.__globals__[name] for name in _names_in(function.__code__) if name in function.__globals__
        }
        named |= dict(zip(function.__code__.co_freevars, _cell_values(function), strict=True))
        for name, each in sorted(named.items()):
            if isinstance(each, type | FunctionType):
                yield from _cell_sources(each, seen)
            elif isinstance(each, _PLAIN):
                yield f"{name} = {digest_of(each)}"


def _names_in(code: Any) -> set[str]:
    """Global names that a function's code reads, those of functions inside it too."""
    inner = (each for each in code.co_consts if hasattr(each, "co_names"))
    return set(code.co_names).union(*(_names_in(each) for each in inner))


def _cell_values(function: FunctionType) -> list[Any]:
    """What a function closes over; None for a name that has no value yet."""
    values = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:
            values.append(None)
    return values


def _plain_state(loss: Any) -> list[Any]:
    """Numbers, texts, tensors and settings that an object holds, by name."""
    held = vars(loss) if hasattr(loss, "__dict__") and not isinstance(loss, FunctionType) else {}
    if isinstance(loss, nn.Module):
        held = {**held, **loss.state_dict()}
    state: list[Any] = []
    for name, value in sorted(held.items()):
        if is_dataclass(value) and not isinstance(value, type | TrainingSettings):  # settings count by themselves
            value = asdict(value)
        if isinstance(value, _PLAIN):
            state += [name, value]
    return state


def training_identity(
    model: nn.Module,
    loss: Callable[..., Any],
    train: RowLoader,
    val: RowLoader,
    settings: TrainingSettings,
    checkpoint: Checkpoint,
    groups: list[dict[str, Any]],
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """All that the result of a training depends on: settings as they are, everything large as a digest.

    The model is that before its first step; a few rows of both loaders are looked at. `machine` names kind of device
    and number of processes.
    """
    rows = np.concatenate([train.rows, val.rows])
    sample = train.read(rows[np.linspace(0, len(rows) - 1, min(len(rows), 32)).astype(int)])
    content = checkpoint.content
    config = dict(content.pop("config", {})) | asdict(settings)
    first = trainable_state(model)
    groups_described = [
        [group.get("name", ""), group["lr"], group["weight_decay"], [list(each.shape) for each in group["params"]]]
        for group in groups
    ]
    tensors = [each for name in sorted(sample) for each in (name, sample[name]) if isinstance(sample[name], Tensor)]
    identity = {
        **{name: value for name, value in config.items() if name not in _NO_MATTER},
        **machine,
        "training rows": digest_of(train.rows),
        "validation rows": digest_of(val.rows),
        "data": digest_of(train.digest, *tensors),
        "labels": digest_of(content),
        "first weights": digest_of(*(each for name in sorted(first) for each in (name, first[name]))),
        "learning rates": digest_of(groups_described),
        "program": code_digest(model, loss),
        "version of torch": torch.__version__,
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    return json.loads(json.dumps(identity, default=str))
