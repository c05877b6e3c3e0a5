"""The line of a stage on the terminal: it moves while the stage runs, and tells a slow stage from one that hangs."""

import shutil
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from geocbm.files import paths, read_json_or_empty
from geocbm.files.progress import about, clock


class Stopped(Exception):
    """The chain ends before this stage has."""


class Console:
    """Where the lines of stages are written, of several that run side by side by several threads.

    On a terminal (`moves`) those under way share the last line, which is rewritten in place; elsewhere each has a
    beginning and an end.
    """

    def __init__(self) -> None:
        self.moves = sys.stdout.isatty()
        self.stopped = threading.Event()  # what is under way ends at its next look
        self._texts: dict[str, str] = {}  # of the stages under way, by name
        self._last = ""  # what stands in a line that has not ended
        self._lock = threading.RLock()

    def begin(self, name: str) -> None:
        """Say that a stage runs."""
        with self._lock:
            if self.moves:
                self.move(name, f"{name} running ... ")
            else:
                self.break_line()
                print(f"{name} running ... ", end="", flush=True)
                self._last = name

    def move(self, name: str, text: str) -> None:
        """Show how far a stage is, on a terminal."""
        with self._lock:
            self._texts[name] = text
            width = (shutil.get_terminal_size().columns - 1) // len(self._texts)
            self._rewrite("".join(each[: width - 1].ljust(width) for each in self._texts.values()).rstrip())

    def end(self, name: str, result: str) -> None:
        """Finish the line of a stage."""
        with self._lock:
            self._texts.pop(name, None)
            if self.moves or self._last != name:
                self.say(f"{name} {result}")
            else:
                print(result, flush=True)
                self._last = ""

    def say(self, line: str) -> None:
        """Write a line of its own above those of the stages under way."""
        with self._lock:
            if self.moves:
                self._rewrite(line)
                print(flush=True)
                self._last = ""
                for name, text in self._texts.items():
                    self.move(name, text)
            else:
                self.break_line()
                print(line, flush=True)

    def break_line(self) -> None:
        """End a line that has not ended, for what is written by others."""
        with self._lock:
            if self._last:
                print(flush=True)
                self._last = ""

    def _rewrite(self, text: str) -> None:
        if text != self._last:
            print(f"\r{text.ljust(len(self._last))}", end="", flush=True)
            self._last = text


class StatusLine:
    """One stage under way; called at each look at its process.

    On a terminal the line is rewritten in place, `[05] 0:48 · both · epoch 7/12 · last time 1:23 · about 35 s left`;
    elsewhere it has its beginning and its end only. `status` is the file in which the process says how far it is
    (`geocbm.files.progress`), `signs` are further files that it touches while it lives; after `silence` seconds without
    any it counts as hanging. `last` are the seconds that the same took last time, `console` where the line is written.
    """

    def __init__(
        self,
        name: str,
        short: str,
        status: Path,
        signs: Sequence[Path] = (),
        silence: float = float("inf"),
        last: float | None = None,
        console: Console | None = None,
    ) -> None:
        self.name, self.short, self.status, self.silence, self.last = name, short, status, silence, last
        self.signs = (status, *signs)
        self.console = console or Console()
        self.alive_at = time.time()
        self.console.begin(name)

    def __call__(self, seconds: float) -> bool:
        """Move the line; False when the process has been silent for too long, `Stopped` when the chain ends."""
        if self.console.stopped.is_set():
            raise Stopped(self.name)
        for file in self.signs:
            with suppress(OSError):
                self.alive_at = max(self.alive_at, file.stat().st_mtime)
        if self.console.moves:
            self.console.move(self.name, self.text(seconds))
        return time.time() - self.alive_at <= self.silence

    def text(self, seconds: float) -> str:
        """The line after so many seconds."""
        said: dict[str, Any] = read_json_or_empty(self.status)
        # Last time may have been with fewer epochs, and what is reported is a part of the stage: the later end counts.
        left = [said["left"]] if said.get("left") else []
        left += [self.last - seconds] if self.last and self.last > seconds else []
        parts = [f"{self.short} {clock(seconds)}", said.get("label", "")]
        parts += [f"last time {clock(self.last)}"] if self.last else []
        parts += [about(max(left))] if left else []
        return " · ".join(part for part in parts if part)

    def end(self, result: str) -> None:
        """Finish the line."""
        self.console.end(self.name, result)


def last_seconds(run: str, profile: str, number: str) -> float | None:
    """Seconds that a stage took when this run last made it, else another of the same profile; None if none has."""
    manifests = sorted(paths.reports_root().glob("*/manifest.json"), key=lambda file: -file.stat().st_mtime)
    for file in sorted(manifests, key=lambda file: file.parent.name != run):
        content = read_json_or_empty(file)
        entry = content.get("stages", {}).get(number, {})
        alike = file.parent.name == run or content.get("profile") == profile
        if alike and "error" not in entry and entry.get("seconds"):
            return float(entry["seconds"])
    return None
