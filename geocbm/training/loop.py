"""The one training loop of all stages, on Accelerate, and the files it leaves.

A model computes an output of a batch, a loss its terms; the loop does the rest: order, schedule, early stopping with
the best weights restored, history, checkpoint, going on after an interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from geocbm.encoders.processes import all_gather_object, is_main_process, join_processes, on_main
from geocbm.errors import ParameterError
from geocbm.files import progress
from geocbm.training.checkpoints import (
    Checkpoint,
    FitResult,
    ResumeFile,
    TrainingState,
    read_finished,
    restored_on_failure,
    save_checkpoint,
    snapshot,
)
from geocbm.training.distributed import agreed, merge_batches, own_batches
from geocbm.training.epoch import (
    EpochTrainer,
    Loss,
    checked_terms,
    forward_batch,
    forward_names,
    learning_rates,
    mixed_precision,
    parameter_groups,
    to_device,
)
from geocbm.training.identity import code_is_known, training_identity
from geocbm.training.loader import RowLoader, batches_of, prefetched, seeded
from geocbm.training.settings import TrainingSettings
from geocbm.training.tracking import tracked, tracking_mode

if TYPE_CHECKING:
    import pandas as pd

N_EXAMPLES = 32
"""Validation rows in the table of example predictions."""


def evaluate(model: nn.Module, loss: Loss, rows: RowLoader, settings: TrainingSettings) -> dict[str, float]:
    """Terms of the loss (means weighted by batch length) and the model's own measures, without dropout or gradients.

    A model that has `predictions(output, batch)`, per-row tensors, and `measure(predictions)`, values by name, is
    measured by them. Several processes divide whole batches among them, so that the values are those of one process.
    """
    device, names = next(model.parameters()).device, forward_names(model)
    predict: Callable[..., Mapping[str, Tensor]] | None = getattr(model, "predictions", None)
    measure: Callable[..., Mapping[str, float]] | None = getattr(model, "measure", None)
    was_training = model.training
    model.eval()
    parts = batches_of(rows.rows, settings.batch_size)
    losses: list[dict[str, float]] = []
    collected: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for _, content in prefetched(rows.read, own_batches(parts)):
            batch = to_device(content, device)
            with mixed_precision(device, settings.precision):
                output = forward_batch(model, names, batch)
                terms = checked_terms(loss(output, batch))
                predictions = predict(output, batch) if predict is not None else {}
            losses.append({name: float(value) for name, value in terms.items()})
            for name, value in predictions.items():
                kept = value.detach().cpu()
                half = kept.dtype in (torch.float16, torch.bfloat16)
                collected.setdefault(name, []).append(kept.float() if half else kept)
    model.train(was_training)
    of_all = all_gather_object(losses)  # per process its batches, which are every n-th of all
    sums: dict[str, float] = {}
    for number, part in enumerate(parts):
        for name, each in of_all[number % len(of_all)][number // len(of_all)].items():
            sums[name] = sums.get(name, 0.0) + each * len(part)
    values = {name: total / len(rows.rows) for name, total in sums.items()}
    if measure is not None:
        whole = {name: torch.cat(merge_batches(held, parts, device)) for name, held in collected.items()}
        values |= measure(whole)
    return agreed({name: float(value) for name, value in values.items()})


def fit(
    model: nn.Module,
    loss: Loss,
    train: RowLoader,
    val: RowLoader,
    settings: TrainingSettings,
    checkpoint: Checkpoint | None = None,
    report: Callable[[str], None] = print,
) -> FitResult:
    """Train a model with AdamW, warm-up and cosine decay, and keep the weights of its best epoch.

    Args:
        model: called with those entries of a batch that its forward's signature names. It may measure itself, see
            `evaluate`, and give a table `examples(output, batch, labels)` for tracking. Left on the device of the
            accelerator, with its best weights, in evaluation mode; with its first weights when the training fails or
            is interrupted.
        loss: `(output, batch) -> terms`, scalars by name; "loss" is minimised, all are in the history.
        train: rows to train on.
        val: rows for early stopping; if empty, the training rows serve.
        settings: batch size, learning rate, epochs and what else a training needs.
        checkpoint: where the result goes, and whether an interrupted training goes on; None writes nothing.
        report: called with one line per epoch.

    Returns:
        History and best epoch; without epochs the history has one row, epoch 0, with the validation values alone.

    Raises:
        ParameterError: for impossible settings.
        UserError: when a loss is not finite; names the rows.
    """
    if len(train.rows) == 0:
        raise ParameterError("the training split is empty; make splits from a larger table")
    training = Training(model, loss, train, val if len(val.rows) else train, settings, checkpoint, report)
    training.begin()
    with ExitStack() as stack:
        training.enter(stack)
        for epoch in range(len(training.state.history) + 1, settings.epochs + 1) if not training.has_ended else ():
            training.epoch(epoch)
            if training.stops(epoch):
                break
        result = training.conclude()
    training.accelerator.wait_for_everyone()
    return result


@dataclass
class Training:
    """A training on its way: what `fit` was given, the state so far, and whether it is only taken over."""

    model: nn.Module
    loss: Loss
    train: RowLoader
    val: RowLoader
    settings: TrainingSettings
    checkpoint: Checkpoint | None
    report: Callable[[str], None]
    state: TrainingState = field(init=False)
    has_ended: bool = False

    def __post_init__(self) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        settings, model = self.settings, self.model
        self.say = self.report if is_main_process() else lambda _: None
        self.mode = tracking_mode(settings.tracking, self.say)
        join_processes()
        self.accelerator = Accelerator(
            log_with=None if self.mode == "disabled" else "wandb",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        device = self.accelerator.device.type
        groups = parameter_groups(model, settings)
        self.keeper = None
        self.is_known = False
        if self.checkpoint is not None and self.checkpoint.resume:
            machine = {"device": device, "processes": self.accelerator.num_processes}
            given = (model, self.loss, self.train, self.val, settings, self.checkpoint)
            self.keeper = ResumeFile(self.checkpoint.path, training_identity(*given, groups, machine))
            self.is_known = code_is_known(model, self.loss)
        # The fused kernel updates all parameters in one pass, which a small model feels even on a CPU.
        optimizer = torch.optim.AdamW(groups, fused=device in ("cpu", "cuda"))
        wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.trainer = EpochTrainer(
            self.accelerator, wrapped, self.optimizer, forward_names(model), self.loss, self.train, settings
        )

    def begin(self) -> None:
        """Take over a training that has ended, go on with one that was interrupted, or measure the first weights."""
        model, settings, monitor = self.model, self.settings, self.settings.monitor
        self.first = snapshot(model)
        state = self._ended() if self.is_known else None
        self.has_ended = state is not None
        state = state or self._resumed()
        if state is None:
            initial = evaluate(model, self.loss, self.val, settings)
            state = TrainingState(initial, initial, self.first)
            if settings.epochs == 0:
                state.history.append({"epoch": 0} | {f"val_{name}": value for name, value in initial.items()})
                state.best_metric = initial.get(monitor, float("nan"))
        if monitor not in state.initial:
            raise ParameterError(f"monitor={monitor!r} is not measured; known: {', '.join(sorted(state.initial))}")
        self.state = state

    def enter(self, stack: ExitStack) -> None:
        """Start tracking and the random numbers; what was done before an interruption is tracked again."""
        stack.enter_context(restored_on_failure(self.model, self.first))
        out = None if self.checkpoint is None else self.checkpoint.path
        config = {} if self.checkpoint is None else self.checkpoint.metadata.get("config", {})
        self.tracked = stack.enter_context(tracked(self.accelerator, self.mode, out, config, self.say, self.has_ended))
        if not self.has_ended:
            rows, done = self.settings.of_epoch(self.train.rows), len(self.state.history)
            steps = len(batches_of(rows, self.settings.batch_size))
            title, hidden = self._title(), not is_main_process()
            self.task = stack.enter_context(
                progress.task(title, steps * self.settings.epochs, "step", steps * done, hidden)
            )
            self.task.rows += self.state.history
        stack.enter_context(seeded(self.settings.seed))
        for row in self.state.history:
            self.tracked.epoch(row)

    def epoch(self, epoch: int) -> None:
        """Train an epoch, validate, and keep what it came to."""
        model, settings, state = self.model, self.settings, self.state
        started = time.perf_counter()
        self.task.note = f"epoch {epoch}/{settings.epochs}"
        losses = self.trainer.run(epoch, self.task.update)
        values = evaluate(model, self.loss, self.val, settings)
        row = {"epoch": epoch} | {f"train_{name}": value for name, value in losses.items()}
        row |= {f"val_{name}": value for name, value in values.items()}
        row |= learning_rates(self.optimizer.param_groups)
        row["seconds"] = time.perf_counter() - started
        state.history.append(row)
        metric = values[settings.monitor]
        if state.best_epoch == 0 or self._is_better(metric, losses) or np.isnan(state.best_metric):
            state.best_epoch, state.best_metric, state.best_values = epoch, metric, values
            state.best_weights = snapshot(model)
        keeper = self.keeper
        if keeper is not None and self._is_patient(epoch) and epoch < settings.epochs:
            on_main(lambda: keeper.save(model, self.optimizer, state))
        extra = "" if settings.monitor == "loss" else f"  {settings.monitor} {metric:.4g}"
        self.say(
            f"epoch {epoch}/{settings.epochs}  train {row['train_loss']:.3f}  val {values['loss']:.3f}{extra}  "
            f"{row['seconds']:.1f} s"
        )
        self.tracked.epoch(row)
        self.task.add(row)

    def stops(self, epoch: int) -> bool:
        """Whether the training ends after an epoch because it has not become better for too long."""
        is_over = not self._is_patient(epoch)
        if is_over and epoch < self.settings.epochs:
            self.say(
                f"stopped: no better {self.settings.monitor} for {self.settings.patience} epochs, "
                f"best was epoch {self.state.best_epoch}"
            )
        return is_over

    def conclude(self) -> FitResult:
        """Put the best weights in place and write checkpoint and history."""
        import pandas as pd

        state, checkpoint = self.state, self.checkpoint
        self.model.load_state_dict(state.best_weights, strict=False)
        self.model.eval()
        monitor = self.settings.monitor
        result = FitResult(
            pd.DataFrame(state.history), state.best_epoch, state.best_metric, monitor, state.initial, state.best_values
        )
        if checkpoint is not None:
            identity = self.keeper.identity if self.keeper is not None and self.is_known else None
            on_main(lambda: save_checkpoint(self.model, checkpoint, result, identity))
        if self.keeper is not None:
            on_main(self.keeper.remove)
        self.tracked.conclude(result, self._examples if hasattr(self.model, "examples") else None)
        return result

    def _title(self) -> str:
        """Stage, variant and mode, as far as the training has them: "stage2, both"."""
        config = getattr(self.model, "config", None)
        mode = getattr(config, "ablation_mode", "") or getattr(config, "bottleneck", "")
        name = type(self.model).__name__ if self.checkpoint is None else Path(self.checkpoint.path).stem
        return f"{name}, {mode}" if mode and mode not in name else name

    def _is_better(self, metric: float, terms: Mapping[str, float]) -> bool:
        """Terms of the loss and distances are better when lower, other values when higher."""
        monitor, best = self.settings.monitor, self.state.best_metric
        return metric < best if monitor in terms or monitor.endswith("_km") else metric > best

    def _is_patient(self, epoch: int) -> bool:
        return not self.settings.patience or epoch - self.state.best_epoch < self.settings.patience

    def _examples(self) -> pd.DataFrame:
        """Predictions for a few validation rows, with their names: what the model's `examples` says of them."""
        import pandas as pd

        rows = self.val.rows
        rows = rows[np.linspace(0, len(rows) - 1, min(N_EXAMPLES, len(rows))).astype(int)]
        batch = to_device(self.val.read(rows), next(self.model.parameters()).device)
        with torch.no_grad():
            output = forward_batch(self.model, forward_names(self.model), batch)
        labels = {} if self.checkpoint is None else self.checkpoint.content.get("labels", {})
        names = self.val.names
        said: Any = self.model.examples  # looked for by the caller
        pano_ids = [str(names[row]) if names is not None else f"row {row}" for row in rows]
        return pd.DataFrame({"pano_id": pano_ids} | dict(said(output, batch, labels)))

    def _ended(self) -> TrainingState | None:
        """The end of this very training, where all processes find it."""
        checkpoint, keeper = self.checkpoint, self.keeper
        if checkpoint is None or keeper is None or not checkpoint.reuse:
            return None
        state = read_finished(checkpoint.path, keeper.identity, self.model)
        if not all(all_gather_object(state is not None)) or state is None:
            return None
        self.say(
            f"trained before with the same settings, rows and data: {Path(checkpoint.path).name} is taken over "
            f"(epoch {state.best_epoch} of {len(state.history)})"
        )
        return state

    def _resumed(self) -> TrainingState | None:
        """The state that an interrupted training left, if there is one and it is of this very training."""
        keeper = self.keeper
        if keeper is None:
            return None
        on_main(keeper.remove_leftovers)
        content, why_not = keeper.read()
        # Processes of several machines may see different folders.
        found = all_gather_object(None if content is None else len(content["history"]))
        if content is None or len(set(found)) > 1:
            why_not = why_not or ("not every process sees the same file" if content is not None else None)
            if why_not:
                self.say(f"starting at epoch 1: {keeper.path.name} cannot be continued ({why_not})")
            return None
        state = keeper.restore(content, self.model, self.optimizer)
        self.say(f"continuing at epoch {len(state.history) + 1} of {self.settings.epochs}")
        return state
