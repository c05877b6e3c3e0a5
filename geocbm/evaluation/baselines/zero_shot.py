"""Zero-shot classification by prompts in the joint space of pictures and texts (Radford et al., 2021, "CLIP")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geocbm.evaluation.baselines.prediction import Prediction, matrix
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
    """Row of the prototype with the highest cosine for each picture, `[n]`; of equals the first.

    Args:
        features: `[n, d]` features of pictures.
        prototypes: `[k, d]` of texts in the same space, of any length.
    """
    pictures, texts = matrix(features, "features"), matrix(prototypes, "prototypes")
    if pictures.shape[1] != texts.shape[1]:
        raise ValueError(
            f"features have width {pictures.shape[1]}, prototypes {texts.shape[1]}: pictures and texts must come from "
            "one model with a joint space"
        )
    units = texts / np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-12)
    return (pictures @ units.T).argmax(axis=1)


def zero_shot_country(
    features: Any,
    prototypes: Any,
    names: Sequence[str],
    train_lat: Any,
    train_lng: Any,
    train_country: Any,
    name: str = "zero_shot_country",
) -> Prediction:
    """The country whose prompts are most like the picture; the place is the mean of its training places.

    Nothing is fitted but these means: features and prompts come from the untouched model.

    Args:
        features: `[n, d]` features of the photographs.
        prototypes: `[k, d]` of the countries' prompts.
        names: `k` countries.
        train_lat: `[m]` latitudes of the training photographs, degrees.
        train_lng: `[m]` longitudes of the training photographs, degrees.
        train_country: `[m]` their countries.
        name: name of the method.
    """
    country = np.asarray(names)[most_alike(features, prototypes)]
    lat, lng = places_of_groups(country, centroids(train_lat, train_lng, train_country))
    return Prediction(name, lat, lng, country)


def zero_shot_concept(features: Any, prototypes: Any, name: str = "zero_shot_concept") -> Prediction:
    """The meta whose prompts are most like the picture.

    Args:
        features: `[n, d]` features of the photographs.
        prototypes: `[k_m, d]` of the metas' prompts, in the order of their indices.
        name: name of the method.
    """
    return Prediction(name, meta=most_alike(features, prototypes))
