"""Checkpoints: what a training leaves at its end, and after each epoch so that it goes on where it was interrupted.

Both are safetensors: the end with a JSON beside it, the state of an epoch with its JSON in the header, so that one
rename puts it in place and an interruption never leaves half of it. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geocbm.errors import DamagedError, MismatchError, MissingInputError, ParameterError, UserError, first_line
from geocbm.files import SEAL, atomic_path, remove_if_possible, sha256_file, write_json
from geocbm.files.stored import command_of, opened, refuse_folder, save_tensors

if TYPE_CHECKING:
    import pandas as pd

Config = TypeVar("Config")


@dataclass(frozen=True)
class FitResult:
    """What a training run did."""

    history: pd.DataFrame  # a row per epoch: `epoch`, `train_<term>`, `val_<term>`, `lr`, `lr_<group>`, `seconds`
    best_epoch: int  # from 1, whose weights were kept; 0 without training
    best_metric: float  # the monitored value at that epoch
    monitor: str
    initial: dict[str, float] = field(default_factory=dict)  # validation values before the first step
    best: dict[str, float] = field(default_factory=dict)  # validation values at the best epoch


@dataclass
class TrainingState:
    """How far a training has come; the names are those of `FitResult`."""

    initial: dict[str, float]
    best_values: dict[str, float]
    best_weights: dict[str, Tensor]  # trainable parameters and buffers at the best epoch, on the CPU
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_metric: float = float("nan")


@dataclass(frozen=True)
class Checkpoint:
    """Where a training writes what it comes to, and what its JSON says beside that.

    With `resume` the state is kept beside `path` after each epoch, and a training goes on from one that an interrupted
    training of the same settings, rows, data and program left there: on a CPU its result is that of a training without
    interruption, to the last bit. With `reuse` the end of the very same training at `path` is taken over instead of
    training again, but never where its program is not on the disk (a notebook's own loss) or was edited meanwhile;
    metadata and the loaders' `digest` must then hold all that the result depends on.
    """

    path: str | Path  # `*.safetensors`; beside it go a JSON of the same name and `history_<name>.parquet`
    metadata: Mapping[str, Any] = field(default_factory=dict)  # entries of the JSON, `config` among them
    labels: Mapping[str, Any] | None = None  # names of the classes and digests of what the training reads
    resume: bool = True
    reuse: bool = False

    @property
    def content(self) -> dict[str, Any]:
        """Entries of the JSON that are known before the training."""
        return dict(self.metadata) | ({} if self.labels is None else {"labels": dict(self.labels)})


IDENTITY = "training"
"""Entry of a checkpoint's JSON: the identity of the training (`identity.training_identity`), and of its history."""
_DIGESTS = ("training rows", "validation rows", "data", "labels", "first weights", "learning rates", "program")


def _history_file(path: Path) -> Path:
    return path.with_name(f"history_{path.stem}.parquet")


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters and the buffers (frozen parameters never change), where they are."""
    kept: dict[str, Tensor] = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return {name: value.detach() for name, value in (kept | dict(model.named_buffers())).items()}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trainable state on the CPU."""
    return {name: value.to("cpu", copy=True) for name, value in trainable_state(model).items()}


@contextmanager
def restored_on_failure(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a model its first weights back when the block fails, so that a notebook's cell can be run again."""
    try:
        yield
    except BaseException:  # an interrupt leaves a half-trained model too; raised again
        model.load_state_dict(dict(weights), strict=False)
        raise


def save_checkpoint(
    model: nn.Module, checkpoint: Checkpoint, result: FitResult, identity: Mapping[str, Any] | None = None
) -> None:
    """Write what was trained as safetensors, its JSON and its history, each of them whole or not at all.

    Trainable parameters and persistent buffers are written; frozen weights come from elsewhere, as do the buffers of
    the submodules whose prefixes the model's attribute `frozen_parts` lists. By `identity` the training is recognised.
    """
    path = Path(checkpoint.path)
    trains = {name: value.requires_grad for name, value in model.named_parameters()}
    elsewhere = tuple(getattr(model, "frozen_parts", ()))
    kept = {
        name: value for name, value in model.state_dict().items() if trains.get(name, not name.startswith(elsewhere))
    }
    with atomic_path(_history_file(path)) as temporary:
        # How long an epoch took is shown, and not kept: two trainings of one seed leave the same files.
        history = result.history.drop(columns="seconds", errors="ignore")
        history.to_parquet(temporary, index=False, write_page_checksum=True)
    with atomic_path(path, sum(value.nbytes for value in kept.values())) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in kept.items()}, str(temporary))
    metric = {"name": result.monitor, "value": result.best_metric, "epoch": result.best_epoch}
    content: dict[str, Any] = {"metric": metric, "initial": result.initial, "best": result.best}
    content["tensors_sha256"] = sha256_file(path)
    if identity is not None:
        content[IDENTITY] = {"identity": dict(identity), "history_sha256": sha256_file(_history_file(path))}
    write_json(path.with_suffix(".json"), checkpoint.content | content | {SEAL: ""})


def load_checkpoint(
    path: str | Path, made_by: str | Callable[[], str], stage: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a checkpoint and its JSON; `made_by` is, or finds out, the command that writes it.

    Tensors that the JSON does not describe, damage and another stage are a MismatchError.
    """
    path = Path(path)
    described = path.with_suffix(".json")
    refuse_folder(path, made_by)
    for file in (path, described):
        if not file.exists():
            raise MissingInputError(f"{file} is not there; make it with `{command_of(made_by)}`")
    with opened(described, made_by) as metadata:
        expected = str(metadata["tensors_sha256"])
    if stage is not None and metadata.get("stage") != stage:
        found = f"{path} is a checkpoint of stage {metadata.get('stage')}, not of stage {stage}"
        raise MismatchError(f"{found}; make that with `{command_of(made_by)}`")
    if expected != sha256_file(path):
        found = f"{path} is not the file that {described.name} describes"
        raise MismatchError(f"{found}; make both again with `{command_of(made_by)}`")
    try:
        # In memory of their own: a mapped file may change, and where it has them may change the last digits.
        return {name: value.clone() for name, value in load_file(path).items()}, metadata
    except SafetensorError as error:
        found = f"{path} is damaged ({first_line(error)})"
        raise MismatchError(f"{found}; make it again with `{command_of(made_by)}`") from error


def read_config(
    kind: type[Config], metadata: Mapping[str, Any], path: str | Path, made_by: str | Callable[[], str]
) -> Config:
    """Rebuild the settings that a checkpoint was trained with, defaults where it has none; else `MismatchError`."""
    try:
        return kind(**metadata["config"])
    except (KeyError, TypeError, ParameterError) as error:
        raise MismatchError(
            f"the settings in the JSON of {path} do not fit ({error}); train with `{command_of(made_by)}`"
        ) from error


def restore(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put checkpoint tensors into a model of the same configuration; other names or shapes raise `MismatchError`."""
    expected = {name: value.shape for name, value in model.named_parameters() if value.requires_grad}
    state = model.state_dict()
    wrong = [name for name in expected if name not in tensors]
    wrong += [name for name, value in tensors.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise MismatchError(
            f"{path} does not fit this model: {', '.join(wrong[:5])} missing or of another shape; "
            "use the encoder, table and parameters it was trained with"
        )
    model.load_state_dict(dict(tensors), strict=False)
    model.eval()


def read_finished(path: str | Path, identity: Mapping[str, Any], model: nn.Module) -> TrainingState | None:
    """The end of the very same training at `path`, or None where there is none, or its files are not whole."""
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        return None
    try:
        tensors, metadata = load_checkpoint(path, "")
        known = metadata[IDENTITY]
        if known["identity"] != dict(identity) or known["history_sha256"] != sha256_file(_history_file(path)):
            return None
        history = pd.read_parquet(_history_file(path)).to_dict("records")
        state = model.state_dict()
        trained = [name for name, value in model.named_parameters() if value.requires_grad]
        if not set(trained) <= set(tensors) or any(state[name].shape != tensors[name].shape for name in tensors):
            return None
        return TrainingState(
            dict(metadata["initial"]),
            dict(metadata["best"]),
            tensors,
            [{str(name): value for name, value in row.items()} for row in history],
            int(metadata["metric"]["epoch"]),
            float(metadata["metric"]["value"]),
        )
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None  # an older or a damaged checkpoint: the training begins anew


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
    """The state beside a checkpoint, `<stem>.resume.safetensors`; gone when the training has ended."""

    def __init__(self, checkpoint: str | Path, identity: Mapping[str, Any]) -> None:
        checkpoint = Path(checkpoint)
        self.path = checkpoint.with_name(f"{checkpoint.stem}.resume.safetensors")
        self.identity = dict(identity)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Write the state at the end of an epoch, whole or not at all."""
        tensors = {f"model.{name}": value for name, value in trainable_state(model).items()}
        best_is_current = state.best_epoch == len(state.history)
        if not best_is_current:
            tensors |= {f"best.{name}": value for name, value in state.best_weights.items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": each for name, each in moments.items()}
        content = {
            "identity": self.identity,
            "history": state.history,
            "initial": state.initial,
            "best": state.best_values,
            "best_epoch": state.best_epoch,
            "best_metric": state.best_metric,
            "best_is_current": best_is_current,
        }
        arrays = {name: value.cpu().numpy() for name, value in tensors.items()}
        save_tensors(self.path, arrays, {"state": json.dumps(content)})

    def read(self) -> tuple[dict[str, Any] | None, str | None]:
        """Content of the state with its tensors, or None; and why one that is there cannot be continued, or None."""
        if not self.path.is_file():
            return None, None
        try:
            with opened(self.path, "") as (arrays, noted):
                content = json.loads(noted["state"])
                reason = difference(content["identity"], self.identity)
        except DamagedError:
            return None, "the file is damaged"
        return (content | {"tensors": arrays}, None) if reason is None else (None, reason)

    def restore(self, content: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
        """Put weights and the optimiser's moments back, and give the state that `read` found as `content`."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, value in content["tensors"].items():
            part, _, rest = name.partition(".")
            parts[part][rest] = torch.from_numpy(value)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, entry = name.partition(".")
            moments.setdefault(int(index), {})[entry] = value
        model.load_state_dict(parts["model"], strict=False)
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        return TrainingState(
            dict(content["initial"]),
            dict(content["best"]),
            parts["model" if content["best_is_current"] else "best"],
            list(content["history"]),
            content["best_epoch"],
            content["best_metric"],
        )

    def remove(self) -> None:
        """Remove the state and what an interruption in the middle of writing left of one."""
        remove_if_possible(self.path)
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove what an interruption in the middle of writing left."""
        for half in self.path.parent.glob(f".{self.path.stem}.*{self.path.suffix}"):
            half.unlink(missing_ok=True)
