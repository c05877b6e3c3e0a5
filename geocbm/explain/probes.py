"""What a plain classifier reads of the country from concept scores, from the truth, and from the picture's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.explain.concept_labels import ConceptLabels
from geocbm.explain.penalty import LEAST_PROBABILITY, choose_strength, fit_quietly, logistic
from geocbm.metrics import figure_text, spatial_blocks

if TYPE_CHECKING:
    from geocbm.metrics import Resamples
    from geocbm.run import Run

Figure = dict[str, float]

READING_WORDS = {
    "prior": "nothing (the most frequent country)",
    "named": "which concept and parent are named, yes or no",
    "hard": "scores cut to yes or no",
    "scores": "scores",
    "random": "as many random directions of the features",
    "features": "features of the picture, past the concepts",
    "true": "true concepts",
    "true_and_scores": "true concepts and scores",
    "true_and_features": "true concepts and features of the picture",
}
"""What is read, in the order of the page."""


@dataclass(frozen=True)
class Reading:
    """What a classifier made of one kind of input.

    Attributes:
        right: `[m]` whether each test picture got its true label.
        log_likelihood: `[m]` log probability of the true label, NaN where training never showed that label.
        strength: inverse strength of the penalty (scikit-learn's C); NaN where nothing was fitted.
    """

    right: np.ndarray
    log_likelihood: np.ndarray
    strength: float = float("nan")


def read_label(
    features: np.ndarray,
    label: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    test: np.ndarray,
    blocks: np.ndarray | None = None,
) -> Reading:
    """Multinomial logistic regression, its penalty cross-validated over training and validation (`penalty`).

    Args:
        features: `[n, d]` of all pictures; they are brought to mean 0 and spread 1 over the training rows.
        label: `[n]` what is asked.
        train: rows to fit.
        val: rows that choose the penalty together with those to fit.
        test: rows that are answered.
        blocks: `[n]` spatial block of every picture, never in two folds; without, every picture is its own.

    Raises:
        ParameterError: the training rows have a single label.
    """
    if len(np.unique(label[train])) < 2:
        raise ParameterError(
            f"the training rows all have the label '{label[train][0]}'; a classifier needs two or more"
        )
    mean, spread = features[train].mean(axis=0), features[train].std(axis=0)
    standard = ((features - mean) / np.where(spread > 1e-6, spread, 1.0)).astype(np.float32)
    both = np.concatenate([train, val])
    strength = choose_strength(standard[both], label[both], (np.arange(len(label)) if blocks is None else blocks)[both])
    model = fit_quietly(logistic(strength), standard[train], label[train])
    probability = model.predict_proba(standard[test])  # (m, labels)
    column = np.minimum(np.searchsorted(model.classes_, label[test]), len(model.classes_) - 1)
    seen = model.classes_[column] == label[test]
    own = np.maximum(probability[np.arange(len(test)), column], LEAST_PROBABILITY)
    named = model.classes_[probability.argmax(axis=1)]
    return Reading(named == label[test], np.where(seen, np.log(own), np.nan), strength)


def hard_scores(scores: np.ndarray, present: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Scores as yes or no: above the threshold that says yes as often as is true in the training pictures.

    Args:
        scores: `[n, k]` of all pictures.
        present: `[n, k]` the truth.
        train: rows that set the thresholds.
    """
    hard = np.zeros(scores.shape, dtype=bool)
    for column in range(scores.shape[1]):
        share = present[train, column].mean()
        if share > 0:
            hard[:, column] = scores[:, column] >= np.quantile(scores[train, column], 1 - share)
    return hard


def named_only(scores: np.ndarray, n_metas: int) -> np.ndarray:
    """Which meta and which parent have the highest score, as yes or no, `[n, k]`.

    Args:
        scores: `[n, k]` of metas and then parents.
        n_metas: how many of the columns are metas.
    """
    named = np.zeros(scores.shape, dtype=bool)
    for start, end in ((0, n_metas), (n_metas, scores.shape[1])):
        if end > start:
            named[np.arange(len(scores)), start + scores[:, start:end].argmax(axis=1)] = True
    return named


def country_readings(
    files: Run, scores: np.ndarray, presence: ConceptLabels, pooled: np.ndarray, seed: int = 0
) -> dict[str, Reading]:
    """Read the country of the test pictures from everything that may tell it; the names are those of `READING_WORDS`.

    Scores are read as their logarithms, which makes room between the small ones. Random directions are the control:
    whatever a classifier reads from as many numbers without a meaning was not told by the names of the concepts (Yan
    et al. 2023, "Learning concise and descriptive attributes", find random words as good as chosen ones). What needs
    the truth is left out where the data has no complete list of visible concepts, and all but the prior where the
    training split has a single country.

    Args:
        files: the run.
        scores: `[n, k]` probabilities of metas and then parents.
        presence: what is known of the concepts.
        pooled: `[n, d]` features of the adapted encoder.
        seed: of the random directions.
    """
    train, test = files.rows["train"], files.rows["test"]
    soft = np.log(np.maximum(scores, LEAST_PROBABILITY))
    directions = np.random.default_rng(seed).standard_normal((pooled.shape[1], scores.shape[1]))
    inputs = {
        "named": named_only(scores, len(files.concepts.metas)),
        "scores": soft,
        "random": pooled @ directions,
        "features": pooled,
    }
    if presence.complete:
        inputs["hard"] = hard_scores(scores, presence.present, train)
        inputs["true"] = presence.present
        inputs["true_and_scores"] = np.concatenate([presence.present, soft], axis=1)
        inputs["true_and_features"] = np.concatenate([presence.present, pooled], axis=1)
    names, counts = np.unique(files.country[train], return_counts=True)
    right = files.country[test] == names[counts.argmax()]
    share = {name: count / len(train) for name, count in zip(names, counts, strict=True)}
    prior = Reading(right, np.log([share.get(name, np.nan) for name in files.country[test]]))
    found, blocks = {"prior": prior}, spatial_blocks(files.lat, files.lng)
    for name, x in inputs.items() if len(names) > 1 else ():
        found[name] = read_label(x.astype(np.float64), files.country, train, files.rows["val"], test, blocks)
    return {name: found[name] for name in READING_WORDS if name in found}


def reading_table(readings: Mapping[str, Reading], drawn: Resamples) -> pd.DataFrame:
    """How often each input tells the country, in words, with intervals."""
    lines = []
    for name, reading in readings.items():
        share, known = drawn.figure(reading.right), reading.log_likelihood[~np.isnan(reading.log_likelihood)]
        lines.append(
            {
                "what the classifier reads": READING_WORDS[name],
                "country right, %": figure_text(share, "{:.1f}", 100),
                "mean log likelihood": f"{known.mean():.2f}" if len(known) else "",
            }
        )
    return pd.DataFrame(lines)


GAIN_WORDS = {
    "seen": "features of the picture instead of guessing",
    "soft_gain": "what scores tell beyond yes or no",
    "over_truth": "scores instead of the true concepts",
    "beyond_truth": "scores beside the true concepts: leakage",
    "hidden": "features beside the true concepts: what there is to leak",
    "past_concepts": "features of the picture instead of scores",
    "by_name": "scores instead of random directions",
}
"""Differences of two readings, in the order of the page."""
_PAIRS = {
    "seen": ("features", "prior"),
    "soft_gain": ("scores", "hard"),
    "over_truth": ("scores", "true"),
    "beyond_truth": ("true_and_scores", "true"),
    "hidden": ("true_and_features", "true"),
    "past_concepts": ("features", "scores"),
    "by_name": ("scores", "random"),
}


def reading_gains(readings: Mapping[str, Reading], drawn: Resamples) -> dict[str, Figure]:
    """Differences in the share of countries told right, paired, with intervals; those that can be had."""
    gains = {}
    for name, (first, second) in _PAIRS.items():
        # Without the truth there are no thresholds; what is named stands for yes and no.
        second = "named" if second == "hard" and "hard" not in readings else second
        if first in readings and second in readings:
            gains[name] = drawn.difference(readings[first].right, readings[second].right)
    return gains


def gain_table(gains: Mapping[str, Figure]) -> pd.DataFrame:
    """The differences in words."""
    return pd.DataFrame(
        [
            {
                "change": words,
                "countries right, percentage points": figure_text(gains[name], "{:+z.1f}", 100),
            }
            for name, words in GAIN_WORDS.items()
            if name in gains
        ]
    )
