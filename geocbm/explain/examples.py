"""Examples: which pictures are explained one by one, and the training pictures that are most like them."""

import numpy as np
import pandas as pd
from PIL.Image import Image

from geocbm.explain.localization import Box, ConceptBoxes
from geocbm.explain.maps import NAMED, MapModel, concept_maps
from geocbm.geodesy import haversine_km
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


def likeliest_maps(
    model: MapModel, rows: np.ndarray, probabilities: np.ndarray, kind: str, where: ConceptBoxes | None
) -> tuple[list[Image], np.ndarray, list[str], list[Box | None]]:
    """Maps of the likeliest concepts of some pictures, as `plots.attention_overlay` takes them.

    For each of `3 m` pairs the picture, the map `[3 m, *grid]`, the concept with its probability, and its box.
    `probabilities` `[n, k_m]` are those of all pictures; `where` says where concepts are, if that is known.
    """
    first = np.argsort(-probabilities[rows], axis=1, kind="stable")[:, :NAMED]  # (m, 3)
    of, metas = rows.repeat(first.shape[1]), first.reshape(-1)  # (3 m,) each
    maps, pictures = concept_maps(model, of, metas, kind), {row: model.picture(row) for row in rows.tolist()}
    asked = list(zip(of.tolist(), metas.tolist(), strict=True))
    captions = [f"{model.run.concepts.metas[meta]} {probabilities[row, meta]:.0%}" for row, meta in asked]
    boxes = [where.box(row, meta) if where else None for row, meta in asked]
    return [pictures[row] for row, _ in asked], maps.reshape(-1, *model.encoder.grid), captions, boxes


def similar_rows(run: Run, pooled: np.ndarray, row: int, meta: int, most: int) -> np.ndarray:
    """The `most` training pictures `[m]` of a meta with the most similar features (cosine, of `[n, d]`).

    Of each panorama there is one, and none of the picture's own.
    """
    pano_id, train = run.table["pano_id"].to_numpy(str), run.pictures["train"]
    others = train[(run.meta_and_parent[0][train] == meta) & (pano_id[train] != pano_id[row])]
    lengths = np.linalg.norm(pooled[others], axis=1) * np.linalg.norm(pooled[row])
    alike = pooled[others] @ pooled[row] / np.maximum(lengths, 1e-12)
    return each_panorama_once(others[np.argsort(-alike, kind="stable")], pano_id)[:most]


def each_panorama_once(rows: np.ndarray, pano_id: np.ndarray) -> np.ndarray:
    """Rows `[m]` in their order, of each panorama `[n]` the first."""
    return rows[np.sort(np.unique(pano_id[rows], return_index=True)[1])]
