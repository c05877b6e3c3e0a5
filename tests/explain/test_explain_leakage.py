"""Information, leakage, what classifiers read, effective concepts and completeness, held against hand-made cases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch

from geocbm import explain, pipeline, plots
from geocbm.errors import ParameterError
from geocbm.explain import completeness, information, probes, similar
from geocbm.explain import concept_information as told
from geocbm.explain import sparsity as effective
from geocbm.explain.concept_labels import ConceptLabels, read_concept_labels
from geocbm.explain.leakage import measure_leakage
from geocbm.metrics import Resamples
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead

if TYPE_CHECKING:
    from tiny_run import TinyRun


def codes(*columns: list[int]) -> information.Codes:
    return information.Codes.of(np.array(columns).T)


# information


def test_information_of_a_copy_is_its_entropy_and_of_an_unrelated_column_nothing() -> None:
    label = codes([0, 0, 1, 1])
    found = information.information_with(codes([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]), label)
    assert found == pytest.approx([math.log(2), 0, math.log(2)], abs=1e-6)


def test_information_by_hand() -> None:
    # joint 3/8, 1/8, 1/8, 3/8: I = log 2 - H(1/4) with both margins even
    one, two = [0] * 4 + [1] * 4, [0, 0, 0, 1, 0, 1, 1, 1]
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert information.information_with(codes(one), codes(two))[0] == pytest.approx(expected, abs=1e-6)
    both = information.information_between(codes(one, two))
    assert both == pytest.approx(np.array([[math.log(2), expected], [expected, math.log(2)]]), abs=1e-6)


def test_quantile_codes_keep_ties_together_and_leave_few_values_alone() -> None:
    values = np.column_stack([np.arange(8.0), [0, 0, 0, 0, 0, 0, 5, 9], np.tile([False, True], 4)])
    found = information.quantile_codes(values, levels=4)
    assert found[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found[:, 1].tolist() == [0] * 6 + [1, 2]
    assert found[:, 2].tolist() == [0, 1] * 4
    tied = information.quantile_codes(np.array([[0.0]] * 6 + [[1.0], [2.0], [3.0], [4.0], [5.0]]), levels=4)[:, 0]
    assert len(set(tied[:6])) == 1 and tied.max() + 1 == len(set(tied.tolist()))
    with pytest.raises(ParameterError, match="levels is 1"):
        information.quantile_codes(values, levels=1)


def test_bias_is_what_random_columns_show() -> None:
    generator = np.random.default_rng(0)
    n, levels, classes = 400, 8, 10
    column = information.Codes.of(np.arange(n)[:, None] % levels)
    label = information.Codes.of(generator.permutation(n)[:, None] % classes)
    bias = information.bias_with(column, label, n=50)[0]
    assert bias == pytest.approx((levels - 1) * (classes - 1) / (2 * n), rel=0.1)  # Miller's first order


def test_shuffling_within_groups_keeps_each_group_its_values() -> None:
    generator = np.random.default_rng(0)
    values = np.arange(20).reshape(-1, 1) % 5
    groups = (np.arange(20) // 10).reshape(-1, 1)
    moved = information.shuffled(information.Codes.of(values), generator, groups).values
    assert (moved != values).any()
    for group in (0, 1):
        own = groups[:, 0] == group
        assert sorted(moved[own, 0]) == sorted(values[own, 0])
    free = information.shuffled(information.Codes.of(values), generator).values
    assert sorted(free[:, 0]) == sorted(values[:, 0])


# leakage


def world(n: int = 1200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Six concepts that depend on one of five countries, and nothing else."""
    generator = np.random.default_rng(seed)
    country = generator.integers(0, 5, n)
    chance = generator.uniform(0.1, 0.6, (5, 6))
    present = generator.random((n, 6)) < chance[country]
    return country, present, np.arange(n), generator


def test_scores_that_know_only_their_concept_do_not_leak() -> None:
    country, present, blocks, generator = world()
    scores = present + generator.normal(0, 0.4, present.shape)
    found = measure_leakage(scores, present, country, blocks)
    assert found.concepts_task["value"] < 0.003
    assert found.concepts_task["low"] <= found.concepts_task_null + 0.001
    assert abs(found.beyond.mean()) < 0.004
    assert (found.predicted <= found.truth + 0.01).all()


def test_scores_that_know_the_country_leak() -> None:
    country, present, blocks, generator = world()
    scores = present + 0.4 * country[:, None] + generator.normal(0, 0.4, present.shape)
    found = measure_leakage(scores, present, country, blocks)
    assert found.concepts_task["low"] > found.concepts_task_null + 0.05
    assert found.interconcept["low"] > found.interconcept_null + 0.01
    assert (found.beyond > 0.05).all()
    assert found.concepts_task["low"] < found.concepts_task["value"] < found.concepts_task["high"]


def test_true_concepts_as_scores_leak_nothing_at_all() -> None:
    country, present, blocks, _ = world()
    found = measure_leakage(present.astype(float), present, country, blocks)
    assert found.concepts_task == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-6)
    assert found.interconcept == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-6)
    assert found.beyond == pytest.approx(np.zeros(6), abs=1e-6)


def test_leakage_leaves_out_concepts_that_nothing_shows() -> None:
    country, present, blocks, generator = world(200)
    present[:, 2] = False
    present[:, 4] = True
    found = measure_leakage(present + generator.normal(0, 0.1, present.shape), present, country, blocks)
    assert found.kept.tolist() == [0, 1, 3, 5]
    with pytest.raises(ParameterError, match="no concept is present in at least 5"):
        measure_leakage(present[:, [2]] * 1.0, present[:, [2]], country, blocks)
    with pytest.raises(ParameterError, match="a row per picture"):
        measure_leakage(present[:-1] * 1.0, present, country, blocks)


def test_one_block_has_no_interval() -> None:
    country, present, _, _ = world(200)
    found = measure_leakage(present.astype(float), present, country, np.zeros(200))
    assert math.isnan(found.concepts_task["low"]) and math.isfinite(found.concepts_task["value"])


# what a classifier reads


def test_a_classifier_reads_what_is_there() -> None:
    generator = np.random.default_rng(0)
    label = np.repeat(["a", "b", "c"], 60)
    order = generator.permutation(180)
    train, val, test = order[:100], order[100:140], order[140:]
    telling = (label[:, None] == np.array(["a", "b", "c"])).astype(float)
    found = probes.read_label(telling, label, train, val, test)
    assert found.right.all() and (found.log_likelihood > math.log(0.5)).all()
    silent = probes.read_label(generator.normal(size=(180, 4)), label, train, val, test)
    assert silent.right.mean() < 0.65
    with pytest.raises(ParameterError, match="all have the label 'a'"):
        probes.read_label(telling, np.full(180, "a"), train, val, test)


def test_a_label_that_training_never_showed_is_wrong_and_has_no_likelihood() -> None:
    label = np.array(["a", "b"] * 10 + ["z", "a"])
    x = (label[:, None] == np.array(["a", "b"])).astype(float)
    found = probes.read_label(x, label, np.arange(16), np.arange(16, 20), np.array([20, 21]))
    assert found.right.tolist() == [False, True]
    assert np.isnan(found.log_likelihood[0]) and np.isfinite(found.log_likelihood[1])


def test_hard_scores_say_yes_as_often_as_is_true() -> None:
    scores = np.column_stack([np.arange(10) / 10, np.arange(10)[::-1] / 10, np.zeros(10)])
    present = np.zeros((10, 3), dtype=bool)
    present[:3, 0], present[:5, 1] = True, True
    hard = probes.hard_scores(scores, present, np.arange(10))
    assert hard.sum(axis=0).tolist() == [3, 5, 0]
    assert hard[7:, 0].all() and hard[:5, 1].all()


def test_named_only_names_one_meta_and_one_parent() -> None:
    named = probes.named_only(np.array([[0.1, 0.7, 0.2, 0.4, 0.6], [0.5, 0.2, 0.3, 0.9, 0.1]]), 3)
    assert named.astype(int).tolist() == [[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]]


def test_gains_are_paired_and_need_both_readings() -> None:
    def reading(right: list[int]) -> probes.Reading:
        return probes.Reading(np.array(right, dtype=bool), np.zeros(4))

    drawn = Resamples(np.arange(4), 50)
    readings = {"scores": reading([1, 1, 1, 0]), "named": reading([1, 0, 0, 0]), "features": reading([1, 1, 1, 1])}
    gains = probes.reading_gains(readings, drawn)
    assert list(gains) == ["soft_gain", "past_concepts"]
    assert gains["soft_gain"]["value"] == 0.5 and gains["past_concepts"]["value"] == 0.25
    assert probes.gain_table(gains)["countries right, percentage points"][0] == "+50.0 (no interval)"
    assert len(probes.reading_table(readings, drawn)) == 3


def test_a_run_without_ground_truth_reads_what_can_be_read(trained_run: TinyRun) -> None:
    files = trained_run.files
    presence = read_concept_labels(files)
    with np.load(files.need("concept_scores.npz"), allow_pickle=False) as stored:
        scores = np.concatenate([stored["meta"], stored["parent"]], axis=1)
    pooled = np.random.default_rng(0).normal(size=(len(scores), 8))
    readings = probes.country_readings(files, scores, presence, pooled)
    assert list(readings) == ["prior", "named", "scores", "random", "features"]
    assert all(len(reading.right) == len(files.rows["test"]) for reading in readings.values())


# effective concepts


def strict_head() -> Stage2CrossAttentionGeoHead:
    """Three cells, four concepts: cell 0 by concept 0, cell 1 by concept 1, cell 2 by a little of everything."""
    head = Stage2CrossAttentionGeoHead(4, 5, 3, np.eye(3), Stage2Config(ablation_mode="concept_scores", embed_dim=8))
    with torch.no_grad():
        head.cell_head.weight.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [1.0, 1.0, 1.0, 1.0]]))
        head.cell_head.bias.zero_()
    return head


def test_effective_concepts_by_hand() -> None:
    scores = torch.tensor([[1.0, 0, 0, 0], [0.8, 0.8, 0.8, 0.8]])
    found = effective.effective_concepts(strict_head(), scores, np.array([0, 2]), counts=(1, 2, 4, 9))
    assert found.counts == (1, 2)  # 4 are all of them
    assert found.named.tolist() == [0, 2] and found.all_right.all()
    assert found.gap < 1e-6
    assert found.number == pytest.approx([1, 4])  # one contribution; four equal ones
    # With one concept kept the second picture's best is 3 x 0.8 for cell 0 against 0.8 for cell 2.
    assert found.right["decision"].tolist() == [[True, False], [True, False]]
    assert found.same["decision"].tolist() == found.right["decision"].tolist()
    assert found.right["weights"][0].tolist() == [True, False]


def test_figures_of_effective_concepts() -> None:
    scores = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    cell = np.arange(30) % 3
    found = effective.effective_concepts(strict_head(), scores, cell, counts=(1, 2, 3))
    drawn = Resamples(np.arange(30), 100)
    share = effective.kept_share(found, 3, drawn)
    assert share["value"] == pytest.approx(found.right["decision"][2].mean() / found.all_right.mean())
    assert share["low"] <= share["value"] <= share["high"]
    assert effective.average_accuracy(found, "weights", drawn)["value"] == found.right["weights"][2].mean()
    assert effective.accuracy_at(found, 2, "random", drawn)["value"] == found.right["random"][1].mean()
    with pytest.raises(ParameterError, match="count 7 was not asked"):
        effective.accuracy_at(found, 7, "random", drawn)
    table = effective.effective_table(found)
    assert table["concepts that count"].tolist() == ["1", "2", "3", "all"]
    curves = effective.effective_curves(found, drawn)
    assert len(curves) == 9 and ((curves["low"] <= curves["value"]) & (curves["value"] <= curves["high"])).all()
    fig = plots.kept_concepts(curves, float(found.all_right.mean()))
    assert "with all" in fig.layout.meta["alt"] and len(fig.data) == 6


def test_effective_concepts_need_a_sum() -> None:
    head = Stage2CrossAttentionGeoHead(4, 5, 3, np.eye(3), Stage2Config(embed_dim=8))
    with pytest.raises(ParameterError, match="use 'concept_scores' or 'hybrid'"):
        effective.effective_concepts(head, torch.zeros(1, 4), np.zeros(1))
    with pytest.raises(ParameterError, match="no count lies below the 4 concepts"):
        effective.effective_concepts(strict_head(), torch.zeros(1, 4), np.zeros(1), counts=(4,))


# completeness


def test_completeness_by_hand() -> None:
    prior = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    full, own = np.array([1] * 9 + [0]), np.array([1] * 5 + [0] * 5)
    drawn = Resamples(np.arange(10), 200)
    ratio = completeness.completeness_ratio(own, full, prior, drawn)
    assert ratio["value"] == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    assert ratio["low"] < ratio["value"] < ratio["high"]
    assert completeness.completeness_ratio(full, full, prior, drawn)["value"] == 1
    assert completeness.completeness_ratio(prior, full, prior, drawn)["value"] == 0
    assert math.isnan(completeness.completeness_ratio(own, prior, prior, drawn)["value"])


def test_completeness_of_a_run(trained_run: TinyRun) -> None:
    files = trained_run.files
    test = files.rows["test"]
    rights = completeness.model_rights(
        files, {"main": files.cell_label[test], "concept_scores": np.zeros(len(test), int)}
    )
    assert rights["main"]["cell"].all() and rights["main"]["country"].all()
    right = probes.Reading(rights["main"]["country"], np.zeros(len(test)))
    prior = probes.Reading(rights["prior"]["country"], np.zeros(len(test)))
    drawn = Resamples(np.arange(len(test)), 20)
    figures = completeness.completeness_figures({"scores": right, "features": right, "prior": prior}, rights, drawn)
    assert list(figures) == ["probe_country", "model_country", "model_cell"]
    assert figures["probe_country"][3]["value"] == 1
    assert len(completeness.completeness_table(figures)) == 3
    del rights["concept_scores"]
    alone = completeness.completeness_figures({"scores": right, "features": right, "prior": prior}, rights, drawn)
    assert list(alone) == ["probe_country"]


def test_the_figure_of_what_concepts_tell_names_the_largest() -> None:
    fig = plots.told_by_concepts(["palms", "<b>"], [0.02, 0.01], [0.03, 0.0], [0.02, -0.01])
    alt = fig.layout.meta["alt"]
    assert "higher for 1 of them" in alt and "palms, 2.0 %" in alt
    assert "<b>" not in fig.data[1].text[1]
    with pytest.raises(ValueError, match="curves is empty"):
        plots.kept_concepts(pd.DataFrame(columns=["way", "count", "value", "low", "high"]), 0.5)


# the whole of it


def test_what_a_run_without_ground_truth_tells(trained_run: TinyRun) -> None:
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    model = explain.linear_cbm(files, features, pipeline.predict_concepts(files, features))
    cells = np.zeros(len(files.rows["test"]), dtype=int)
    pooled = features.read_all("pooled").numpy()
    found = told.measure_told(files, model, read_concept_labels(files), pooled, cells, n_resamples=20)
    assert found.leakage is None and len(found.names) == model.scores.shape[1]
    assert found.effective.gap < 1e-4
    assert "leakage cannot be measured" in told.leakage_in_words(found) and not len(told.leakage_table(found))
    records = told.told_records(found)
    assert "leakage_concepts_task" not in records and records["contribution_gap"] < 1e-4
    assert all(
        np.isfinite(list(figure.values()) if isinstance(figure, dict) else [figure]).all()
        for figure in records.values()
    )


def test_what_a_run_with_ground_truth_tells(trained_run: TinyRun) -> None:
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    model = explain.linear_cbm(files, features, pipeline.predict_concepts(files, features))
    generator = np.random.default_rng(0)
    shown = generator.random(model.scores.shape) < 0.5
    presence = ConceptLabels(shown, np.ones_like(shown))
    cells = np.zeros(len(files.rows["test"]), dtype=int)
    found = told.measure_told(files, model, presence, features.read_all("pooled").numpy(), cells, n_resamples=20)
    assert {"hard", "true", "true_and_scores", "true_and_features"} <= set(found.readings)
    assert {"beyond_truth", "hidden", "over_truth"} <= set(found.gains)


def test_similar_pictures_are_of_the_concept_and_of_other_panoramas(trained_run: TinyRun) -> None:
    pooled = np.array([[1.0, 0], [2, 0.1], [0, 1], [1, 0.2], [3, 0], [1, 0.05]])
    names = np.array(["a", "b", "c", "d", "a", "b"])
    found = similar.similar_rows(pooled, 0, np.array([1, 2, 3, 4, 5]), names, 3)
    assert found.tolist() == [1, 3, 2]  # 4 is the same panorama as the picture, 5 the same as 1
    files = trained_run.files
    encoder = pipeline.load_stage0(files)[1]
    features = np.random.default_rng(0).normal(size=(len(files.table), 4))
    row = int(files.rows["test"][0])
    pictures, captions = similar.similar_examples(files, encoder, features, row, 0, lambda note: note, most=2)
    assert len(pictures) == len(captions) == 2
    assert all(caption.removesuffix(".") in set(files.country) for caption in captions)
