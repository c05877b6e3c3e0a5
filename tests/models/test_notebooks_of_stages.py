"""Notebooks 03 to 05 on a tiny run: every formula holds there, and what is one's own is trained."""

from __future__ import annotations

import math

import pytest
import torch
from notebook_cells import run_notebook

from geocbm.files import read_json


@pytest.fixture
def own_run(trained_run, tmp_path, monkeypatch):
    copy = trained_run.copy(tmp_path / "data" / "runs")
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GEOCBM_REPORTS", str(tmp_path / "reports"))
    return copy


@pytest.fixture
def stage0(own_run, folders):
    settings = {"image_encoder": str(folders("clip")), "unfreeze_layers": 1, "epochs": 1, "batch_size": 16}
    settings["options"] = {"encoder_lr": 0.01}  # so that three steps move the features
    return run_notebook("03_stage0_pretraining", run=own_run.folder.name, bootstrap=10, own_loss=True, **settings)


def test_an_own_loss_trains_beside_that_of_the_package_and_writes_nothing(stage0):
    assert stage0["mine"].best_epoch == 1 and set(stage0["mine"].best) == set(stage0["result"].best)
    assert stage0["own"].model is not stage0["model"] and stage0["fresh"] is not stage0["encoder"]
    described = read_json(stage0["files"].path("stage0.json"))
    assert described["config"]["epochs"] == stage0["config"].epochs


def test_the_own_loss_is_the_sigmoid_of_each_pair(stage0):
    batch, model = {name: value.to("cpu") for name, value in stage0["batch"].items()}, stage0["own"].model.cpu()
    with torch.no_grad():
        output = model(batch["hidden"], batch["gps"])
        terms, before = stage0["my_loss"](output, batch), stage0["stage"].loss(output, batch)
    cosine = torch.nn.functional.cosine_similarity(output.pooled[:, None], output.gps[None], dim=-1)
    probability = torch.sigmoid(10 * cosine - 10)
    diagonal = torch.eye(len(cosine), dtype=torch.bool)
    expected = -torch.where(diagonal, probability, 1 - probability).log().sum() / len(cosine)
    torch.testing.assert_close(terms["gps"], expected)
    torch.testing.assert_close(terms["loss"] - before["loss"], expected - before["gps"], rtol=1e-4, atol=1e-4)


def test_a_loss_of_ones_own_trains_the_same_stage1(own_run):
    written, name = (own_run.folder / "stage1.safetensors").stat().st_mtime_ns, own_run.folder.name
    names = run_notebook("04_stage1_concepts", run=name, epochs=2, own_loss=True, examples=1, bootstrap=10)
    history = names["own_result"].history
    assert len(history) == 2 and {"train_loss", "val_loss", "val_meta", "val_meta_top1"} <= set(history)
    expected = 20 * history["val_meta"].iloc[-1] + 0.5 * history["val_parent"].iloc[-1]
    assert math.isclose(history["val_loss"].iloc[-1], expected, rel_tol=1e-4)
    assert (own_run.folder / "stage1.safetensors").stat().st_mtime_ns > written  # by the run itself, once
    assert set(names["accuracy"]) == {"this run", "own loss"}


def test_an_attention_of_ones_own_trains_in_the_head(own_run):
    options = {"epochs": 1, "variants": [], "own_attention": True, "examples": 1, "bootstrap": 10}
    names = run_notebook("05_stage2_geolocation", run=own_run.folder.name, **options)
    assert type(names["mine"].model.attention).__name__ == "CosineAttention"
    assert len(names["own_result"].history) == 1
    assert set(names["median"]) == {"the package's attention", "own attention"}
    attended = names["mine"].model.eval()(names["batch"]["concept_emb"], names["batch"]["patch_tokens"])
    assert attended.attention.shape[1] == 1
