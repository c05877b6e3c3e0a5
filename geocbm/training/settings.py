"""The settings that every stage has, and how impossible ones are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from geocbm.errors import ParameterError

PRECISIONS = ("auto", "bf16", "no")
TRACKING = ("disabled", "offline", "online")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise `ParameterError` unless `value` is one of `choices`."""
    if value not in choices:
        listed = ", ".join(map(repr, choices[:-1]))
        raise ParameterError(f"{name}={value!r} is unknown; use {listed} or {choices[-1]!r}")


def check_number(name: str, value: float, least: float, below: float = float("inf"), above: bool = False) -> None:
    """Raise `ParameterError` unless `least <= value < below`, or with `above` `least < value < below`."""
    if not (least < value if above else least <= value) or not value < below:
        limit = "" if below == float("inf") else f" and below {below:g}"
        raise ParameterError(
            f"{name}={value!r} is impossible; give {'more than' if above else 'at least'} {least:g}{limit}"
        )


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training loop, the same in every stage.

    Attributes:
        batch_size: rows of a step.
        lr: learning rate.
        epochs: most passes over the training rows.
        dropout: probability of dropping a unit in training.
        weight_decay: of AdamW.
        patience: epochs without improvement before stopping.
        seed: fixes initialisation, order and dropout.
        tracking: Weights & Biases mode: "disabled", "offline" or "online".
        precision: "auto" (bfloat16 where the device gains), "bf16" or "no".
    """

    batch_size: int = 32
    lr: float = 1e-4
    epochs: int = 20
    dropout: float = 0.1
    weight_decay: float = 0.01
    patience: int = 5
    seed: int = 0
    tracking: str = "disabled"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "patience"):
            check_number(name, getattr(self, name), 1)
        weights = [field.name for field in fields(self) if field.name.startswith("lambda_")]
        for name in ("lr", "weight_decay", *weights):
            check_number(name, getattr(self, name), 0)
        check_number("dropout", self.dropout, 0, below=1)
        check_choice("tracking", self.tracking, TRACKING)
        check_choice("precision", self.precision, PRECISIONS)
