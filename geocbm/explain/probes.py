"""Probes: what a plain classifier reads of the country from concept scores, from the truth, and from the features.

The penalty of each probe is a number that moves smoothly with the data. One picked from a few values by the share of
right answers on a small validation split jumps: two trainings that differ in the last digits of their scores then
differ in what is read from them by several points. Here the criterion is the log likelihood by cross-validation over
spatial blocks, every picture of training and validation is held out once, and the answer is the bottom of the parabola
through the best value and its neighbours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geocbm.errors import ParameterError
from geocbm.evaluation.baselines.linear import fit_quietly, walk_down
from geocbm.explain.concept_labels import ConceptLabels
from geocbm.explain.controls import random_directions
from geocbm.metrics import Estimate, Resamples, spatial_blocks
from geocbm.run import Run

STRENGTHS = tuple(float(value) for value in np.round(10.0 ** np.arange(-3, 2, 0.5), 6))
"""Inverse strengths of the penalty (scikit-learn's C) between which one is looked for."""

FOLDS = 3
LEAST_PROBABILITY = 1e-6

INPUTS = (
    "prior", "named", "hard", "scores", "random", "features", "true", "true_and_scores", "true_and_features"
)  # fmt: skip
"""What is read, in the order of the page.

`prior`: nothing, the most frequent country; `named`: which concept and parent have the highest score; `hard`: scores
cut to yes or no; `random`: as many random directions of the features; `features`: of the picture, past the concepts;
`true`: the concepts that can truly be seen.
"""


@dataclass(frozen=True)
class ProbeResult:
    """What a classifier made of one kind of input."""

    right: np.ndarray  # [m] whether each test picture got its true label
    log_likelihood: np.ndarray  # [m] log probability of the true label, NaN where training never showed that label
    strength: float = float("nan")  # inverse, of the penalty (scikit-learn's C); NaN where nothing was fitted


def block_folds(blocks: np.ndarray) -> np.ndarray:
    """Fold `[n]`, from 0, of each picture: `FOLDS` of about equal size, which keep the pictures of a block together.

    With fewer blocks than folds the pictures are dealt out one by one.
    """
    names, block = np.unique(blocks, return_inverse=True)
    if len(names) < FOLDS:
        block = np.arange(len(blocks))
    counts = np.bincount(block)
    generator = np.random.default_rng(0)
    fold, filled = np.empty(len(counts), dtype=np.int64), np.zeros(FOLDS)
    order = generator.permutation(len(counts))
    for one in order[np.argsort(-counts[order], kind="stable")]:  # the largest first, each to the emptiest fold
        fold[one] = filled.argmin()
        filled[fold[one]] += counts[one]
    return fold[block]


def logistic(strength: float) -> Any:
    """Multinomial logistic regression with so many steps as a comparison needs."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=100, tol=1e-3, warm_start=True)


def choose_strength(x: np.ndarray, label: np.ndarray, blocks: np.ndarray) -> float:
    """Strength with the highest cross-validated log likelihood, between the ends of `STRENGTHS`.

    `x` `[n, d]` are standardised inputs of training and validation pictures; a block is never in two folds. It is the
    bottom of the parabola through the best value and its neighbours; where nothing can be held out, 0.1.
    """
    fold, start = block_folds(blocks), STRENGTHS.index(0.1)
    held = []
    for number in range(fold.max() + 1):
        own = fold == number
        known_labels = np.unique(label[~own])
        known = own & np.isin(label, known_labels)
        if len(known_labels) > 1 and known.any():
            held.append((~own, known, logistic(STRENGTHS[start])))
    if not held:
        return STRENGTHS[start]

    def loss(number: int) -> float:
        parts = []
        for fitted, asked, model in held:
            fit_quietly(model.set_params(C=STRENGTHS[number]), x[fitted], label[fitted])
            probability = model.predict_proba(x[asked])
            own = probability[np.arange(len(probability)), np.searchsorted(model.classes_, label[asked])]
            parts.append(-np.log(np.maximum(own, LEAST_PROBABILITY)))
        return float(np.concatenate(parts).mean())

    best, losses = walk_down(loss, start, len(STRENGTHS))
    if not 0 < best < len(STRENGTHS) - 1:
        return STRENGTHS[best]
    below, here, above = (losses[number] for number in (best - 1, best, best + 1))
    bend = below - 2 * here + above
    shift = float(np.clip((below - above) / (2 * bend), -0.5, 0.5)) if bend > 0 else 0.0
    step = np.log(STRENGTHS[best + 1] / STRENGTHS[best])
    return float(STRENGTHS[best] * np.exp(shift * step))


def probe_label(
    features: np.ndarray,
    label: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    test: np.ndarray,
    blocks: np.ndarray | None = None,
) -> ProbeResult:
    """Multinomial logistic regression, its penalty cross-validated over training and validation (`choose_strength`).

    `features` `[n, d]` of all pictures are brought to mean 0 and spread 1 over the training rows, which need two
    labels, and `blocks` `[n]` are never in two folds; without, every picture is its own.
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
    return ProbeResult(named == label[test], np.where(seen, np.log(own), np.nan), strength)


def hard_scores(scores: np.ndarray, present: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Scores `[n, k]` as yes or no: above the threshold that says yes as often as is true in the training pictures.

    `present` `[n, k]` is the truth, `train` are the rows that set the thresholds.
    """
    hard = np.zeros(scores.shape, dtype=bool)
    for column in range(scores.shape[1]):
        share = present[train, column].mean()
        if share > 0:
            hard[:, column] = scores[:, column] >= np.quantile(scores[train, column], 1 - share)
    return hard


def named_only(scores: np.ndarray, n_metas: int) -> np.ndarray:
    """Which of the `n_metas` first columns and which of the others has the highest score, as yes or no, `[n, k]`."""
    named = np.zeros(scores.shape, dtype=bool)
    for start, end in ((0, n_metas), (n_metas, scores.shape[1])):
        if end > start:
            named[np.arange(len(scores)), start + scores[:, start:end].argmax(axis=1)] = True
    return named


def probe_country(
    run: Run, scores: np.ndarray, labels: ConceptLabels, pooled: np.ndarray, seed: int = 0
) -> dict[str, ProbeResult]:
    """Read the country of the test pictures from everything that may tell it; the names are those of `INPUTS`.

    Scores are read as their logarithms, which makes room between the small ones. Random directions are the control:
    whatever a classifier reads from as many numbers without a meaning was not told by the names of the concepts (Yan
    et al. 2023, "Learning concise and descriptive attributes", find random words as good as chosen ones). What needs
    the truth is left out where the data has no complete list of visible concepts, and all but the prior where the
    training split has a single country.

    `scores` `[n, k]` are probabilities of metas and then parents, `pooled` `[n, d]` features of the adapted encoder.
    """
    train, test = run.pictures["train"], run.pictures["test"]
    soft = np.log(np.maximum(scores, LEAST_PROBABILITY))
    directions = random_directions(scores.shape[1], pooled.shape[1], seed).numpy().T  # (d, k)
    inputs = {
        "named": named_only(scores, len(run.concepts.metas)),
        "scores": soft,
        "random": pooled @ directions,
        "features": pooled,
    }
    if labels.complete:
        inputs["hard"] = hard_scores(scores, labels.present, train)
        inputs["true"] = labels.present
        inputs["true_and_scores"] = np.concatenate([labels.present, soft], axis=1)
        inputs["true_and_features"] = np.concatenate([labels.present, pooled], axis=1)
    names, counts = np.unique(run.country[train], return_counts=True)
    right = run.country[test] == names[counts.argmax()]
    share = {name: count / len(train) for name, count in zip(names, counts, strict=True)}
    prior = ProbeResult(right, np.log([share.get(name, np.nan) for name in run.country[test]]))
    found, blocks = {"prior": prior}, spatial_blocks(run.lat, run.lng)
    for name, x in inputs.items() if len(names) > 1 else ():
        found[name] = probe_label(x.astype(np.float64), run.country, train, run.pictures["val"], test, blocks)
    return {name: found[name] for name in INPUTS if name in found}


GAINS = {
    "seen": ("features", "prior"),
    "soft_gain": ("scores", "hard"),
    "over_truth": ("scores", "true"),
    "beyond_truth": ("true_and_scores", "true"),
    "hidden": ("true_and_features", "true"),
    "past_concepts": ("features", "scores"),
    "by_name": ("scores", "random"),
}
"""Differences of two probes: what is read instead of what."""


def probe_gains(probes: Mapping[str, ProbeResult], drawn: Resamples) -> dict[str, Estimate]:
    """Differences in the share of countries told right, paired, with intervals; those that can be had."""
    gains = {}
    for name, (first, second) in GAINS.items():
        # Without the truth there are no thresholds; what is named stands for yes and no.
        second = "named" if second == "hard" and "hard" not in probes else second
        if first in probes and second in probes:
            gains[name] = drawn.difference(probes[first].right, probes[second].right)
    return gains
