"""Weights & Biases through Accelerate's trackers: curves, settings, example predictions, the best metric.

All files go beside the checkpoint, and nothing leaves the machine unless the user asked for it and gave a key. The same
curves are in the history that every training writes, so nothing is lost without tracking.

An offline run is a folder per start, `offline-run-<time>-<id>`; folders of one id are sent as one run, in their order.
An interrupted training therefore goes on under its id, and sends only epochs that no folder has.
"""

from __future__ import annotations

import json
import netrc
import os
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from geocbm.errors import ParameterError, first_line
from geocbm.files import read_json, write_json
from geocbm.training.loader import digest_of
from geocbm.training.settings import TRACKING, check_choice

if TYPE_CHECKING:
    import pandas as pd

    from geocbm.training.checkpoints import FitResult

PROJECT = "geocbm"
_PATIENCE_SECONDS = 10.0
_BLOCK = 32768
_FILE_HEADER = 7
_WHOLE, _FIRST, _LAST = 1, 2, 4
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


@dataclass
class RunRecord:
    """The run that a training writes to, kept as `<folder>/wandb/<stem>.json`."""

    path: Path  # of the file
    training: str  # digest of all that the training depends on
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    sent: int = 0  # last epoch that was sent; 0 before the first
    is_finished: bool = False  # whether the training has ended
    epochs: frozenset[int] = frozenset()  # those that the folders of the run hold already

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"training": self.training, "id": self.id, "sent": self.sent, "is_finished": self.is_finished}
        write_json(self.path, content)


def find_run(out: Path, identity: Mapping[str, Any] | None, has_ended: bool) -> RunRecord:
    """Find the run that a training goes on with, or name a new one, as for one that has ended and is trained again."""
    path = out.resolve().parent / "wandb" / f"{out.stem}.json"
    training = "" if identity is None else digest_of(dict(identity))
    try:
        before = read_json(path)
        run = RunRecord(path, str(before["training"]), str(before["id"]), int(before["sent"]), before["is_finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return RunRecord(path, training)
    if not training or run.training != training or (run.is_finished and not has_ended):
        return RunRecord(path, training)
    # The client's own process writes a moment after it was told to; one that was killed as well never will.
    run.epochs = frozenset(written_epochs(path.parent, run.id))
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while run.sent not in (0, *run.epochs) and time.monotonic() < deadline:
        time.sleep(0.1)
        run.epochs = frozenset(written_epochs(path.parent, run.id))
    # Folders are named by the second: a start within the same one would write into the folder of the last.
    while any(path.parent.glob(f"*run-{time.strftime('%Y%m%d_%H%M%S')}-{run.id}")):
        time.sleep(0.1)
    return run


def written_epochs(folder: Path, run_id: str) -> list[int]:
    """Epochs in the files of a run, as they were written; `folder` is `wandb` beside a checkpoint."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    epochs = []
    for file in sorted(folder.glob(f"*run-*-{run_id}/run-{run_id}.wandb")):
        for content in _records(file.read_bytes()):
            record = messages.Record()
            record.ParseFromString(content)
            items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if "epoch" in items:
                epochs.append(int(json.loads(items["epoch"])))
    return epochs


def _records(content: bytes) -> Iterator[bytes]:
    """Records of a file in the format of LevelDB's log, up to where an interruption cut it off."""
    place, parts = _FILE_HEADER, b""
    while place + 7 <= len(content):
        if _BLOCK - place % _BLOCK < 7:  # no header begins so late in a block
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        body = content[place + 7 : place + 7 + length]
        if len(body) < length or kind == 0:
            return
        place += 7 + length
        parts = body if kind in (_WHOLE, _FIRST) else parts + body
        if kind in (_WHOLE, _LAST):
            yield parts


class Tracking:
    """Where the figures of one training go besides its history; `run` is given where it is one of wandb's."""

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
        self._note(is_finished=True)


def tracking_mode(tracking: str, report: Callable[[str], None]) -> str:
    """The mode that is possible: "online" without a key becomes "offline", which `report` is told."""
    check_choice("tracking", tracking, TRACKING)
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
    identity: Mapping[str, Any] | None = None,
    has_ended: bool = False,
) -> Iterator[Tracking]:
    """Track a training inside the block; the trackers are closed however it ends.

    A training that was interrupted goes on as the same run, each epoch in it once, unless it has no `identity`. One
    that ended and is only taken over sends nothing that it has sent before. `mode` is that of `tracking_mode`, or
    "given"; of the checkpoint `out` the folder's name is the run, the file's stem the stage.
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
    with _wandb_folders(folder):
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
    import wandb
    from wandb.errors import Error

    folder = out.resolve().parent
    for attempt in dict.fromkeys((mode, "offline")):
        arguments = {
            "mode": attempt,
            "dir": str(folder),
            "name": f"{folder.name} {out.stem}",
            "group": folder.name,
            "job_type": out.stem,
            # Coloured lines of the client would end up in executed notebooks; its console capture costs a thread.
            "settings": wandb.Settings(silent=True, console="off"),
            "id": run_id,
            "resume": "allow",
        }
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
