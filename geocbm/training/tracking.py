"""Weights & Biases through Accelerate's trackers: curves, settings, example predictions, the best metric.

All files go beside the checkpoint, and nothing leaves the machine unless the user asked for it and gave a key. The same
curves are in the history that every training writes, so nothing is lost without tracking.

Every start of a training is a run of its own, of all epochs: what an interrupted one had done is told again. A training
that has ended and is only taken over is told once.
"""

from __future__ import annotations

import netrc
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from geocbm.errors import ParameterError, first_line

if TYPE_CHECKING:
    import pandas as pd

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


@contextmanager
def _wandb_folders(folder: Path) -> Iterator[None]:
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
    """Where the figures of one training go besides its history."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator

    def epoch(self, row: Mapping[str, float]) -> None:
        """Send one row of the history: losses, metrics and learning rates."""
        self.accelerator.log(spoken(row), step=int(row["epoch"]))

    def conclude(self, result: FitResult, examples: Callable[[], pd.DataFrame] | None) -> None:
        """Send the values of the checkpoint and example predictions, which are made only if somebody wants them."""
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


def tracking_mode(tracking: str, report: Callable[[str], None]) -> str:
    """The mode that is possible: "online" without a key becomes "offline", which `report` is told."""
    if tracking != "online" or has_key():
        return tracking
    report("tracking offline: there is no key of Weights & Biases (WANDB_API_KEY or `wandb login`)")
    return "offline"


@contextmanager
def tracked(
    accelerator: Any,
    mode: str,
    out: str | Path | None,
    config: Mapping[str, Any],
    report: Callable[[str], None],
    has_ended: bool = False,
) -> Iterator[Tracking]:
    """Track a training inside the block; the trackers are closed however it ends.

    One that `has_ended` before is only taken over, and not told where the folder has a run of it. `mode` is that of
    `tracking_mode`; of the checkpoint `out` the folder's name is the run, the file's stem the stage.
    """
    if mode != "disabled" and out is None:
        raise ParameterError(f"tracking={mode!r} keeps its files beside the checkpoint; give out=<folder>/<name>")
    place = Path(out or "").resolve()
    if mode == "disabled" or (has_ended and any(place.parent.glob(f"wandb/*run-*-{place.stem}-{8 * '[0-9a-f]'}"))):
        yield Tracking(accelerator)
        return
    with _wandb_folders(place.parent):
        _start_wandb(accelerator, mode, place, config, report)
        try:
            yield Tracking(accelerator)
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()
            accelerator.trackers.clear()


def _start_wandb(
    accelerator: Any, mode: str, out: Path, config: Mapping[str, Any], report: Callable[[str], None]
) -> None:
    import wandb
    from wandb.errors import Error

    out.parent.mkdir(parents=True, exist_ok=True)
    for attempt in dict.fromkeys((mode, "offline")):
        arguments = {
            "mode": attempt,
            "dir": str(out.parent),
            "name": f"{out.parent.name} {out.stem}",
            "group": out.parent.name,
            "job_type": out.stem,
            # Coloured lines of the client would end up in executed notebooks; its console capture costs a thread.
            "settings": wandb.Settings(silent=True, console="off"),
            "id": f"{out.stem}-{uuid.uuid4().hex[:8]}",
        }
        try:
            accelerator.init_trackers(PROJECT, config=dict(config), init_kwargs={"wandb": arguments})
            return
        except Error as error:
            if attempt == "offline":
                raise
            accelerator.trackers.clear()
            report(f"tracking offline: Weights & Biases did not answer ({first_line(error)})")
