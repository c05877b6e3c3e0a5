"""Which pictures are explained one by one, and the training pictures that a concept may have been learned from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from geocbm.geodesy import haversine_km

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.run import Run


def example_rows(files: Run, places: pd.DataFrame, count: int) -> list[int]:
    """Test pictures to explain: of the quarter with the surest answers, the nearest and the farthest in turn.

    No two have the same labelled concept, as long as there are enough concepts.

    Args:
        files: the run.
        places: stored predictions of the test split (`evaluation.main_predictions`).
        count: how many.
    """
    km = haversine_km(*(places[name].to_numpy() for name in ("true_lat", "true_lng", "lat", "lng")))
    sure = np.argsort(-places["confidence"].to_numpy(), kind="stable")[: max(count, len(places) // 4)]
    by_error = sure[np.argsort(km[sure], kind="stable")]
    turns = np.stack([by_error, by_error[::-1]], axis=1).reshape(-1)
    turns = turns[np.sort(np.unique(turns, return_index=True)[1])]
    rows, meta = places["row"].to_numpy()[turns], files.meta_and_parent[0]
    _, first = np.unique(meta[rows], return_index=True)
    fresh = np.isin(np.arange(len(rows)), first)
    return [int(row) for row in [*rows[fresh], *rows[~fresh]][:count]]


def row_captions(files: Run, rows: list[int]) -> list[str]:
    """What each picture truly is: its labelled concept and its country."""
    return [f"{files.table['meta_name'].iloc[row]}, {files.country[row]}" for row in rows]


def answers_off(places: pd.DataFrame, rows: list[int]) -> list[str]:
    """How far off the answer of the main mode lies for each picture, in words."""
    own = places.set_index("row").loc[rows]
    km = haversine_km(*(own[name].to_numpy() for name in ("true_lat", "true_lng", "lat", "lng")))
    return [f"answer {far:,.0f} km off" for far in km]


def similar_rows(pooled: np.ndarray, row: int, candidates: np.ndarray, pano_id: np.ndarray, most: int) -> np.ndarray:
    """The candidates with the most similar features (cosine), each panorama once, the most similar first.

    Args:
        pooled: `[n, d]` features of all pictures.
        row: the picture.
        candidates: `[m]` rows to choose from.
        pano_id: `[n]` panoramas.
        most: how many.
    """
    own, theirs = pooled[row], pooled[candidates]
    lengths = np.linalg.norm(theirs, axis=1) * max(float(np.linalg.norm(own)), 1e-12)
    order = candidates[np.argsort(-(theirs @ own) / np.maximum(lengths, 1e-12), kind="stable")]
    order = order[pano_id[order] != pano_id[row]]
    _, first = np.unique(pano_id[order], return_index=True)
    return order[np.sort(first)][:most]


def similar_examples(
    files: Run,
    encoder: ImageEncoder,
    pooled: np.ndarray,
    row: int,
    meta: int,
    clean: Callable[[str], str],
    most: int = 4,
) -> tuple[list[Image], list[str]]:
    """Training pictures labelled with a concept that are most like a picture, and what was noted of them.

    Args:
        files: the run.
        encoder: for its crop.
        pooled: `[n, d]` adapted features.
        row: the picture.
        meta: the concept.
        clean: makes plain text of a note, which is a stranger's HTML.
        most: how many.

    Returns:
        Pictures as the model saw them, and for each its country and its note.
    """
    from geocbm.data import image_files
    from geocbm.data.images.pictures import open_picture

    train = files.rows["train"]
    candidates = train[files.meta_and_parent[0][train] == meta]
    rows = similar_rows(pooled, row, candidates, files.table["pano_id"].to_numpy(str), most)
    notes = files.table.get("note")
    captions = []
    for one in rows:
        note = "" if notes is None or not isinstance(notes.iloc[one], str) else clean(notes.iloc[one])
        captions.append(f"{files.country[one]}. {note}".strip())
    paths = image_files(files.table.iloc[rows])
    return [encoder.crop(open_picture(path)) for path in paths], captions
