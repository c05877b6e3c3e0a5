"""Methods that look an answer up: the prior, the nearest training photograph, a gallery of places."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from geocbm.baselines.prediction import Prediction, matrix
from geocbm.geodesy import haversine_km
from geocbm.pictures import to_rgb


def _most_frequent(values: Any, n: int) -> np.ndarray | None:
    if values is None:
        return None
    kinds, counts = np.unique(np.asarray(values), return_counts=True)
    return np.repeat(kinds[counts.argmax()], n)


def chance(
    lat: Any,
    lng: Any,
    n: int,
    country: Any | None = None,
    meta: Any | None = None,
    seed: int = 0,
    name: str = "chance",
) -> Prediction:
    """The answer of a training photograph drawn at random, for each photograph anew: what knowing nothing gets.

    Args:
        lat: `[m]` latitudes of the training photographs, degrees.
        lng: `[m]` longitudes of the training photographs, degrees.
        n: number of photographs to answer for.
        country: `[m]` training countries.
        meta: `[m]` training metas.
        seed: seed of the draw.
        name: name of the method.
    """
    latitude, longitude = np.asarray(lat, dtype=float), np.asarray(lng, dtype=float)
    if not len(latitude):
        raise ValueError("chance needs at least one training photograph, lat is empty")
    drawn = np.random.default_rng(seed).integers(len(latitude), size=n)
    labels = [None if values is None else np.asarray(values)[drawn] for values in (country, meta)]
    return Prediction(name, latitude[drawn], longitude[drawn], *labels)


def training_prior(
    lat: Any,
    lng: Any,
    n: int,
    country: Any | None = None,
    meta: Any | None = None,
    seed: int = 0,
    name: str = "prior",
) -> Prediction:
    """The same answer for every photograph: what suits the training split best.

    The place is the training photograph with the smallest median distance to the training photographs (sought among at
    most 1000 candidates, measured on at most 20,000 rows); country and meta are the most frequent ones.

    Args:
        lat: `[m]` latitudes of the training photographs, degrees.
        lng: `[m]` longitudes of the training photographs, degrees.
        n: number of photographs to answer for.
        country: `[m]` training countries.
        meta: `[m]` training metas.
        seed: seed of the choice of candidates.
        name: name of the method.
    """
    latitude, longitude = np.asarray(lat, dtype=float), np.asarray(lng, dtype=float)
    if not len(latitude):
        raise ValueError("training_prior needs at least one training photograph, lat is empty")
    generator = np.random.default_rng(seed)
    rows = np.arange(len(latitude))
    measured = rows if len(rows) <= 20_000 else generator.choice(rows, 20_000, replace=False)
    candidates = rows if len(rows) <= 1000 else generator.choice(rows, 1000, replace=False)
    medians = [
        np.median(haversine_km(latitude[row], longitude[row], latitude[measured], longitude[measured]))
        for row in candidates
    ]
    best = candidates[int(np.argmin(medians))]
    return Prediction(
        name,
        np.full(n, latitude[best]),
        np.full(n, longitude[best]),
        _most_frequent(country, n),
        _most_frequent(meta, n),
    )


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
        else:
            found[start : start + chunk] = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
    return found


def _vote(labels: Any | None, found: np.ndarray) -> np.ndarray | None:
    """Most frequent label among the neighbours; of equals that of the nearer neighbour."""
    if labels is None:
        return None
    named = np.asarray(labels)[found]  # (n, k)
    votes = (named[:, :, None] == named[:, None, :]).sum(axis=2)
    return named[np.arange(len(named)), votes.argmax(axis=1)]


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
    near_lat, near_lng = latitude[found], longitude[found]  # (n, k)
    apart = haversine_km(near_lat[:, :, None], near_lng[:, :, None], near_lat[:, None, :], near_lng[:, None, :])
    middle = np.round(apart.sum(axis=2), 6).argmin(axis=1)
    rows = np.arange(len(found))
    return Prediction(name, near_lat[rows, middle], near_lng[rows, middle], _vote(country, found), _vote(meta, found))


def gallery(
    image_embeddings: Any,
    location_embeddings: Any,
    gallery_lat: Any,
    gallery_lng: Any,
    name: str = "gallery",
    chunk: int = 256,
) -> Prediction:
    """The place of a gallery whose embedding is most similar to the image's (GeoCLIP, Vivanco Cepeda et al. 2023).

    Args:
        image_embeddings: `[n, d]` embeddings of the photographs in the space of the locations.
        location_embeddings: `[g, d]` embeddings of the gallery's places, of any length.
        gallery_lat: `[g]` latitudes of the gallery, degrees.
        gallery_lng: `[g]` longitudes of the gallery, degrees.
        name: name of the method.
        chunk: photographs compared at once; bounds the memory (256 x 100,000 similarities are 100 MB).
    """
    import torch

    from geocbm.gallery import nearest_places

    places = matrix(location_embeddings, "location_embeddings")
    latitude, longitude = np.asarray(gallery_lat, dtype=float), np.asarray(gallery_lng, dtype=float)
    if not len(places) == len(latitude) == len(longitude):
        raise ValueError(f"the gallery has {len(places)} embeddings but {len(latitude)} places")
    images = torch.from_numpy(matrix(image_embeddings, "image_embeddings"))
    units = torch.nn.functional.normalize(torch.from_numpy(places), dim=-1)
    found = nearest_places(images, units, chunk=chunk)[0][:, 0].numpy()
    return Prediction(name, latitude[found], longitude[found])


def mean_colours(files: Iterable[str | Path]) -> np.ndarray:
    """Mean red, green and blue of each image from 0 to 1, `[n, 3]`: what is left of a picture without its content."""
    from PIL import Image

    colours = []
    for file in files:
        with Image.open(file) as image:
            image.draft("RGB", (64, 64))
            colours.append(np.asarray(to_rgb(image), dtype=np.float32).mean(axis=(0, 1)) / 255)
    return np.array(colours, dtype=np.float32).reshape(-1, 3)
