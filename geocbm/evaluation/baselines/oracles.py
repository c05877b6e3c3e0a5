"""Oracles: methods that are told something true of each photograph, to see what that alone would be worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from geocbm.evaluation.baselines.prediction import Prediction
from geocbm.geocells.geometric_median import centroids, medoid, places_of_groups


def country_centroid(
    train_lat: Any, train_lng: Any, train_country: Any, country: Any, name: str = "country_centroid"
) -> Prediction:
    """Told the true country: the spherical mean of that country's training places.

    A method that names every country right and knows no more gets this. A country without a training place has no
    answer (NaN), which counts as a miss.

    Args:
        train_lat: `[m]` latitudes of the training photographs, degrees.
        train_lng: `[m]` longitudes of the training photographs, degrees.
        train_country: `[m]` their countries.
        country: `[n]` true countries of the photographs to answer for.
        name: name of the method.
    """
    lat, lng = places_of_groups(country, centroids(train_lat, train_lng, train_country))
    return Prediction(name, lat, lng, np.asarray(country))


def true_meta(
    train_lat: Any,
    train_lng: Any,
    train_meta: Any,
    meta: Any,
    train_country: Any | None = None,
    seed: int = 0,
    name: str = "true_meta",
) -> Prediction:
    """Told the labelled meta and nothing else: the training place of that meta with the smallest median distance.

    It says how much of the place the label alone gives away. The country is the most frequent one of the meta's
    training photographs, of equals the first by name. A meta without a training place has no answer (NaN), which
    counts as a miss.

    Args:
        train_lat: `[m]` latitudes of the training photographs, degrees.
        train_lng: `[m]` longitudes of the training photographs, degrees.
        train_meta: `[m]` their metas.
        meta: `[n]` true metas of the photographs to answer for.
        train_country: `[m]` countries of the training photographs.
        seed: seed of the choice of candidates among many.
        name: name of the method.
    """
    latitude, longitude = np.asarray(train_lat, dtype=float), np.asarray(train_lng, dtype=float)
    learned, asked = np.asarray(train_meta), np.asarray(meta)
    middle, frequent = {}, {}
    for each in np.unique(asked).tolist():
        rows = np.flatnonzero(learned == each)
        if not len(rows):
            continue
        best = rows[medoid(latitude[rows], longitude[rows], seed)]
        middle[each] = (float(latitude[best]), float(longitude[best]))
        if train_country is not None:
            kinds, counts = np.unique(np.asarray(train_country)[rows], return_counts=True)
            frequent[each] = kinds[counts.argmax()]
    lat, lng = places_of_groups(asked, middle)
    country = None
    if train_country is not None:
        # No country has the empty name, so that a meta without training photographs is a miss.
        country = np.array([frequent.get(each, "") for each in asked.tolist()])
    return Prediction(name, lat, lng, country, asked)
