"""Checkpoints: safetensors and the JSON that describes them; nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import atomic_path, read_json, sha256_file, write_json

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


IDENTITY = "training"
"""Entry of a checkpoint's JSON: the identity of the training (`resume.training_identity`), and of its history."""


def history_file(path: str | Path) -> Path:
    """The history beside a checkpoint."""
    path = Path(path)
    return path.with_name(f"history_{path.stem}.parquet")


def save_checkpoint(
    model: nn.Module,
    path: str | Path,
    result: FitResult,
    metadata: Mapping[str, Any],
    identity: Mapping[str, Any] | None = None,
) -> None:
    """Write what was trained as safetensors, its JSON and its history, each of them whole or not at all.

    Args:
        model: its trainable parameters and persistent buffers are written; frozen weights come from elsewhere, as do
            the buffers of the submodules whose prefixes its attribute `frozen_parts` lists.
        path: `*.safetensors`.
        result: what the training run did.
        metadata: configuration, labels and digests for the JSON.
        identity: of the training, by which it is recognised; None where it is not fully known.
    """
    path = Path(path)
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
    write_json(path.with_suffix(".json"), dict(metadata) | content)


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
