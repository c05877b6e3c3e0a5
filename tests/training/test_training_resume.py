"""An interrupted training goes on, and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from geocbm.errors import UnwritableError, UserError
from geocbm.training import Checkpoint, RowLoader, TrainingSettings, fit, seeded
from geocbm.training.checkpoints import ResumeFile, TrainingState, difference, load_checkpoint
from geocbm.training.epoch import epoch_seed, parameter_groups
from geocbm.training.identity import code_digest, training_identity
from geocbm.training.loader import digest_of

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, :2].prod(1, keepdim=True) + X[:, 2:3]).tanh()
ROWS = (np.arange(40), np.arange(40, 60))


class Wavy(nn.Module):
    """Dropout, a batch norm with buffers, and a learning rate of its own: all that a state must hold."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """Settings with a learning rate of its own for the encoder."""

    batch_size: int = 8
    epochs: int = 6
    lr: float = 0.05
    seed: int = 3

    @property
    def lr_by_prefix(self):
        return {"encoder.": 0.02}


def loss(output, batch):
    return {"loss": (output - batch["y"]).square().mean()}


def train(out, x=X, report=None, loss=loss, model=None, measure=None, digest="", rows=ROWS, **settings):
    """Train from the same start; returns the model, the result and what was reported."""
    lines = []
    if model is None:
        with seeded(1):
            model = Wavy()
    if measure is not None:
        model.measure = measure
    kept = {name: settings.pop(name) for name in ("resume", "reuse") if name in settings}
    metadata = settings.pop("metadata", {"config": {"width": 16}})
    read = lambda chosen: {"x": x[chosen], "y": Y[chosen]}  # noqa: E731
    loaders = (RowLoader(each, read, digest=digest) for each in rows)
    checkpoint = Checkpoint(out, metadata, **kept)
    result = fit(model, loss, *loaders, Settings(**settings), checkpoint, report=report or lines.append)
    return model, result, lines


class Interrupted(Exception):
    pass


def interrupt_after(epoch):
    def report(line):
        if line.startswith(f"epoch {epoch}/"):
            raise Interrupted

    return report


def interrupted(folder, epoch=2, **settings):
    """A folder in which a training was interrupted after an epoch; returns its checkpoint's path."""
    out = folder / "stage9.safetensors"
    with pytest.raises(Interrupted):
        train(out, report=interrupt_after(epoch), **settings)
    return out


def assert_same(got, expected):
    (model, result, _), (other, other_result, _) = got, expected
    state, other_state = model.state_dict(), other.state_dict()
    assert all(torch.equal(state[name], other_state[name]) for name in other_state)
    assert result.history.drop(columns="seconds", errors="ignore").equals(
        other_result.history.drop(columns="seconds", errors="ignore")
    )
    assert (result.best_epoch, result.best_metric) == (other_result.best_epoch, other_result.best_metric)
    assert (result.initial, result.best) == (other_result.initial, other_result.best)


@pytest.mark.parametrize("epoch", [1, 2, 5])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path, epoch):
    whole = train(tmp_path / "whole" / "stage9.safetensors")
    out = interrupted(tmp_path, epoch)
    assert not out.exists()
    again = train(out)
    assert again[2][0] == f"continuing at epoch {epoch + 1} of 6"
    assert again[2][1].startswith(f"epoch {epoch + 1}/6  train ")
    assert_same(again, whole)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert names == ["history_stage9.parquet", "stage9.json", "stage9.safetensors"]  # the state is gone
    kept, expected = (load_checkpoint(path, "")[0] for path in (out, tmp_path / "whole" / "stage9.safetensors"))
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_an_interrupted_model_has_its_first_weights_and_may_be_given_again(tmp_path):
    """As when a cell of a notebook is stopped and run again: the model is still there."""
    with seeded(1):
        model = Wavy()
    first = {name: value.clone() for name, value in model.state_dict().items()}

    def again(report):
        return train(tmp_path / "a.safetensors", report=report, model=model)[1]

    def stop(line):
        if line.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(stop)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in first.items())
    lines = []
    result = again(lines.append)
    assert lines[0] == "continuing at epoch 4 of 6"
    assert_same((model, result, lines), train(tmp_path / "whole.safetensors"))


def test_a_training_may_be_interrupted_more_than_once_and_with_an_older_best_epoch(tmp_path):
    worth = iter([0.0, 9.0, 5.0, 4.0, 3.0, 2.0, 1.0, 3.0, 2.0, 1.0])  # initial, six epochs; then the repeated ones

    def settings(values):
        return {
            "measure": lambda predictions: {"score": next(values)},
            "monitor": "score",
            "patience": 9,
        }

    whole = train(tmp_path / "whole.safetensors", **settings(iter([0.0, 9.0, 5.0, 4.0, 3.0, 2.0, 1.0])))
    out = interrupted(tmp_path, 2, **settings(worth))
    with pytest.raises(Interrupted):
        train(out, report=interrupt_after(4), **settings(worth))
    got = train(out, **settings(worth))
    assert got[2][0] == "continuing at epoch 5 of 6"
    assert got[1].best_epoch == 1
    assert_same(got, whole)


def test_patience_counts_on_after_an_interruption(tmp_path):
    values = [0.0, 9.0, 5.0, 4.0, 3.0, 2.0, 1.0]

    def settings(worth):
        measure = {"measure": lambda predictions: {"score": next(worth)}}
        return measure | {"monitor": "score", "patience": 3}

    worth = iter(values)
    out = interrupted(tmp_path, 3, **settings(worth))
    _, result, lines = train(out, **settings(worth))
    assert len(result.history) == 4 and "best was epoch 1" in lines[-1]


def killed_while_writing(out):
    """Train, and kill this process when half of the third state is on the disk."""
    states = 0
    save = safetensors.numpy.save_file

    def half(tensors, path, metadata):
        nonlocal states
        states += 1
        save(tensors, path, metadata)
        if states == 3:
            with Path(path).open("r+b") as stream:
                stream.truncate(Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    safetensors.numpy.save_file = half
    train(Path(out))


def finished(out):
    """Go on with a training that was killed, and compare it with one that was not."""
    again = train(Path(out))
    assert again[2][0] == "continuing at epoch 3 of 6"
    assert_same(again, train(Path(out).with_name("whole.safetensors")))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no such signal")
def test_a_kill_in_the_middle_of_writing_leaves_the_last_good_state(tmp_path):
    out = tmp_path / "stage9.safetensors"

    def fresh(function):
        # Both in new processes: what other tests did to the threads of this one rounds sums in another order.
        command = f"import test_training_resume as t; t.{function}({str(out)!r})"
        return subprocess.run(
            [sys.executable, "-c", command], cwd=Path(__file__).parent, timeout=300, capture_output=True
        )

    ended = fresh("killed_while_writing")
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2 and left[0].startswith(".stage9.resume.")  # the half, and the state of the second epoch
    ended = fresh("finished")
    assert ended.returncode == 0, ended.stderr.decode()
    assert not [path for path in tmp_path.iterdir() if "resume" in path.name]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epochs": 8}, "epochs was 6 and is 8, so the learning rate would fall at another pace"),
        ({"batch_size": 9}, "batch_size was 8 and is 9"),
        ({"accumulation_steps": 2}, "accumulation_steps was 1 and is 2"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"lr": 0.06}, "lr was 0.05 and is 0.06"),
        ({"x": X + 1}, "the data changed"),
        ({"digest": "other"}, "the data changed"),
        ({"rows": (np.arange(39), ROWS[1])}, "the training rows changed"),
        ({"metadata": {"config": {"width": 17}}}, "width was 16 and is 17"),
        ({"metadata": {"config": {"width": 16}, "labels": ["a"]}}, "the labels changed"),
    ],
)
def test_a_state_of_another_training_is_left_alone_and_the_reason_said(tmp_path, change, reason):
    out = interrupted(tmp_path)
    got = train(out, **change)
    assert got[2][0].startswith("starting at epoch 1: stage9.resume.safetensors cannot be continued (")
    assert reason in got[2][0]
    assert_same(got, train(tmp_path / "fresh" / "stage9.safetensors", **change))


def test_what_changes_no_weight_is_no_reason_to_start_afresh(tmp_path):
    out = interrupted(tmp_path, metadata={"config": {"refine_cells": 0}})
    assert train(out, metadata={"config": {"refine_cells": 3}})[2][0].startswith("continuing at epoch 3")


def test_a_state_with_a_flipped_bit_or_another_text_is_left_alone(tmp_path):
    state = interrupted(tmp_path).with_name("stage9.resume.safetensors")
    whole = state.read_bytes()
    deep = save({"model.a": torch.zeros(1)}, {"state": "[" * 200_000})
    other = save({"model.a": torch.zeros(1)}, {"state": json.dumps({"identity": None})})
    flipped = [whole[:-at] + bytes([whole[-at] ^ 1]) + whole[len(whole) - at + 1 :] for at in (2, 400)]
    for content in (*flipped, whole[:-1], deep, other):
        state.write_bytes(content)
        got = train(state.with_name("stage9.safetensors"))
        assert got[2][0].endswith("cannot be continued (the file is damaged)")
        assert len(got[1].history) == 6
        state.with_name("stage9.safetensors").unlink()


def test_a_folder_in_place_of_a_state_is_one_sentence(tmp_path):
    (tmp_path / "stage9.resume.safetensors" / "mine").mkdir(parents=True)
    with pytest.raises(UnwritableError, match=r"stage9\.resume\.safetensors cannot be written"):
        train(tmp_path / "stage9.safetensors")
    assert (tmp_path / "stage9.resume.safetensors" / "mine").is_dir()


@pytest.mark.parametrize("content", [b"", b"not tensors at all", b"\xff" * 100])
def test_a_damaged_state_is_left_alone(tmp_path, content):
    out = interrupted(tmp_path)
    out.with_name("stage9.resume.safetensors").write_bytes(content)
    got = train(out)
    assert got[2][0].endswith("cannot be continued (the file is damaged)")
    assert len(got[1].history) == 6


def test_resume_false_neither_reads_nor_writes_a_state(tmp_path):
    out = interrupted(tmp_path)
    before = out.with_name("stage9.resume.safetensors").read_bytes()
    assert train(out, resume=False)[2][0].startswith("epoch 1/6")
    assert out.with_name("stage9.resume.safetensors").read_bytes() == before


def test_after_a_diverged_epoch_the_state_is_the_one_before_it(tmp_path):
    """The third epoch meets a NaN: neither checkpoint nor state knows of it, and a mended table goes on after two."""
    out, spoilt, epochs = tmp_path / "stage9.safetensors", X.clone(), 0

    def spoil(line):
        nonlocal epochs
        epochs += line.startswith("epoch")
        if epochs == 2:
            spoilt[7] = float("nan")

    with pytest.raises(UserError, match="loss of epoch 3 is not finite: the features of row 7 contain NaN"):
        train(out, x=spoilt, report=spoil)
    assert [path.name for path in tmp_path.iterdir()] == ["stage9.resume.safetensors"]
    with safe_open(str(out.with_name("stage9.resume.safetensors")), "pt") as state:
        assert all(torch.isfinite(state.get_tensor(name)).all() for name in state.keys())  # noqa: SIM118
    again = train(out)
    assert again[2][0] == "continuing at epoch 3 of 6"
    assert_same(again, train(tmp_path / "whole.safetensors"))


def test_the_best_weights_are_stored_once_when_they_are_the_current_ones(tmp_path):
    with seeded(1):
        model = Wavy()
    optimizer = torch.optim.AdamW(model.parameters())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    keeper = ResumeFile(tmp_path / "a.safetensors", {"epochs": 2})
    for best_epoch, n_best in ((2, 0), (1, len(weights))):
        state = TrainingState({"loss": 1.0}, {"loss": 0.5}, weights, [{"epoch": 1}, {"epoch": 2}], best_epoch, 0.5)
        keeper.save(model, optimizer, state)
        with safe_open(str(keeper.path), "pt") as stored:
            assert sum(name.startswith("best.") for name in stored.keys()) == n_best  # noqa: SIM118
        content, reason = keeper.read()
        assert reason is None
        back = keeper.restore(content, model, optimizer)
        assert back.history == state.history and back.best_epoch == best_epoch
        assert all(torch.equal(back.best_weights[name], weights[name]) for name in weights)


def test_an_epoch_draws_from_its_own_number_alone():
    seeds = [epoch_seed(seed, epoch, process) for seed in (0, 1) for epoch in (1, 2, 3) for process in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [epoch_seed(seed, epoch, process) for seed in (0, 1) for epoch in (1, 2, 3) for process in (0, 1)]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_digest_tells_values_types_and_shapes_apart():
    class Store:
        key = "abc"

    values = [X, X.double(), X.T, X[:1], X[0], X.numpy(), X.bfloat16(), torch.tensor(1.0), Store(), "abcd", None]
    digests = [digest_of(value) for value in values]
    assert len(set(digests)) == len(digests)
    assert digest_of("a", "b") != digest_of("ab")
    assert digest_of(Store()) == digest_of("abc")
    assert digest_of(X[:, :2]) == digest_of(X[:, :2].clone())


def test_the_program_of_a_training_is_what_it_runs_through():
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
    from geocbm.models.stage_losses import Stage2Loss

    head = object.__new__(Stage2CrossAttentionGeoHead)
    nn.Module.__init__(head)
    assert code_digest(head, loss) == code_digest(head, loss)
    assert code_digest(head, loss) != code_digest(Wavy(), loss)
    assert code_digest(Wavy(), loss) != code_digest(Wavy(), object.__new__(Stage2Loss))


def test_the_identity_covers_first_weights():
    def identity(model):
        settings, loader = Settings(epochs=2), RowLoader(np.arange(9), lambda rows: {"x": X[rows]})
        groups = parameter_groups(model, settings)
        return training_identity(model, loss, loader, loader, settings, Checkpoint("a.safetensors"), groups, {})

    with seeded(1):
        first = Wavy()
    with seeded(2):
        second = Wavy()
    assert difference(identity(first), identity(first)) is None
    assert difference(identity(first), identity(second)) == "the first weights changed"


@pytest.fixture
def notebook(monkeypatch):
    """Run cells as IPython does: their functions have no file, but a source that `inspect` finds."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    monkeypatch.setitem(sys.modules, shell.user_module.__name__, shell.user_module)
    monkeypatch.delattr(shell.user_module, "__file__", raising=False)

    def run(source):
        shell.run_cell(source).raise_error()
        return shell.user_ns

    yield run
    InteractiveShell.clear_instance()


CELL = """
scale = 1.0
def term(output, target):
    return (output - target).square().mean()
def my_loss(output, batch):
    return {"loss": scale * term(output, batch["y"])}
class MyLoss:
    def __init__(self, weight):
        self.weight = weight
    def __call__(self, output, batch):
        return {"loss": self.weight * term(output, batch["y"])}
"""


@pytest.mark.parametrize(
    "edit",
    [("square()", "abs()"), ("scale = 1.0", "scale = 2.0"), ("scale * term", "scale + term")],
    ids=["a function that it calls", "a number that it reads", "itself"],
)
def test_a_loss_of_a_cell_goes_on_until_it_is_edited(tmp_path, notebook, edit):
    out = interrupted(tmp_path, loss=notebook(CELL)["my_loss"])
    with pytest.raises(Interrupted):
        train(out, loss=notebook("x = 1\n" + CELL.replace("x = 1", ""))["my_loss"], report=interrupt_after(3))
    lines = train(out, loss=notebook(CELL.replace(*edit))["my_loss"])[2]
    assert lines[0] == "starting at epoch 1: stage9.resume.safetensors cannot be continued (the program changed)"


def test_a_loss_object_of_a_cell_counts_with_its_numbers(tmp_path, notebook):
    cells = notebook(CELL)
    out = interrupted(tmp_path, loss=cells["MyLoss"](1.0))
    with pytest.raises(Interrupted):
        train(out, loss=cells["MyLoss"](1.0), report=interrupt_after(3))
    assert "the program changed" in train(out, loss=cells["MyLoss"](2.0))[2][0]
