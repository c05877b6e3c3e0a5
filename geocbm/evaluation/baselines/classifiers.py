"""Classifiers on frozen features and, as a ceiling, on the true list of visible concepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from geocbm.evaluation.baselines.prediction import Prediction, matrix


def concept_features(visible: Sequence[Sequence[Mapping[str, Any]]], metas: Sequence[str]) -> np.ndarray:
    """The true list of visible concepts as numbers.

    Args:
        visible: for each photograph its visible concepts, each with `meta_name` and `box` (x0, y0, x1, y1
            from 0 to 1) and, if known, its `area` as a part of the picture.
        metas: `[k]` names of all metas.

    Returns:
        `[n, 3 k]`: whether each meta is visible, the square root of the largest area it takes, and that root as a
        share of the largest in the photograph.
    """
    index = {meta: i for i, meta in enumerate(metas)}
    present = np.zeros((len(visible), len(metas)), dtype=np.float32)
    root = np.zeros_like(present)
    for row, concepts in enumerate(visible):
        for concept in concepts:
            if concept["meta_name"] not in index:
                continue
            column = index[concept["meta_name"]]
            x0, y0, x1, y1 = concept["box"]
            area = float(concept.get("area", (x1 - x0) * (y1 - y0)))
            present[row, column] = 1
            root[row, column] = max(root[row, column], max(0.0, area) ** 0.5)
    relative = root / np.maximum(root.max(axis=1, keepdims=True), 1e-12)
    return np.concatenate([present, root, relative], axis=1)


def _by_classifiers(
    make: Callable[[str], Any],
    name: str,
    train_x: np.ndarray,
    x: np.ndarray,
    country: Any | None,
    meta: Any | None,
    cell: Any | None,
    cell_lat: Any | None,
    cell_lng: Any | None,
) -> Prediction:
    """Fit one classifier, `make(label)`, for each label that is given."""

    def answer(label: str, labels: Any | None) -> np.ndarray | None:
        if labels is None:
            return None
        target = np.asarray(labels)
        if len(target) != len(train_x):
            raise ValueError(f"one label per training row is needed: {len(target)} labels for {len(train_x)} rows")
        if len(np.unique(target)) == 1:
            return np.repeat(target[:1], len(x))
        return make(label).fit(train_x, target).predict(x)

    if cell is not None and (cell_lat is None or cell_lng is None):
        raise ValueError("cell_lat and cell_lng, the centres of the cells, are needed to turn cells into places")
    place = answer("cell", cell)
    return Prediction(
        name,
        None if place is None else np.asarray(cell_lat, dtype=float)[place],
        None if place is None else np.asarray(cell_lng, dtype=float)[place],
        answer("country", country),
        answer("meta", meta),
    )


def linear_probe(
    train_features: Any,
    features: Any,
    country: Any | None = None,
    meta: Any | None = None,
    cell: Any | None = None,
    cell_lat: Any | None = None,
    cell_lng: Any | None = None,
    strength: float = 0.02,
    iterations: int = 200,
    name: str = "linear_probe",
) -> Prediction:
    """Multinomial logistic regression on standardised frozen features, one for each label given.

    Args:
        train_features: `[m, d]` features of the training photographs.
        features: `[n, d]` features of the photographs to answer for.
        country: `[m]` training countries.
        meta: `[m]` training metas.
        cell: `[m]` training geocells; the predicted cell's centre is the predicted place.
        cell_lat: `[N]` latitudes of the cells' centres, degrees.
        cell_lng: `[N]` longitudes of the cells' centres, degrees.
        strength: inverse strength of the penalty on squared weights (scikit-learn's C).
        iterations: at most so many steps of the solver.
        name: name of the method.
    """
    base, queries = matrix(train_features, "train_features"), matrix(features, "features")
    base, queries = _standardised(base, queries)
    return _by_classifiers(
        lambda label: _logistic(strength, iterations), name, base, queries, country, meta, cell, cell_lat, cell_lng
    )


def _standardised(base: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale every column by the mean and spread it has in `base`."""
    mean, spread = base.mean(axis=0), np.maximum(base.std(axis=0), 1e-6)
    return (base - mean) / spread, (queries - mean) / spread


def _logistic(strength: float, iterations: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return _Quiet(LogisticRegression(C=strength, max_iter=iterations, tol=1e-3))


class _Quiet:
    """A classifier whose note that the last step was not the optimum is not shown: the limit is meant."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, x: np.ndarray, target: np.ndarray) -> Any:
        import warnings

        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return self.model.fit(x, target)


def true_concepts(
    train_concepts: Any,
    concepts: Any,
    country: Any | None = None,
    meta: Any | None = None,
    cell: Any | None = None,
    cell_lat: Any | None = None,
    cell_lng: Any | None = None,
    strength: float = 0.02,
    iterations: int = 200,
    trees: int = 200,
    seed: int = 0,
    name: str = "true_concepts",
) -> Prediction:
    """Classifiers on the true list of visible concepts: about what perfect eyes for concepts would reach.

    Countries and cells add up evidence, so logistic regression names them; which of the visible concepts a scene is
    labelled with depends on how they compare in size, so a random forest names the meta.

    Args:
        train_concepts: `[m, d]` `concept_features` of the training photographs.
        concepts: `[n, d]` those of the photographs to answer for.
        country: `[m]` training countries.
        meta: `[m]` training metas.
        cell: `[m]` training geocells; the predicted cell's centre is the predicted place.
        cell_lat: `[N]` latitudes of the cells' centres, degrees.
        cell_lng: `[N]` longitudes of the cells' centres, degrees.
        strength: inverse strength of the penalty on squared weights of the regression.
        iterations: at most so many steps of its solver.
        trees: number of trees of the forest.
        seed: seed of the forest.
        name: name of the method.
    """
    base, queries = _standardised(matrix(train_concepts, "train_concepts"), matrix(concepts, "concepts"))

    def make(label: str) -> Any:
        if label != "meta":
            return _logistic(strength, iterations)
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(trees, n_jobs=-1, random_state=seed)

    return _by_classifiers(make, name, base, queries, country, meta, cell, cell_lat, cell_lng)
