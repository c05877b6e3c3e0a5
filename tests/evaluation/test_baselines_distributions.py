"""Baselines as distributions over cells: the probe's penalty and the neighbours' votes, chosen on validation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from geocbm.evaluation import baselines
from geocbm.metrics import fit_temperature, negative_log_likelihood


def blobs(n: int, noise: float, seed: int = 0, d: int = 30):
    """Three classes along the first three axes, among many axes of noise."""
    generator = np.random.default_rng(seed)
    label = generator.integers(3, size=n)
    x = generator.normal(0, noise, (n, d))
    x[np.arange(n), label] += 1
    return x.astype(np.float32), label


def test_the_penalty_is_that_of_the_best_calibrated_likelihood_of_the_whole_grid() -> None:
    (x, label), (val, true) = blobs(90, 1.0), blobs(60, 1.0, 1)
    probe = baselines.fit_probe(x, label, val, true)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    losses = {}
    for strength in baselines.STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit((x - mean) / spread, label)
        logits = model.predict_log_proba((val - mean) / spread)
        losses[strength] = negative_log_likelihood(logits, true, fit_temperature(logits, true))
    assert probe.strength == min(losses, key=losses.__getitem__)
    assert 2 <= len(probe.loss) < len(losses)  # the valley was walked, not the whole grid
    for strength, loss in probe.loss.items():
        assert loss == pytest.approx(losses[strength], abs=1e-4)


def test_what_tells_all_wants_a_weak_penalty_and_what_tells_nothing_a_strong_one() -> None:
    clear, noise = blobs(200, 0.35), np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
    weak = baselines.fit_probe(*clear, *blobs(100, 0.35, 1))
    strong = baselines.fit_probe(noise[:120], clear[1][:120], noise[120:], clear[1][120:])
    assert strong.strength < weak.strength
    assert (weak.names(clear[0]) == clear[1]).mean() > 0.95


def test_a_probe_without_validation_or_with_a_single_label() -> None:
    x, label = blobs(30, 1.0)
    assert baselines.fit_probe(x, label, x[:0], label[:0]).strength == 0.1
    unknown = baselines.fit_probe(x, label, x, np.full(30, 9))  # labels that training never showed say nothing
    assert unknown.strength == 0.1 and unknown.loss == {}
    alone = baselines.fit_probe(x, np.full(30, "only"), x, np.full(30, "only"))
    assert alone.names(x).tolist() == ["only"] * 30
    with pytest.raises(ValueError, match="29 labels for 30 rows"):
        baselines.fit_probe(x, label[:-1], x, label)


def test_cells_that_training_never_showed_get_next_to_nothing() -> None:
    x, label = blobs(60, 0.3)
    logits = baselines.fit_probe(x, label * 2, x, label * 2).cell_logits(x, 6)
    assert logits.shape == (60, 6)
    assert np.exp(logits[:, [1, 3, 5]]).max() < 1e-12
    assert np.exp(logits).sum(axis=1) == pytest.approx(1)


def test_votes_are_weighted_by_the_kernel_and_mixed_with_the_prior() -> None:
    votes = baselines.Votes(3, 0.1, np.array([0.5, 0.25, 0.25]))
    # Similarities 0.9, 0.8 and 0.8 - ln 2 / 10: weights 1, 1/e and 1/(2 e); the fourth has no vote.
    similarity = np.array([[0.9, 0.8, 0.8 - np.log(2) / 10, 0.0]])
    logits = votes.logits(similarity, np.array([[0, 1, 1, 2]]))
    total = 1 + 1.5 / np.e
    expected = 0.95 * np.array([1, 1.5 / np.e, 0]) / total + 0.05 * votes.prior
    np.testing.assert_allclose(np.exp(logits[0]), expected, rtol=1e-6)


def test_as_many_neighbours_vote_as_the_validation_images_like_best() -> None:
    generator = np.random.default_rng(0)
    n = 80
    similarity = np.sort(generator.uniform(0, 1, (n, 50)).astype(np.float32), axis=1)[:, ::-1]
    true = generator.integers(4, size=n)
    cell = generator.integers(4, size=(n, 50))
    prior = np.full(4, 0.25)
    near = cell.copy()
    near[:, :10] = true[:, None]  # the ten nearest know, the others guess
    assert baselines.choose_votes(similarity, near, true, prior).k == 10
    far = cell.copy()
    far[generator.random((n, 50)) < 0.4] = -1
    far = np.where(far < 0, true[:, None], far)  # all know a little
    assert baselines.choose_votes(similarity, far, true, prior).k == 50
    assert baselines.choose_votes(similarity[:0], near[:0], true[:0], prior).k in (10, 20, 50)
    assert baselines.choose_votes(similarity[:, :4], near[:, :4], true, prior).k == 4


def test_the_most_similar_are_those_of_the_highest_cosine() -> None:
    base = np.array([[1, 0], [0, 2], [3, 3]], dtype=np.float32)
    rows, cosine = baselines.most_similar(base, np.array([[1, 0.1]], dtype=np.float32), 5)
    assert rows.tolist() == [[0, 2, 1]]
    expected = np.array([1, 1.1 / np.sqrt(2), 0.1]) / np.sqrt(1.01)
    np.testing.assert_allclose(cosine[0], expected, rtol=1e-5)
