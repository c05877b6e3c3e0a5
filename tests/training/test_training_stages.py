"""What the three stages hand to the loop: example predictions, a digest of their data, a state to go on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_run import STAGE0, STAGE1, STAGE2, TinyRun

from geocbm.run import encoding, stages
from geocbm.training import loop
from geocbm.training.checkpoints import ResumeFile


@pytest.fixture
def trainers(copied_run: TinyRun) -> dict[str, Callable[..., Any]]:
    """For each stage how it is trained in a run whose earlier stages are there; settings replace the tiny ones."""
    files = copied_run.files

    def stage0(**settings: Any) -> Any:
        content = json.loads(files.path("features.json").read_text())
        encoders = encoding.EncoderConfig(**content["encoders"])
        encoder = encoding.load_image_encoder(encoders.image_encoder)
        vanilla = files.features("vanilla")
        return stages.fit_stage0(files, replace(STAGE0, **settings), encoders, encoder, vanilla)

    def stage1(**settings: Any) -> Any:
        features = files.features("adapted")
        return stages.fit_stage1(files, replace(STAGE1, **settings), features)

    def stage2(**settings: Any) -> Any:
        features = files.features("adapted")
        concepts = stages.predict_concepts(files, features)
        return stages.fit_stage2(files, replace(STAGE2, **settings), concepts, features)

    return {"stage0": stage0, "stage1": stage1, "stage2": stage2}


def example_table(folder: Path) -> pd.DataFrame:
    """The table of examples that wandb keeps offline in the run's folder."""
    (file,) = (folder / "wandb").glob("offline-run-*/files/media/table/examples_*.table.json")
    content = json.loads(file.read_text())
    return pd.DataFrame(content["data"], columns=content["columns"])


@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2"])
def test_a_tracked_stage_shows_examples_of_its_validation_rows(
    trainers: dict[str, Callable[..., Any]], copied_run: TinyRun, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    trainers[stage](tracking="offline")
    shown = example_table(copied_run.folder)
    table, rows = copied_run.files.table, copied_run.files.rows
    split = rows["pretrain_val" if stage == "stage0" else "val"]
    assert shown["pano_id"].tolist() == table["pano_id"].iloc[split].tolist()[: len(shown)] and len(shown) > 3
    assert "note" not in shown
    if stage == "stage1":
        assert shown["truth"].tolist() == table["meta_name"].iloc[split].tolist()
        assert set(shown["prediction"]) <= set(table["meta_name"])
        assert shown["probability"].between(0, 1).all()
    else:
        assert shown["lat"].tolist() == table["lat"].iloc[split].tolist()
        assert (shown["km"] >= 0).all()


@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2"])
def test_a_stage_goes_on_where_it_was_interrupted(
    trainers: dict[str, Callable[..., Any]],
    copied_run: TinyRun,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The identity of a stage is the same when everything is read again: it knows no addresses in memory."""
    expected = trainers[stage](epochs=3)[1]
    monkeypatch.setattr(
        loop.Training, "_ended", lambda self: None
    )  # the training that has just ended would be taken over

    class Killed(Exception):
        pass

    class Kills(ResumeFile):
        def save(self, *arguments: Any) -> None:
            super().save(*arguments)
            if len(arguments[-1].history) == 2:
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "ResumeFile", Kills)
        with pytest.raises(Killed):
            trainers[stage](epochs=3)
    capsys.readouterr()
    got = trainers[stage](epochs=3)[1]
    assert "continuing at epoch 3 of 3" in capsys.readouterr().out
    assert got.history.drop(columns="seconds").equals(expected.history.drop(columns="seconds"))
    assert got.best == expected.best
    assert not list(copied_run.folder.glob("*resume*"))
