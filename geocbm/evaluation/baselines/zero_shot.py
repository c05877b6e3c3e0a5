"""Zero-shot classification by prompts in the joint space of pictures and texts (Radford et al., 2021, "CLIP")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geocbm.evaluation.baselines.base import Labels, Prediction, matrix
from geocbm.evaluation.baselines.neighbours import unit_rows
from geocbm.geocells import Geocells
from geocbm.geocells.geometric_median import centroids, places_of_groups

COUNTRY_TEMPLATES = (
    "A street view photo in {}",
    "A photo taken in {}",
    "A road in {}",
    "A photo of the landscape of {}",
    "A place in {}",
)
"""Prompts for the name of a country; a country's prototype is the mean over them."""


def most_alike(features: Any, prototypes: Any) -> np.ndarray:
    """Row of the prototype `[k, d]` with the highest cosine for each picture `[n, d]`, `[n]`; of equals the first."""
    pictures, texts = matrix(features, "features"), matrix(prototypes, "prototypes")
    if pictures.shape[1] != texts.shape[1]:
        raise ValueError(
            f"features have width {pictures.shape[1]}, prototypes {texts.shape[1]}: pictures and texts must come from "
            "one model with a joint space"
        )
    return (pictures @ unit_rows(texts).T).argmax(axis=1)


class ZeroShotCountry:
    """The country whose prompts are most like the picture; the place is the mean of its training places.

    Nothing is fitted but these means: features and prompts come from the untouched model.

    Args:
        prototypes: `[k, d]` of the countries' prompts.
        names: `k` countries.
    """

    name = "zero_shot_country"

    def __init__(self, prototypes: Any, names: Sequence[str]) -> None:
        self.prototypes, self.names = prototypes, names

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> ZeroShotCountry:
        """Learn the mean place of each country; the features are not looked at."""
        self.middle_ = centroids(labels.lat, labels.lng, labels.country)
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        """Country and its mean place."""
        country = np.asarray(self.names)[most_alike(features, self.prototypes)]
        return Prediction(self.name, *places_of_groups(country, self.middle_), country)


class ZeroShotConcept:
    """The meta whose prompts are most like the picture; `prototypes` `[k_m, d]` stand in the order of the metas."""

    name = "zero_shot_concept"

    def __init__(self, prototypes: Any) -> None:
        self.prototypes = prototypes

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> ZeroShotConcept:
        """Nothing is learned."""
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        """Metas alone."""
        return Prediction(self.name, meta=most_alike(features, self.prototypes))
