"""Simple baselines: a random training photograph, the prior, mean colours, zero-shot prompts and oracles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geocbm.data.images.photographs import open_picture
from geocbm.evaluation.baselines.base import Labels, Prediction, matrix
from geocbm.evaluation.baselines.neighbours import unit_rows
from geocbm.geocells import Geocells
from geocbm.geocells.building import centroids, medoid, places_of_groups

COUNTRY_TEMPLATES = (
    "A street view photo in {}",
    "A photo taken in {}",
    "A road in {}",
    "A photo of the landscape of {}",
    "A place in {}",
)
"""Prompts for the name of a country; a country's prototype is the mean over them."""

_SMALL = 64
"""Pixels along the shorter side from which a mean colour is taken."""


class Chance:
    """The answer of a training photograph drawn at random, for each photograph anew: what knowing nothing gets."""

    name = "chance"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> Chance:
        """Keep the training labels; the features are not looked at."""
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
        best = medoid(labels.lat, labels.lng, self.seed)
        self.place_ = labels.lat[best], labels.lng[best]
        self.country_, self.meta_ = _most_frequent(labels.country), _most_frequent(labels.meta[labels.meta >= 0])
        self.logits_ = np.log(np.maximum(np.bincount(labels.cell, minlength=len(cells)), 1e-3))
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        """The same for each of `n` photographs."""
        n = len(features)
        lat, lng, country, meta = (np.repeat(value, n) for value in (*self.place_, self.country_, self.meta_))
        return Prediction(self.name, lat, lng, country, meta, np.repeat(self.logits_[None], n, axis=0))


def _most_frequent(values: np.ndarray) -> Any:
    kinds, counts = np.unique(values, return_counts=True)
    return kinds[counts.argmax()]


def mean_colours(files: Iterable[str | Path]) -> np.ndarray:
    """Mean red, green and blue of each image from 0 to 1, `[n, 3]`: what is left of a picture without its content."""
    small = (np.asarray(open_picture(file, least_side=_SMALL), dtype=np.float32) for file in files)
    return np.array([pixels.mean(axis=(0, 1)) / 255 for pixels in small], dtype=np.float32).reshape(-1, 3)


class ZeroShot:
    """The class whose prompts are most like the picture (Radford et al., 2021, "CLIP"); nothing is fitted to it.

    `prototypes` `[k, d]` of the prompts lie in one space with the pictures.
    """

    name = "zero_shot_concept"

    def __init__(self, prototypes: Any) -> None:
        self.prototypes = matrix(prototypes, "prototypes")

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> ZeroShot:
        """Nothing is learned."""
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        """Metas alone; the prototypes stand in their order."""
        return Prediction(self.name, meta=self.most_alike(features))

    def most_alike(self, features: np.ndarray) -> np.ndarray:
        """Row of the prototype with the highest cosine for each picture `[n, d]`, `[n]`; of equals the first."""
        return (matrix(features, "features") @ unit_rows(self.prototypes).T).argmax(axis=1)


class ZeroShotCountry(ZeroShot):
    """The country (of `names`) whose prompts are most like the picture; the place is their mean training place."""

    name = "zero_shot_country"

    def __init__(self, prototypes: Any, names: Sequence[str]) -> None:
        super().__init__(prototypes)
        self.names = np.asarray(names)

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> ZeroShotCountry:
        """Learn the mean place of each country; the features are not looked at."""
        self.middle_ = centroids(labels.lat, labels.lng, labels.country)
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        """Country and its mean place."""
        country = self.names[self.most_alike(features)]
        return Prediction(self.name, *places_of_groups(country, self.middle_), country)


def country_centroid(train: Labels, country: np.ndarray) -> Prediction:
    """Oracle that is told the true country `[n]`: the spherical mean of that country's training places.

    A method that names every country right and knows no more gets this. A country without a training place has no
    answer (NaN), which counts as a miss.
    """
    place = places_of_groups(country, centroids(train.lat, train.lng, train.country))
    return Prediction("country_centroid", *place, np.asarray(country))


def true_meta(train: Labels, meta: np.ndarray, seed: int = 0) -> Prediction:
    """Oracle that is told the labelled meta `[n]`: the training place of that meta with the smallest median distance.

    It says how much of the place the label alone gives away. The country is the most frequent one of the meta's
    training photographs, of equals the first by name. A meta without a training place has no answer (NaN), which
    counts as a miss. `seed` draws the candidates where there are many.
    """
    middle, frequent = {}, {}
    for each in np.intersect1d(meta, train.meta).tolist():
        own = train[np.flatnonzero(train.meta == each)]
        best = medoid(own.lat, own.lng, seed)
        middle[each] = (float(own.lat[best]), float(own.lng[best]))
        frequent[each] = _most_frequent(own.country)
    # No country has the empty name, so that a meta without training photographs is a miss.
    country = np.array([frequent.get(each, "") for each in np.asarray(meta).tolist()])
    return Prediction("true_meta", *places_of_groups(meta, middle), country, np.asarray(meta))
