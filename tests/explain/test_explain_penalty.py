"""The penalty of a probe moves smoothly with the data, and two runs of one command read the same."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from geocbm.explain import penalty, probes


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
        readings.append(probes.read_label(x + noise, *asked))
    rights = [reading.right.mean() for reading in readings]
    strengths = [reading.strength for reading in readings]
    assert max(rights) - min(rights) < 0.02
    assert max(strengths) / min(strengths) < 1.05
    assert strengths[0] not in penalty.STRENGTHS  # between the grid's values


def test_threads_change_nothing() -> None:
    x, label, train, val, test = small_table(d=200)
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(probes.read_label(x, label, train, val, test))
    assert found[0].strength == found[1].strength
    np.testing.assert_array_equal(found[0].log_likelihood, found[1].log_likelihood)


def test_blocks_stay_together_and_folds_are_of_about_one_size() -> None:
    blocks = np.repeat(np.arange(30), np.arange(1, 31))
    fold = penalty.block_folds(blocks)
    assert all(len(np.unique(fold[blocks == block])) == 1 for block in range(30))
    counts = np.bincount(fold)
    assert len(counts) == 3 and counts.max() - counts.min() <= 5
    single = penalty.block_folds(np.zeros(9, dtype=int))
    assert np.bincount(single).tolist() == [3, 3, 3]


def test_the_strength_is_near_the_best_of_the_whole_grid() -> None:
    x, label, train, val, _ = small_table(d=80)
    both = np.concatenate([train, val])
    x, label, blocks = x[both].astype(np.float32), label[both], np.arange(len(both))
    fold, losses = penalty.block_folds(blocks), {}
    for strength in penalty.STRENGTHS:
        parts = []
        for number in range(3):
            own = fold == number
            model = penalty.fit_quietly(penalty.logistic(strength), x[~own], label[~own])
            probability = model.predict_proba(x[own])
            parts.append(-np.log(probability[np.arange(own.sum()), np.searchsorted(model.classes_, label[own])]))
        losses[strength] = np.concatenate(parts).mean()
    best = min(losses, key=losses.__getitem__)
    chosen = penalty.choose_strength(x, label, blocks)
    assert best / 10**0.25 - 1e-9 <= chosen <= best * 10**0.25 + 1e-9  # within half a step of the grid


def test_where_nothing_can_be_held_out_the_middle_is_taken() -> None:
    # Each label lies in one block: what is held out was never seen, so that no fold says anything.
    x, label = np.eye(6, dtype=np.float32), np.repeat(["a", "b", "c"], 2)
    assert penalty.choose_strength(x, label, np.repeat([0, 1, 2], 2)) == pytest.approx(0.1)
