"""Notebook 04 on a tiny run: formulas equal to the package, and a loss of one's own."""

from __future__ import annotations

import math

from notebook_cells import run_notebook


def test_a_loss_of_ones_own_trains_the_same_model(trained_run, tmp_path, monkeypatch):
    copy = trained_run.copy(tmp_path / "data" / "runs")
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GEOCBM_REPORTS", str(tmp_path / "reports"))
    written = (copy.folder / "stage1.safetensors").stat().st_mtime_ns
    names = run_notebook("04_stage1_concepts", run=copy.folder.name, epochs=2, own_loss=True, examples=1, bootstrap=10)
    history = names["own_result"].history
    assert len(history) == 2 and {"train_loss", "val_loss", "val_meta", "val_meta_top1"} <= set(history)
    assert math.isclose(
        history["val_loss"].iloc[-1],
        20 * history["val_meta"].iloc[-1] + 0.5 * history["val_parent"].iloc[-1],
        rel_tol=1e-4,
    )
    assert (copy.folder / "stage1.safetensors").stat().st_mtime_ns > written  # by the run itself, once
    assert set(names["accuracy"]) == {"this run", "own loss"}
