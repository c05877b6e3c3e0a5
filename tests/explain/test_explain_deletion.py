"""Deletion and insertion: which patches go, what is left of the answer, gains against controls, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_run import STAGE1, STAGE2

from geocbm import pipeline
from geocbm.errors import ParameterError
from geocbm.explain import faithfulness as deletion
from geocbm.explain.faithfulness import DELETION, INSERTION, PIXELS, RANDOM, TOKENS

if TYPE_CHECKING:
    from tiny_run import TinyRun


def test_kept_patches() -> None:
    order = np.array([[3, 0, 2, 1], [1, 2, 3, 0]])
    assert deletion.kept_patches(order, 1, DELETION).tolist() == [[0, 1, 2], [0, 2, 3]]
    assert deletion.kept_patches(order, 3, INSERTION).tolist() == [[0, 2, 3], [1, 2, 3]]
    with pytest.raises(ParameterError, match="take 1 to 3"):
        deletion.kept_patches(order, 4, DELETION)
    with pytest.raises(ParameterError, match="curve is 'erase'"):
        deletion.kept_patches(order, 1, "erase")


def test_counts_and_samples() -> None:
    assert deletion.patch_counts(144, TOKENS) == (4, 8, 16, 32, 64)
    assert deletion.patch_counts(144, PIXELS) == (8, 16, 32)
    assert deletion.patch_counts(4, TOKENS) == (1, 2)
    rows = np.arange(10, 30)
    some = deletion.sample_rows(rows, 5, 0)
    assert len(some) == 5 and set(some) <= set(rows) and (np.diff(some) > 0).all()
    assert deletion.sample_rows(rows, 50, 0) is rows


def test_gains_of_an_answer_that_is_the_number_of_good_patches(trained_run: TinyRun) -> None:
    files, rows, good = trained_run.files, trained_run.files.rows["train"], 18

    def answer(positions: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        share = (kept < good).sum(axis=1) / good
        return {"head": share, "half as sure": share / 2}

    best = np.arange(36)[::-1].astype(float)  # the good patches first
    maps = {"best": best, "worst": np.tile(-best, (len(rows), 1))}
    both = deletion.measure_removal(files, answer, TOKENS, rows, maps, draws=20, batch_size=7, n_resamples=50)
    found = both["head"]
    assert both["half as sure"].gain("best")["value"] == pytest.approx(found.gain("best")["value"] / 2)
    assert found.counts == (1, 2, 4, 8, 16) and (found.whole == 1).all()
    lost = np.array([1, 2, 4, 8, 16])
    assert found.probability[DELETION]["best"][0] == pytest.approx(1 - lost / good)
    assert found.probability[DELETION]["worst"][0] == pytest.approx(np.ones(5))
    assert found.probability[INSERTION]["best"][0] == pytest.approx(lost / good)
    # At random half of the patches that go are good ones.
    assert found.gain("best")["value"] == pytest.approx((lost / good / 2).mean(), abs=0.02)
    assert found.gain("best", "worst")["value"] == pytest.approx((lost / good).mean())
    assert found.gain("worst")["high"] < 0 < found.gain("best")["low"]
    assert found.gain("best", curve=INSERTION)["value"] == pytest.approx((lost / good / 2).mean(), abs=0.02)
    curves = found.curves()
    assert len(curves) == 2 * 3 * 5 and set(curves["order"]) == {"best", "worst", RANDOM}
    assert curves["share"].max() == pytest.approx(16 / 36)


def test_refusals(trained_run: TinyRun) -> None:
    files, rows = trained_run.files, trained_run.files.rows["test"]

    def answer(positions: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        return {"head": np.ones(len(positions))}

    with pytest.raises(ParameterError, match="way is 'smoke'"):
        deletion.measure_removal(files, answer, "smoke", rows, {"map": np.ones(9)})
    with pytest.raises(ParameterError, match="0 pictures"):
        deletion.measure_removal(files, answer, TOKENS, rows[:0], {"map": np.ones(9)})
    with pytest.raises(ParameterError, match="the map 'map' has the shape"):
        deletion.measure_removal(files, answer, TOKENS, rows, {"map": np.ones((1, 9))})


@pytest.fixture(scope="module")
def parts(trained_run: TinyRun) -> tuple:
    """Stage 1 with the "patch" bottleneck and a head over it; no file of the run is changed."""
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    from geocbm.models.stage1 import predict_stage1

    stage1, _ = pipeline.fit_stage1(files, replace(STAGE1, bottleneck="patch"), features, None, lambda _: None)
    concepts = predict_stage1(stage1, features.read_all("pooled"), tokens=features)
    heads = {
        mode: pipeline.fit_stage2(files, replace(STAGE2, ablation_mode=mode), concepts, features, None, lambda _: None)[
            0
        ]
        for mode in ("both", "concept_scores")
    }
    return files, features, pipeline.load_stage0(files)[1], stage1, heads, concepts


@pytest.mark.parametrize("mode", ["both", "concept_scores"])
def test_with_all_patches_the_answer_is_the_models_own(parts: tuple, mode: str) -> None:
    from geocbm.models.stage2 import cell_logits, concept_input

    files, features, encoder, stage1, heads, concepts = parts
    head, rows = heads[mode], files.rows["test"]
    everything = np.tile(np.arange(encoder.grid[0] * encoder.grid[1]), (len(rows), 1))
    logits = torch.as_tensor(cell_logits(head, concept_input(head.config, concepts), features, rows))
    wanted = logits.softmax(-1).numpy()[np.arange(len(rows)), files.cell_label[rows]]
    by_tokens = deletion.token_answer(files, stage1, heads, features, rows)
    assert by_tokens(np.arange(len(rows)), everything)[mode] == pytest.approx(wanted, abs=1e-4)
    by_pixels = deletion.pixel_answer(files, encoder, stage1, heads, rows)
    # The store keeps half precision.
    assert by_pixels(np.arange(len(rows)), everything)[mode] == pytest.approx(wanted, abs=5e-3)


def test_patches_that_are_gone_are_not_read(parts: tuple) -> None:
    files, features, encoder, stage1, heads, _ = parts
    rows, n_patches = files.rows["test"][:2], encoder.grid[0] * encoder.grid[1]
    kept = np.tile(np.arange(1, n_patches), (2, 1))
    before = deletion.token_answer(files, stage1, heads, features, rows)(np.arange(2), kept)["both"]

    class Spoiled:
        """The same features, with other numbers in the patch that goes."""

        def read(self, kind: str, some: np.ndarray) -> torch.Tensor:
            values = features.read(kind, some)
            if kind == "tokens":
                values[:, 0] = 100.0
            return values

    after = deletion.token_answer(files, stage1, heads, Spoiled(), rows)  # type: ignore[arg-type]
    assert after(np.arange(2), kept)["both"] == pytest.approx(before)
    everything = np.tile(np.arange(n_patches), (2, 1))
    assert after(np.arange(2), everything)["both"] != pytest.approx(before, abs=1e-6)


def test_blurred_patches_change_the_answer(parts: tuple) -> None:
    files, _, encoder, stage1, heads, _ = parts
    rows = files.rows["test"][:3]
    answer = deletion.pixel_answer(files, encoder, stage1, heads, rows)
    one = answer(np.arange(3), np.zeros((3, 1), dtype=int))["both"]
    whole = answer(np.arange(3), np.tile(np.arange(encoder.grid[0] * encoder.grid[1]), (3, 1)))["both"]
    assert ((one >= 0) & (one <= 1)).all() and not np.allclose(one, whole, atol=1e-7)
