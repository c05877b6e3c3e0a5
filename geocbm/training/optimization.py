"""Learning rates, weight decay, mixed precision: how a step of training is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from geocbm.training.settings import PRECISIONS, check_choice


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.01, lr_by_prefix: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Group the trainable parameters for AdamW: weight decay on matrices only, a learning rate per prefix.

    Args:
        model: the model; frozen parameters are left out.
        lr: learning rate of everything without a prefix of its own.
        weight_decay: decay of parameters with two or more dimensions.
        lr_by_prefix: learning rate for parameters whose name starts with the key.

    Returns:
        Groups for an optimiser, none of them empty; `name` is the prefix without its dot, or "" for all the rest.
    """
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix = next((prefix for prefix in lr_by_prefix or {} if name.startswith(prefix)), "")
        rate = (lr_by_prefix or {}).get(prefix, lr)
        decay = weight_decay if parameter.ndim >= 2 and "delta" not in name else 0.0
        groups.setdefault((prefix.rstrip("."), rate, decay), []).append(parameter)
    return [
        {"name": name, "params": members, "lr": rate, "weight_decay": decay}
        for (name, rate, decay), members in groups.items()
    ]


def learning_rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Learning rates as the history names them: `lr`, and `lr_<name>` of each group with a name.

    Where every group has a name, `lr` is the first one's.
    """
    rates = {"lr": next((group for group in groups if not group.get("name")), groups[0])["lr"]}
    return rates | {f"lr_{group['name']}": group["lr"] for group in groups if group.get("name")}


def learning_rate_factor(step: int, n_steps: int, n_warmup: int) -> float:
    """Linear warm-up, then half a cosine down to zero; `step` counts from 0."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - n_warmup) / max(n_steps - n_warmup, 1))))


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the forward pass: bfloat16 where asked for, or where the accelerator supports it."""
    check_choice("precision", precision, PRECISIONS)
    gains = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" or (precision == "auto" and gains))
