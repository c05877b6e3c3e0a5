"""The one training loop of all stages, on Accelerate, and the files it leaves.

A stage says what a batch is (`batch`), what its loss is (`compute`) and what to measure (`measure`); the loop does the
rest: order, schedule, early stopping with the best weights restored, history, checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from geocbm.errors import ParameterError, UserError
from geocbm.processes import exchange, on_main, process_index
from geocbm.training.batches import Batch, batches_of, prefetched, seeded
from geocbm.training.checkpoints import FitResult, save_checkpoint
from geocbm.training.distributed import agreed, merge_batches, own_batches, own_share, shared
from geocbm.training.settings import PRECISIONS, TRACKING, check_choice, check_number


class Step(NamedTuple):
    """What a stage computes for one batch.

    Attributes:
        losses: scalars by name; `loss` is the one that is minimised.
        predictions: per-row tensors that `measure` reads after a pass over the validation rows.
    """

    losses: dict[str, Tensor]
    predictions: dict[str, Tensor]


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
        Groups for an optimiser, none of them empty.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = next((value for prefix, value in (lr_by_prefix or {}).items() if name.startswith(prefix)), lr)
        decay = weight_decay if parameter.ndim >= 2 and "delta" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]


def learning_rate_factor(step: int, n_steps: int, n_warmup: int) -> float:
    """Linear warm-up, then half a cosine down to zero; `step` counts from 0."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - n_warmup) / max(n_steps - n_warmup, 1))))


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the forward pass: bfloat16 where asked for, or where the accelerator supports it."""
    check_choice("precision", precision, PRECISIONS)
    gains = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" or (precision == "auto" and gains))


def evaluate(
    model: nn.Module,
    compute: Callable[[nn.Module, Batch], Step],
    batch: Callable[[np.ndarray], Batch],
    rows: np.ndarray,
    batch_size: int,
    measure: Callable[[dict[str, Tensor], np.ndarray], dict[str, float]] | None = None,
    precision: str = "auto",
) -> dict[str, float]:
    """Losses and measures over `rows`, without dropout or gradients.

    Several processes divide whole batches among them, so that the values are those of one process.

    Args:
        model: the model, on its device.
        compute: `(model, batch) -> Step`.
        batch: `rows -> dict of tensors`.
        rows: row positions.
        batch_size: rows at a time.
        measure: `(predictions, rows) -> values`; predictions are float32 or integer tensors on the CPU, in row order.
        precision: "auto", "bf16" or "no".

    Returns:
        Mean losses (weighted by batch length) and the measured values.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = batches_of(rows, batch_size)
    losses: list[dict[str, float]] = []
    collected: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for _, content in prefetched(batch, own_batches(parts)):
            with _autocast(device, precision):
                step = compute(model, {name: value.to(device) for name, value in content.items()})
            losses.append({name: float(value) for name, value in step.losses.items()})
            for name, value in step.predictions.items():
                value = value.detach().cpu()
                collected.setdefault(name, []).append(value.float() if value.is_floating_point() else value)
    model.train(was_training)
    of_all = exchange(losses)  # per process its batches, which are every n-th of all
    sums: dict[str, float] = {}
    for number, part in enumerate(parts):
        for name, loss in of_all[number % len(of_all)][number // len(of_all)].items():
            sums[name] = sums.get(name, 0.0) + loss * len(part)
    values = {name: total / len(rows) for name, total in sums.items()}
    if measure is not None:
        whole = {name: torch.cat(merge_batches(held, parts, device)) for name, held in collected.items()}
        values |= measure(whole, rows)
    return agreed(values)


def _diverged(rows: np.ndarray, content: Batch, row_names: Sequence[str] | None, epoch: int) -> UserError:
    """Describe a loss that is not finite: the rows whose inputs are to blame, or else the whole batch."""
    batch_rows, rows = rows, own_share(rows)
    bad = np.zeros(len(rows), dtype=bool)
    for value in content.values():
        if value.is_floating_point() and len(value) == len(rows):
            bad |= (
                ~torch.isfinite(value).flatten(1).all(1).numpy() if value.ndim > 1 else ~torch.isfinite(value).numpy()
            )
    found = sorted({row for share in exchange(rows[bad].tolist()) for row in share})
    names = ", ".join(str(row_names[row]) if row_names is not None else f"row {row}" for row in found or batch_rows)
    if found:
        return UserError(
            f"the loss of epoch {epoch} is not finite: the features of {names} contain NaN or infinity; "
            "remove these rows or encode their images again"
        )
    return UserError(
        f"the loss of epoch {epoch} is not finite in the batch of pano_id {names}; "
        "lower the learning rate or look at these rows"
    )


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy the trainable parameters and the buffers (frozen parameters never change)."""
    kept: dict[str, Tensor] = {name: value for name, value in model.named_parameters() if value.requires_grad}
    kept_buffers = dict(model.named_buffers())
    return {name: value.detach().to("cpu", copy=True) for name, value in (kept | kept_buffers).items()}


def fit(
    model: nn.Module,
    compute: Callable[[nn.Module, Batch], Step],
    batch: Callable[[np.ndarray], Batch],
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    *,
    batch_size: int,
    epochs: int,
    groups: list[dict[str, Any]],
    seed: int = 0,
    patience: int = 5,
    monitor: str = "loss",
    higher_is_better: bool = False,
    measure: Callable[[dict[str, Tensor], np.ndarray], dict[str, float]] | None = None,
    out: str | Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    gradient_clip: float = 1.0,
    warmup: float = 0.05,
    accumulation_steps: int = 1,
    row_names: Sequence[str] | None = None,
    tracking: str = "disabled",
    precision: str = "auto",
    report: Callable[[str], None] = print,
) -> FitResult:
    """Train a model with AdamW, warm-up and cosine decay, and keep the weights of its best epoch.

    Args:
        model: left on the device of the accelerator, with its best weights, in evaluation mode.
        compute: `(model, batch) -> Step`; must call `model(...)` itself, which may be a distributed wrapper.
        batch: `rows -> dict of tensors` with the rows first, on the CPU; called from a second thread.
        train_rows: row positions to train on.
        val_rows: row positions for early stopping; if empty, the training rows serve.
        batch_size: rows of a step, over all processes together.
        epochs: most passes over the training rows.
        groups: parameter groups for AdamW (see `parameter_groups`).
        seed: fixes order and dropout.
        patience: epochs without improvement after which training stops.
        monitor: validation value that decides, a loss term or a measured value.
        higher_is_better: direction of `monitor`.
        measure: see `evaluate`.
        out: checkpoint `*.safetensors`; a JSON of the same name and `history_<name>.parquet` are written beside it.
        metadata: goes into the JSON.
        gradient_clip: largest norm of the gradient.
        warmup: share of the steps with a rising learning rate.
        accumulation_steps: parts in which the rows of a step go through the model.
        row_names: `pano_id` of each row of the table, for messages.
        tracking: Weights & Biases mode: "disabled", "offline" or "online".
        precision: "auto" (bfloat16 where the accelerator has it), "bf16" or "no".
        report: called with one line per epoch.

    Returns:
        History and best epoch.

    Raises:
        ParameterError: for impossible settings.
        UserError: when a loss is not finite; names the rows.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    train_rows, val_rows = np.asarray(train_rows), np.asarray(val_rows)
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("patience", patience)):
        check_number(name, value, 1)
    if len(train_rows) == 0:
        raise ParameterError("the training split is empty; make splits from a larger table")
    check_choice("tracking", tracking, TRACKING)
    val_rows = val_rows if len(val_rows) else train_rows

    log_with = None if tracking == "disabled" else "wandb"
    accelerator = Accelerator(
        log_with=log_with, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    if log_with:
        folder = Path(out).parent if out is not None else Path.cwd()
        accelerator.init_trackers("geocbm", init_kwargs={"wandb": {"mode": tracking, "dir": str(folder)}})
    # The fused kernel updates all parameters in one pass, which a small model feels even on a CPU.
    optimizer = torch.optim.AdamW(groups, fused=accelerator.device.type in ("cpu", "cuda"))
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    n_steps = epochs * len(batches_of(train_rows, batch_size))
    n_warmup = int(warmup * n_steps)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def validate() -> dict[str, float]:
        return evaluate(model, compute, batch, val_rows, batch_size, measure, precision)

    initial = validate()
    if monitor not in initial:
        raise ParameterError(f"monitor={monitor!r} is not measured; known: {', '.join(sorted(initial))}")
    history: list[dict[str, float]] = []
    best_epoch, best_metric, best_state, best_values = 0, float("nan"), _snapshot(model), initial
    step_number = 0
    # Another seed in each process, or all shares of a batch would be dropped out alike.
    with seeded(seed + process_index()):
        for epoch in range(1, epochs + 1):
            started = time.perf_counter()
            order = np.random.default_rng([seed, epoch]).permutation(train_rows)
            parts = batches_of(order, batch_size)
            wrapped.train()
            sums: dict[str, float] = {}
            for rows, content in prefetched(shared(batch), parts):
                for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = rate * learning_rate_factor(step_number, n_steps, n_warmup)
                with _autocast(accelerator.device, precision):
                    moved = {name: value.to(accelerator.device) for name, value in content.items()}
                    losses = compute(wrapped, moved).losses
                if not bool(torch.isfinite(losses["loss"])):
                    raise _diverged(rows, content, row_names, epoch)
                optimizer.zero_grad()
                accelerator.backward(losses["loss"])
                accelerator.clip_grad_norm_(trainable, gradient_clip)
                optimizer.step()
                step_number += 1
                for name, term in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(term.detach()) * len(rows)
            n_seen = sum(len(part) for part in parts)
            values = validate()
            row = {"epoch": epoch} | {f"train_{name}": total / n_seen for name, total in sums.items()}
            row |= {f"val_{name}": value for name, value in values.items()}
            row |= {"lr": optimizer.param_groups[0]["lr"], "seconds": time.perf_counter() - started}
            history.append(row)
            metric = values[monitor]
            better = metric > best_metric if higher_is_better else metric < best_metric
            if best_epoch == 0 or better or np.isnan(best_metric):
                best_epoch, best_metric, best_state, best_values = epoch, metric, _snapshot(model), values
            if accelerator.is_main_process:
                extra = "" if monitor == "loss" else f"  {monitor} {metric:.4g}"
                report(
                    f"epoch {epoch}/{epochs}  train {row['train_loss']:.3f}  val {values['loss']:.3f}{extra}  "
                    f"{row['seconds']:.1f} s"
                )
            accelerator.log(row, step=epoch)
            if epoch - best_epoch >= patience:
                if accelerator.is_main_process and epoch < epochs:
                    report(f"stopped: no better {monitor} for {patience} epochs, best was epoch {best_epoch}")
                break
    model.load_state_dict(best_state, strict=False)
    model.eval()
    for tracker in accelerator.trackers:
        tracker.finish()
    result = FitResult(pd.DataFrame(history), best_epoch, float(best_metric), monitor, initial, best_values)
    if out is not None:
        on_main(lambda: save_checkpoint(model, out, result, metadata or {}))
    return result
