"""Concepts of OSV-5M: words for the codes and bands for the measures that the data set gives with every picture.

The publishers print no legend beside the files. Read here without one are the climate, whose codes 1 to 30 follow the
order of Koeppen and Geiger's classes in Beck and others 2018 (Scientific Data 5, 180214), and the side of driving
(1 is left, as in the publishers' example row from New Zealand). Codes of land cover and soil keep their number unless
the user brings a legend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.data.public.reading import is_blank, number
from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import read_json

_TEMPERATURE = {"a": "hot summer", "b": "warm summer", "c": "cold summer", "d": "very cold winter"}
_RAIN = {"s": "dry summer", "w": "dry winter", "f": "no dry season"}
_DRY = {"Wh": "hot desert", "Wk": "cold desert", "Sh": "hot steppe", "Sk": "cold steppe"}
_SECOND = {"B": "Wh Wk Sh Sk", "C": "sa sb sc wa wb wc fa fb fc", "D": "sa sb sc sd wa wb wc wd fa fb fc fd"}
_CLASSES = (
    *("Af", "Am", "Aw"),
    *(zone + letters for zone, following in _SECOND.items() for letters in following.split()),
    *("ET", "EF"),
)


def _climate_words(letters: str) -> str:
    """A Koeppen-Geiger class in words, its letters behind."""
    whole = {"Af": "tropical rainforest", "Am": "tropical monsoon", "Aw": "tropical savannah", "ET": "polar tundra"}
    whole["EF"] = "polar frost"
    if letters in whole:
        words = whole[letters]
    elif letters[0] == "B":
        words = _DRY[letters[1:]]
    else:
        zone = {"C": "temperate", "D": "cold"}[letters[0]]
        words = f"{zone}, {_RAIN[letters[1]]}, {_TEMPERATURE[letters[2]]}"
    return f"climate: {words} ({letters})"


@dataclass(frozen=True)
class ConceptColumn:
    """One column of OSV-5M as a parent concept.

    Attributes:
        parent: name of the parent concept.
        names: name of the meta for each code; other codes are called by their number.
        edges: for a measure, the ascending edges of its bands, each of which belongs to the band above it.
        bands: names of the bands, one more than edges.
    """

    parent: str
    names: Mapping[str, str]
    edges: tuple[float, ...] = ()
    bands: tuple[str, ...] = ()

    def metas(self, values: pd.Series) -> pd.Series:
        """Name of the meta of each value, empty where there is no value.

        Args:
            values: `[n]` texts of the column.

        Returns:
            `[n]` names.
        """
        measured = number(values)
        if self.edges:
            band = np.searchsorted(np.array(self.edges), measured, side="right")
            chosen = [self.bands[i] if np.isfinite(value) else "" for i, value in zip(band, measured, strict=True)]
            return pd.Series(chosen, index=values.index, dtype=object)
        named = {value: self._of_code(value) for value in values.unique()}
        return values.map(named).mask(is_blank(values), "").astype(object)

    def _of_code(self, text: str) -> str:
        try:
            code = f"{float(text):g}"  # pandas writes whole codes as 4.0 where a column has gaps
        except ValueError:
            code = text
        return self.names.get(code, f"{self.parent} {code}")


def _bands(label: str, edges: Sequence[float]) -> tuple[str, ...]:
    inner = [f"{label} {low:g} to {high:g}" for low, high in pairwise(edges)]
    return (f"{label} below {edges[0]:g}", *inner, f"{label} {edges[-1]:g} or more")


def _measure(label: str, edges: tuple[float, ...]) -> ConceptColumn:
    return ConceptColumn(label, {}, edges, _bands(label, edges))


COLUMNS: dict[str, ConceptColumn] = {
    "land_cover": ConceptColumn("land cover", {}),
    "climate": ConceptColumn("climate", {str(i): _climate_words(name) for i, name in enumerate(_CLASSES, 1)}),
    "soil": ConceptColumn("soil", {}),
    "drive_side": ConceptColumn("driving side", {"0": "driving on the right", "1": "driving on the left"}),
    "road_index": _measure("road index", (1.0, 2.0, 3.0, 4.0, 5.0)),
    "dist_sea": _measure("distance to sea", (0.01, 0.1, 1.0, 10.0)),
}
"""Columns of OSV-5M that are read as parents. The measures are banded in the unit of the files."""


def with_legend(legend: Path | None) -> dict[str, ConceptColumn]:
    """The columns, with names a user brings.

    Args:
        legend: JSON such as `{"land_cover": {"4": "grassland"}, "dist_sea": {"edges": [1], "names": ["coast",
            "inland"]}}`: names of codes, or edges and names of bands.

    Raises:
        MissingInputError: there is no such file.
        ParameterError: it names another column, or its bands do not fit.
    """
    if legend is None:
        return dict(COLUMNS)
    if not legend.is_file():
        raise MissingInputError(f"There is no legend at {legend}: give a JSON file, or none.")
    try:
        content = read_json(legend)
    except ValueError as problem:
        raise ParameterError(f"The legend {legend} is no JSON ({problem}).") from problem
    unknown = sorted(set(content) - set(COLUMNS)) if isinstance(content, dict) else ["no object"]
    if unknown:
        raise ParameterError(f"The legend {legend} has {', '.join(unknown)}; it may have {', '.join(COLUMNS)}.")
    columns = dict(COLUMNS)
    for name, own in content.items():
        columns[name] = _own_names(legend, name, own)
    return columns


def _own_names(legend: Path, name: str, own: Any) -> ConceptColumn:
    """A column with the names and edges of a legend, each meta led by its parent so that none has two."""
    column = COLUMNS[name]
    if not isinstance(own, dict):
        raise ParameterError(f"{name} in the legend {legend} is {own!r}; give an object.")
    if not column.edges:
        return replace(column, names={**column.names, **{str(k): f"{column.parent}: {v}" for k, v in own.items()}})
    edges, names = own.get("edges", list(column.edges)), own.get("names", [])
    ascending = all(isinstance(edge, int | float) for edge in edges) and sorted(set(edges)) == list(edges)
    if not edges or not ascending or len(names) != len(edges) + 1:
        raise ParameterError(
            f"{name} in the legend {legend} has {len(names)} names for the edges {edges}: give ascending edges and one "
            "name more than edges."
        )
    bands = tuple(f"{column.parent}: {band}" for band in names)
    return replace(column, edges=tuple(float(edge) for edge in edges), bands=bands)
