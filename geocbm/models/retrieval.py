"""Retrieval and nearest class mean: what the features of an encoder tell, with nothing trained on top of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from geocbm.errors import ParameterError
from geocbm.geodesy import haversine_km


def retrieval_by_row(image: Tensor, place: Tensor, lat: np.ndarray, lng: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """How many places are at least as similar to each image as its own, and how far off the most similar one lies.

    Of features of images and embeddings of their places, `(n, d)` both, and where these are, `(n,)` degrees: ranks
    `(n,)` from 0 by cosine similarity (a tie counts against the model), and distances `(n,)` in km.
    """
    similarity = functional.normalize(image.float(), dim=-1) @ functional.normalize(place.float(), dim=-1).T  # (n, n)
    own = similarity.diagonal()[:, None]
    rank = (similarity >= own).sum(1) - 1  # (n,)
    first = similarity.argmax(1).numpy()
    lat, lng = np.asarray(lat), np.asarray(lng)
    return rank, haversine_km(lat, lng, lat[first], lng[first])


def retrieval_metrics(image: Tensor, place: Tensor, lat: np.ndarray, lng: np.ndarray) -> dict[str, float]:
    """`recall_1`, `recall_5`, `recall_10` and `retrieval_km`, the median distance, of `retrieval_by_row`."""
    rank, km = retrieval_by_row(image, place, lat, lng)
    values = {f"recall_{k}": float((rank < k).float().mean()) for k in (1, 5, 10)}
    return values | {"retrieval_km": float(np.median(km))}


def place_columns(true: Any, predicted: Any) -> dict[str, Any]:
    """Columns of a table of places and predictions, from pairs of latitudes and longitudes `(n,)`, degrees."""
    return {
        "lat": true[0],
        "lng": true[1],
        "predicted_lat": predicted[0],
        "predicted_lng": predicted[1],
        "km": haversine_km(true[0], true[1], predicted[0], predicted[1]),
    }


def nearest_class_mean(
    features: np.ndarray, labels: np.ndarray, train_rows: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Name the class whose mean training feature is most similar (cosine).

    Features are brought to length 1 and centred on their training mean, so that what all images share does not count.
    Nothing is fitted but the means, so a change of accuracy is a change of the features.

    Of features `(n, d)` and classes `(n,)` of all rows, the means are taken over `train_rows`, at least one. Gives
    class indices of `rows`; a class without a training row is never named.
    """
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if len(train_rows) == 0:
        raise ParameterError("train_rows is empty; give the rows to take the class means over")
    if len(labels) != len(features):
        raise ParameterError(f"labels has {len(labels)} entries for {len(features)} features; give one for each")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    centred = unit - unit[train_rows].mean(axis=0)
    classes, place = np.unique(labels[train_rows], return_inverse=True)
    sums = np.zeros((len(classes), features.shape[1]))
    np.add.at(sums, place, centred[train_rows])
    # The length of a mean does not matter to the choice, so sums serve.
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return classes[np.argmax(centred[rows] @ means.T, axis=1)]
