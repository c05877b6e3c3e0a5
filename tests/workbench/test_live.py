"""What JupyterLab shows while something long is under way."""

from __future__ import annotations

import base64
import time
from typing import Any

import numpy as np
import pytest

from geocbm.files.progress import Task
from geocbm.workbench import live


def test_a_training_shows_a_bar_and_curves_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, dict[str, Any]]] = []

    def put(handle: int | None, bundle: dict[str, Any]) -> int:
        shown.append((len(shown) if handle is None else handle, bundle))
        return shown[-1][0]

    monkeypatch.setattr(live, "_put", put)
    monkeypatch.setattr(time, "monotonic", lambda: 130.0)
    display, task = live.LiveDisplay(), Task("stage2, <both>", 8, done=4, began=100.0)
    task.first, task.note = 0, "epoch 1/2"
    display.show([task])
    ((place, bundle),) = shown
    assert 'max="8" value="4"' in bundle["text/html"]
    assert "stage2, &lt;both&gt; · epoch 1/2 · 0:30 · about 30 s left" in bundle["text/html"]
    for epoch in (1, 2):
        task.rows.append({"epoch": epoch, "train_loss": 1.0 / epoch, "val_loss": 2.0 / epoch})
        display.show([task])
        display.show([task])  # nothing new to draw
    drawn = [bundle["application/vnd.plotly.v1+json"] for _, bundle in shown if "text/html" not in bundle]
    epochs = [figure["data"][0]["x"] for figure in drawn]  # as plotly writes arrays
    numbers = [np.frombuffer(base64.b64decode(each["bdata"]), each["dtype"]).tolist() for each in epochs]
    assert numbers == [[1], [1, 2]]
    assert [tuple(figure["layout"]["xaxis"]["range"]) for figure in drawn] == [(0.5, 2.5), (0.5, 4.5)]  # 4 of 8 steps
    (curves,) = {place for place, bundle in shown if "text/html" not in bundle}
    # JupyterLab's plotly leaves a figure as it is when another comes in its place: something else must come between.
    assert [bundle.get("text/html") for place, bundle in shown if place == curves] == [None, "", None]
    display.close(task)
    assert "trained in 0:30" in shown[-2][1]["text/html"] and shown[-1] == (place, {"text/html": ""})
    assert not display.curves and not display.epochs
