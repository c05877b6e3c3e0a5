"""What a training tells a tracker, where wandb keeps its files, and what happens without a key."""

import json
import os
import struct
import time
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.tracking import GeneralTracker
from torch import nn
from wandb.proto import wandb_internal_pb2

from geocbm.errors import ParameterError, UserError
from geocbm.training import Checkpoint, RowLoader, TrainingSettings, fit, seeded, tracking
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
    if tracker is None:
        return fit(model, halves, *loaders, Settings(**settings), checkpoint, say)

    def start(accelerator, mode, out, config, report):
        tracker.store_init_configuration(dict(config))
        accelerator.trackers = [tracker]

    with patch.object(tracking, "_start_wandb", start):
        return fit(model, halves, *loaders, Settings(tracking="offline", **settings), checkpoint, say)


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


def test_a_diverged_training_closes_its_tracker(tmp_path):
    spoilt, recorder = X.clone(), Recorder()
    spoilt[3] = torch.inf
    with pytest.raises(UserError, match="row 3"):
        train(tmp_path / "a.safetensors", x=spoilt, tracker=recorder)
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


def recorded(folder):
    """Epochs that each run of wandb below a folder was told, in the order in which they were started."""
    settle(folder)
    runs = []
    for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda each: each.stat().st_mtime):
        content, place, epochs = file.read_bytes(), 7, []
        while place < len(content):  # records of LevelDB's log: checksum, length, kind; all of them fit into one block
            _, length, kind = struct.unpack("<IHB", content[place : place + 7])
            assert kind == 1
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content[place + 7 : place + 7 + length])
            place += 7 + length
            items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            epochs += [int(float(items["epoch"]))] if items else []
        runs.append(epochs)
    return runs


def settle(folder):
    """Wait for the client's own process, which writes a moment after it was told to finish."""
    files = lambda: [file.read_bytes() for file in (folder / "wandb").glob("offline-run-*/run-*.wandb")]  # noqa: E731
    before, calm = files(), 0
    while calm < 10:
        time.sleep(0.05)
        calm, before = (calm + 1 if files() == before else 0), files()


def test_an_interrupted_training_goes_on_as_a_run_of_all_epochs(tmp_path, no_key):
    out = tmp_path / "r" / "a.safetensors"

    class Stop(list):
        def append(self, line):  # said after the state is saved and before the row is sent
            if line.startswith("epoch 2/"):
                raise Stopped

    with pytest.raises(Stopped):
        train(out, tracking="offline", lines=Stop())
    assert recorded(tmp_path / "r") == [[1]]
    train(out, tracking="offline")
    assert recorded(tmp_path / "r") == [[1], [1, 2, 3]]


def test_a_training_that_is_taken_over_is_told_once(tmp_path, no_key):
    out = tmp_path / "r" / "a.safetensors"
    train(out, reuse=True)
    lines = []
    train(out, tracking="offline", reuse=True, lines=lines)  # not told before
    train(out, tracking="offline", reuse=True, lines=lines)
    assert [line.partition(" with")[0] for line in lines] == ["trained before"] * 2
    assert recorded(tmp_path / "r") == [[1, 2, 3]]
    train(out, tracking="offline")
    assert recorded(tmp_path / "r") == [[1, 2, 3]] * 2


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
    with pytest.raises(ParameterError, match="tracking='offline' keeps its files beside the checkpoint; give out="):
        train(tracking="offline")


def test_learning_rates_are_named_after_their_groups():
    groups = [{"name": "encoder", "lr": 3.0}, {"name": "encoder", "lr": 3.0}, {"name": "", "lr": 1.0}, {"lr": 1.0}]
    assert learning_rates(groups) == {"lr": 1.0, "lr_encoder": 3.0}
    assert learning_rates([{"lr": 2.0}]) == {"lr": 2.0}
    assert learning_rates(groups[:2]) == {"lr": 3.0, "lr_encoder": 3.0}
