"""How far a piece of work is: told by whoever does it, shown where somebody looks.

    for row in progress.track(rows, "deletion"): ...

    with progress.task("encoding", len(files), "picture") as task:
        task.update(32)

A terminal gets a bar, a notebook of JupyterLab what `show_in` was given, the chain a file that it reads for its moving
line. Everywhere else nothing is shown or written.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

STATUS = "GEOCBM_STATUS"
"""Environment variable: the file in which a notebook of the chain says how far it is."""
_UNATTENDED = ("CI", "PYTEST_VERSION")
"""Set where tests run; a kernel that nbval starts inherits them."""
_SECONDS = 0.25
"""Between two looks; a loop may count thousands a second."""
_LEAST_SHARE = 0.02
"""Done of a task before a time left is worth saying."""

T = TypeVar("T")


@dataclass
class Task:
    """A piece of work under way."""

    title: str
    total: int
    unit: str = ""
    done: int = 0
    note: str = ""  # what is being done now, in place of the count: "epoch 7/12"
    rows: list[Mapping[str, float]] = field(default_factory=list)  # history of a training so far
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.first = self.done  # what an earlier process had done

    def update(self, n: int = 1) -> None:
        """So much more is done."""
        self.done += n
        _show()

    def add(self, row: Mapping[str, float]) -> None:
        """An epoch has ended, with these values."""
        self.rows.append(row)
        _show(at_once=True)

    @property
    def label(self) -> str:
        """The task and how far it is, in words."""
        return f"{self.title} · {self.note}" if self.note else f"{self.title} {self.done:,}/{self.total:,}"


class Display(Protocol):
    """Where tasks are shown."""

    def show(self, tasks: Sequence[Task]) -> None:
        """Show all open tasks, the outermost first."""

    def close(self, task: Task) -> None:
        """Forget one that has ended."""


_open: list[Task] = []
_in_notebook: Display | None = None
_shown = 0.0


def show_in(display: Display | None) -> None:
    """Show what follows in a notebook's own way, if somebody watches it."""
    global _in_notebook
    _in_notebook = display


@contextmanager
def task(title: str, total: int, unit: str = "", done: int = 0, hidden: bool = False) -> Iterator[Task]:
    """A task inside the block; `done` of its `total` came before, a hidden one (of a further process) is not shown."""
    made = Task(title, total, unit, done)
    if hidden or total <= done:
        yield made
        return
    _open.append(made)
    try:
        yield made
    finally:
        _open.remove(made)
        if display := _display():
            display.close(made)


def track(items: Iterable[T], title: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Pass items on and count them; `total` where they have no length."""
    with task(title, total if total is not None else len(items), unit) as made:  # type: ignore[arg-type]
        for item in items:
            yield item
            made.update()


def seconds_left(tasks: Sequence[Task]) -> float | None:
    """Seconds until the outermost task ends, if it goes on like this; None as long as nothing tells."""
    share = 0.0
    for each in reversed(tasks):
        share = (each.done - each.first + share) / max(each.total - each.first, 1)
    return (time.monotonic() - tasks[0].began) * (1 - share) / share if tasks and share >= _LEAST_SHARE else None


def clock(seconds: float) -> str:
    """A duration as `0:48` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about(seconds: float) -> str:
    """A time left as people say it: `about 35 s left`, `about 4 min left`."""
    minutes = seconds / 60
    said = f"{max(round(seconds / 5) * 5, 5)} s" if seconds < 90 else f"{round(minutes)} min"
    return f"about {said if minutes < 90 else f'{minutes / 60:.1f} h'} left"


def shell() -> Any:
    """The running IPython shell, or None in plain Python (IPython is not imported for the question)."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def kernel() -> Any:
    """The kernel of the notebook that this runs in, or None."""
    return getattr(shell(), "kernel", None)


def is_watched() -> bool:
    """Whether somebody sees a bar move: at a terminal, or in a notebook that JupyterLab opened.

    A kernel of papermill or nbval looks like one of JupyterLab from within, but only a server that has a page for it
    tells it the name of its session.
    """
    environment = os.environ
    if any(environment.get(name) for name in _UNATTENDED):
        return False
    if kernel() is not None:
        return bool(environment.get("JPY_SESSION_NAME"))
    return sys.stderr is not None and sys.stderr.isatty()


def is_live() -> bool:
    """Whether someone sits before the notebook: a kernel whose front end can be asked for input.

    Executions without a front end (papermill, nbclient, nbval) declare that they cannot; controls would be dead there.
    """
    return bool(getattr(kernel(), "_allow_stdin", False))


def _show(at_once: bool = False) -> None:
    global _shown
    if _open and (at_once or time.monotonic() - _shown >= _SECONDS):
        _shown = time.monotonic()
        if display := _display():
            display.show(_open)


def _display() -> Display | None:
    if os.environ.get(STATUS):
        return _StatusFile()
    return (_in_notebook or _bars) if is_watched() else None


class _StatusFile:
    """The file that the chain reads: what is done, and how many seconds are left of it."""

    def show(self, tasks: Sequence[Task]) -> None:
        content = {"label": " · ".join(each.label for each in tasks), "left": seconds_left(tasks)}
        self._write(content)

    def close(self, _task: Task) -> None:
        if not _open:
            self._write({})

    def _write(self, content: dict[str, Any]) -> None:
        status = Path(os.environ[STATUS])
        new = status.with_suffix(".new")
        with suppress(OSError):  # the chain was interrupted and has removed the folder
            new.write_text(json.dumps(content), encoding="utf-8")
            new.replace(status)


class _Bars:
    """Bars of tqdm, which leave no trace when they end."""

    def __init__(self) -> None:
        self.bars: dict[int, Any] = {}

    def show(self, tasks: Sequence[Task]) -> None:
        from tqdm import auto

        for each in tasks:
            bar = self.bars.get(id(each))
            if bar is None:
                bar = auto.tqdm(total=each.total, initial=each.first, unit=each.unit or "it", leave=False)
                self.bars[id(each)] = bar
            bar.set_description_str(f"{each.title} {each.note}".strip(), refresh=False)
            bar.n = each.done
            bar.refresh()

    def close(self, task: Task) -> None:
        if bar := self.bars.pop(id(task), None):
            bar.n = task.done  # one that ends short of its total stays, in red
            bar.close()


_bars = _Bars()
