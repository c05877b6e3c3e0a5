"""What a run of Weights & Biases has on disk: which one a training belongs to, and which of its epochs are written.

An offline run is a folder per start, `offline-run-<time>-<id>`; folders of one id are sent as one run, in their order.
An interrupted training therefore goes on under its id, and sends only epochs that no folder has.
"""

from __future__ import annotations

import json
import struct
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geocbm.files import read_json, write_json
from geocbm.training.loader import digest_of

_PATIENCE_SECONDS = 10.0
_BLOCK = 32768
_FILE_HEADER = 7
_WHOLE, _FIRST, _LAST = 1, 2, 4


@dataclass
class RunRecord:
    """The run that a training writes to, kept as `<folder>/wandb/<stem>.json`.

    Attributes:
        path: of the file.
        training: digest of all that the training depends on.
        id: of the run.
        sent: last epoch that was sent; 0 before the first.
        is_finished: whether the training has ended.
        epochs: epochs that the folders of the run hold already.
    """

    path: Path
    training: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    sent: int = 0
    is_finished: bool = False
    epochs: frozenset[int] = frozenset()

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"training": self.training, "id": self.id, "sent": self.sent, "is_finished": self.is_finished}
        write_json(self.path, content)


def find_run(out: Path, identity: Mapping[str, Any] | None, has_ended: bool) -> RunRecord:
    """Find the run that a training goes on with, or name a new one.

    Args:
        out: the checkpoint.
        identity: all that the training depends on (`identity.training_identity`); None never goes on.
        has_ended: whether this very training ended before and is only taken over.

    Returns:
        The run of an earlier start of this training. One that has ended gets a new run when it is trained again.
    """
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
    """Epochs in the files of a run, in the order in which they were written.

    Args:
        folder: `wandb` beside a checkpoint.
        run_id: of the run.
    """
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
