"""How impossible settings of the stages are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
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


def check_training(config: Any, fewest_epochs: int = 1, least_patience: int = 1) -> None:
    """Raise `ParameterError` for settings no training can have, and for weights of loss terms below 0.

    Args:
        config: dataclass of a stage, with the settings of the training loop and its `lambda_...`.
        fewest_epochs: 0 for a stage that may be skipped.
        least_patience: 0 for a stage that may train all its epochs.
    """
    weights = [field.name for field in fields(config) if field.name.startswith("lambda_")]
    for name in ("lr", "weight_decay", *weights):
        check_number(name, getattr(config, name), 0)
    for name in ("batch_size", "accumulation_steps"):
        check_number(name, getattr(config, name), 1)
    check_number("patience", config.patience, least_patience)
    check_number("gradient_clip", config.gradient_clip, 0, above=True)
    check_number("warmup", config.warmup, 0, below=1)
    check_number("epochs", config.epochs, fewest_epochs)
    check_number("dropout", config.dropout, 0, below=1)
    check_choice("tracking", config.tracking, TRACKING)
    check_choice("precision", config.precision, PRECISIONS)
