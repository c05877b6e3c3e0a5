"""Settings of a training, and how impossible ones are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np

from geocbm.errors import ParameterError, check_choice


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained; the settings of each stage inherit these, some with another default.

    With `accumulation_steps` a loss that is a mean over rows keeps its gradient; a contrast within the batch sees only
    the rows of its part. Of what `monitor` may name, terms of the loss and distances (`..._km`) are better when lower,
    other measured values when higher.
    """

    batch_size: int = 128  # rows of a step, over all processes together
    accumulation_steps: int = 1  # parts in which the rows of a step go through the model, to save memory
    lr: float = 1e-4
    weight_decay: float = 0.01  # of parameters with two or more dimensions
    epochs: int = 20  # most passes over the training rows; 0 leaves the model as it is
    epoch_rows: int = 0  # training rows of a pass, drawn anew for each, where all are too many; 0 is all
    warmup: float = 0.05  # share of the steps with a rising learning rate
    gradient_clip: float = 1.0  # largest norm of the gradient
    patience: int = 5  # epochs without improvement before stopping; 0 never stops
    monitor: str = "loss"  # validation value that decides which epoch is kept
    seed: int = 0  # of initialisation, order and dropout
    tracking: Literal["disabled", "offline", "online"] = "disabled"  # mode of Weights & Biases
    precision: Literal["auto", "bf16", "no"] = "auto"  # "auto" is bfloat16 where the accelerator has it

    def __post_init__(self) -> None:
        weights = [field.name for field in fields(self) if field.name.startswith("lambda_")]
        self.check_numbers("lr", "weight_decay", "patience", "epochs", "epoch_rows", *weights, least=0)
        self.check_numbers("batch_size", "accumulation_steps", least=1)
        self.check_numbers("gradient_clip", least=0, above=True)
        self.check_numbers("warmup", least=0, below=1)
        for name, allowed in self.choices.items():
            check_choice(name, getattr(self, name), allowed)

    def check_numbers(self, *names: str, least: float, below: float = math.inf, above: bool = False) -> None:
        """Raise `ParameterError` unless `least <= value < below` of each setting, or with `above` `least < value`."""
        for name in names:
            value = getattr(self, name)
            if not (least < value if above else least <= value) or not value < below:
                limit = "" if below == math.inf else f" and below {below:g}"
                raise ParameterError(
                    f"{name}={value!r} is impossible; give {'more than' if above else 'at least'} {least:g}{limit}"
                )

    def of_epoch(self, rows: np.ndarray) -> np.ndarray:
        """As many of the rows `(n,)` as a pass takes, the first ones."""
        return rows[: self.epoch_rows or len(rows)]

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """The values allowed for settings that have few of them, as their types list them."""
        kinds = get_type_hints(type(self)).items()
        return {name: get_args(kind) for name, kind in kinds if get_origin(kind) is Literal}

    @property
    def lr_by_prefix(self) -> Mapping[str, float]:
        """Learning rates of parameters whose name starts with the key, where they differ from `lr`."""
        return {}
