"""A training that has ended is not done again, and one that differs in anything that matters is."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
import torch
from test_training_resume import ROWS, Wavy, X, assert_same, loss, train

from geocbm import training
from geocbm.run import adoption, stages
from geocbm.training import identity
from geocbm.training.identity import code_is_known
from geocbm.workbench.execute import forget_trainings
from geocbm.workbench.stages import Stage

TAKEN = "trained before with the same settings, rows and data"


@pytest.fixture
def done(tmp_path: Path) -> tuple[Path, tuple]:
    """A checkpoint and what its training gave."""
    out = tmp_path / "stage9.safetensors"
    return out, train(out, reuse=True)


def all_alike(layer: torch.nn.Linear) -> None:
    """Other first weights than those of torch."""
    for parameter in layer.parameters():
        torch.nn.init.constant_(parameter, 0.1)


def assert_trained_anew(got: tuple) -> None:
    assert got[2][0].startswith("epoch 1/"), got[2][0]


def test_the_same_training_is_taken_over_without_a_step(done, monkeypatch):
    out, first = done
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    monkeypatch.setattr(training.loop.EpochTrainer, "run", lambda self, epoch: pytest.fail("it trained"))
    again = train(out, reuse=True)
    assert again[2] == [f"{TAKEN}: stage9.safetensors is taken over (epoch {first[1].best_epoch} of 6)"]
    assert_same(again, first)
    assert not again[0].training
    assert "seconds" in first[1].history and "seconds" not in again[1].history  # files of one seed are the same
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


def test_a_training_that_was_stopped_early_is_taken_over(tmp_path):
    settings = {"lr": 3.0, "patience": 1, "epochs": 30, "reuse": True}
    first = train(tmp_path / "a.safetensors", **settings)
    assert len(first[1].history) < 30
    again = train(tmp_path / "a.safetensors", **settings)
    assert again[2][0].startswith(TAKEN)
    assert_same(again, first)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 7},
        {"seed": 4},
        {"lr": 0.04},
        {"batch_size": 10},
        {"patience": 3},
        {"warmup": 0.2},
        {"gradient_clip": 0.5},
        {"precision": "no"},
        {"accumulation_steps": 2},
        {"rows": (np.arange(39), ROWS[1])},
        {"rows": (ROWS[0], np.arange(41, 60))},
        {"x": X + 1e-3},
        {"digest": "other"},
        {"metadata": {"config": {"width": 17}}},
        {"metadata": {"config": {"width": 16}, "labels": {"metas": ["a"]}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_matters_causes_a_training(done, change):
    assert_trained_anew(train(done[0], reuse=True, **change))


def test_another_program_or_library_or_first_weights_cause_a_training(done, monkeypatch):
    out, _ = done
    with monkeypatch.context() as patch:
        patch.setattr(identity, "code_digest", lambda model, loss: "another")
        assert_trained_anew(train(out, reuse=True))
    with monkeypatch.context() as patch:
        patch.setattr(identity, "version", lambda name: "0.0")
        assert_trained_anew(train(out, reuse=True))
    train(out, reuse=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "reset_parameters", all_alike)
        assert_trained_anew(train(out, reuse=True))


def test_only_whole_files_are_taken_over(done):
    out, _ = done
    out.write_bytes(out.read_bytes()[:-8])
    assert_trained_anew(train(out, reuse=True))
    history = out.with_name("history_stage9.parquet")
    history.write_bytes(history.read_bytes() + b"x")
    assert_trained_anew(train(out, reuse=True))
    history.unlink()
    assert_trained_anew(train(out, reuse=True))
    content = json.loads(out.with_suffix(".json").read_text())
    del content["training"]
    out.with_suffix(".json").write_text(json.dumps(content))
    assert_trained_anew(train(out, reuse=True))
    assert_trained_anew(train(out))  # nobody asked for it


def test_a_forced_stage_trains_again(done, tmp_path, monkeypatch):
    out, _ = done
    monkeypatch.setattr("geocbm.files.paths.run_folder", lambda run: tmp_path)
    other = tmp_path / "stage9_other.json"
    other.write_text(out.with_suffix(".json").read_text())
    forget_trainings(Stage("09_mine", writes=("stage9.safetensors", "stage9.json")), "mine")
    assert "training" not in json.loads(other.read_text())
    assert_trained_anew(train(out, reuse=True))


def test_settings_that_train_nothing_are_written_anew_without_a_training(done):
    out, first = done
    shown = {"config": {"width": 16, "refine_cells": 3, "semantic_threshold": 0.5}}
    again = train(out, reuse=True, metadata=shown)
    assert again[2][0].startswith(TAKEN)
    assert_same(again, first)
    assert json.loads(out.with_suffix(".json").read_text())["config"] == shown["config"]


def test_a_loss_without_a_file_is_never_taken_over(tmp_path):
    """As one written in a cell of a notebook, which no digest of files can tell from another."""
    cell = ModuleType("__main__")
    source = "def loss(output, batch):\n    return {'loss': scale * (output - batch['y']).square().mean()}"
    for scale in (1.0, 2.0):
        cell.__dict__.update(scale=scale)
        exec(source, cell.__dict__)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "__main__", cell)
            patch.setattr(cell.loss, "__module__", "__main__")
            assert_trained_anew(train(tmp_path / "a.safetensors", loss=cell.loss, reuse=True))
        assert "training" not in json.loads((tmp_path / "a.json").read_text())


def test_a_program_that_was_edited_since_the_process_began_is_not_trusted(done, monkeypatch):
    out, _ = done
    assert code_is_known(Wavy(), loss)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() - 10 * 365 * 86400)
    assert not code_is_known(Wavy(), loss)
    assert_trained_anew(train(out, reuse=True))
    assert "training" not in json.loads(out.with_suffix(".json").read_text())


def test_stages_of_a_run_are_trained_once(copied_run):
    from tiny_run import STAGE1, STAGE2

    files = copied_run.files
    features = files.features("adapted")
    concepts = stages.predict_concepts(files, features)
    lines: list[str] = []

    def stage1(**changes):
        stages.fit_stage1(files, replace(STAGE1, **changes), features, report=lines.append)
        return lines[-1]

    def stage2(**changes):
        stages.fit_stage2(files, replace(STAGE2, **changes), concepts, features, report=lines.append)
        return lines[-1]

    assert stage1().startswith(TAKEN) and stage2().startswith(TAKEN)
    assert stage1(lr=0.5).startswith("epoch 1/1") and stage2(heads=4).startswith("epoch 1/1")
    # How an answer is read off is no training, and the checkpoint says what is set now.
    assert stage2(heads=4, refine_cells=1).startswith(TAKEN)
    assert stages.load_stage2(files).config.refine_cells == 1


def test_the_linear_part_of_a_hybrid_is_trained_once(copied_run, monkeypatch):
    from tiny_run import STAGE2

    from geocbm.workbench.explorers.training_step import TrainingStep

    files, config = copied_run.files, replace(STAGE2, ablation_mode="hybrid", score_epochs=2)
    features = files.features("adapted")
    concepts = stages.predict_concepts(files, features)
    unkept = stages.prepare_stage2(files, config, concepts, features, None, lambda _: None).model
    stages.fit_stage2(files, config, concepts, features, report=lambda _: None)
    monkeypatch.setattr(training.loop.EpochTrainer, "run", lambda self, epoch, told: pytest.fail("it trained"))
    again = stages.prepare_stage2(files, config, concepts, features, report=lambda _: None).model
    explored = TrainingStep(files, "stage2").prepared.model
    for name in ("cell_head", "offset_head"):
        for part, value in getattr(unkept, name).state_dict().items():
            assert torch.equal(getattr(again, name).state_dict()[part], value)
            assert torch.equal(getattr(explored, name).state_dict()[part], value)
    adoption.remove_leftovers(files, "stage2", [])
    with pytest.raises(pytest.fail.Exception, match="it trained"):  # with other settings it is another one
        stages.prepare_stage2(files, replace(config, score_lr=0.5), concepts, features, report=lambda _: None)
    stages.prepare_stage2(files, config, concepts, features, report=lambda _: None)
