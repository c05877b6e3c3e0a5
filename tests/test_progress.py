"""How far a piece of work is, and where that is shown."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from geocbm.files import progress
from geocbm.files.progress import Task
from geocbm.training import Checkpoint, RowLoader, TrainingSettings, fit


class Seen:
    """A display that keeps what it was shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.rows: list[int] = []
        self.closed: list[str] = []

    def show(self, tasks: Sequence[Task]) -> None:
        self.lines.append(" · ".join(task.label for task in tasks))
        self.rows.append(len(tasks[-1].rows))

    def close(self, task: Task) -> None:
        self.closed.append(task.title)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    display = Seen()
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_in_notebook", display)
    monkeypatch.delenv(progress.STATUS, raising=False)
    return display


def test_a_loop_is_counted_and_one_inside_it_stands_behind(seen: Seen) -> None:
    for _ in progress.track(range(2), "seeds"):
        list(progress.track("ab", "pictures"))
    assert seen.lines == [
        "seeds 0/2 · pictures 1/2",
        "seeds 0/2 · pictures 2/2",
        "seeds 1/2",
        "seeds 1/2 · pictures 1/2",
        "seeds 1/2 · pictures 2/2",
        "seeds 2/2",
    ]
    assert seen.closed == ["pictures", "pictures", "seeds"]


def test_a_loop_that_fails_is_closed_and_a_hidden_one_is_not_shown(seen: Seen) -> None:
    with pytest.raises(ValueError, match="x"), progress.task("one", 3) as task:
        task.update()
        raise ValueError("x")
    with progress.task("two", 3, hidden=True) as task:
        task.update()
    with progress.task("nothing to do", 3, done=3):
        pass
    assert seen.lines == ["one 1/3"] and seen.closed == ["one"]


def test_the_time_left_counts_what_was_done_here_and_parts_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 130.0)
    outer, inner = Task("outer", 10, done=4, began=100.0), Task("inner", 4, began=125.0)
    assert progress.seconds_left([outer]) is None  # nothing of the six was done here
    outer.done, inner.done = 6, 2
    assert progress.seconds_left([outer]) == pytest.approx(60)  # 2 of 6 in 30 s, so 4 in 60
    assert progress.seconds_left([outer, inner]) == pytest.approx(30 * 3.5 / 2.5)  # 2.5 of 6
    assert progress.seconds_left([]) is None


@pytest.mark.parametrize(
    ("seconds", "clock", "about"),
    [
        (0.4, "0:00", "about 5 s left"),
        (36, "0:36", "about 35 s left"),
        (83, "1:23", "about 85 s left"),
        (240, "4:00", "about 4 min left"),
        (3723, "1:02:03", "about 62 min left"),
        (9000, "2:30:00", "about 2.5 h left"),
    ],
)
def test_durations_in_words(seconds: float, clock: str, about: str) -> None:
    assert (progress.clock(seconds), progress.about(seconds)) == (clock, about)


def test_the_chain_reads_a_file_that_says_nothing_when_nothing_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    status = tmp_path / "status.json"
    monkeypatch.setenv(progress.STATUS, str(status))
    with progress.task("encoding", 4, "picture") as task:
        task.update(3)
        said = json.loads(status.read_text())
        assert said["label"] == "encoding 3/4" and 0 <= said["left"] < 5
    assert json.loads(status.read_text()) == {}
    assert seen.lines == []  # a page nobody looks at gets none of it
    monkeypatch.setenv(progress.STATUS, str(tmp_path / "gone" / "status.json"))
    with progress.task("a", 1) as task:  # the chain was interrupted and has removed its folder
        task.update()
    assert not (tmp_path / "gone").exists()


def line(epochs: int, tmp_path: Path | None = None, lines: list[str] | None = None) -> None:
    x = torch.arange(30.0)[:, None]
    model = nn.Sequential(nn.Linear(1, 1))
    model.forward = lambda x: model[0](x)  # type: ignore[assignment, method-assign]
    loader = RowLoader(np.arange(30), lambda rows: {"x": x[rows] / 30, "y": x[rows]})
    checkpoint = None if tmp_path is None else Checkpoint(tmp_path / "stage2_hybrid.safetensors")
    settings = TrainingSettings(batch_size=8, epochs=epochs)
    loss = lambda output, batch: {"loss": (output - batch["y"]).square().mean()}  # noqa: E731
    fit(model, loss, loader, loader, settings, checkpoint, report=(lines if lines is not None else []).append)


def test_a_training_names_itself_and_its_epoch_and_hands_its_history_on(tmp_path: Path, seen: Seen) -> None:
    line(2, tmp_path)
    assert seen.lines == ["stage2_hybrid · epoch 1/2"] * 5 + ["stage2_hybrid · epoch 2/2"] * 5  # 4 steps, and the row
    assert seen.rows == [0] * 4 + [1] * 5 + [2]
    assert seen.closed == ["stage2_hybrid"]


def test_a_bar_leaves_the_reported_lines_alone(
    monkeypatch: pytest.MonkeyPatch, seen: Seen, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_in_notebook", None)
    lines: list[str] = []
    line(2, lines=lines)
    shown = capsys.readouterr().err
    assert "epoch 1/2" in shown and "/8" in shown  # 30 rows in batches of at most 8, twice
    assert [text.split("  ")[0] for text in lines] == ["epoch 1/2", "epoch 2/2"]
    monkeypatch.setattr(progress, "is_watched", lambda: False)
    line(1, lines=lines)
    assert capsys.readouterr().err == ""


def test_a_bar_is_for_those_who_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    class Kernel:
        kernel = object()

    def watched(**environment: str) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", environment)
            return progress.is_watched()

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert watched()
    assert not watched(CI="true")
    assert not watched(PYTEST_VERSION="9")  # nbval's kernels inherit it
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not watched()
    monkeypatch.setitem(sys.modules, "IPython", type("IPython", (), {"get_ipython": staticmethod(Kernel)}))
    assert watched(JPY_SESSION_NAME="notebook.ipynb")
    assert not watched()  # papermill starts a kernel without a session


def test_a_bar_that_was_not_looked_at_lately_ends_full() -> None:
    bars, task = progress._Bars(), progress.Task("encoding", 20)
    bars.show([task])
    bar = bars.bars[id(task)]
    task.done = 20
    bars.close(task)
    assert bar.n == 20 and not bars.bars
