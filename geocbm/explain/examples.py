"""Examples: which pictures are explained one by one, and the training pictures that are most like them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geocbm.geodesy import haversine_km

if TYPE_CHECKING:
    import pandas as pd

    from geocbm.run import Run


def example_rows(run: Run, places: pd.DataFrame, count: int) -> list[int]:
    """Test pictures to explain: of the quarter with the surest answers, the nearest and the farthest in turn.

    No two have the same labelled concept, as long as there are enough concepts. `places` are the stored predictions of
    the test split (`evaluation.main_predictions`).
    """
    km = haversine_km(*(places[name].to_numpy() for name in ("true_lat", "true_lng", "lat", "lng")))
    sure = np.argsort(-places["confidence"].to_numpy(), kind="stable")[: max(count, len(places) // 4)]
    by_error = sure[np.argsort(km[sure], kind="stable")]
    turns = np.stack([by_error, by_error[::-1]], axis=1).reshape(-1)
    turns = turns[np.sort(np.unique(turns, return_index=True)[1])]
    rows, meta = places["row"].to_numpy()[turns], run.meta_and_parent[0]
    _, first = np.unique(meta[rows], return_index=True)
    fresh = np.isin(np.arange(len(rows)), first)
    return [int(row) for row in [*rows[fresh], *rows[~fresh]][:count]]


def similar_rows(pooled: np.ndarray, row: int, candidates: np.ndarray, pano_id: np.ndarray, most: int) -> np.ndarray:
    """The `most` candidates `[m]` with the most similar features (cosine, of `[n, d]`), each panorama `[n]` once."""
    own, theirs = pooled[row], pooled[candidates]
    lengths = np.linalg.norm(theirs, axis=1) * max(float(np.linalg.norm(own)), 1e-12)
    order = candidates[np.argsort(-(theirs @ own) / np.maximum(lengths, 1e-12), kind="stable")]
    return each_panorama_once(order[pano_id[order] != pano_id[row]], pano_id)[:most]


def each_panorama_once(rows: np.ndarray, pano_id: np.ndarray) -> np.ndarray:
    """Rows `[m]` in their order, of each panorama `[n]` the first."""
    return rows[np.sort(np.unique(pano_id[rows], return_index=True)[1])]
