"""One epoch: the optimiser's steps over all training rows in a new order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geocbm.encoders.processes import exchange
from geocbm.errors import UserError
from geocbm.training.batches import Batch, Step, batches_of, parts_of, prefetched
from geocbm.training.distributed import own_share, shared
from geocbm.training.optimization import learning_rate_factor, mixed_precision
from geocbm.training.progress import progress_bar


@dataclass
class EpochTrainer:
    """What an epoch needs to know, the same for all of them.

    Attributes:
        accelerator: of Accelerate.
        model: the model as the accelerator prepared it.
        optimizer: the optimiser as the accelerator prepared it.
        compute: `(model, batch) -> Step`.
        batch: `rows -> dict of tensors`, on the CPU.
        rows: row positions to train on.
        batch_size: rows of a step, over all processes together.
        accumulation_steps: parts in which the rows of a step go through the model.
        epochs: number of epochs the learning rate is planned for.
        warmup: share of the steps with a rising learning rate.
        gradient_clip: largest norm of the gradient.
        precision: "auto", "bf16" or "no".
        seed: fixes order and dropout; each epoch draws from it and its own number alone, so that a training that goes
            on after an interruption draws what it would have drawn without.
        row_names: `pano_id` of each row of the table, for messages.
        show_bar: show a progress bar.
    """

    accelerator: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    compute: Callable[[nn.Module, Batch], Step]
    batch: Callable[[np.ndarray], Batch]
    rows: np.ndarray
    batch_size: int
    accumulation_steps: int
    epochs: int
    warmup: float
    gradient_clip: float
    precision: str
    seed: int
    row_names: Sequence[str] | None = None
    show_bar: bool = False
    base_rates: list[float] = field(init=False)
    trainable: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def run(self, epoch: int) -> dict[str, float]:
        """Take the steps of an epoch.

        Args:
            epoch: its number, from 1.

        Returns:
            Mean losses, weighted by the number of rows.

        Raises:
            UserError: when a loss or gradient is not finite; names the rows. The optimiser has not used it.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        steps = [parts_of(rows, self.accumulation_steps) for rows in batches_of(order, self.batch_size)]
        # Another seed in each process, or all shares of a batch would be dropped out alike.
        torch.manual_seed(epoch_seed(self.seed, epoch, self.accelerator.process_index))
        self.model.train()
        sums: dict[str, float] = {}
        content = prefetched(shared(self.batch), [part for parts in steps for part in parts])
        with progress_bar(len(steps), f"epoch {epoch}/{self.epochs}", self.show_bar) as bar:
            for number, parts in enumerate(steps, start=(epoch - 1) * len(steps)):
                self._set_learning_rates(number, self.epochs * len(steps))
                for name, total in self._step(list(parts), islice(content, len(parts)), epoch).items():
                    sums[name] = sums.get(name, 0.0) + total
                bar.update()
        n_seen = sum(len(part) for parts in steps for part in parts)
        return {name: total / n_seen for name, total in sums.items()}

    def _set_learning_rates(self, step: int, n_steps: int) -> None:
        factor = learning_rate_factor(step, n_steps, int(self.warmup * n_steps))
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor

    def _step(self, parts: list[np.ndarray], contents: Any, epoch: int) -> dict[str, float]:
        """Take one step of the optimiser on rows that go through the model part by part.

        The loss of a part counts by its share of the rows, so that the gradient of a mean over rows is the one of the
        whole step. A contrast within the batch sees the rows of its own part only.

        Returns:
            Losses times the number of rows.
        """
        self.optimizer.zero_grad()
        n_rows = sum(len(part) for part in parts)
        sums: dict[str, float] = {}
        for position, (rows, content) in enumerate(contents, start=1):
            last = position == len(parts)
            # Processes exchange gradients once per step, with the last part.
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with mixed_precision(self.accelerator.device, self.precision):
                    moved = {name: value.to(self.accelerator.device) for name, value in content.items()}
                    losses = self.compute(self.model, moved).losses
                # One look at the accelerator for all terms: each would make it wait.
                stacked = torch.stack([term.detach().float() for term in losses.values()])
                values = dict(zip(losses, stacked.tolist(), strict=True))
                if not math.isfinite(values["loss"]):
                    raise diverged("loss", epoch, rows, content, self.row_names)
                self.accelerator.backward(losses["loss"] * (len(rows) / n_rows))
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value * len(rows)
        norm = self.accelerator.clip_grad_norm_(self.trainable, self.gradient_clip)
        if norm is not None and not math.isfinite(float(norm)):
            raise diverged("gradient", epoch, np.concatenate(parts), {}, self.row_names)
        self.optimizer.step()
        return sums


def epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    """Seed of the random numbers that an epoch draws in one process."""
    state = np.random.SeedSequence([seed, epoch, process]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def diverged(what: str, epoch: int, rows: np.ndarray, content: Batch, row_names: Sequence[str] | None) -> UserError:
    """Describe what is not finite: the rows whose inputs are to blame, or else all of them.

    Args:
        what: "loss" or "gradient".
        epoch: number of the epoch.
        rows: positions of the rows that took part, of all processes.
        content: this process' share of their batch; empty when its inputs are known to be finite.
        row_names: `pano_id` of each row of the table.
    """
    own = own_share(rows)
    bad = np.zeros(len(own), dtype=bool)
    for value in content.values():
        if value.is_floating_point() and len(value) == len(own):
            bad |= _not_finite(value)
    found = sorted({row for share in exchange(own[bad].tolist()) for row in share})
    names = ", ".join(str(row_names[row]) if row_names is not None else f"row {row}" for row in found or rows)
    if found:
        return UserError(
            f"the {what} of epoch {epoch} is not finite: the features of {names} contain NaN or infinity; "
            "remove these rows or encode their images again"
        )
    return UserError(
        f"the {what} of epoch {epoch} is not finite in the batch of pano_id {names}; "
        "lower the learning rate or look at these rows"
    )


def _not_finite(value: Tensor) -> np.ndarray:
    """Whether each row of `(B, ...)` holds NaN or infinity."""
    return (~torch.isfinite(value)).reshape(len(value), -1).any(1).numpy()
