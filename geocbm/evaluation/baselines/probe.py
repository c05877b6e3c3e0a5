"""Linear probe: multinomial logistic regression on frozen features, its penalty chosen on the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geocbm.evaluation.baselines.prediction import matrix
from geocbm.metrics import fit_temperature, negative_log_likelihood

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Inverse strengths of the penalty (scikit-learn's C) from which one is chosen."""

MIDDLE = 0.1
"""Where the search begins, and what is taken without validation photographs."""

_LEAST_LOGIT = -30.0


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier.

    Attributes:
        strength: the chosen C.
        labels: `[k]` what it can name, sorted.
        loss: for each C that was tried, mean minus log likelihood of the validation photographs in nats, calibrated.
        mean: `[d]` of the training features.
        spread: `[d]` their standard deviation.
        model: of scikit-learn; None where there is a single label.
    """

    strength: float
    labels: np.ndarray
    loss: dict[float, float]
    mean: np.ndarray
    spread: np.ndarray
    model: Any

    def logits(self, features: Any) -> np.ndarray:
        """Log probabilities `[n, k]` of the labels."""
        x = (matrix(features, "features") - self.mean) / self.spread
        if self.model is None:
            return np.zeros((len(x), 1))
        return self.model.predict_log_proba(x)

    def names(self, features: Any) -> np.ndarray:
        """The likeliest label of each row, `[n]`."""
        return self.labels[self.logits(features).argmax(axis=1)]

    def cell_logits(self, features: Any, n_cells: int) -> np.ndarray:
        """Log probabilities `[n, N]` of a probe whose labels are cells; next to nothing for cells it never saw."""
        own = self.logits(features)
        full = np.full((len(own), n_cells), _LEAST_LOGIT)
        full[:, self.labels] = np.maximum(own, _LEAST_LOGIT)
        return full


def fit_probe(
    train_features: Any,
    label: Any,
    val_features: Any,
    val_label: Any,
    strengths: Sequence[float] = STRENGTHS,
    iterations: int = 200,
) -> Probe:
    """Fit a probe to standardised features and choose the strength of its penalty.

    The criterion is the log likelihood of the validation photographs after a temperature was fitted to them, as
    decoding does: it moves with every photograph, where the share of right answers moves in steps. It has one valley
    along C, which is walked down from the middle, so that few of the strengths are fitted.

    Args:
        train_features: `[m, d]` features of the training photographs.
        label: `[m]` what is to be named.
        val_features: `[v, d]` features of the validation photographs.
        val_label: `[v]` their labels; those that training never showed are left out.
        strengths: values of C, rising.
        iterations: at most so many steps of the solver.

    Raises:
        ValueError: labels and rows differ in number.
    """
    base, target = matrix(train_features, "train_features"), np.asarray(label)
    if len(target) != len(base):
        raise ValueError(f"one label per training row is needed: {len(target)} labels for {len(base)} rows")
    mean, spread = base.mean(axis=0), np.maximum(base.std(axis=0), 1e-6)
    x, labels = (base - mean) / spread, np.unique(target)
    if len(labels) == 1:
        return Probe(MIDDLE, labels, {}, mean, spread, None)
    asked = np.asarray(val_label)
    column = np.minimum(np.searchsorted(labels, asked), len(labels) - 1)
    known = labels[column] == asked if len(asked) else np.zeros(0, dtype=bool)
    grid = sorted(strengths)
    fitted: dict[int, Any] = {}
    loss: dict[int, float] = {}

    def tried(number: int) -> float:
        if number not in fitted:
            fitted[number] = _fit(x, target, grid[number], iterations)
            loss[number] = 0.0
            if known.any():
                seen = (matrix(val_features, "val_features")[known] - mean) / spread
                logits = fitted[number].predict_log_proba(seen)
                loss[number] = negative_log_likelihood(logits, column[known], fit_temperature(logits, column[known]))
        return loss[number]

    at = int(np.abs(np.log(grid) - np.log(MIDDLE)).argmin())
    tried(at)
    while known.any():
        near = [number for number in (at - 1, at + 1) if 0 <= number < len(grid)]
        best = min(near, key=tried, default=at)
        if not tried(best) < tried(at):
            break
        at = best
    by_strength = {grid[number]: value for number, value in sorted(loss.items())} if known.any() else {}
    return Probe(grid[at], labels, by_strength, mean, spread, fitted[at])


def _fit(x: np.ndarray, target: np.ndarray, strength: float, iterations: int) -> Any:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # On one thread sums have one order, and fits of this size are the fastest.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # The limit of steps is meant; that the last one was not the optimum is no news.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=iterations, tol=1e-3).fit(x, target)
