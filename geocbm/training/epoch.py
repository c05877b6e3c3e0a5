"""One epoch: the optimiser's steps over all training rows in a new order, and one step taken apart."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from geocbm.encoders.processes import all_gather_object
from geocbm.errors import ParameterError, UserError
from geocbm.training.distributed import gather_batch, own_share, shared
from geocbm.training.loader import Batch, RowLoader, batches_of, parts_of, prefetched
from geocbm.training.settings import TrainingSettings

if TYPE_CHECKING:
    import pandas as pd

Loss = Callable[[Any, Mapping[str, Any]], Mapping[str, Tensor]]
"""`(output of the model, batch) -> terms`, scalars by name; `loss` is the one that is minimised."""


def parameter_groups(model: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Group the trainable parameters for AdamW: weight decay on matrices only, a learning rate per prefix (`name`)."""
    rates = settings.lr_by_prefix
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix = next((prefix for prefix in rates if name.startswith(prefix)), "")
        decay = settings.weight_decay if parameter.ndim >= 2 and "delta" not in name else 0.0
        groups.setdefault((prefix.rstrip("."), rates.get(prefix, settings.lr), decay), []).append(parameter)
    return [
        {"name": name, "params": members, "lr": rate, "weight_decay": decay}
        for (name, rate, decay), members in groups.items()
    ]


def learning_rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Learning rates as the history names them: `lr_<name>` of each group, `lr` of that without, or of the first."""
    rates = {"lr": next((group for group in groups if not group.get("name")), groups[0])["lr"]}
    return rates | {f"lr_{group['name']}": group["lr"] for group in groups if group.get("name")}


def learning_rate_factor(step: int, n_steps: int, n_warmup: int) -> float:
    """Linear warm-up, then half a cosine down to zero; `step` counts from 0, and the first step has a rate above 0."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - n_warmup) / max(n_steps - n_warmup, 1))))


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the forward pass: bfloat16 where asked for, or where the accelerator supports it."""
    gains = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" or (precision == "auto" and gains))


def forward_names(model: nn.Module) -> tuple[str, ...]:
    """Entries of a batch that the model reads: the names of its forward's parameters."""
    return tuple(inspect.signature(model.forward).parameters)


def forward_batch(model: nn.Module, names: Iterable[str], batch: Batch) -> Any:
    """Call a model, or what an accelerator made of it, with those entries of a batch that `names` its forward reads."""
    given = {name: batch[name] for name in names if name in batch}
    if not given:
        raise ParameterError(
            f"the model's forward reads {', '.join(names) or 'nothing'}, but the batch has {', '.join(batch)}; name "
            "the parameters of forward after the entries of the batch"
        )
    return model(**given)


def checked_terms(terms: Any) -> Mapping[str, Tensor]:
    """Terms of a loss as they are; a `ParameterError` for what is no loss."""
    given = type(terms).__name__
    if isinstance(terms, Mapping):
        odd = [name for name, value in terms.items() if not isinstance(value, Tensor) or value.numel() != 1]
        if "loss" in terms and not odd:
            return terms
        given = f"entries {', '.join(map(repr, terms))}" + (f", of which {odd[0]!r} is no scalar tensor" if odd else "")
    raise ParameterError(
        f"the loss gave {given}; return a dict of scalar tensors, 'loss' among them: {{'loss': value}}"
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The tensors of a batch on a device; one without double precision gets single."""
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    if device.type == "mps":
        tensors = {name: value.float() if value.dtype == torch.float64 else value for name, value in tensors.items()}
    return {name: value.to(device) for name, value in tensors.items()}


@dataclass
class EpochTrainer:
    """Takes the steps of an epoch."""

    accelerator: Any
    model: nn.Module  # as the accelerator prepared it
    optimizer: torch.optim.Optimizer  # as the accelerator prepared it
    names: Sequence[str]  # entries of the batch that the model's forward reads
    loss: Loss
    train: RowLoader
    settings: TrainingSettings

    def __post_init__(self) -> None:
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def run(self, epoch: int, stepped: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Take the steps of an epoch, numbered from 1, each told by `stepped`; return the mean losses over its rows.

        Each epoch draws from the seed and its own number alone, so that a training that goes on after an interruption
        draws what it would have drawn without. A loss or gradient that is not finite raises `UserError`, unused.
        """
        settings = self.settings
        order = settings.of_epoch(np.random.default_rng([settings.seed, epoch]).permutation(self.train.rows))
        steps = [parts_of(rows, settings.accumulation_steps) for rows in batches_of(order, settings.batch_size)]
        # Another seed in each process, or all shares of a batch would be dropped out alike.
        torch.manual_seed(epoch_seed(settings.seed, epoch, self.accelerator.process_index))
        self.model.train()
        sums: dict[str, float] = {}
        content = prefetched(shared(self.train.read), [part for parts in steps for part in parts])
        for number, parts in enumerate(steps, start=(epoch - 1) * len(steps)):
            n_steps = settings.epochs * len(steps)
            factor = learning_rate_factor(number, n_steps, int(settings.warmup * n_steps))
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor
            for name, total in self._step(parts, content, epoch).items():
                sums[name] = sums.get(name, 0.0) + total
            stepped()
        n_seen = sum(len(part) for parts in steps for part in parts)
        return {name: total / n_seen for name, total in sums.items()}

    def _step(self, parts: list[np.ndarray], contents: Any, epoch: int) -> dict[str, float]:
        """Take one step of the optimiser on rows that go through the model part by part; returns losses times rows."""
        self.optimizer.zero_grad()
        n_rows = sum(len(part) for part in parts)
        sums: dict[str, float] = {}
        for position in range(len(parts)):
            rows, content = next(contents)
            # Processes exchange gradients once per step, with the last part.
            with nullcontext() if position + 1 == len(parts) else self.accelerator.no_sync(self.model):
                with mixed_precision(self.accelerator.device, self.settings.precision):
                    batch = to_device(content, self.accelerator.device)
                    losses = checked_terms(
                        self.loss(*gather_batch(forward_batch(self.model, self.names, batch), batch))
                    )
                # One look at the accelerator for all terms: each would make it wait.
                stacked = torch.stack([term.detach().float() for term in losses.values()])
                values = dict(zip(losses, stacked.tolist(), strict=True))
                if not math.isfinite(values["loss"]):
                    raise _diverged("loss", epoch, rows, content, self.train.names)
                # By its share of the rows, so that the gradient of a mean over rows is the one of the whole step.
                self.accelerator.backward(losses["loss"] * (len(rows) / n_rows))
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value * len(rows)
        norm = self.accelerator.clip_grad_norm_(self.trainable, self.settings.gradient_clip)
        if norm is not None and not math.isfinite(float(norm)):
            raise _diverged("gradient", epoch, np.concatenate(parts), {}, self.train.names)
        self.optimizer.step()
        return sums


def epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    """Seed of the random numbers that an epoch draws in one process."""
    state = np.random.SeedSequence([seed, epoch, process]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _diverged(what: str, epoch: int, rows: np.ndarray, content: Batch, row_names: Sequence[str] | None) -> UserError:
    """Describe a loss or gradient that is not finite: the rows whose inputs are to blame, or else all of them."""
    own = own_share(rows)
    bad = np.zeros(len(own), dtype=bool)
    for value in content.values():  # this process' share, empty when its inputs are known to be finite
        if value.is_floating_point() and len(value) == len(own):
            bad |= (~torch.isfinite(value)).reshape(len(value), -1).any(1).numpy()
    found = sorted({row for share in all_gather_object(own[bad].tolist()) for row in share})
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


def loss_terms(terms: Mapping[str, Tensor], settings: Any) -> pd.DataFrame:
    """Terms of a loss with their weights, and what each adds to the sum.

    Weights are the fields `lambda_<term>` of `settings`, NaN where there is none; columns `value`, `weight`, `share`.
    """
    import pandas as pd

    rows = {}
    for name, value in terms.items():
        weight = 1.0 if name == "loss" else float(getattr(settings, f"lambda_{name}", float("nan")))
        rows[name] = {"value": value.item(), "weight": weight, "share": weight * value.item()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("term")


def gradient_norms(model: nn.Module) -> pd.DataFrame:
    """Parameters of each part of a model, those that train, and the norm of their gradient after a backward pass.

    Columns are `parameters`, `trained` (numbers of weights) and `gradient` (Euclidean norm, NaN where nothing trains),
    by the first part of the parameters' names.
    """
    import pandas as pd

    rows: dict[str, dict[str, float]] = {}
    for name, parameter in model.named_parameters():
        row = rows.setdefault(name.split(".")[0], {"parameters": 0, "trained": 0, "square": 0.0})
        row["parameters"] += parameter.numel()
        row["trained"] += parameter.numel() if parameter.requires_grad else 0
        row["square"] += float(parameter.grad.square().sum()) if parameter.grad is not None else 0.0
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")
    frame["gradient"] = frame.pop("square").pow(0.5).where(frame["trained"] > 0)
    return frame.astype({"parameters": int, "trained": int})
