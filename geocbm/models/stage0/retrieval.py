"""How well images find their own place among others, once the encoder is aligned with places."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional

from geocbm.geodesy import haversine_km


def retrieval_metrics(image: Tensor, place: Tensor, lat: np.ndarray, lng: np.ndarray) -> dict[str, float]:
    """How well images find their own place among all given places, by cosine similarity.

    Args:
        image: `(n, d)` image features.
        place: `(n, d)` place embeddings of the same rows.
        lat: `(n,)` degrees of the rows.
        lng: `(n,)` degrees.

    Returns:
        `recall_1`, `recall_5`, `recall_10` (a tie counts against the model) and `retrieval_km`, the median distance
        to the place retrieved first.
    """
    rank, km = retrieval_by_row(image, place, lat, lng)
    values = {f"recall_{k}": float((rank < k).float().mean()) for k in (1, 5, 10)}
    return values | {"retrieval_km": float(np.median(km))}


def retrieval_by_row(image: Tensor, place: Tensor, lat: np.ndarray, lng: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """How many places are at least as similar to each image as its own, and how far off the most similar one lies.

    Args:
        image: `(n, d)` image features.
        place: `(n, d)` place embeddings of the same rows.
        lat: `(n,)` degrees of the rows.
        lng: `(n,)` degrees.

    Returns:
        `(n,)` ranks from 0, and `(n,)` distances in km.
    """
    similarity = functional.normalize(image.float(), dim=-1) @ functional.normalize(place.float(), dim=-1).T  # (n, n)
    own = similarity.diagonal()[:, None]
    rank = (similarity >= own).sum(1) - 1  # (n,) places at least as similar as the own one
    first = similarity.argmax(1).numpy()
    lat, lng = np.asarray(lat), np.asarray(lng)
    return rank, haversine_km(lat, lng, lat[first], lng[first])
