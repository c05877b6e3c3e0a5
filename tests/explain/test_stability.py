"""Stability over seeds: rank correlation by hand, the yardstick of different pictures, training again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from geocbm.errors import ParameterError
from geocbm.explain import stability
from geocbm.explain.maps import MapModel
from geocbm.explain.stability import CONCEPTS, MAPS, SeedExplanation, rank_correlation
from geocbm.metrics import entries_of

if TYPE_CHECKING:
    from tiny_run import TinyRun


def test_rank_correlation() -> None:
    one = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 5]])
    other = np.array([[10.0, 20, 30, 400], [4, 3, 2, 1], [1, 1, 2, 2], [1, 2, 3, 4]])
    # With ties at their mean ranks: covariance 4, over sqrt(5 * 4).
    assert rank_correlation(one, other) == pytest.approx([1, -1, 4 / np.sqrt(20), np.nan], nan_ok=True)


def test_same_and_different_pictures(trained_run: TinyRun) -> None:
    files = trained_run.files
    rows = files.rows["train"][:12]
    generator = np.random.default_rng(0)
    scores, maps = generator.random((12, 40)), generator.random((12, 50))
    scores[np.arange(12), np.arange(12) // 4] = 2  # three concepts are named, four times each
    flat = np.full((12, 50), 0.02)
    measured = stability.measure_stability(files, rows, [SeedExplanation(scores, maps, flat)] * 2, n_resamples=50)
    assert measured["explanation"].tolist() == [CONCEPTS, MAPS]  # constant attention is no explanation
    assert measured["same"].tolist() == pytest.approx([1, 1])
    assert measured["different"].abs().max() < 0.15
    assert entries_of(measured, "explanation", "same")[MAPS] == pytest.approx({"value": 1, "low": 1, "high": 1})
    assert entries_of(None, "explanation", "same") == {}
    records = stability.stability_metrics(measured)
    assert set(records) == {
        "stability_concepts", "stability_concepts_between", "stability_map", "stability_map_between"
    }  # fmt: skip
    assert stability.stability_metrics(None) == {}


def test_a_picture_whose_concept_no_other_has_is_not_compared_with_itself(trained_run: TinyRun) -> None:
    files = trained_run.files
    rows = files.rows["train"][:3]
    generator = np.random.default_rng(0)
    scores, maps = np.eye(3)[[0, 0, 1]], generator.random((3, 50))
    measured = stability.measure_stability(files, rows, [SeedExplanation(scores, maps, maps)] * 2, n_resamples=50)
    own = measured.set_index("explanation").loc[MAPS]
    # Only the first two are compared with each other.
    assert own["different"] == pytest.approx(rank_correlation(maps[:1], maps[1:2])[0])


def test_training_again(trained_run: TinyRun, map_model: MapModel, capsys: pytest.CaptureFixture[str]) -> None:
    files, model = trained_run.files, map_model
    before = sorted(path.name for path in trained_run.folder.iterdir())
    rows = files.rows["test"]
    one, two = stability.explain_seeds(model, rows, [0, 1])
    n_patches = model.n_patches
    assert one.scores.shape == (len(rows), 6) and one.maps.shape == one.attention.shape == (len(rows), n_patches)
    measured = stability.measure_stability(files, rows, [one, two], n_resamples=20)
    assert len(measured) == 3 and measured[["same", "different"]].abs().le(1).all(axis=None)
    assert not np.allclose(one.scores, two.scores) and capsys.readouterr().out.count("trained and explained") == 2
    assert sorted(path.name for path in trained_run.folder.iterdir()) == before
    for seeds in ([0], [1, 1]):
        with pytest.raises(ParameterError, match="at least two different seeds"):
            stability.explain_seeds(model, rows, seeds)
