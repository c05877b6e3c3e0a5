"""OSV-5M (OpenStreetView-5M), five million pictures of roads, read into the schema of this project.

The layout is that of the data set's card and loader (`osv5m/osv5m` on the Hugging Face hub): `train.csv` and
`test.csv`, and the pictures `<id>.jpg` in the zip files `images/train/00.zip` and so on. The publishers' training code
(GitHub, `gastruc/osv5m`) keeps them as `train/train.csv` and `train/train/<id>.jpg`. Both are understood, the pictures
at any depth. Paper: Astruc and others 2024, arXiv 2404.18873; the data are under CC-BY-SA-4.0.

The publishers print no legend beside the files. Read here without one are the climate, whose codes 1 to 30 follow the
order of Koeppen and Geiger's classes in Beck and others 2018 (Scientific Data 5, 180214), and the side of driving
(1 is left, as in the publishers' example row from New Zealand). Codes of land cover and soil keep their number unless
the user brings a legend.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.data.checks import is_empty
from geocbm.data.public import reading
from geocbm.data.table import SCHEMA
from geocbm.errors import MissingInputError, ParameterError, check_choice
from geocbm.files import read_json

SPLITS = ("train", "test")
# What the schema's own columns are made from; every other column of the source is kept under its name.
_CONSUMED = ("id", "latitude", "longitude", "country")


@dataclass(frozen=True)
class ConceptColumn:
    """One column of OSV-5M as a parent concept."""

    parent: str
    names: Mapping[str, str] = field(default_factory=dict)  # name of the meta of a code; others are called by number
    edges: tuple[float, ...] = ()  # of a measure: ascending edges of its bands, each belongs to the band above it
    bands: tuple[str, ...] = ()  # names of the bands, one more than edges

    def metas(self, values: pd.Series) -> pd.Series:
        """Name of the meta of each of `[n]` texts, empty where there is no value."""
        if self.edges:
            measured = reading.number(values)
            band = np.array(self.bands, dtype=object)[np.searchsorted(self.edges, measured, side="right")]
            return pd.Series(np.where(np.isfinite(measured), band, ""), index=values.index, dtype=object)
        named = {value: self._of_code(value) for value in values.unique()}
        return values.map(named).mask(is_empty(values), "").astype(object)

    def _of_code(self, text: str) -> str:
        try:
            code = f"{float(text):g}"  # pandas writes whole codes as 4.0 where a column has gaps
        except ValueError:
            code = text
        return self.names.get(code, f"{self.parent} {code}")


def _climates() -> dict[str, str]:
    """Koeppen-Geiger classes in words, by code."""
    words = {"Af": "tropical rainforest", "Am": "tropical monsoon", "Aw": "tropical savannah"}
    words |= {"BWh": "hot desert", "BWk": "cold desert", "BSh": "hot steppe", "BSk": "cold steppe"}
    rain = {"s": "dry summer", "w": "dry winter", "f": "no dry season"}
    heat = {"a": "hot summer", "b": "warm summer", "c": "cold summer", "d": "very cold winter"}
    for letter, zone, levels in (("C", "temperate", "abc"), ("D", "cold", "abcd")):
        words |= {f"{letter}{r}{t}": f"{zone}, {rain[r]}, {heat[t]}" for r, t in product(rain, levels)}
    words |= {"ET": "polar tundra", "EF": "polar frost"}
    return {str(code): f"climate: {text} ({letters})" for code, (letters, text) in enumerate(words.items(), 1)}


def _measure(label: str, edges: tuple[float, ...]) -> ConceptColumn:
    inner = [f"{label} {low:g} to {high:g}" for low, high in pairwise(edges)]
    return ConceptColumn(label, {}, edges, (f"{label} below {edges[0]:g}", *inner, f"{label} {edges[-1]:g} or more"))


COLUMNS: dict[str, ConceptColumn] = {
    "land_cover": ConceptColumn("land cover"),
    "climate": ConceptColumn("climate", _climates()),
    "soil": ConceptColumn("soil"),
    "drive_side": ConceptColumn("driving side", {"0": "driving on the right", "1": "driving on the left"}),
    "road_index": _measure("road index", (1.0, 2.0, 3.0, 4.0, 5.0)),
    "dist_sea": _measure("distance to sea", (0.01, 0.1, 1.0, 10.0)),
}
"""Columns of OSV-5M that are read as parents. The measures are banded in the unit of the files."""
PARENTS = (*COLUMNS, "all")


def with_legend(legend: Path | None) -> dict[str, ConceptColumn]:
    """The columns, with names of codes, or edges and names of bands, that a user brings in a JSON file.

    Such as `{"land_cover": {"4": "grassland"}, "dist_sea": {"edges": [1], "names": ["coast", "inland"]}}`.
    """
    if legend is None:
        return COLUMNS
    if not legend.is_file():
        raise MissingInputError(f"There is no legend at {legend}: give a JSON file, or none.")
    try:
        content = read_json(legend)
    except ValueError as problem:
        raise ParameterError(f"The legend {legend} is no JSON ({problem}).") from problem
    unknown = sorted(set(content) - set(COLUMNS)) if isinstance(content, dict) else ["no object"]
    if unknown:
        raise ParameterError(f"The legend {legend} has {', '.join(unknown)}; it may have {', '.join(COLUMNS)}.")
    return COLUMNS | {name: _own_names(legend, name, own) for name, own in content.items()}


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


def convert_osv5m(
    folder: str | Path,
    split: str = "train",
    parent: str = "all",
    out: str | Path | None = None,
    on_bad: str = "error",
    legend: str | Path | None = None,
) -> reading.Conversion:
    """Write the CSV of this project for a split of OSV-5M.

    One row stands for one picture and one parent, so `parent="all"` gives up to six rows a picture under the same
    `pano_id`; without a value for a parent there is no row for it. `country` is the name of `metrics.country_names`,
    `country_code` the code; `data_set` and `split` say where a row comes from; the other columns are kept.

    With `on_bad="drop"` rows that are bad or have no picture are left out. A `legend` names codes and bands, see
    `with_legend`. A `UserError` says what is missing, bad or impossible.
    """
    check_choice("split", split, SPLITS)
    check_choice("parent", parent, PARENTS)
    folder = Path(folder)
    reading.check_folder(folder, f"OSV-5M ({split}.csv and images/{split})")
    columns = with_legend(Path(legend) if legend is not None else None)
    chosen = {name: column for name, column in columns.items() if parent in (name, "all")}
    path = next((file for file in (folder / f"{split}.csv", folder / split / f"{split}.csv") if file.is_file()), None)
    if path is None:
        raise MissingInputError(
            f"There is no {split}.csv in {folder} (nor {split}/{split}.csv): OSV-5M has it beside the folder images."
        )
    header = reading.read_header(path)
    missing = [name for name in ("id", "latitude", "longitude", *chosen) if name not in header]
    missing += [] if {"country", "unique_country"} & set(header) else ["country"]
    remedy = "Choose with --parent a column that is there, or fetch the file again."
    reading.check_columns(path, header, missing, " of OSV-5M", remedy)
    target = Path(out) if out is not None else folder / f"osv5m_{split}_{parent}.csv"
    source = reading.Source(path, target, _pictures(folder, split), on_bad)
    counts: Counter[str] = Counter()  # pictures without a value, by column; rows named by their coordinates

    def in_schema(chunk: pd.DataFrame) -> pd.DataFrame:
        """Ordered by picture, then parent."""
        ids = chunk["id"].str.removesuffix(".0")
        base = source.located(ids, ids, chunk["latitude"], chunk["longitude"])
        kept = chunk.loc[base.index]
        codes = kept["country"] if "country" in kept else kept["unique_country"]
        if "unique_country" in kept:
            codes = codes.mask(codes == "", kept["unique_country"])
        base["country"], geocoded = reading.named_countries(codes, base["lat"], base["lng"])
        counts["country"] += geocoded
        extra = kept.drop(columns=[name for name in (*_CONSUMED, *SCHEMA) if name in kept])
        base = base.join(extra.assign(country_code=codes, data_set="osv5m", split=split))
        parts = []
        for name, column in chosen.items():
            metas = column.metas(kept[name])
            labelled = (metas != "").to_numpy()
            counts[name] += int((~labelled).sum())
            part = base.assign(meta_name=metas, parent_concept=column.parent, note=f"{name} = " + kept[name])
            parts.append(part[labelled])
        rows = pd.concat(parts).sort_index(kind="stable")
        return rows[[*SCHEMA, *(name for name in base if name not in SCHEMA)]]

    source.write(reading.read_text(path), in_schema)
    notices = [f"{columns[name].parent}: {counts[name]} pictures have no value" for name in chosen if counts[name]]
    if counts["country"]:
        notices.append(f"country: {counts['country']} rows without a known code were named by their coordinates")
    return source.conversion(notices)


def _pictures(folder: Path, split: str) -> dict[str, str]:
    roots = [root for root in (folder / "images" / split, folder / split) if root.is_dir()]
    if not roots:
        raise MissingInputError(
            f"There is no folder images/{split} in {folder}: OSV-5M has its pictures there, as NN/<id>.jpg."
        )
    found = reading.index_pictures(roots)
    if not found:
        zipped = next((path for root in roots for path in sorted(root.rglob("*.zip"))), None)
        hint = f"unzip {zipped.name} and the others where they lie" if zipped else "expected are files NN/<id>.jpg"
        raise MissingInputError(f"There is no picture in {roots[0]}: {hint}.")
    return found
