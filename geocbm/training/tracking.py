"""Weights & Biases through Accelerate's trackers: curves, settings, example predictions, the best metric.

All files go beside the checkpoint, and nothing leaves the machine unless the user asked for it and gave a key. The same
curves are in the history that every training writes, so nothing is lost without tracking.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from geocbm.errors import ParameterError, first_line
from geocbm.training.settings import TRACKING, check_choice
from geocbm.training.wandb_files import RunRecord, find_run

if TYPE_CHECKING:
    import pandas as pd
    from accelerate.tracking import GeneralTracker

    from geocbm.training.checkpoints import FitResult

PROJECT = "geocbm"
_SERVER = "https://api.wandb.ai"


def has_key() -> bool:
    """Whether a key of Weights & Biases is at hand: in `WANDB_API_KEY`, or for its server in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    named = os.environ.get("NETRC")
    file = Path(named) if named else Path.home() / ".netrc"
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or _SERVER).hostname or ""
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def tracking_mode(tracking: str, report: Callable[[str], None]) -> str:
    """Return the mode that is possible: "online" without a key becomes "offline", with a sentence that says so.

    Args:
        tracking: "disabled", "offline" or "online".
        report: called with the sentence.

    Raises:
        ParameterError: for another mode.
    """
    check_choice("tracking", tracking, TRACKING)
    if tracking != "online" or has_key():
        return tracking
    report("tracking offline: there is no key of Weights & Biases (WANDB_API_KEY or `wandb login`)")
    return "offline"


def wandb_arguments(folder: Path, run: str, kind: str, mode: str) -> dict[str, Any]:
    """Arguments of `wandb.init`: quiet, and with all files below `<folder>/wandb`.

    Args:
        folder: folder of the run.
        run: name of the run; what belongs to it is shown as a group.
        kind: stage, or "report".
        mode: "offline" or "online".
    """
    import wandb

    return {
        "mode": mode,
        "dir": str(folder),
        "name": f"{run} {kind}",
        "group": run,
        "job_type": kind,
        # Coloured lines of the client would end up in executed notebooks; its console capture costs a thread.
        "settings": wandb.Settings(silent=True, console="off"),
    }


@contextmanager
def wandb_folders(folder: Path) -> Iterator[None]:
    """Let wandb keep its cache and the copies it is about to send below `<folder>/wandb`, inside the block."""
    wanted = {
        name: str(folder / "wandb" / place)
        for name, place in (("WANDB_DATA_DIR", "data"), ("WANDB_CACHE_DIR", "cache"))
        if not os.environ.get(name)
    }
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            os.environ.pop(name, None)


def spoken(row: Mapping[str, float]) -> dict[str, float]:
    """A row of the history under the names that wandb groups into panels: `train/loss`, `val/loss`, `lr/encoder`."""
    return {
        f"{name.split('_')[0]}/{name.partition('_')[2]}" if name.startswith(("train_", "val_", "lr_")) else name: value
        for name, value in row.items()
    }


class Tracking:
    """Where the figures of one training go besides its history.

    Args:
        accelerator: of Accelerate, its trackers started.
        run: that is written to, if it is one of wandb on this machine.
    """

    def __init__(self, accelerator: Any, run: RunRecord | None = None) -> None:
        self.accelerator = accelerator
        self.run = run

    def epoch(self, row: Mapping[str, float]) -> None:
        """Send one row of the history: losses, metrics and learning rates; once, however often the training starts."""
        epoch = int(row["epoch"])
        if self.run is not None and epoch in self.run.epochs:
            return
        self.accelerator.log(spoken(row), step=epoch)
        self._note(sent=epoch)

    def _note(self, **changes: Any) -> None:
        """Keep what the next start of the training must know."""
        if self.run is not None and self.accelerator.is_main_process:
            self.run = replace(self.run, **changes)
            self.run.save()

    def conclude(self, result: FitResult, examples: Callable[[], pd.DataFrame] | None) -> None:
        """Send example predictions and the values of the checkpoint.

        Args:
            result: what the training did.
            examples: gives the table of examples; asked only if somebody wants it.
        """
        if not (self.accelerator.trackers and self.accelerator.is_main_process):
            return
        values = {"best/epoch": result.best_epoch, f"best/{result.monitor}": result.best_metric}
        values |= {f"best/{name}": value for name, value in result.best.items()}
        table = examples() if examples is not None else None
        for tracker in self.accelerator.trackers:
            if table is not None and hasattr(tracker, "log_table"):
                tracker.log_table("examples", dataframe=table)
            summary = getattr(tracker.tracker, "summary", None)
            if summary is not None:
                summary.update(values)
        self._note(is_finished=True)


def trackers_of(tracking: str | GeneralTracker, report: Callable[[str], None]) -> tuple[str, Any]:
    """What Accelerate is to log with.

    Args:
        tracking: a mode, or a tracker that is used as it is.
        report: see `tracking_mode`.

    Returns:
        The mode and the argument `log_with` of an `Accelerator`.
    """
    if not isinstance(tracking, str):
        return "given", [tracking]
    mode = tracking_mode(tracking, report)
    return mode, None if mode == "disabled" else "wandb"


@contextmanager
def tracked(
    accelerator: Any,
    mode: str,
    out: str | Path | None,
    config: Mapping[str, Any],
    report: Callable[[str], None],
    identity: Mapping[str, Any] | None = None,
    has_ended: bool = False,
) -> Iterator[Tracking]:
    """Track a training inside the block; the trackers are closed however it ends.

    A training that was interrupted goes on as the same run, each epoch in it once. One that ended and is only taken
    over sends nothing that it has sent before.

    Args:
        accelerator: of Accelerate, made with `trackers_of`.
        mode: of `trackers_of`.
        out: the checkpoint: the folder's name is the run, the file's stem the stage.
        config: settings to keep with the curves.
        report: called with a sentence when the server cannot be reached, and tracking goes on offline.
        identity: all that the training depends on; None where it is never continued.
        has_ended: whether this very training ended before.

    Raises:
        ParameterError: when there is no folder for the files of wandb.
    """
    if mode == "disabled":
        yield Tracking(accelerator)
        return
    if mode == "given":
        accelerator.init_trackers(PROJECT, config=dict(config))
        try:
            yield Tracking(accelerator)
        finally:
            _close(accelerator)
        return
    if out is None:
        raise ParameterError(f"tracking={mode!r} keeps its files beside the checkpoint; give out=<folder>/<name>")
    folder = Path(out).resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    run = find_run(Path(out), identity, has_ended)
    if run.is_finished:
        yield Tracking(accelerator)
        return
    with wandb_folders(folder):
        try:
            _start_wandb(accelerator, mode, Path(out), run.id, config, report)
        except Exception as error:  # wandb raises kinds of errors that have no base in common
            if not run.sent:
                raise
            accelerator.trackers.clear()
            report(f"tracking as a new run: {run.id} cannot be continued ({first_line(error)})")
            run = RunRecord(run.path, run.training)
            _start_wandb(accelerator, mode, Path(out), run.id, config, report)
        if accelerator.is_main_process:
            run.save()
        try:
            yield Tracking(accelerator, run)
        finally:
            _close(accelerator)


def _start_wandb(
    accelerator: Any, mode: str, out: Path, run_id: str, config: Mapping[str, Any], report: Callable[[str], None]
) -> None:
    from wandb.errors import Error

    folder = out.resolve().parent
    for attempt in dict.fromkeys((mode, "offline")):
        arguments = wandb_arguments(folder, folder.name, out.stem, attempt) | {"id": run_id, "resume": "allow"}
        try:
            accelerator.init_trackers(PROJECT, config=dict(config), init_kwargs={"wandb": arguments})
            return
        except Error as error:
            if attempt == "offline":
                raise
            accelerator.trackers.clear()
            report(f"tracking offline: Weights & Biases did not answer ({first_line(error)})")


def _close(accelerator: Any) -> None:
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers.clear()
