"""Muon: momentum with orthogonalised updates for the weight matrices of a transformer.

From scratch and for minutes, it needs roughly half the steps of AdamW here. The optimizer in torch orthogonalises in
bfloat16, which a processor without such instructions only emulates; this one works in the precision of the weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

# Quintic iteration of Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Bring the singular values of matrices near 1 (between about 0.7 and 1.2), keeping their directions.

    Args:
        matrices: (n, rows, columns) with rows <= columns.
        steps: Newton-Schulz iterations.

    Returns:
        Matrices of the same shape.
    """
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT  # (n, rows, rows)
        x = a * x + (b * square + c * square @ square) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for matrices only.

    The update is scaled to the size that AdamW's has (Liu et al., "Muon is Scalable for LLM Training", 2025), so that
    one learning rate serves both.
    """

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            if any(parameter.ndim != 2 for parameter in group["params"]):
                raise ValueError("Muon takes matrices only: give vectors and convolutions to another optimizer.")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; `closure` is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure: call step() after backward().")
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[torch.nn.Parameter, bool, torch.Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"])  # Nesterov's look ahead
                tall = update.shape[0] > update.shape[1]
                update = update.mT if tall else update
                alike[tuple(update.shape)].append((parameter, tall, update))  # type: ignore[index]
            for shape, members in alike.items():
                # Matrices of one shape are orthogonalised in one batched product.
                updates = orthogonalise(torch.stack([update for _, _, update in members]))
                for (parameter, tall, _), update in zip(members, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update.mT if tall else update, alpha=group["lr"] * 0.2 * max(shape) ** 0.5)
