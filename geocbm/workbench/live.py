"""What JupyterLab shows while something long is under way: a bar with the time left, and curves that grow."""

import time
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from geocbm.files.progress import Task, about, clock, seconds_left


class LiveDisplay:
    """One bar for all open tasks, and the curves of a training that is one of them; both go when their task ends."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.curves: dict[int, Any] = {}
        self.epochs: dict[int, int] = {}

    def show(self, tasks: Sequence[Task]) -> None:
        """Show how far they are; a new epoch is a new point of its curves."""
        self.bar = _put(self.bar, {"text/html": bar_html(tasks)})
        for task in tasks:
            if len(task.rows) > self.epochs.get(id(task), 0):
                figure = growing_curves(task)
                bundle = {"application/vnd.plotly.v1+json": figure.to_plotly_json()}
                if (handle := self.curves.get(id(task))) is not None:
                    _put(handle, {"text/html": ""})  # JupyterLab's plotly never draws anew in the place of a figure
                self.curves[id(task)] = _put(handle, bundle)
                self.epochs[id(task)] = len(task.rows)

    def close(self, task: Task) -> None:
        """Take away what was shown of a task; a training leaves a line that says what it took."""
        self.epochs.pop(id(task), None)
        took = clock(time.monotonic() - task.began)
        if (curves := self.curves.pop(id(task), None)) is not None:
            words = f"{escape(task.title)}: {len(task.rows)} epochs, trained in {took}"
            _put(curves, {"text/html": f"<p>{words}</p>"})
        if self.bar is not None:
            _put(self.bar, {"text/html": ""})
            self.bar = None


def growing_curves(task: Task) -> go.Figure:
    """Loss and metrics of a training so far, on an axis as long as the whole training will be."""
    from geocbm.plots import loss_curves

    history = pd.DataFrame(task.rows)
    terms = {str(name).removeprefix("train_") for name in history if str(name).startswith("train_")} - {"loss"}
    shown = history[[name for name in history if str(name).split("_", 1)[-1] not in terms]]
    figure = loss_curves(shown, title=task.title)
    epochs = max(len(history), round(len(history) * task.total / max(task.done, 1)))
    figure.update_xaxes(range=[0.5, epochs + 0.5])
    return figure


def bar_html(tasks: Sequence[Task]) -> str:
    """A bar of the outermost task with its words, the time so far and the time left."""
    first, left = tasks[0], seconds_left(tasks)
    words = [*(task.label for task in tasks), clock(time.monotonic() - first.began)]
    text = escape(" · ".join(words + ([about(left)] if left is not None else [])))
    bar = f'<progress max="{first.total}" value="{first.done}" aria-label="{escape(first.title)}"></progress>'
    return f"<p>{bar} {text}</p>"


def _put(handle: Any, bundle: dict[str, Any]) -> Any:
    """Show a bundle of formats, in the place of an earlier one where there is one; the handle of the place."""
    from IPython.display import display

    if handle is None:
        return display(bundle, raw=True, display_id=True)
    handle.update(bundle, raw=True)
    return handle
