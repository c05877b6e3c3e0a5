"""Example pictures for a sheet: cut to where the concept's map is highest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image, Resampling

from geocbm.explain.maps import SCORE, MapModel, concept_maps

if TYPE_CHECKING:
    from geocbm.explain.field_guide.guide import ConceptSheet, CountrySheet


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


def example_pairs(sheets: Iterable[CountrySheet | ConceptSheet]) -> list[tuple[int, int]]:
    """All examples that sheets ask for: row of the table and index of the concept, each pair once."""
    pairs: dict[tuple[int, int], None] = {}
    for sheet in sheets:
        owners: Sequence[Any] = getattr(sheet, "clues", (sheet,))  # the sheet of a concept is its own owner
        for owner in owners:
            pairs |= dict.fromkeys((row, owner.meta) for row in owner.rows)
    return list(pairs)


def example_pictures(
    model: MapModel, pairs: Sequence[tuple[int, int]], side: int = 112
) -> dict[tuple[int, int], Image]:
    """A small square picture for each pair of row and concept: the place its map points at, or all that the model saw.

    Args:
        model: the run, its encoder and Stage 1.
        pairs: of `example_pairs`.
        side: pixels of a side.
    """
    rows, metas = (np.array(part, dtype=np.int64) for part in (zip(*pairs, strict=True) if pairs else ((), ())))
    # Only the "patch" bottleneck has maps of its own; with another the whole picture is shown.
    maps = concept_maps(model, rows, metas, SCORE) if SCORE in model.kinds else None
    found = {}
    for number, (row, meta) in enumerate(pairs):
        picture = model.picture(row)
        if maps is not None:
            picture = cut_around_peak(picture, maps[number].reshape(model.encoder.grid))
        found[row, meta] = picture.resize((side, side), Resampling.LANCZOS)
    return found
