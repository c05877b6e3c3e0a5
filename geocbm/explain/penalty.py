"""Penalty of a linear probe by cross-validation over spatial blocks, as a number that moves smoothly with the data.

A penalty picked from a few values by the share of right answers on a small validation split jumps: two trainings that
differ in the last digits of their scores then differ in what is read from them by several points. Here the criterion is
the log likelihood, every picture of training and validation is held out once, and the answer is the bottom of the
parabola through the best value and its neighbours, so that a small change of the inputs changes it little.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

STRENGTHS = tuple(float(value) for value in np.round(10.0 ** np.arange(-3, 2, 0.5), 6))
"""Inverse strengths of the penalty (scikit-learn's C) between which one is looked for."""

FOLDS = 3
LEAST_PROBABILITY = 1e-6
_START = STRENGTHS.index(0.1)
_STEPS, _TOLERANCE = 100, 1e-3


def block_folds(blocks: np.ndarray, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Folds of about equal size that keep the pictures of a block together.

    Args:
        blocks: `[n]` block of each picture.
        folds: how many.
        seed: of the order in which blocks are dealt out.

    Returns:
        `[n]` fold of each picture, from 0; with fewer blocks than folds the pictures are dealt out one by one.
    """
    names, block = np.unique(blocks, return_inverse=True)
    if len(names) < folds:
        block = np.arange(len(blocks))
    counts = np.bincount(block)
    generator = np.random.default_rng(seed)
    fold, filled = np.empty(len(counts), dtype=np.int64), np.zeros(folds)
    order = generator.permutation(len(counts))
    for one in order[np.argsort(-counts[order], kind="stable")]:  # the largest first, each to the emptiest fold
        fold[one] = filled.argmin()
        filled[fold[one]] += counts[one]
    return fold[block]


def logistic(strength: float) -> Any:
    """Multinomial logistic regression with so many steps as a comparison needs."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=_STEPS, tol=_TOLERANCE, warm_start=True)


def fit_quietly(model: Any, x: np.ndarray, label: np.ndarray) -> Any:
    """Fit a model whose note that the last step was not the optimum is no news: the limit is meant."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # On one thread sums have one order, whatever the machine; for fits as small as these it is also the fastest.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, label)


def choose_strength(x: np.ndarray, label: np.ndarray, blocks: np.ndarray, seed: int = 0) -> float:
    """Strength with the highest cross-validated log likelihood.

    Args:
        x: `[n, d]` standardised inputs of training and validation pictures.
        label: `[n]` what is asked.
        blocks: `[n]` spatial block of each picture; a block is never in two folds.
        seed: of the folds.

    Returns:
        Between the ends of `STRENGTHS`, not only one of them; where nothing can be held out, 0.1.
    """
    fold = block_folds(blocks, seed=seed)
    held = []
    for number in range(fold.max() + 1):
        own = fold == number
        labels = np.unique(label[~own])
        known = own & np.isin(label, labels)
        if len(labels) > 1 and known.any():
            held.append((~own, known, logistic(STRENGTHS[_START])))
    if not held:
        return STRENGTHS[_START]
    losses: dict[int, float] = {}

    def loss(number: int) -> float:
        if number not in losses:
            parts = []
            for fitted, asked, model in held:
                model.set_params(C=STRENGTHS[number])
                fit_quietly(model, x[fitted], label[fitted])
                probability = model.predict_proba(x[asked])
                own = probability[np.arange(len(probability)), np.searchsorted(model.classes_, label[asked])]
                parts.append(-np.log(np.maximum(own, LEAST_PROBABILITY)))
            losses[number] = float(np.concatenate(parts).mean())
        return losses[number]

    best = _START
    while True:
        near = [number for number in (best - 1, best + 1) if 0 <= number < len(STRENGTHS)]
        lowest = min(near, key=loss)
        if not loss(lowest) < loss(best):
            break
        best = lowest
    if not 0 < best < len(STRENGTHS) - 1:
        return STRENGTHS[best]
    below, here, above = (losses[number] for number in (best - 1, best, best + 1))
    bend = below - 2 * here + above
    shift = float(np.clip((below - above) / (2 * bend), -0.5, 0.5)) if bend > 0 else 0.0
    step = np.log(STRENGTHS[best + 1] / STRENGTHS[best])
    return float(STRENGTHS[best] * np.exp(shift * step))
