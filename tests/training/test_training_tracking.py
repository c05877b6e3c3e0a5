"""What a training tells a tracker, where wandb keeps its files, and what happens without a key."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.tracking import GeneralTracker
from torch import nn
from wandb.proto import wandb_internal_pb2

from geocbm.errors import ParameterError, UserError
from geocbm.training import Checkpoint, RowLoader, TrainingSettings, fit, loop, seeded, tracking
from geocbm.training.epoch import learning_rates
from geocbm.training.tracking import has_key, spoken, tracking_mode

X = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))


class Recorder(GeneralTracker):
    """A tracker that remembers what it is told."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.config, self.logged, self.tables, self.summary, self.finished = {}, [], {}, {}, 0

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config |= values

    def log(self, values, step=None, **_):
        self.logged.append((step, values))

    def log_table(self, name, columns=None, data=None, dataframe=None, **_):
        self.tables[name] = dataframe

    def finish(self):
        self.finished += 1


class Parted(nn.Module):
    """Two parts, of which the encoder has a learning rate of its own."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


@dataclass(frozen=True)
class Settings(TrainingSettings):
    batch_size: int = 8
    epochs: int = 3
    lr: float = 0.02

    @property
    def lr_by_prefix(self):
        return {"encoder.": 0.005}


def halves(output, batch):
    loss = output.square().mean()
    return {"loss": loss, "half": loss / 2}


def train(
    out=None, x=X, lines=None, measure=lambda predictions: {"score": 2.0}, examples=None, tracker=None, **settings
):
    with seeded(0):
        model = Parted()
    model.measure = measure
    if examples is not None:
        model.examples = lambda output, batch, labels: examples()
    kept = {name: settings.pop(name) for name in ("reuse",) if name in settings}
    loaders = (RowLoader(rows, lambda chosen: {"x": x[chosen]}) for rows in (np.arange(20), np.arange(20, 30)))
    checkpoint = None if out is None else Checkpoint(out, {"config": {"width": 4}, "stage": 9}, **kept)
    say = (lines if lines is not None else []).append
    return fit(model, halves, *loaders, Settings(**settings), checkpoint, tracker, say)


def frame():
    return {"truth": ["x"] * 10, "prediction": ["y"] * 10, "probability": [0.5] * 10}


def test_a_tracker_hears_losses_metrics_learning_rates_settings_examples_and_the_best(tmp_path):
    recorder = Recorder()
    result = train(tmp_path / "a.safetensors", tracker=recorder, examples=frame)
    assert recorder.config == {"width": 4}
    assert [step for step, _ in recorder.logged] == [1, 2, 3]
    row, logged = result.history.iloc[1], recorder.logged[1][1]
    assert logged["train/loss"] == row["train_loss"] and logged["val/half"] == row["val_half"]
    assert logged["val/score"] == 2.0
    assert logged["lr"] == row["lr"] and logged["lr/encoder"] == pytest.approx(row["lr"] / 4)
    shown = recorder.tables["examples"]
    assert shown["pano_id"].tolist() == [f"row {row}" for row in range(20, 30)]
    assert shown.drop(columns="pano_id").equals(pd.DataFrame(frame()))
    assert recorder.summary["best/loss"] == result.best_metric
    assert recorder.summary["best/epoch"] == result.best_epoch and recorder.summary["best/score"] == 2.0
    assert recorder.finished == 1


def test_history_has_all_that_a_tracker_hears(tmp_path):
    recorder = Recorder()
    train(tmp_path / "stage9.safetensors", tracker=recorder)
    history = pd.read_parquet(tmp_path / "history_stage9.parquet")
    assert {"lr", "lr_encoder", "val_score", "train_half"} <= set(history)
    for (_, logged), row in zip(recorder.logged, history.to_dict("records"), strict=True):
        assert {name: value for name, value in logged.items() if name != "seconds"} == spoken(row)


def test_without_tracking_nobody_asks_for_examples():
    def unwanted():
        raise AssertionError("examples cost a pass of the model")

    train(examples=unwanted)


def test_a_tracker_hears_the_first_epochs_again_when_a_training_goes_on(tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(line):
        if line.startswith("epoch 2/"):
            raise Interrupted

    class Stop(list):
        append = staticmethod(interrupt)

    first, second = Recorder(), Recorder()
    with pytest.raises(Interrupted):
        train(tmp_path / "a.safetensors", tracker=first, lines=Stop())
    assert first.finished == 1  # closed however the training ends
    train(tmp_path / "a.safetensors", tracker=second)
    assert [step for step, _ in second.logged] == [1, 2, 3]
    assert second.logged[0] == first.logged[0]


def test_a_diverged_training_closes_its_tracker():
    spoilt, recorder = X.clone(), Recorder()
    spoilt[3] = torch.inf
    with pytest.raises(UserError, match="row 3"):
        train(x=spoilt, tracker=recorder)
    assert recorder.finished == 1 and not recorder.tables


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    """A user without a key; returns the netrc file that may hold one."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    return file


def test_offline_writes_below_the_run_and_says_nothing(tmp_path, no_key, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, lines = tmp_path / "my-run" / "stage9.safetensors", []
    train(out, tracking="offline", examples=frame, lines=lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my-run"]
    (run,) = (tmp_path / "my-run" / "wandb").glob("offline-run-*")
    (recorded,) = run.glob("run-*.wandb")
    for _ in range(200):  # the client's own process writes, a moment after it was told to finish
        if b"best/loss" in (content := recorded.read_bytes()):
            break
        time.sleep(0.05)
    for text in (b"train/half", b"lr/encoder", b"val/score", b"best/loss", b"my-run stage9", b"stage9"):
        assert text in content, text
    (table,) = run.rglob("*.table.json")
    assert json.loads(table.read_text())["data"][0] == ["row 20", "x", "y", 0.5]
    assert len(lines) == 3
    said = capfd.readouterr()
    assert said.out == "" and said.err == ""
    assert "WANDB_DATA_DIR" not in os.environ


class Stopped(Exception):
    pass


def stop_in_epoch(number, stop=None):
    """Interrupt the validation of an epoch, or of the first weights for 0, so that its row is never made."""
    seen = iter(range(100))

    def measure(predictions):
        if next(seen) == number:
            if stop is None:
                raise Stopped
            stop()
        return {"score": 2.0}

    return measure


def recorded(folder):
    """Epochs and steps of each wandb run below a folder, over all its starts in the order of their names."""
    settle(folder)
    runs = {}
    for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        steps = runs.setdefault(file.stem.removeprefix("run-"), [])
        for content in tracking._records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if items:
                steps.append((record.history.step.num, int(float(items["epoch"]))))
    return runs


def settle(folder):
    """Wait for the client's own process, which writes a moment after it was told to finish."""
    files = lambda: [file.read_bytes() for file in (folder / "wandb").glob("offline-run-*/run-*.wandb")]  # noqa: E731
    before, calm = files(), 0
    while calm < 10:
        time.sleep(0.05)
        calm, before = (calm + 1 if files() == before else 0), files()


def test_an_interrupted_training_goes_on_as_the_same_run_with_each_epoch_once(tmp_path, no_key):
    """Interrupted in epoch 3, and again in epoch 5: three starts, one run."""
    out = tmp_path / "r" / "a.safetensors"
    with pytest.raises(Stopped):
        train(out, tracking="offline", epochs=6, measure=stop_in_epoch(3))
    with pytest.raises(Stopped):  # the first weights are not validated again: epoch 3 is the first call
        train(out, tracking="offline", epochs=6, measure=stop_in_epoch(2))
    train(out, tracking="offline", epochs=6)
    assert len(list((tmp_path / "r" / "wandb").glob("offline-run-*"))) == 3
    assert list(recorded(tmp_path / "r").values()) == [[(epoch, epoch) for epoch in range(1, 7)]]


def test_an_epoch_that_was_sent_but_not_saved_is_not_sent_again(tmp_path, no_key, monkeypatch):
    """The last epoch is sent without a state of its own; an interruption before the checkpoint repeats it."""
    out = tmp_path / "r" / "a.safetensors"

    def fail(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", fail)
        with pytest.raises(Stopped):
            train(out, tracking="offline")
    lines = []
    train(out, tracking="offline", lines=lines)
    assert lines[0] == "continuing at epoch 3 of 3"
    assert list(recorded(tmp_path / "r").values()) == [[(1, 1), (2, 2), (3, 3)]]


def test_an_epoch_that_was_saved_but_not_sent_is_sent(tmp_path, no_key):
    out = tmp_path / "r" / "a.safetensors"

    class Stop(list):
        def append(self, line):  # said after the state is saved and before the row is sent
            if line.startswith("epoch 2/"):
                raise Stopped

    with pytest.raises(Stopped):
        train(out, tracking="offline", lines=Stop())
    assert list(recorded(tmp_path / "r").values()) == [[(1, 1)]]
    train(out, tracking="offline")
    assert list(recorded(tmp_path / "r").values()) == [[(1, 1), (2, 2), (3, 3)]]


def test_a_training_that_has_ended_is_not_continued(tmp_path, no_key):
    out, whole = tmp_path / "r" / "a.safetensors", [(1, 1), (2, 2), (3, 3)]
    train(out, tracking="offline", reuse=True)
    lines = []
    train(out, tracking="offline", reuse=True, lines=lines)
    assert lines[0].startswith("trained before")
    assert list(recorded(tmp_path / "r").values()) == [whole]
    train(out, tracking="offline")
    assert list(recorded(tmp_path / "r").values()) == [whole, whole]
    train(out, tracking="offline", epochs=2)  # another training
    assert sorted(map(len, recorded(tmp_path / "r").values())) == [2, 3, 3]


def test_a_killed_training_goes_on_as_the_same_run(tmp_path, no_key):
    code = (
        "import os, signal, sys; import test_training_tracking as t; "
        "t.train(sys.argv[1], tracking='offline', epochs=4,"
        " measure=t.stop_in_epoch(3, lambda: os.kill(os.getpid(), signal.SIGKILL)))"
    )
    out = tmp_path / "r" / "a.safetensors"
    # A process of its own has a client of its own, as a kernel has.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    # `-c` finds modules in the working folder; the package is where this process found it.
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    killed = subprocess.run(
        [sys.executable, "-c", code, str(out)], capture_output=True, env=environment, cwd=Path(__file__).parent
    )
    assert killed.returncode == -signal.SIGKILL
    train(out, tracking="offline", epochs=4)
    assert list(recorded(tmp_path / "r").values()) == [[(epoch, epoch) for epoch in range(1, 5)]]


def test_files_that_an_interruption_cut_are_read_up_to_there(tmp_path, no_key):
    train(tmp_path / "r" / "a.safetensors", tracking="offline", epochs=40, patience=40)
    (file,) = (tmp_path / "r" / "wandb").glob("offline-run-*/run-*.wandb")
    settle(tmp_path / "r")
    content = file.read_bytes()
    run = file.stem.removeprefix("run-")
    assert tracking.written_epochs(tmp_path / "r" / "wandb", run) == list(range(1, 41))
    assert len(content) > 32768  # several blocks of the format
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        epochs = tracking.written_epochs(tmp_path / "r" / "wandb", run)
        assert epochs == list(range(1, len(epochs) + 1))
    file.write_bytes(b"no such format" * 100)
    assert tracking.written_epochs(tmp_path / "r" / "wandb", run) == []


def test_online_without_a_key_goes_on_offline(tmp_path, no_key):
    lines = []
    train(tmp_path / "r" / "a.safetensors", tracking="online", lines=lines, epochs=1)
    assert lines[0].startswith("tracking offline: there is no key") and lines[1].startswith("epoch 1/1")
    assert list((tmp_path / "r" / "wandb").glob("offline-run-*"))


def test_online_goes_on_offline_when_nobody_answers(tmp_path, no_key, monkeypatch):
    import wandb

    modes, begin = [], wandb.init

    def init(**arguments):
        modes.append(arguments["mode"])
        if arguments["mode"] == "online":
            raise wandb.errors.CommError("no route to host\nand more")
        return begin(**arguments)

    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    monkeypatch.setattr(wandb, "init", init)
    lines = []
    train(tmp_path / "r" / "a.safetensors", tracking="online", lines=lines, epochs=1)
    assert modes == ["online", "offline"]
    assert lines[0] == "tracking offline: Weights & Biases did not answer (no route to host)"


def test_a_key_is_found_in_the_environment_or_in_netrc(no_key, monkeypatch):
    assert not has_key()
    no_key.write_text("machine elsewhere.example login user password word\n")
    assert not has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example")
    assert has_key()
    no_key.write_text("this is no netrc file")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "something")
    assert has_key()


def test_modes_are_checked_and_never_more_public_than_asked(no_key):
    said = []
    assert [tracking_mode(mode, said.append) for mode in ("disabled", "offline", "online")] == [
        "disabled",
        "offline",
        "offline",
    ]
    assert len(said) == 1
    with pytest.raises(ParameterError, match="tracking='loud' is unknown"):
        tracking_mode("loud", said.append)
    with pytest.raises(ParameterError, match="tracking='offline' keeps its files beside the checkpoint; give out="):
        train(tracking="offline")


def test_learning_rates_are_named_after_their_groups():
    groups = [{"name": "encoder", "lr": 3.0}, {"name": "encoder", "lr": 3.0}, {"name": "", "lr": 1.0}, {"lr": 1.0}]
    assert learning_rates(groups) == {"lr": 1.0, "lr_encoder": 3.0}
    assert learning_rates([{"lr": 2.0}]) == {"lr": 2.0}
    assert learning_rates(groups[:2]) == {"lr": 3.0, "lr_encoder": 3.0}
