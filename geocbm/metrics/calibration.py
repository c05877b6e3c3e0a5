"""Calibration: whether a probability means what it says, and the temperature that makes it so."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from geocbm.metrics.inputs import array, column, same_length

TEMPERATURES = (0.05, 20.0)
"""Between which a temperature is looked for; beyond them a softmax is all certainty or none."""

BINS = 15  # of the calibration error, as in Guo et al. (2017)

_NUMBERS_AT_ONCE = 4_000_000  # bounds the memory of a table of logits in double precision


def reliability_bins(confidence: Any, correct: Any, bins: int = 10) -> pd.DataFrame:
    """Mean confidence and accuracy in bins of equal width between 0 and 1; an edge belongs to the bin below it.

    `confidence` `[n]` is the probability given to the named class, `correct` `[n]` says whether that is the true one.

    Returns:
        A row for each bin that is not empty: `low`, `high`, `n`, `confidence`, `accuracy`.

    Raises:
        ValueError: no rows, different lengths, or a confidence outside 0 to 1.
    """
    probability, hit = column(confidence, "confidence"), column(correct, "correct")
    same_length(confidence=probability, correct=hit)
    bad = np.flatnonzero(~((probability >= -1e-6) & (probability <= 1 + 1e-6)))
    if len(bad):
        raise ValueError(f"confidence must lie between 0 and 1, but row {bad[0]} is {probability[bad[0]]}")
    index = np.clip(np.ceil(np.clip(probability, 0, 1) * bins).astype(int) - 1, 0, bins - 1)
    frame = pd.DataFrame({"bin": index, "confidence": probability, "accuracy": hit})
    table = frame.groupby("bin").agg(
        n=("bin", "size"), confidence=("confidence", "mean"), accuracy=("accuracy", "mean")
    )
    table.insert(0, "low", table.index / bins)
    table.insert(1, "high", (table.index + 1) / bins)
    return table.reset_index(drop=True)


def expected_calibration_error(confidence: Any, correct: Any, bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy over `reliability_bins`, weighted by rows (Naeini et al. 2015)."""
    table = reliability_bins(confidence, correct, bins)
    return float((table["n"] * (table["confidence"] - table["accuracy"]).abs()).sum() / table["n"].sum())


def calibration_error_by_chance(confidence: Any, draws: int = 200) -> float:
    """Calibration error that a perfectly calibrated model of the same confidences `[n]` has on average.

    It is above 0 because a bin of few photographs is never right exactly as often as it should be; a measured error
    must be held against it. The right answers are drawn with these probabilities, `draws` times.
    """
    probability = column(confidence, "confidence")
    table = reliability_bins(probability, np.ones(len(probability)), BINS)  # refuses what is no probability
    index = np.searchsorted(table["high"].to_numpy()[:-1], np.clip(probability, 0, 1))
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(draws):
        gap = (generator.random(len(probability)) < probability) - probability
        errors.append(np.abs(np.bincount(index, weights=gap)).sum() / len(probability))
    return float(np.mean(errors))


def _checked(logits: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[n, k]` in their own precision and targets `[n]`, refused where they do not fit each other."""
    scores = array(logits, "logits", None)
    true = column(target, "target", np.int64)
    if scores.ndim != 2:
        raise ValueError(f"logits must be a table [n, classes], its shape is {scores.shape}")
    same_length(logits=scores, target=true)
    bad = np.flatnonzero((true < 0) | (true >= scores.shape[1]))
    if len(bad):
        raise ValueError(f"target {true[bad[0]]} of row {bad[0]} is none of the {scores.shape[1]} classes")
    return scores, true


def _parts(scores: np.ndarray, true: np.ndarray, temperature: float = 1.0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A few rows at a time: logits `[m, k]` counted from the highest, and those of the true classes `[m]`."""
    at_once = max(1, _NUMBERS_AT_ONCE // scores.shape[1])
    for start in range(0, len(scores), at_once):
        part = scores[start : start + at_once].astype(np.float64) / temperature
        part -= part.max(axis=1, keepdims=True)
        yield part, part[np.arange(len(part)), true[start : start + at_once]]


def negative_log_likelihood(logits: Any, target: Any, temperature: float = 1.0) -> float:
    """Mean of minus the logarithm of the probability of the true class `[n]`, in nats, of logits `[n, k]`."""
    scores, true = _checked(logits, target)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, it is {temperature}; 1 leaves the logits as they are")
    losses = (np.log(np.exp(part).sum(axis=1)) - wanted for part, wanted in _parts(scores, true, temperature))
    return sum(float(each.sum()) for each in losses) / len(scores)


def fit_temperature(logits: Any, target: Any) -> float:
    """The one number by which to divide logits so that the true classes become most likely (Guo et al. 2017).

    It changes how sure the model is, never which class it names; above 1 the model was too sure of itself. Logits `[n,
    k]` and true classes `[n]` are of photographs that it was not trained on. Where no temperature changes anything, as
    with a single class, it is 1.
    """
    scores, true = _checked(logits, target)

    def gaps(temperature: float) -> Iterator[np.ndarray]:
        """The true logit minus its expectation: above 0 where a lower temperature makes the truth more likely."""
        for part, wanted in _parts(scores, true):
            weight = np.exp(part / temperature)
            yield wanted - (weight * part).sum(axis=1) / weight.sum(axis=1)

    if not any((np.abs(gap) > 0).any() for gap in gaps(1.0)):
        return 1.0  # every class is as likely as any other, at any temperature
    low, high = np.log(TEMPERATURES)
    for _ in range(24):  # to a millionth: the loss is convex in 1 / temperature, so its slope changes sign once
        middle = (low + high) / 2
        if sum(float(gap.sum()) for gap in gaps(float(np.exp(middle)))) > 0:
            high = middle
        else:
            low = middle
    return float(np.exp((low + high) / 2))
