"""The line of a stage on the terminal: it moves while the stage runs, and tells a slow stage from one that hangs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from geocbm.files import paths
from geocbm.files.progress import about, clock
from geocbm.workbench import keys


class StatusLine:
    """One stage under way; called at each look at its process.

    On a terminal the line is rewritten in place, `[05] 0:48 · both · epoch 7/12 · last time 1:23 · about 35 s left`;
    elsewhere it has its beginning and its end only. `status` is the file in which the process says how far it is
    (`geocbm.files.progress`), `signs` are further files that it touches while it lives; after `silence` seconds without
    any it counts as hanging. `last` are the seconds that the same took last time.
    """

    def __init__(
        self,
        name: str,
        short: str,
        status: Path,
        signs: Sequence[Path] = (),
        silence: float = float("inf"),
        last: float | None = None,
    ) -> None:
        self.name, self.short, self.status, self.silence, self.last = name, short, status, silence, last
        self.signs = (status, *signs)
        self.moves = sys.stdout.isatty()
        self.shown = ""
        self.alive_at = time.time()
        self._write(f"{name} running ... ")

    def __call__(self, seconds: float) -> bool:
        """Move the line; False when the process has been silent for too long."""
        for file in self.signs:
            with suppress(OSError):
                self.alive_at = max(self.alive_at, file.stat().st_mtime)
        if self.moves:
            self._write(self.text(seconds))
        return time.time() - self.alive_at <= self.silence

    def text(self, seconds: float) -> str:
        """The line after so many seconds."""
        said: dict[str, Any] = keys.read_json_or_empty(self.status)
        # Last time may have been with fewer epochs, and what is reported is a part of the stage: the later end counts.
        left = [said["left"]] if said.get("left") else []
        left += [self.last - seconds] if self.last and self.last > seconds else []
        parts = [f"{self.short} {clock(seconds)}", said.get("label", "")]
        parts += [f"last time {clock(self.last)}"] if self.last else []
        parts += [about(max(left))] if left else []
        line = " · ".join(part for part in parts if part)
        return line[: shutil.get_terminal_size().columns - 1]

    def end(self, result: str) -> None:
        """Finish the line."""
        if self.moves:
            self._write(f"{self.name} {result}")
            print(flush=True)
        else:
            print(result, flush=True)

    def _write(self, text: str) -> None:
        if not self.moves:
            print(text, end="", flush=True)
        elif text != self.shown:
            print(f"\r{text.ljust(len(self.shown))}", end="", flush=True)
            self.shown = text


def last_seconds(run: str, profile: str, number: str) -> float | None:
    """Seconds that a stage took when this run last made it, else another of the same profile; None if none has."""
    manifests = sorted(paths.reports_root().glob("*/manifest.json"), key=lambda file: -file.stat().st_mtime)
    for file in sorted(manifests, key=lambda file: file.parent.name != run):
        content = keys.read_json_or_empty(file)
        entry = content.get("stages", {}).get(number, {})
        alike = file.parent.name == run or content.get("profile") == profile
        if alike and "error" not in entry and entry.get("seconds"):
            return float(entry["seconds"])
    return None
