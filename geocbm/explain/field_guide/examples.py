"""Example pictures for a sheet: chosen by rule, cut to where the concept's map is highest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.data import image_files
from geocbm.explain.maps import SCORE, MapModel, concept_maps
from geocbm.run import Run

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.explain.field_guide.guide import ConceptSheet, CountrySheet
    from geocbm.models.stage1 import Stage1ConceptModel


def best_rows(rows: np.ndarray, probability: np.ndarray, pano_id: np.ndarray, most: int) -> np.ndarray:
    """The rows with the highest probability of a concept, each panorama once.

    Args:
        rows: `[m]` candidates.
        probability: `[n]` probability of the concept for every row of the table.
        pano_id: `[n]` panoramas.
        most: how many.
    """
    order = rows[np.argsort(-probability[rows], kind="stable")]
    _, first = np.unique(pano_id[order], return_index=True)
    return order[np.sort(first)][:most]


def cut_around_peak(picture: Image, grid: np.ndarray, share: float = 0.45) -> Image:
    """The part of a picture around the highest place of a map.

    Args:
        picture: as the model saw it.
        grid: `(rows, columns)` of the map.
        share: side of the part as a share of the picture's.
    """
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    width, height = share * picture.width, share * picture.height
    left = (column + 0.5) / grid.shape[1] * picture.width - width / 2
    top = (row + 0.5) / grid.shape[0] * picture.height - height / 2
    left, top = min(max(left, 0), picture.width - width), min(max(top, 0), picture.height - height)
    return picture.crop((round(left), round(top), round(left + width), round(top + height)))


def example_pictures(
    files: Run,
    encoder: ImageEncoder,
    model: Stage1ConceptModel,
    features: FeatureStore,
    rows: Sequence[int],
    metas: Sequence[int],
    side: int = 112,
) -> list[Image]:
    """A small square picture for each pair of row and concept: the place its map points at, or all that the model saw.

    Args:
        files: the run.
        encoder: for its crop and its grid.
        model: the concept model.
        features: the adapted features.
        rows: `[m]` rows of the table.
        metas: `[m]` the concept to show of each.
        side: pixels of a side.
    """
    from PIL import Image as pillow

    from geocbm.encoders import open_picture

    chosen, wanted = np.asarray(rows, dtype=np.int64), np.asarray(metas, dtype=np.int64)
    # Only the "patch" bottleneck has maps of its own; with another the whole picture is shown.
    source = MapModel(files, encoder, features, model)
    maps = concept_maps(source, chosen, wanted, SCORE) if SCORE in source.kinds else None
    paths = image_files(files.table)
    pictures = []
    for number, row in enumerate(chosen):
        seen = encoder.crop(open_picture(paths[row]))
        if maps is not None:
            seen = cut_around_peak(seen, maps[number].reshape(encoder.grid))
        pictures.append(seen.resize((side, side), pillow.Resampling.LANCZOS))
    return pictures


def sheet_pictures(
    files: Run,
    encoder: ImageEncoder,
    model: Stage1ConceptModel,
    features: FeatureStore,
    sheets: Iterable[CountrySheet | ConceptSheet],
) -> dict[tuple[int, int], Image]:
    """All examples that sheets ask for, by row of the table and index of the concept."""
    pairs: dict[tuple[int, int], None] = {}
    for sheet in sheets:
        owners: Sequence[Any] = getattr(sheet, "clues", (sheet,))  # a concept's sheet is its own owner
        for owner in owners:
            pairs |= dict.fromkeys((row, owner.meta) for row in owner.rows)
    wanted = list(pairs)
    pictures = example_pictures(files, encoder, model, features, [r for r, _ in wanted], [m for _, m in wanted])
    return dict(zip(wanted, pictures, strict=True))
