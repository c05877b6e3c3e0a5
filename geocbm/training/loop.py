"""The one training loop of all stages, on Accelerate, and the files it leaves.

A stage says what a batch is (`batch`), what its loss is (`compute`) and what to measure (`measure`); the loop does the
rest: order, schedule, early stopping with the best weights restored, history, checkpoint, going on after an
interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from geocbm.encoders.processes import exchange, is_main_process, join_processes, on_main
from geocbm.errors import ParameterError
from geocbm.training.batches import Batch, Step, batches_of, prefetched, seeded
from geocbm.training.checkpoints import FitResult, save_checkpoint
from geocbm.training.distributed import agreed, merge_batches, own_batches
from geocbm.training.epoch import EpochTrainer
from geocbm.training.finished import read_finished
from geocbm.training.optimization import learning_rates, mixed_precision
from geocbm.training.progress import is_watched
from geocbm.training.resume import (
    ResumeFile,
    TrainingState,
    code_is_known,
    restored_on_failure,
    snapshot,
    training_identity,
)
from geocbm.training.settings import check_number
from geocbm.training.tracking import tracked, trackers_of

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker


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
            with mixed_precision(device, precision):
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
    tracking: str | GeneralTracker = "disabled",
    examples: Callable[[], pd.DataFrame] | None = None,
    precision: str = "auto",
    resume: bool = True,
    reuse: bool = False,
    data_digest: str = "",
    progress: bool | None = None,
    report: Callable[[str], None] = print,
) -> FitResult:
    """Train a model with AdamW, warm-up and cosine decay, and keep the weights of its best epoch.

    Args:
        model: left on the device of the accelerator, with its best weights, in evaluation mode; with its first weights
            when the training fails or is interrupted.
        compute: `(model, batch) -> Step`; must call `model(...)` itself, which may be a distributed wrapper.
        batch: `rows -> dict of tensors` with the rows first, on the CPU; called from a second thread.
        train_rows: row positions to train on.
        val_rows: row positions for early stopping; if empty, the training rows serve.
        batch_size: rows of a step, over all processes together.
        epochs: most passes over the training rows; 0 leaves the model as it is, and the history then has one row,
            epoch 0, with the validation values alone.
        groups: parameter groups for AdamW (see `parameter_groups`).
        seed: fixes order and dropout.
        patience: epochs without improvement after which training stops; 0 never stops.
        monitor: validation value that decides, a loss term or a measured value.
        higher_is_better: direction of `monitor`.
        measure: see `evaluate`.
        out: checkpoint `*.safetensors`; a JSON of the same name and `history_<name>.parquet` are written beside it.
        metadata: goes into the JSON.
        gradient_clip: largest norm of the gradient.
        warmup: share of the steps with a rising learning rate.
        accumulation_steps: parts in which the rows of a step go through the model, to save memory. A loss that is a
            mean over rows keeps its gradient; a contrast within the batch sees only the rows of its part as negatives.
        row_names: `pano_id` of each row of the table, for messages.
        tracking: Weights & Biases mode, "disabled", "offline" or "online"; or a tracker of Accelerate.
        examples: gives a table of example predictions at the end, for tracking; called in the main process with the
            best weights in place.
        precision: "auto" (bfloat16 where the accelerator has it), "bf16" or "no".
        resume: keep the state beside `out` after each epoch, and go on from one that an interrupted training of the
            same settings, rows and data left there. The result is the one of a training without interruption: to the
            last bit on a CPU.
        reuse: take over `out` where the very same training has ended before, instead of training again. For callers
            whose `metadata` and `data_digest` hold all that the result depends on; a training whose program is not on
            the disk (a notebook's own loss) or was edited since this process began is never taken over.
        data_digest: digest of all that `batch` reads (see `resume.digest_of`); without it only a few rows are compared.
        progress: show a bar over the steps of each epoch; None means where somebody watches.
        report: called with one line per epoch.

    Returns:
        History and best epoch.

    Raises:
        ParameterError: for impossible settings.
        UserError: when a loss is not finite; names the rows.
    """
    train_rows, val_rows = np.asarray(train_rows), np.asarray(val_rows)
    check_number("epochs", epochs, 0)
    check_number("patience", patience, 0)
    counts = {
        "batch_size": batch_size,
        "patience": patience,
        "accumulation_steps": accumulation_steps,
    }
    for name in ("batch_size", "accumulation_steps"):
        check_number(name, counts[name], 1)
    if len(train_rows) == 0:
        raise ParameterError("the training split is empty; make splits from a larger table")
    val_rows = val_rows if len(val_rows) else train_rows
    say = report if is_main_process() else _silent
    mode, log_with = trackers_of(tracking, say)
    accelerator = _accelerator(log_with)
    metadata = dict(metadata or {})
    keeper = None
    if out is not None and resume:
        settings = counts | {
            "epochs": epochs,
            "seed": seed,
            "monitor": monitor,
            "higher_is_better": higher_is_better,
            "gradient_clip": gradient_clip,
            "warmup": warmup,
            "precision": precision,
            "device": accelerator.device.type,
            "processes": accelerator.num_processes,
        }
        keeper = ResumeFile(
            out, training_identity(model, compute, batch, train_rows, val_rows, groups, metadata, data_digest, settings)
        )
    # The fused kernel updates all parameters in one pass, which a small model feels even on a CPU.
    optimizer = torch.optim.AdamW(groups, fused=accelerator.device.type in ("cpu", "cuda"))
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    trainer = EpochTrainer(
        accelerator,
        wrapped,
        optimizer,
        compute,
        batch,
        train_rows,
        batch_size,
        accumulation_steps,
        epochs,
        warmup,
        gradient_clip,
        precision,
        seed,
        row_names,
        (is_watched() if progress is None else progress) and is_main_process(),
    )

    def validate() -> dict[str, float]:
        values = evaluate(model, compute, batch, val_rows, batch_size, measure, precision)
        return {name: float(value) for name, value in values.items()}

    first = snapshot(model)
    known = keeper is not None and code_is_known(model, compute)
    state = _ended(keeper, out, model, say) if keeper is not None and reuse and known else None
    ended = state is not None
    if state is None:
        state = _resumed(keeper, model, optimizer, epochs, say)
    if state is None:
        initial = validate()
        state = TrainingState(initial, initial, first)
        if epochs == 0:
            state.history.append({"epoch": 0} | {f"val_{name}": value for name, value in initial.items()})
            state.best_metric = initial.get(monitor, float("nan"))
    if monitor not in state.initial:
        raise ParameterError(f"monitor={monitor!r} is not measured; known: {', '.join(sorted(state.initial))}")
    with (
        restored_on_failure(model, first),
        tracked(
            accelerator, mode, out, metadata.get("config", {}), say, None if keeper is None else keeper.identity, ended
        ) as tracker,
        seeded(seed),
    ):
        for row in state.history:
            tracker.epoch(row)
        for epoch in range(len(state.history) + 1, epochs + 1) if not ended else ():
            started = time.perf_counter()
            losses = trainer.run(epoch)
            values = validate()
            row = {"epoch": epoch} | {f"train_{name}": value for name, value in losses.items()}
            row |= {f"val_{name}": value for name, value in values.items()}
            row |= learning_rates(optimizer.param_groups)
            row["seconds"] = time.perf_counter() - started
            state.history.append(row)
            metric = values[monitor]
            better = metric > state.best_metric if higher_is_better else metric < state.best_metric
            if state.best_epoch == 0 or better or np.isnan(state.best_metric):
                state.best_epoch, state.best_metric, state.best_values = epoch, metric, values
                state.best_weights = snapshot(model)
            patient = not patience or epoch - state.best_epoch < patience
            if keeper is not None and patient and epoch < epochs:
                on_main(lambda: keeper.save(model, optimizer, state))
            extra = "" if monitor == "loss" else f"  {monitor} {metric:.4g}"
            say(
                f"epoch {epoch}/{epochs}  train {row['train_loss']:.3f}  val {values['loss']:.3f}{extra}  "
                f"{row['seconds']:.1f} s"
            )
            tracker.epoch(row)
            if not patient:
                if epoch < epochs:
                    say(f"stopped: no better {monitor} for {patience} epochs, best was epoch {state.best_epoch}")
                break
        model.load_state_dict(state.best_weights, strict=False)
        model.eval()
        history = pd.DataFrame(state.history)
        result = FitResult(history, state.best_epoch, state.best_metric, monitor, state.initial, state.best_values)
        if out is not None:
            identity = keeper.identity if keeper is not None and known else None
            on_main(lambda: save_checkpoint(model, out, result, metadata, identity))
        if keeper is not None:
            on_main(keeper.remove)
        tracker.conclude(result, examples)
    accelerator.wait_for_everyone()
    return result


def _accelerator(log_with: Any) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    join_processes()
    return Accelerator(log_with=log_with, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


def _silent(_: str) -> None:
    """What the other processes report."""


def _ended(
    keeper: ResumeFile, out: str | Path | None, model: nn.Module, say: Callable[[str], None]
) -> TrainingState | None:
    """The end of this very training, where all processes find it."""
    assert out is not None
    state = read_finished(out, keeper.identity, model)
    if not all(exchange(state is not None)) or state is None:
        return None
    say(
        f"trained before with the same settings, rows and data: {Path(out).name} is taken over "
        f"(epoch {state.best_epoch} of {len(state.history)})"
    )
    return state


def _resumed(
    keeper: ResumeFile | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    say: Callable[[str], None],
) -> TrainingState | None:
    """Go on from the state that an interrupted training left, if there is one and it is of this very training."""
    if keeper is None:
        return None
    on_main(keeper.remove_leftovers)
    content, why_not = keeper.read()
    # Processes of several machines may see different folders.
    found = exchange(None if content is None else len(content["history"]))
    if content is None or len(set(found)) > 1:
        why_not = why_not or ("not every process sees the same file" if content is not None else None)
        if why_not:
            say(f"starting at epoch 1: {keeper.path.name} cannot be continued ({why_not})")
        return None
    state = keeper.restore(content, model, optimizer)
    say(f"continuing at epoch {len(state.history) + 1} of {epochs}")
    return state
