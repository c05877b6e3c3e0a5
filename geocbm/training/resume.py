"""What a training leaves after each epoch, so that the next one goes on where it was interrupted.

The state is a single safetensors file with its JSON in the header: one rename puts it in place, so that an interruption
at any moment leaves the state of the last epoch or of the one before, never half of each. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from geocbm.files import atomic_path
from geocbm.training.checkpoints import TrainingState
from geocbm.training.identity import difference, trainable_state


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy the trainable parameters and the buffers to the CPU."""
    return {name: value.to("cpu", copy=True) for name, value in trainable_state(model).items()}


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


class ResumeFile:
    """The state beside a checkpoint, `<stem>.resume.safetensors`; gone when the training has ended.

    Args:
        checkpoint: `*.safetensors` that the training will write.
        identity: of `identity.training_identity`.
    """

    def __init__(self, checkpoint: str | Path, identity: Mapping[str, Any]) -> None:
        checkpoint = Path(checkpoint)
        self.path = checkpoint.with_name(f"{checkpoint.stem}.resume.safetensors")
        self.identity = dict(identity)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Write the state at the end of an epoch, whole or not at all."""
        tensors = {f"model.{name}": value.cpu().contiguous() for name, value in trainable_state(model).items()}
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
            save_file(_clone_shared(tensors), str(temporary), metadata={"state": json.dumps(content)})

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


def _clone_shared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none of which shares memory with another; the format refuses those that do."""
    held: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        result[name] = value.clone() if place in held else value
        held.add(place)
    return result
