"""What a run's maps are held against, measured together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from geocbm import explain, pipeline
from geocbm.explain import map_faithfulness as map_truth
from geocbm.explain.faithfulness import PIXELS, TOKENS, Removal
from geocbm.metrics import Resamples

if TYPE_CHECKING:
    from tiny_run import TinyRun

CURVES = ("deletion", "insertion")


@pytest.fixture(scope="module")
def truth(trained_run: TinyRun) -> explain.MapTruth:
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    concepts = pipeline.predict_concepts(files, features)
    return explain.measure_maps(
        files,
        pipeline.load_stage0(files)[1],
        features,
        concepts,
        pipeline.load_stage1(files),
        explain.linear_cbm(files, features, concepts).head,
        pipeline.load_stage2(files),
        pictures=3,
        n_resamples=20,
    )


def test_a_run_whose_bottleneck_reads_no_tokens_loses_only_pixels(
    truth: explain.MapTruth, trained_run: TinyRun
) -> None:
    # The "mlp" bottleneck reads pooled features: no token can be taken from the strict bottleneck.
    assert set(truth.removals) == {
        (map_truth.STRICT, PIXELS),
        (map_truth.MAIN, TOKENS),
        (map_truth.MAIN, PIXELS),
    }
    assert len(truth.removals[map_truth.MAIN, TOKENS].rows) == len(trained_run.files.rows["test"])
    assert len(truth.removals[map_truth.STRICT, PIXELS].rows) == 3
    assert truth.located is None and truth.tried == {} and "gradient" in explain.chosen_kind(truth)


def test_figures_of_removals(truth: explain.MapTruth) -> None:
    deletion = truth.deletion()
    gain = truth.removals[map_truth.STRICT, PIXELS].gain(map_truth.CONCEPTS)
    assert deletion["random"] == pytest.approx(gain, nan_ok=True)
    assert set(deletion) == {"random", "centre"}
    records = explain.removal_records(truth)
    # Three pictures lie in too few blocks for an interval: the figures are kept all the same, as numbers.
    assert records["deletion_gain"] == pytest.approx(gain["value"]) and set(records) > {"insertion_gain_main_tokens"}
    table = explain.removals_table(truth)
    assert set(table["model"]) == {map_truth.STRICT, map_truth.MAIN}
    assert "random patches" not in set(table["order of the patches"])


def removal(way: str, by_maps: float, by_random: float, by_middle: float) -> Removal:
    """Two pictures whose true cell has these probabilities when one patch is gone."""
    orders = {map_truth.CONCEPTS: by_maps, "random patches": by_random, map_truth.MIDDLE: by_middle}
    probability = {curve: {name: np.full((2, 1), value) for name, value in orders.items()} for curve in CURVES}
    return Removal(way, np.arange(2), 4, (1,), np.full(2, 0.9), probability, Resamples(np.arange(2), 10))


def test_the_card_asks_the_strict_bottleneck_and_pixels_first() -> None:
    tokens, pixels = removal(TOKENS, 0.5, 0.6, 0.7), removal(PIXELS, 0.1, 0.4, 0.2)
    both = explain.MapTruth("score", {}, None, {(map_truth.STRICT, TOKENS): tokens, (map_truth.STRICT, PIXELS): pixels})
    assert both.deletion()["random"]["value"] == pytest.approx(0.3)
    assert both.deletion()["centre"]["value"] == pytest.approx(0.1)
    assert explain.removal_records(both)["insertion_gain"] == pytest.approx(-0.1)
    alone = explain.MapTruth("score", {}, None, {(map_truth.STRICT, TOKENS): tokens})
    assert alone.deletion()["random"]["value"] == pytest.approx(0.1)
    other = explain.MapTruth("score", {}, None, {(map_truth.MAIN, TOKENS): tokens})
    assert other.deletion() == {} and "deletion_gain" not in explain.removal_records(other)


def test_the_kind_of_map_is_named_with_its_reason() -> None:
    told = explain.chosen_kind(explain.MapTruth("share", {"score": 0.5, "share": 0.75}, None, {}))
    assert "'share'" in told and "'score' 50%, 'share' 75%" in told


def test_stability_is_measured_with_seeds_only(trained_run: TinyRun) -> None:
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    encoder, rows = pipeline.load_stage0(files)[1], files.rows["test"]
    assert explain.run_stability(files, encoder, features, rows, [], "gradient x input") is None
    found = explain.run_stability(files, encoder, features, rows, [0, 1], "gradient x input", n_resamples=20)
    assert found is not None and len(found) == 3
    assert found[["same", "different"]].abs().le(1).all(axis=None)
