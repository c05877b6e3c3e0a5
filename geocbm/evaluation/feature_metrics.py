"""Metrics of stored features: retrieval, nearest neighbours and class means, with nothing trained on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geocbm.geodesy import haversine_km
from geocbm.metrics import Resamples, bootstrap, spatial_blocks
from geocbm.run import Run

if TYPE_CHECKING:
    from geocbm.models.stage0 import Stage0PretrainingModel


def nearest_neighbour_km(pooled: np.ndarray, files: Run, rows: np.ndarray) -> np.ndarray:
    """Error in km of taking the place of the most similar training image (cosine), for the given rows."""
    unit = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    train = files.rows["train"]
    nearest = train[np.argmax(unit[rows] @ unit[train].T, axis=1)]
    return haversine_km(files.lat[rows], files.lng[rows], files.lat[nearest], files.lng[nearest])


def measure_retrieval(
    files: Run,
    model: Stage0PretrainingModel,
    pooled: np.ndarray,
    rows: np.ndarray,
    n_resamples: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """How well held-out images find their own place among those of all of them, with intervals.

    `pooled` `(n, d)` are the adapted features of all rows, of which `rows` are ranked against one another.

    Returns:
        `recall_1`, `recall_5`, `recall_10` and `retrieval_km`; nothing without rows.
    """
    import torch

    from geocbm.models.retrieval import retrieval_by_row

    if not len(rows):
        return {}
    lat, lng = files.lat[rows], files.lng[rows]
    rank, km = retrieval_by_row(torch.from_numpy(pooled[rows]), model.embed_places(lat, lng), lat, lng)
    drawn = Resamples(spatial_blocks(lat, lng), n_resamples, seed)
    found = {f"recall_{k}": drawn.estimate((rank < k).numpy()) for k in (1, 5, 10)}
    return found | {"retrieval_km": drawn.estimate(km, "median")}


def measure_class_means(files: Run, pooled: np.ndarray, n_resamples: int = 200, seed: int = 0) -> dict[str, float]:
    """Share of the validation split whose concept the nearest class mean of `pooled` `(n, d)` names right."""
    from geocbm.models.retrieval import nearest_class_mean

    meta, val = files.meta_and_parent[0], files.rows["val"]
    right = nearest_class_mean(pooled, meta, files.rows["train"], val) == meta[val]
    return bootstrap(right, spatial_blocks(files.lat[val], files.lng[val]), n=n_resamples, seed=seed)
