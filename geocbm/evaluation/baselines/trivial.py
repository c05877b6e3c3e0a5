"""Methods that look an answer up: a random training photograph, the prior, a gallery of places."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from geocbm.data.images.pictures import open_picture
from geocbm.evaluation.baselines.prediction import Prediction, matrix
from geocbm.geocells.geometric_median import medoid

_SMALL = 64
"""Pixels along the shorter side from which a mean colour is taken."""


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
    named, shown = (None if values is None else np.asarray(values)[drawn] for values in (country, meta))
    return Prediction(name, latitude[drawn], longitude[drawn], named, shown)


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
    best = medoid(latitude, longitude, seed)
    return Prediction(
        name,
        np.full(n, latitude[best]),
        np.full(n, longitude[best]),
        _most_frequent(country, n),
        _most_frequent(meta, n),
    )


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

    from geocbm.encoders.gallery import nearest_places

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
    colours = [
        np.asarray(open_picture(file, least_side=_SMALL), dtype=np.float32).mean(axis=(0, 1)) / 255 for file in files
    ]
    return np.array(colours, dtype=np.float32).reshape(-1, 3)
