"""Oracles: methods that are told something true of each photograph, to see what that alone would be worth."""

from __future__ import annotations

import numpy as np

from geocbm.evaluation.baselines.base import Labels, Prediction
from geocbm.geocells.geometric_median import centroids, medoid, places_of_groups


def country_centroid(train: Labels, country: np.ndarray) -> Prediction:
    """Told the true country: the spherical mean of that country's training places.

    A method that names every country right and knows no more gets this. A country without a training place has no
    answer (NaN), which counts as a miss.

    Args:
        train: the training photographs.
        country: `[n]` true countries of the photographs to answer for.
    """
    place = places_of_groups(country, centroids(train.lat, train.lng, train.country))
    return Prediction("country_centroid", *place, np.asarray(country))


def true_meta(train: Labels, meta: np.ndarray, seed: int = 0) -> Prediction:
    """Told the labelled meta and nothing else: the training place of that meta with the smallest median distance.

    It says how much of the place the label alone gives away. The country is the most frequent one of the meta's
    training photographs, of equals the first by name. A meta without a training place has no answer (NaN), which
    counts as a miss.

    Args:
        train: the training photographs.
        meta: `[n]` true metas of the photographs to answer for.
        seed: seed of the choice of candidates among many.
    """
    middle, frequent = {}, {}
    for each in np.unique(meta).tolist():
        rows = np.flatnonzero(train.meta == each)
        if len(rows):
            best = rows[medoid(train.lat[rows], train.lng[rows], seed)]
            middle[each] = (float(train.lat[best]), float(train.lng[best]))
            kinds, counts = np.unique(train.country[rows], return_counts=True)
            frequent[each] = kinds[counts.argmax()]
    # No country has the empty name, so that a meta without training photographs is a miss.
    country = np.array([frequent.get(each, "") for each in np.asarray(meta).tolist()])
    return Prediction("true_meta", *places_of_groups(meta, middle), country, np.asarray(meta))
