"""Linear probe: multinomial logistic regression on frozen features, its penalty chosen on the validation split."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from geocbm.evaluation.baselines.base import Labels, Prediction, matrix
from geocbm.geocells import Geocells
from geocbm.metrics import fit_temperature, negative_log_likelihood
from geocbm.models.decoder import Points
from geocbm.models.stage2 import Stage2Config
from geocbm.models.stage2_inference import NeighbourRefiner

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Inverse strengths of the penalty (scikit-learn's C) from which one is chosen."""

MIDDLE = STRENGTHS.index(0.1)
"""Where the search begins, and what is taken without validation photographs."""

_LEAST_LOGIT = -30.0
_AT_ONCE = 256


def fit_quietly(model: Any, x: np.ndarray, label: np.ndarray) -> Any:
    """Fit a model of scikit-learn whose note that the last step was not the optimum is no news: the limit is meant."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # On one thread sums have one order, whatever the machine; for fits as small as these it is also the fastest.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, label)


def walk_down(loss: Callable[[int], float], start: int, count: int) -> tuple[int, dict[int, float]]:
    """The number below `count` at the bottom of a loss with one valley, and the losses tried on the way there."""
    losses: dict[int, float] = {}

    def tried(number: int) -> float:
        if number not in losses:
            losses[number] = loss(number)
        return losses[number]

    at = start
    while True:
        lower = min((number for number in (at - 1, at + 1) if 0 <= number < count), key=tried)
        if not tried(lower) < tried(at):
            return at, losses
        at = lower


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier."""

    strength: float  # the chosen C
    labels: np.ndarray  # [k] what it can name, sorted
    loss: dict[float, float]  # for each C tried, mean -log likelihood of the validation photographs, nats, calibrated
    mean: np.ndarray  # [d] of the training features
    spread: np.ndarray  # [d] their standard deviation
    model: Any  # of scikit-learn; None where there is a single label

    def standardise(self, features: Any) -> np.ndarray:
        """Features `[n, d]` in units of their spread over the training photographs."""
        return (matrix(features, "features") - self.mean) / self.spread

    def logits(self, features: Any) -> np.ndarray:
        """Log probabilities `[n, k]` of the labels."""
        x = self.standardise(features)
        return np.zeros((len(x), 1)) if self.model is None else self.model.predict_log_proba(x)

    def names(self, features: Any) -> np.ndarray:
        """The likeliest label of each row, `[n]`."""
        return self.labels[self.logits(features).argmax(axis=1)]

    def cell_logits(self, features: Any, n_cells: int) -> np.ndarray:
        """Log probabilities `[n, N]` of a probe whose labels are cells; next to nothing for cells it never saw."""
        own = self.logits(features)
        full = np.full((len(own), n_cells), _LEAST_LOGIT)
        full[:, self.labels] = np.maximum(own, _LEAST_LOGIT)
        return full


def fit_probe(train_features: Any, label: Any, val_features: Any, val_label: Any) -> Probe:
    """Fit a probe to standardised features `[m, d]` and choose its penalty on validation photographs `[v, d]`.

    The criterion is the log likelihood of the validation photographs after a temperature was fitted to them, as
    decoding does: it moves with every photograph, where the share of right answers moves in steps. It has one valley
    along C, which is walked down from the middle, so that few of the strengths are fitted. Validation labels that
    training never showed are left out.
    """
    from sklearn.linear_model import LogisticRegression

    base, target = matrix(train_features, "train_features"), np.asarray(label)
    labels, asked = np.unique(target), np.asarray(val_label)
    bare = Probe(STRENGTHS[MIDDLE], labels, {}, base.mean(axis=0), np.maximum(base.std(axis=0), 1e-6), None)
    if len(labels) == 1:
        return bare
    x, known = bare.standardise(base), np.isin(asked, labels)

    def fitted(number: int) -> Probe:
        model = LogisticRegression(C=STRENGTHS[number], max_iter=200, tol=1e-3)
        return replace(bare, strength=STRENGTHS[number], model=fit_quietly(model, x, target))

    if not known.any():
        return fitted(MIDDLE)
    column, seen = np.searchsorted(labels, asked[known]), matrix(val_features, "val_features")[known]
    probes: dict[int, Probe] = {}

    def loss(number: int) -> float:
        probes[number] = fitted(number)
        logits = probes[number].logits(seen)
        return negative_log_likelihood(logits, column, fit_temperature(logits, column))

    best, losses = walk_down(loss, MIDDLE, len(STRENGTHS))
    return replace(probes[best], loss={STRENGTHS[number]: value for number, value in sorted(losses.items())})


class LinearProbe:
    """Linear probes for cells, countries and metas, each with its own penalty.

    Among the places it may answer is the mean of the most similar training pictures inside the likeliest cell, as
    Stage 2 refines its answer in the recipe `refined`.
    """

    name = "linear_probe"
    targets: tuple[str, ...] = ("cell", "country", "meta")

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> LinearProbe:
        """Keep the training photographs; the probes are fitted in `tune`, with the validation photographs at hand."""
        self.features_, self.labels_, self.cells_ = features, labels, cells
        return self

    def tune(self, features: np.ndarray, labels: Labels) -> None:
        """Fit a probe for each target, its penalty chosen on these photographs."""
        self.probes_ = {
            target: fit_probe(self.features_, getattr(self.labels_, target), features, getattr(labels, target))
            for target in self.targets
        }

    def predict(self, features: np.ndarray) -> Prediction:
        """Distribution over cells, countries and metas."""
        cell = self.probes_["cell"]
        logits = cell.cell_logits(features, len(self.cells_))
        country, meta = (
            self.probes_[target].names(features) if target in self.targets else None for target in ("country", "meta")
        )
        detail, near = f"C = {cell.strength:g}", {"neighbours": self._inside(features, logits)}
        return Prediction(self.name, None, None, country, meta, logits, detail, near)

    def _inside(self, features: np.ndarray, logits: np.ndarray) -> Points:
        """Mean place of the most similar training pictures in the likeliest cell, `[n]` degrees each."""
        config = Stage2Config(refine_cells=1, refine_neighbours=10, refine_temperature=0.1)
        known = self.labels_
        refiner = NeighbourRefiner(torch.from_numpy(self.features_), known.lat, known.lng, self.cells_.sample_to_cell)
        lat, lng = np.empty(len(features)), np.empty(len(features))
        for start in range(0, len(features), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            best = torch.from_numpy(logits[some].argmax(axis=1))[:, None]
            near = refiner.refine(torch.from_numpy(features[some]), best, torch.ones(best.shape), config)
            lat[some], lng[some] = near[0].double().numpy(), near[1].double().numpy()
        return lat, lng


class TrueConcepts(LinearProbe):
    """Oracle that is told the true list of visible concepts: about what perfect eyes for concepts would reach.

    It reads `concept_features`. Countries and cells add up evidence, so logistic regression names them; which of the
    visible concepts a scene is labelled with depends on how they compare in size, so a random forest names the meta.
    """

    name, targets = "true_concepts", ("cell", "country")

    def __init__(self, seed: int = 0, trees: int = 200) -> None:
        self.seed, self.trees = seed, trees

    def tune(self, features: np.ndarray, labels: Labels) -> None:
        """Fit the probes, their penalties chosen on these photographs, and the forest."""
        from sklearn.ensemble import RandomForestClassifier

        super().tune(features, labels)
        x, known = self.probes_["cell"].standardise(self.features_), self.labels_.meta >= 0
        forest = RandomForestClassifier(self.trees, n_jobs=-1, random_state=self.seed)
        self.forest_ = forest.fit(x[known], self.labels_.meta[known])

    def predict(self, features: np.ndarray) -> Prediction:
        """Distribution over cells, countries and metas."""
        x = self.probes_["cell"].standardise(features)
        return replace(super().predict(features), meta=self.forest_.predict(x))


def concept_features(visible: Sequence[Sequence[Mapping[str, Any]]], metas: Sequence[str]) -> np.ndarray:
    """The true list of visible concepts as numbers `[n, 3 k]`.

    `visible` holds for each photograph its visible concepts, each with `meta_name` and `box` (x0, y0, x1, y1 from 0 to
    1) and, if known, its `area` as a part of the picture. The numbers are whether each meta is visible, the square root
    of the largest area it takes, and that root as a share of the largest in the photograph.
    """
    index = {meta: i for i, meta in enumerate(metas)}
    present = np.zeros((len(visible), len(metas)), dtype=np.float32)
    root = np.zeros_like(present)
    for row, concepts in enumerate(visible):
        for concept in (each for each in concepts if each["meta_name"] in index):
            column = index[concept["meta_name"]]
            x0, y0, x1, y1 = concept["box"]
            area = float(concept.get("area", (x1 - x0) * (y1 - y0)))
            present[row, column] = 1
            root[row, column] = max(root[row, column], max(0.0, area) ** 0.5)
    relative = root / np.maximum(root.max(axis=1, keepdims=True), 1e-12)
    return np.concatenate([present, root, relative], axis=1)
