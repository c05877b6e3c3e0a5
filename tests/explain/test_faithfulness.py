"""Deletion and insertion: which patches go, what is left of the answer, gains against controls, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_run import STAGE1, STAGE2

from geocbm.errors import ParameterError
from geocbm.explain import faithfulness
from geocbm.explain.faithfulness import (
    ATTENTION,
    CONCEPTS,
    DELETION,
    INSERTION,
    LINEAR,
    MAIN,
    MIDDLE,
    PIXELS,
    RANDOM,
    TOKENS,
    DeletionInsertion,
)
from geocbm.explain.interventions import InterventionModel
from geocbm.explain.maps import MapModel, centre_map, named_map
from geocbm.metrics import Resamples
from geocbm.run import encoding, stages

if TYPE_CHECKING:
    from tiny_run import TinyRun


def test_counts() -> None:
    assert faithfulness.patch_counts(144, TOKENS) == (4, 8, 16, 32, 64)
    assert faithfulness.patch_counts(144, PIXELS) == (8, 16, 32)
    assert faithfulness.patch_counts(4, TOKENS) == (1, 2)


def test_gains_of_an_answer_that_is_the_number_of_good_patches() -> None:
    rows, good = np.arange(720), 18

    def answer(positions: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        share = (kept < good).sum(axis=1) / good
        return {"head": share, "half as sure": share / 2}

    best = np.arange(36)[::-1].astype(float)  # the good patches first
    maps = {"best": best, "worst": np.tile(-best, (len(rows), 1))}
    both = faithfulness.deletion_insertion(answer, TOKENS, rows // 2, maps, n_resamples=50)
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


def test_refusals() -> None:
    rows = np.arange(4)

    def answer(positions: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        return {"head": np.ones(len(positions))}

    with pytest.raises(ParameterError, match="0 pictures"):
        faithfulness.deletion_insertion(answer, TOKENS, rows[:0], {"map": np.ones(9)})
    with pytest.raises(ParameterError, match="the map 'map' has the shape"):
        faithfulness.deletion_insertion(answer, TOKENS, rows, {"map": np.ones((1, 9))})


@pytest.fixture(scope="module")
def parts(trained_run: TinyRun) -> tuple:
    """Stage 1 with the "patch" bottleneck and a head over it; no file of the run is changed."""
    files = trained_run.files
    features = files.features("adapted")
    from geocbm.models.stage1 import predict_stage1

    stage1, _ = stages.fit_stage1(files, replace(STAGE1, bottleneck="patch"), features, None, lambda _: None)
    concepts = predict_stage1(stage1, features.read_all("pooled"), tokens=features)
    heads = {
        mode: stages.fit_stage2(files, replace(STAGE2, ablation_mode=mode), concepts, features, None, lambda _: None)[0]
        for mode in ("both", "concept_scores")
    }
    return MapModel(files, encoding.load_stage0(files)[1], features, stage1, heads), concepts


@pytest.mark.parametrize("mode", ["both", "concept_scores"])
def test_with_all_patches_the_answer_is_the_models_own(parts: tuple, mode: str) -> None:
    from geocbm.models.stage2_inference import concept_input, undecoded

    model, concepts = parts
    head, rows = model.heads[mode], model.run.rows["test"]
    everything = np.tile(np.arange(model.n_patches), (len(rows), 1))
    logits = torch.as_tensor(undecoded(head, concept_input(head.config, concepts), model.features, rows)[0])
    wanted = logits.softmax(-1).numpy()[np.arange(len(rows)), model.run.cell_label[rows]]
    by_tokens = faithfulness.token_answer(model, rows)
    assert by_tokens(np.arange(len(rows)), everything)[mode] == pytest.approx(wanted, abs=1e-4)
    by_pixels = faithfulness.pixel_answer(model, rows)
    # The store keeps half precision.
    assert by_pixels(np.arange(len(rows)), everything)[mode] == pytest.approx(wanted, abs=5e-3)


def test_patches_that_are_gone_are_not_read(parts: tuple) -> None:
    model, _ = parts
    rows, n_patches = model.run.rows["test"][:2], model.n_patches
    kept = np.tile(np.arange(1, n_patches), (2, 1))
    before = faithfulness.token_answer(model, rows)(np.arange(2), kept)["both"]

    class Spoiled:
        """The same features, with other numbers in the patch that goes."""

        def read(self, kind: str, some: np.ndarray) -> torch.Tensor:
            values = model.features.read(kind, some)
            if kind == "tokens":
                values[:, 0] = 100.0
            return values

    after = faithfulness.token_answer(replace(model, features=Spoiled()), rows)  # type: ignore[arg-type]
    assert after(np.arange(2), kept)["both"] == pytest.approx(before)
    everything = np.tile(np.arange(n_patches), (2, 1))
    assert after(np.arange(2), everything)["both"] != pytest.approx(before, abs=1e-6)


def test_blurred_patches_change_the_answer(parts: tuple) -> None:
    model, _ = parts
    answer = faithfulness.pixel_answer(model, model.run.rows["test"][:3])
    one = answer(np.arange(3), np.zeros((3, 1), dtype=int))["both"]
    whole = answer(np.arange(3), np.tile(np.arange(model.n_patches), (3, 1)))["both"]
    assert ((one >= 0) & (one <= 1)).all() and not np.allclose(one, whole, atol=1e-7)


@pytest.fixture(scope="module")
def removed(trained_run: TinyRun, map_model: MapModel, concepts: dict, linear: InterventionModel) -> dict:
    files = trained_run.files
    model = replace(map_model, heads={LINEAR: linear.head, MAIN: stages.load_stage2(files)})
    test = files.rows["test"]
    maps = {
        CONCEPTS: named_map(model, concepts["meta_probabilities"].numpy(), test),
        ATTENTION: np.random.default_rng(0).random((len(test), model.n_patches)),
        MIDDLE: centre_map(model.encoder.grid),
    }
    return faithfulness.measure_faithfulness(model, test, maps, pictures=3, n_resamples=20)


def test_a_run_whose_bottleneck_reads_no_tokens_loses_only_pixels(removed: dict, trained_run: TinyRun) -> None:
    # The "mlp" bottleneck reads pooled features: no token can be taken from the linear CBM.
    assert set(removed) == {(LINEAR, PIXELS), (MAIN, TOKENS), (MAIN, PIXELS)}
    assert len(removed[MAIN, TOKENS].whole) == len(trained_run.files.rows["test"])
    assert len(removed[LINEAR, PIXELS].whole) == 3


def test_metrics_of_removals(removed: dict) -> None:
    metrics = faithfulness.faithfulness_metrics(removed)
    # Three pictures lie in too few blocks for an interval: the figures are kept all the same, as numbers.
    assert metrics["deletion_gain"] == pytest.approx(removed[LINEAR, PIXELS].gain(CONCEPTS)["value"])
    assert {"insertion_gain_main_tokens", "attention_deletion_gain_main_pixels"} <= set(metrics)


def removal(by_maps: float, by_random: float, by_middle: float) -> DeletionInsertion:
    """Two pictures whose true cell has these probabilities when one patch is gone."""
    orders = {CONCEPTS: by_maps, RANDOM: by_random, MIDDLE: by_middle}
    probability = {
        curve: {name: np.full((2, 1), value) for name, value in orders.items()} for curve in (DELETION, INSERTION)
    }
    return DeletionInsertion(4, (1,), np.full(2, 0.9), probability, Resamples(np.arange(2), 10))


def test_the_headline_is_of_the_linear_cbm_and_of_pixels_first() -> None:
    tokens, pixels = removal(0.5, 0.6, 0.7), removal(0.1, 0.4, 0.2)
    both = {(LINEAR, TOKENS): tokens, (LINEAR, PIXELS): pixels}
    assert faithfulness.headline(both) is pixels
    assert pixels.gain(CONCEPTS)["value"] == pytest.approx(0.3)
    assert pixels.gain(CONCEPTS, MIDDLE)["value"] == pytest.approx(0.1)
    assert faithfulness.faithfulness_metrics(both)["insertion_gain"] == pytest.approx(-0.1)
    assert faithfulness.headline({(LINEAR, TOKENS): tokens}) is tokens
    other = {(MAIN, TOKENS): tokens}
    assert faithfulness.headline(other) is None and "deletion_gain" not in faithfulness.faithfulness_metrics(other)
