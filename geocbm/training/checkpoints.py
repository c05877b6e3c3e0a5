"""Checkpoints: safetensors and the JSON that describes them; nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geocbm.errors import MismatchError, MissingInputError, ParameterError, UserError
from geocbm.files import atomic_path, read_json, sha256_file, write_json

if TYPE_CHECKING:
    import pandas as pd

Config = TypeVar("Config")


@dataclass(frozen=True)
class FitResult:
    """What a training run did.

    Attributes:
        history: one row per epoch: `epoch`, `train_<term>`, `val_<term>`, `lr`, `lr_<group>` of each named group of
            parameters, `seconds`.
        best_epoch: epoch (from 1) whose weights were kept; 0 without training.
        best_metric: the monitored value at that epoch.
        monitor: name of the monitored value.
        initial: the validation values before the first step.
        best: the validation values at the best epoch.
    """

    history: pd.DataFrame
    best_epoch: int
    best_metric: float
    monitor: str
    initial: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Checkpoint:
    """Where a training writes what it comes to, and what its JSON says beside that.

    Attributes:
        path: `*.safetensors`; a JSON of the same name and `history_<name>.parquet` are written beside it.
        metadata: entries of the JSON, `config` among them.
        labels: names of the classes and digests of what the training reads, the JSON's entry `labels`.
        resume: keep the state beside `path` after each epoch, and go on from one that an interrupted training of the
            same settings, rows, data and program left there. The result is that of a training without interruption:
            to the last bit on a CPU.
        reuse: take over `path` where the very same training has ended before, instead of training again. For callers
            whose metadata and loaders' `digest` hold all that the result depends on; a training whose program is not
            on the disk (a notebook's own loss) or was edited since this process began is never taken over.
    """

    path: str | Path
    metadata: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] | None = None
    resume: bool = True
    reuse: bool = False

    @property
    def content(self) -> dict[str, Any]:
        """Entries of the JSON that are known before the training."""
        return dict(self.metadata) | ({} if self.labels is None else {"labels": dict(self.labels)})


IDENTITY = "training"
"""Entry of a checkpoint's JSON: the identity of the training (`identity.training_identity`), and of its history."""


def history_file(path: str | Path) -> Path:
    """The history beside a checkpoint."""
    path = Path(path)
    return path.with_name(f"history_{path.stem}.parquet")


def save_checkpoint(
    model: nn.Module, checkpoint: Checkpoint, result: FitResult, identity: Mapping[str, Any] | None = None
) -> None:
    """Write what was trained as safetensors, its JSON and its history, each of them whole or not at all.

    Args:
        model: its trainable parameters and persistent buffers are written; frozen weights come from elsewhere, as do
            the buffers of the submodules whose prefixes its attribute `frozen_parts` lists.
        checkpoint: where to, and what the JSON says.
        result: what the training run did.
        identity: of the training, by which it is recognised; None where it is not fully known.
    """
    path = Path(checkpoint.path)
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    frozen = {name for name, _ in model.named_parameters()} - trainable
    elsewhere = tuple(getattr(model, "frozen_parts", ()))
    kept = {
        name: value
        for name, value in model.state_dict().items()
        if name in trainable or (name not in frozen and not name.startswith(elsewhere))
    }
    with atomic_path(history_file(path)) as temporary:
        result.history.to_parquet(temporary, index=False)
    with atomic_path(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in kept.items()}, str(temporary))
    metric = {"name": result.monitor, "value": result.best_metric, "epoch": result.best_epoch}
    content: dict[str, Any] = {"metric": metric, "initial": result.initial, "best": result.best}
    content["tensors_sha256"] = sha256_file(path)
    if identity is not None:
        content[IDENTITY] = {"identity": dict(identity), "history_sha256": sha256_file(history_file(path))}
    write_json(path.with_suffix(".json"), checkpoint.content | content)


def load_checkpoint(
    path: str | Path, made_by: str | Callable[[], str], stage: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint and check that its two files belong together.

    Args:
        path: `*.safetensors`.
        made_by: command that writes it, for the message when it is missing, or what finds that command out.
        stage: stage that it must be of, where that matters.

    Returns:
        Tensors by name, and the content of the JSON.

    Raises:
        MissingInputError: when a file is not there.
        MismatchError: when the tensors are not the ones that the JSON describes, the JSON is damaged, or the stage is
            another.
    """
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise MissingInputError(f"{file} is not there; make it with `{_said(made_by)}`")
    try:
        metadata = dict(read_json(path.with_suffix(".json")).items())
    except (ValueError, AttributeError) as error:
        raise MismatchError(f"{path.with_suffix('.json')} is damaged; make it again with `{_said(made_by)}`") from error
    if stage is not None and metadata.get("stage") != stage:
        raise MismatchError(
            f"{path} is a checkpoint of stage {metadata.get('stage')}, not of stage {stage}; make that with "
            f"`{_said(made_by)}`"
        )
    if metadata.get("tensors_sha256") != sha256_file(path):
        raise MismatchError(
            f"{path} is not the file that {path.with_suffix('.json').name} describes; make both again with "
            f"`{_said(made_by)}`"
        )
    return load_file(str(path)), metadata


def read_config(
    kind: type[Config], metadata: Mapping[str, Any], path: str | Path, made_by: str | Callable[[], str]
) -> Config:
    """Rebuild the settings that a checkpoint was trained with; settings it does not know take their defaults.

    Args:
        kind: the stage's dataclass.
        metadata: content of the JSON.
        path: the checkpoint, for the message.
        made_by: command that writes it, for the message.

    Raises:
        MismatchError: when the JSON holds a setting that this version does not know, or an impossible one.
    """
    try:
        return kind(**metadata["config"])
    except (KeyError, TypeError, ParameterError) as error:
        raise MismatchError(
            f"the settings in the JSON of {path} do not fit ({error}); train with `{_said(made_by)}`"
        ) from error


def _said(made_by: str | Callable[[], str]) -> str:
    """The command; to find it out takes a look at the whole run, which only a message is worth."""
    return made_by if isinstance(made_by, str) else made_by()


def restore(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put checkpoint tensors into a model built from the same configuration.

    Raises:
        MismatchError: when names or shapes differ from the trainable part of the model.
    """
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
    """The end of the very same training, or None where there is none, or its files are not whole.

    Args:
        path: `*.safetensors` that the training would write.
        identity: of the training that is about to begin.
        model: before its first step.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        return None
    try:
        tensors, metadata = load_checkpoint(path, "")
        known = metadata[IDENTITY]
        if known["identity"] != dict(identity) or known["history_sha256"] != sha256_file(history_file(path)):
            return None
        history = pd.read_parquet(history_file(path)).to_dict("records")
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
