"""What a training leaves after each epoch, so that the next one goes on where it was interrupted.

The state is a single safetensors file with its JSON in the header: one rename puts it in place, so that an interruption
at any moment leaves the state of the last epoch or of the one before, never half of each. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from geocbm.files import atomic_path
from geocbm.training.batches import Batch

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


@dataclass
class TrainingState:
    """How far a training has come.

    Attributes:
        initial: the validation values before the first step.
        best_values: the validation values at the best epoch.
        best_weights: trainable parameters and buffers at the best epoch, on the CPU.
        history: one row per epoch.
        best_epoch: the best epoch, from 1; 0 before the first.
        best_metric: the monitored value at that epoch.
    """

    initial: dict[str, float]
    best_values: dict[str, float]
    best_weights: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_metric: float = float("nan")


def changing(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters and the buffers (frozen parameters never change), where they are."""
    kept: dict[str, Tensor] = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return {name: value.detach() for name, value in (kept | dict(model.named_buffers())).items()}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy the trainable parameters and the buffers to the CPU."""
    return {name: value.to("cpu", copy=True) for name, value in changing(model).items()}


@contextmanager
def restored_on_failure(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a model its first weights back when the block fails or is interrupted.

    A notebook's cell can then be run again as it stands: the model is what the training began with, and the state on
    the disk continues it.

    Args:
        model: changed in place.
        weights: of `snapshot`, before the first step.
    """
    try:
        yield
    except BaseException:  # an interrupt leaves a half-trained model too; raised again
        model.load_state_dict(dict(weights), strict=False)
        raise


def digest_of(*values: Any) -> str:
    """Digest of what a training reads (hexadecimal SHA-256).

    Args:
        values: tensors and arrays of any type, objects with a `key` that stands for their content (feature stores),
            and whatever JSON holds.
    """
    total = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            held = value.detach().cpu().contiguous()
            total.update(f"{held.dtype}{tuple(held.shape)}".encode())
            total.update(held.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, np.ndarray):
            total.update(f"{value.dtype}{value.shape}".encode())
            total.update(np.ascontiguousarray(value).data if value.dtype != object else repr(value.tolist()).encode())
        else:
            content = value.key if hasattr(value, "key") else value
            total.update(json.dumps(content, sort_keys=True, default=lambda each: type(each).__name__).encode())
        total.update(b"\0")
    return total.hexdigest()


def code_files(model: nn.Module, compute: Callable[..., Any]) -> list[Path | None]:
    """Source files of the program that a training runs through; None for a module without one, such as a notebook.

    Args:
        model: the model; its classes count.
        compute: the stage's function; its module counts, and every module of this package that is reached from there.
    """
    package = __name__.partition(".")[0]
    waiting = {
        compute.__module__,
        __name__,
        f"{package}.training.loop",
        *(type(each).__module__ for each in model.modules()),
    }
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        reached.add(name)
        names = vars(sys.modules[name]).values() if name in sys.modules else ()
        named = [
            value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) for value in names
        ]
        waiting |= {each for each in named if isinstance(each, str) and each.partition(".")[0] == package} - reached
    top = (package, compute.__module__.partition(".")[0], "__main__")
    own = sorted(name for name in reached if name.partition(".")[0] in top)
    files = [getattr(sys.modules.get(name), "__file__", None) for name in own]
    return [Path(file) if file else None for file in files]


def code_digest(model: nn.Module, compute: Callable[..., Any]) -> str:
    """Digest of the program that a training runs through: what another one left is not continued.

    Args:
        model: the model; its classes count.
        compute: the stage's function, see `code_files`.
    """
    return digest_of(*(file.read_text(encoding="utf-8") for file in code_files(model, compute) if file))


def code_is_known(model: nn.Module, compute: Callable[..., Any]) -> bool:
    """Whether the program on the disk is the one that runs: all of it has files, none was edited since the start.

    Args:
        model: the model; its classes count.
        compute: the stage's function, see `code_files`.
    """
    import psutil

    began = psutil.Process().create_time()
    return all(file is not None and file.stat().st_mtime < began for file in code_files(model, compute))


def training_identity(
    model: nn.Module,
    compute: Callable[..., Any],
    batch: Callable[[np.ndarray], Batch],
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    groups: list[dict[str, Any]],
    metadata: Mapping[str, Any],
    data_digest: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """All that the result of a training depends on: settings as they are, everything large as a digest.

    Args:
        model: before its first step.
        compute: `(model, batch) -> Step`.
        batch: `rows -> dict of tensors`; a few rows are looked at.
        train_rows: row positions to train on.
        val_rows: row positions to validate on.
        groups: parameter groups.
        metadata: what the checkpoint's JSON will hold; the entries of its `config` count as settings.
        data_digest: the caller's digest of all its data, or "".
        settings: arguments of the training by name.

    Returns:
        Values by the name that `difference` calls them.
    """
    rows = np.concatenate([train_rows, val_rows])
    sample = batch(rows[np.linspace(0, len(rows) - 1, min(len(rows), 32)).astype(int)])
    config = {name: value for name, value in dict(metadata.get("config", {})).items() if name not in _NO_MATTER}
    described = {name: value for name, value in metadata.items() if name != "config"}
    first = changing(model)
    groups_described = [
        [group.get("name", ""), group["lr"], group["weight_decay"], [list(each.shape) for each in group["params"]]]
        for group in groups
    ]
    identity = {
        **config,
        **settings,
        "training rows": digest_of(np.asarray(train_rows)),
        "validation rows": digest_of(np.asarray(val_rows)),
        "data": digest_of(data_digest, *(each for name in sorted(sample) for each in (name, sample[name]))),
        "labels": digest_of(described),
        "first weights": digest_of(*(each for name in sorted(first) for each in (name, first[name]))),
        "learning rates": digest_of(groups_described),
        "program": code_digest(model, compute),
        "version of torch": torch.__version__,
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    return json.loads(json.dumps(identity, default=str))


_DIGESTS = ("training rows", "validation rows", "data", "labels", "first weights", "learning rates", "program")


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say in what a training differs from the one that left a state, or None when it is the same."""
    if before.get("epochs") != now.get("epochs"):
        pace = "so the learning rate would fall at another pace"
        return f"epochs was {before.get('epochs')} and is {now.get('epochs')}, {pace}"
    changed = [name for name in dict.fromkeys([*now, *before]) if before.get(name) != now.get(name)]
    if not changed:
        return None
    told = [
        f"the {name} changed" if name in _DIGESTS else f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in changed
    ]
    return ", ".join(told[:3])


class ResumeFile:
    """The state beside a checkpoint, `<stem>.resume.safetensors`; gone when the training has ended.

    Args:
        checkpoint: `*.safetensors` that the training will write.
        identity: of `training_identity`.
    """

    def __init__(self, checkpoint: str | Path, identity: Mapping[str, Any]) -> None:
        checkpoint = Path(checkpoint)
        self.path = checkpoint.with_name(f"{checkpoint.stem}.resume.safetensors")
        self.identity = dict(identity)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Write the state at the end of an epoch, whole or not at all."""
        tensors = {f"model.{name}": value.cpu().contiguous() for name, value in changing(model).items()}
        best_is_current = state.best_epoch == len(state.history)
        if not best_is_current:
            tensors |= {f"best.{name}": value for name, value in state.best_weights.items()}
        plain: dict[str, dict[str, Any]] = {}
        for index, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value.detach().cpu().contiguous()
                else:
                    plain.setdefault(str(index), {})[name] = value
        content = {
            "identity": self.identity,
            "history": state.history,
            "initial": state.initial,
            "best": state.best_values,
            "best_epoch": state.best_epoch,
            "best_metric": state.best_metric,
            "best_is_current": best_is_current,
            "optimizer": plain,
        }
        with atomic_path(self.path) as temporary:
            save_file(_apart(tensors), str(temporary), metadata={"state": json.dumps(content)})

    def read(self) -> tuple[dict[str, Any] | None, str | None]:
        """Read the state without its tensors.

        Returns:
            The JSON, and None; or None, and why it cannot be continued; or twice None when there is none.
        """
        if not self.path.is_file():
            return None, None
        try:
            with safe_open(str(self.path), "pt") as stored:
                content = json.loads(stored.metadata()["state"])
            reason = difference(content["identity"], self.identity)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return None, "the file is damaged"
        return (content, None) if reason is None else (None, reason)

    def restore(self, content: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
        """Put weights and the optimiser's moments back.

        Args:
            content: of `read`.
            model: changed in place.
            optimizer: changed in place; keeps its own groups and learning rates.

        Returns:
            The state after the last complete epoch.
        """
        current: dict[str, Tensor] = {}
        best: dict[str, Tensor] = {}
        moments: dict[int, dict[str, Any]] = {int(index): dict(each) for index, each in content["optimizer"].items()}
        with safe_open(str(self.path), "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - a file of safetensors is no mapping
                part, _, rest = name.partition(".")
                if part == "optimizer":
                    index, _, entry = rest.partition(".")
                    moments.setdefault(int(index), {})[entry] = stored.get_tensor(name)
                else:
                    (current if part == "model" else best)[rest] = stored.get_tensor(name)
        model.load_state_dict(current, strict=False)
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        return TrainingState(
            dict(content["initial"]),
            dict(content["best"]),
            current if content["best_is_current"] else best,
            list(content["history"]),
            content["best_epoch"],
            content["best_metric"],
        )

    def remove(self) -> None:
        """Remove the state and what an interruption in the middle of writing left of one."""
        self.path.unlink(missing_ok=True)
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove what an interruption in the middle of writing left."""
        for half in self.path.parent.glob(f".{self.path.stem}.*{self.path.suffix}"):
            half.unlink(missing_ok=True)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none of which shares memory with another; the format refuses those that do."""
    held: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        result[name] = value.clone() if place in held else value
        held.add(place)
    return result
