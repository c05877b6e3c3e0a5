"""The penalty of a probe moves smoothly with the data, and two runs of one command read the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from geocbm.errors import ParameterError
from geocbm.evaluation.baselines.linear import fit_quietly
from geocbm.explain import probes
from geocbm.explain.concept_labels import read_concept_labels
from geocbm.metrics import Resamples

if TYPE_CHECKING:
    from tiny_run import TinyRun


def small_table(seed: int = 8, n: int = 500, k: int = 20, d: int = 40):
    """Few pictures of many labels, half of the features with heavy tails: 350 to train, 76 to validate, 74 to test."""
    generator = np.random.default_rng(seed)
    label = generator.integers(k, size=n)
    x = generator.normal(size=(n, d))
    x[np.arange(n), label % d] += 2.5
    x[:, d // 2 :] = np.sign(x[:, d // 2 :]) * np.abs(x[:, d // 2 :]) ** 3
    order = generator.permutation(n)
    return x, label.astype(str), order[:350], order[350:426], order[426:]


def test_what_is_read_does_not_jump_when_the_inputs_differ_by_a_hundredth() -> None:
    """As after two trainings: chosen by right answers on 76 pictures the penalty jumps and this moves 6.8 points."""
    x, *asked = small_table()
    readings = []
    for seed in range(100, 106):
        noise = np.random.default_rng(seed).normal(size=x.shape) * 0.01
        readings.append(probes.probe_label(x + noise, *asked))
    rights = [reading.right.mean() for reading in readings]
    strengths = [reading.strength for reading in readings]
    assert max(rights) - min(rights) < 0.02
    assert max(strengths) / min(strengths) < 1.05
    assert strengths[0] not in probes.STRENGTHS  # between the grid's values


def test_threads_change_nothing() -> None:
    x, label, train, val, test = small_table(d=200)
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(probes.probe_label(x, label, train, val, test))
    assert found[0].strength == found[1].strength
    np.testing.assert_array_equal(found[0].log_likelihood, found[1].log_likelihood)


def test_blocks_stay_together_and_folds_are_of_about_one_size() -> None:
    blocks = np.repeat(np.arange(30), np.arange(1, 31))
    fold = probes.block_folds(blocks)
    assert all(len(np.unique(fold[blocks == block])) == 1 for block in range(30))
    counts = np.bincount(fold)
    assert len(counts) == 3 and counts.max() - counts.min() <= 5
    single = probes.block_folds(np.zeros(9, dtype=int))
    assert np.bincount(single).tolist() == [3, 3, 3]


def test_the_strength_is_near_the_best_of_the_whole_grid() -> None:
    x, label, train, val, _ = small_table(d=80)
    both = np.concatenate([train, val])
    x, label, blocks = x[both].astype(np.float32), label[both], np.arange(len(both))
    fold, losses = probes.block_folds(blocks), {}
    for strength in probes.STRENGTHS:
        parts = []
        for number in range(3):
            own = fold == number
            model = fit_quietly(probes.logistic(strength), x[~own], label[~own])
            probability = model.predict_proba(x[own])
            parts.append(-np.log(probability[np.arange(own.sum()), np.searchsorted(model.classes_, label[own])]))
        losses[strength] = np.concatenate(parts).mean()
    best = min(losses, key=losses.__getitem__)
    chosen = probes.choose_strength(x, label, blocks)
    assert best / 10**0.25 - 1e-9 <= chosen <= best * 10**0.25 + 1e-9  # within half a step of the grid


def test_where_nothing_can_be_held_out_the_middle_is_taken() -> None:
    # Each label lies in one block: what is held out was never seen, so that no fold says anything.
    x, label = np.eye(6, dtype=np.float32), np.repeat(["a", "b", "c"], 2)
    assert probes.choose_strength(x, label, np.repeat([0, 1, 2], 2)) == pytest.approx(0.1)


def test_a_classifier_reads_what_is_there() -> None:
    generator = np.random.default_rng(0)
    label = np.repeat(["a", "b", "c"], 60)
    order = generator.permutation(180)
    train, val, test = order[:100], order[100:140], order[140:]
    telling = (label[:, None] == np.array(["a", "b", "c"])).astype(float)
    found = probes.probe_label(telling, label, train, val, test)
    assert found.right.all() and (found.log_likelihood > math.log(0.5)).all()
    silent = probes.probe_label(generator.normal(size=(180, 4)), label, train, val, test)
    assert silent.right.mean() < 0.65
    with pytest.raises(ParameterError, match="all have the label 'a'"):
        probes.probe_label(telling, np.full(180, "a"), train, val, test)


def test_a_label_that_training_never_showed_is_wrong_and_has_no_likelihood() -> None:
    label = np.array(["a", "b"] * 10 + ["z", "a"])
    x = (label[:, None] == np.array(["a", "b"])).astype(float)
    found = probes.probe_label(x, label, np.arange(16), np.arange(16, 20), np.array([20, 21]))
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
    def reading(right: list[int]) -> probes.ProbeResult:
        return probes.ProbeResult(np.array(right, dtype=bool), np.zeros(4))

    drawn = Resamples(np.arange(4), 50)
    readings = {"scores": reading([1, 1, 1, 0]), "named": reading([1, 0, 0, 0]), "features": reading([1, 1, 1, 1])}
    gains = probes.probe_gains(readings, drawn)
    assert list(gains) == ["soft_gain", "past_concepts"]
    assert gains["soft_gain"]["value"] == 0.5 and gains["past_concepts"]["value"] == 0.25


def test_a_run_without_ground_truth_reads_what_can_be_read(trained_run: TinyRun) -> None:
    files = trained_run.files
    presence = read_concept_labels(files)
    with np.load(files.need("concept_scores.npz"), allow_pickle=False) as stored:
        scores = np.concatenate([stored["meta"], stored["parent"]], axis=1)
    pooled = np.random.default_rng(0).normal(size=(len(scores), 8))
    readings = probes.probe_country(files, scores, presence, pooled)
    assert list(readings) == ["prior", "named", "scores", "random", "features"]
    assert all(len(reading.right) == len(files.rows["test"]) for reading in readings.values())
