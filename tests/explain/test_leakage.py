"""Leakage: information by hand, leakage of scores made to leak or not to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geocbm import plots
from geocbm.errors import ParameterError
from geocbm.explain import leakage
from geocbm.explain.leakage import Codes, information, measure_leakage


def codes(*columns: list[int]) -> Codes:
    return Codes.of(np.array(columns).T)


def test_information_of_a_copy_is_its_entropy_and_of_an_unrelated_column_nothing() -> None:
    label = codes([0, 0, 1, 1])
    found = information(codes([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]), label)[:, 0]
    assert found == pytest.approx([math.log(2), 0, math.log(2)], abs=1e-6)


def test_information_by_hand() -> None:
    # joint 3/8, 1/8, 1/8, 3/8: I = log 2 - H(1/4) with both margins even
    one, two = [0] * 4 + [1] * 4, [0, 0, 0, 1, 0, 1, 1, 1]
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert information(codes(one), codes(two))[0, 0] == pytest.approx(expected, abs=1e-6)
    both = information(codes(one, two), codes(one, two))
    assert both == pytest.approx(np.array([[math.log(2), expected], [expected, math.log(2)]]), abs=1e-6)


def test_quantile_codes_keep_ties_together_and_leave_few_values_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "LEVELS", 4)
    values = np.column_stack([np.arange(8.0), [0, 0, 0, 0, 0, 0, 5, 9], np.tile([False, True], 4)])
    found = leakage.quantile_codes(values)
    assert found[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found[:, 1].tolist() == [0] * 6 + [1, 2]
    assert found[:, 2].tolist() == [0, 1] * 4
    tied = leakage.quantile_codes(np.array([[0.0]] * 6 + [[1.0], [2.0], [3.0], [4.0], [5.0]]))[:, 0]
    assert len(set(tied[:6])) == 1 and tied.max() + 1 == len(set(tied.tolist()))


def test_bias_is_what_random_columns_show() -> None:
    generator = np.random.default_rng(0)
    n, levels, classes = 400, 8, 10
    column = Codes.of(np.arange(n)[:, None] % levels)
    label = Codes.of(generator.permutation(n)[:, None] % classes)
    bias = leakage.bias(column, label, n=50)[0, 0]
    assert bias == pytest.approx((levels - 1) * (classes - 1) / (2 * n), rel=0.1)  # Miller's first order


def test_shuffling_within_groups_keeps_each_group_its_values() -> None:
    generator = np.random.default_rng(0)
    values = np.arange(20).reshape(-1, 1) % 5
    groups = (np.arange(20) // 10).reshape(-1, 1)
    moved = leakage.shuffled(Codes.of(values), generator, groups).values
    assert (moved != values).any()
    for group in (0, 1):
        own = groups[:, 0] == group
        assert sorted(moved[own, 0]) == sorted(values[own, 0])
    free = leakage.shuffled(Codes.of(values), generator).values
    assert sorted(free[:, 0]) == sorted(values[:, 0])


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


def test_one_block_has_no_interval() -> None:
    country, present, _, _ = world(200)
    found = measure_leakage(present.astype(float), present, country, np.zeros(200))
    assert math.isnan(found.concepts_task["low"]) and math.isfinite(found.concepts_task["value"])


# what a classifier reads


def test_the_figure_of_what_concepts_tell_names_the_largest() -> None:
    fig = plots.told_by_concepts(["palms", "<b>"], [0.02, 0.01], [0.03, 0.0], [0.02, -0.01])
    alt = fig.layout.meta["alt"]
    assert "higher for 1 of them" in alt and "palms, 2.0 %" in alt
    assert fig.data[0].customdata[1][0] == "&lt;b&gt;"
