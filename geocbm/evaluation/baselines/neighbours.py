"""The answer of the training photographs that look most alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geocbm.evaluation.baselines.prediction import Prediction, matrix
from geocbm.geodesy import haversine_km
from geocbm.metrics import error_km, geoscore

CANDIDATES = (5, 10, 20, 50)
_PAIRS_AT_ONCE = 4_000_000  # bounds the memory of distances between neighbours


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _nearest(queries: np.ndarray, base: np.ndarray, k: int, metric: str, chunk: int) -> np.ndarray:
    """Rows of `base` most like each query, `[n, k]`, best first; of equals the earlier row."""
    if queries.shape[1] != base.shape[1]:
        raise ValueError(f"features differ in width: {queries.shape[1]} against {base.shape[1]}")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric must be 'cosine' or 'euclidean', it is {metric!r}")
    if not 1 <= k <= len(base):
        raise ValueError(f"k must lie between 1 and the {len(base)} rows to choose from, it is {k}")
    if metric == "cosine":
        queries, base = _unit(queries), _unit(base)
    half_norm = (base**2).sum(axis=1) / 2 if metric == "euclidean" else np.zeros(len(base), dtype=np.float32)
    found = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        likeness = queries[start : start + chunk] @ base.T - half_norm  # (chunk, m), monotone in the distance
        if k == 1:
            found[start : start + chunk, 0] = likeness.argmax(axis=1)
            continue
        best = np.sort(np.argpartition(-likeness, k - 1, axis=1)[:, :k], axis=1)  # (chunk, k)
        order = np.argsort(-np.take_along_axis(likeness, best, axis=1), axis=1, kind="stable")
        found[start : start + chunk] = np.take_along_axis(best, order, axis=1)
    return found


def most_similar(train_features: Any, features: Any, k: int, chunk: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """The training photographs most like each photograph by the cosine of their features.

    Args:
        train_features: `[m, d]`.
        features: `[n, d]`.
        k: how many, at most `m`.
        chunk: photographs compared at once; bounds the memory.

    Returns:
        `[n, k]` rows of the training photographs, the most similar first, and `[n, k]` cosines.
    """
    base, queries = matrix(train_features, "train_features"), matrix(features, "features")
    k = min(k, len(base))
    found = _nearest(queries, base, k, "cosine", chunk)
    base, queries = _unit(base), _unit(queries)
    cosine = np.empty(found.shape, dtype=np.float32)
    for start in range(0, len(queries), chunk):
        some = slice(start, start + chunk)
        cosine[some] = np.einsum("nd,nkd->nk", queries[some], base[found[some]])
    return found, cosine


def _vote(labels: Any | None, found: np.ndarray) -> np.ndarray | None:
    """Most frequent label among the neighbours; of equals that of the nearer neighbour."""
    if labels is None:
        return None
    named = np.asarray(labels)[found]  # (n, k)
    votes = (named[:, :, None] == named[:, None, :]).sum(axis=2)
    return named[np.arange(len(named)), votes.argmax(axis=1)]


def _middle(lat: np.ndarray, lng: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of places `[n, k]` in each row the one with the smallest summed distance to the others, `[n]` each."""
    n, k = lat.shape
    best = np.zeros(n, dtype=np.int64)
    step = max(1, _PAIRS_AT_ONCE // (k * k))
    for start in range(0, n if k > 1 else 0, step):
        near_lat, near_lng = lat[start : start + step], lng[start : start + step]
        apart = haversine_km(near_lat[:, :, None], near_lng[:, :, None], near_lat[:, None, :], near_lng[:, None, :])
        best[start : start + step] = np.round(apart.sum(axis=2), 6).argmin(axis=1)
    rows = np.arange(n)
    return lat[rows, best], lng[rows, best]


def nearest_neighbour(
    train_features: Any,
    features: Any,
    lat: Any,
    lng: Any,
    country: Any | None = None,
    meta: Any | None = None,
    k: int = 1,
    metric: str = "cosine",
    name: str = "nearest_neighbour",
    chunk: int = 1024,
) -> Prediction:
    """The answer of the most similar training photograph, or of the `k` most similar ones.

    With `k` above 1 country and meta are voted, and the place is the neighbour with the smallest summed distance to
    the other neighbours.

    Args:
        train_features: `[m, d]` features of the training photographs.
        features: `[n, d]` features of the photographs to place.
        lat: `[m]` latitudes of the training photographs, degrees.
        lng: `[m]` longitudes of the training photographs, degrees.
        country: `[m]` countries of the training photographs.
        meta: `[m]` metas of the training photographs.
        k: number of neighbours.
        metric: `"cosine"` or `"euclidean"`.
        name: name of the method.
        chunk: photographs compared at once; bounds the memory.
    """
    base, queries = matrix(train_features, "train_features"), matrix(features, "features")
    latitude, longitude = np.asarray(lat, dtype=float), np.asarray(lng, dtype=float)
    if len(latitude) != len(base):
        raise ValueError(f"train_features has {len(base)} rows but lat has {len(latitude)}")
    found = _nearest(queries, base, k, metric, chunk)
    place = _middle(latitude[found], longitude[found])
    return Prediction(name, *place, _vote(country, found), _vote(meta, found), f"k = {k}" if k > 1 else "")


def choose_k(
    train_features: Any,
    val_features: Any,
    lat: Any,
    lng: Any,
    val_lat: Any,
    val_lng: Any,
    candidates: Sequence[int] = CANDIDATES,
    metric: str = "cosine",
    chunk: int = 1024,
) -> int:
    """The number of neighbours with the highest GeoScore on the validation split, of equals the smaller.

    Args:
        train_features: `[m, d]` features of the training photographs.
        val_features: `[v, d]` features of the validation photographs.
        lat: `[m]` latitudes of the training photographs, degrees.
        lng: `[m]` longitudes of the training photographs, degrees.
        val_lat: `[v]` true latitudes of the validation photographs, degrees.
        val_lng: `[v]` true longitudes of the validation photographs, degrees.
        candidates: numbers to try; those above `m` are left out.
        metric: `"cosine"` or `"euclidean"`.
        chunk: photographs compared at once; bounds the memory.

    Returns:
        One of the candidates, or `m` where all are above it. Without a validation photograph the smallest.
    """
    base = matrix(train_features, "train_features")
    possible = sorted({int(k) for k in candidates if 1 <= k <= len(base)}) or [len(base)]
    if len(possible) == 1 or not len(val_lat):
        return possible[0]
    latitude, longitude = np.asarray(lat, dtype=float), np.asarray(lng, dtype=float)
    found = _nearest(matrix(val_features, "val_features"), base, possible[-1], metric, chunk)
    scores = [
        geoscore(error_km(*_middle(latitude[found[:, :k]], longitude[found[:, :k]]), val_lat, val_lng)).mean()
        for k in possible
    ]
    return possible[int(np.argmax(scores))]
