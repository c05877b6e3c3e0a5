"""Trivial baselines: a random training photograph, the prior, and mean colours as features."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from geocbm.data.images.pictures import open_picture
from geocbm.evaluation.baselines.base import Labels, Prediction
from geocbm.geocells import Geocells
from geocbm.geocells.geometric_median import medoid

_SMALL = 64
"""Pixels along the shorter side from which a mean colour is taken."""


class Chance:
    """The answer of a training photograph drawn at random, for each photograph anew: what knowing nothing gets."""

    name = "chance"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> Chance:
        """Keep the training labels; the features are not looked at."""
        if not len(labels):
            raise ValueError("chance needs at least one training photograph, the training split is empty")
        self.labels_ = labels
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        """A row of the training split for each of `n` photographs."""
        drawn = self.labels_[np.random.default_rng(self.seed).integers(len(self.labels_), size=len(features))]
        return Prediction(self.name, drawn.lat, drawn.lng, drawn.country, drawn.meta)


class Prior:
    """The same answer for every photograph: what suits the training split best.

    The place is the training photograph with the smallest median distance to the training photographs; country and meta
    are the most frequent ones; the distribution over cells is that of the training split.
    """

    name = "prior"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> Prior:
        """Count the training labels; the features are not looked at."""
        if not len(labels):
            raise ValueError("the prior needs at least one training photograph, the training split is empty")
        best = medoid(labels.lat, labels.lng, self.seed)
        self.place_ = labels.lat[best], labels.lng[best]
        self.country_, self.meta_ = (_most_frequent(values) for values in (labels.country, labels.meta))
        self.logits_ = np.log(np.maximum(np.bincount(labels.cell, minlength=len(cells)), 1e-3))
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        """The same for each of `n` photographs."""
        n = len(features)
        lat, lng = (np.full(n, degrees) for degrees in self.place_)
        country, meta = (np.repeat(value, n) for value in (self.country_, self.meta_))
        return Prediction(self.name, lat, lng, country, meta, np.repeat(self.logits_[None], n, axis=0))


def _most_frequent(values: np.ndarray) -> np.ndarray:
    kinds, counts = np.unique(values, return_counts=True)
    return kinds[[counts.argmax()]]


def mean_colours(files: Iterable[str | Path]) -> np.ndarray:
    """Mean red, green and blue of each image from 0 to 1, `[n, 3]`: what is left of a picture without its content."""
    colours = [
        np.asarray(open_picture(file, least_side=_SMALL), dtype=np.float32).mean(axis=(0, 1)) / 255 for file in files
    ]
    return np.array(colours, dtype=np.float32).reshape(-1, 3)
