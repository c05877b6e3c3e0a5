"""Notebook 05 on a tiny run: formulas equal to the package, and an attention of one's own."""

from __future__ import annotations

from notebook_cells import run_notebook


def test_an_attention_of_ones_own_trains_in_the_head(trained_run, tmp_path, monkeypatch):
    copy = trained_run.copy(tmp_path / "data" / "runs")
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GEOCBM_REPORTS", str(tmp_path / "reports"))
    names = run_notebook(
        "05_stage2_geolocation",
        run=copy.folder.name,
        epochs=1,
        variants=[],
        own_attention=True,
        examples=1,
        bootstrap=10,
    )
    assert type(names["mine"].model.attention).__name__ == "CosineAttention"
    assert len(names["own_result"].history) == 1 and set(names["median"]) == {
        "the package's attention",
        "own attention",
    }
    attended = names["mine"].model.eval()(names["batch"]["concept_emb"], names["batch"]["patch_tokens"])
    assert attended.attention.shape[1] == 1
