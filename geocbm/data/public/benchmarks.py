"""Im2GPS3k and YFCC4k, the photo benchmarks of geolocation, read for evaluation.

The usual layout is the one of GeoEstimation (GitHub, `TIBHannover/GeoEstimation`, `meta/im2gps3k_places365.csv`) and of
the projects after it: a CSV with the columns `IMG_ID` (name of the picture), `AUTHOR`, `LAT`, `LON` and scene labels,
and the pictures in a folder beside it. One published edition of that file has the headings LAT and LON exchanged; this
is seen from latitudes beyond 90 degrees, and put right.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.data.public import reading
from geocbm.data.table import SCHEMA
from geocbm.errors import MissingInputError, check_choice

BENCHMARKS = ("im2gps3k", "yfcc4k")
UNLABELLED = "unlabelled"
# A latitude beyond 90 degrees in this share of the rows, and no longitude beyond it, is an exchanged heading.
_EXCHANGED_SHARE = 0.05
_NAMES = {
    "IMG_ID": ("img_id", "image_id", "image", "filename", "file_name", "id"),
    "LAT": ("lat", "latitude"),
    "LON": ("lon", "lng", "long", "longitude"),
}


def convert_benchmark(
    name: str, folder: str | Path, out: str | Path | None = None, on_bad: str = "error", csv: str | Path | None = None
) -> reading.Conversion:
    """Write the CSV of this project for a photo benchmark.

    The photographs have no concepts: every row has the meta and the parent "unlabelled", and `split` is "test". Such a
    table is for evaluation only, because one meta teaches nothing. `country` comes from the coordinates.

    With `on_bad="drop"` rows that are bad or have no picture are left out. A `csv` is named where it does not lie in
    `folder` under a usual name. A `UserError` says what is missing, bad or impossible.
    """
    check_choice("name", name, BENCHMARKS)
    folder = Path(folder)
    reading.check_folder(folder, f"{name}_places365.csv and the pictures")
    target = Path(out) if out is not None else folder / f"geocbm_{name}.csv"
    path = Path(csv) if csv is not None else _table_file(name, folder, target)
    if not path.is_file():
        raise MissingInputError(f"There is no file {path}: give the CSV of {name} with IMG_ID, LAT and LON.")
    pictures = reading.index_pictures([folder])
    source = reading.Source(path, target, pictures, on_bad)
    columns = _columns(path)
    if not pictures:
        raise MissingInputError(
            f"There is no picture in {folder}: put those of {name} there, in a folder such as images."
        )
    rows = pd.concat(reading.read_text(path)).rename(columns=columns)
    notices = [f"{old} read as {new}" for old, new in columns.items() if old != new]
    if _exchanged(reading.number(rows["LAT"]), reading.number(rows["LON"])):
        rows = rows.rename(columns={"LAT": "LON", "LON": "LAT"})
        notices.append("the headings of latitude and longitude are exchanged in this file; they were put right")

    def in_schema(chunk: pd.DataFrame) -> pd.DataFrame:
        table = source.located(chunk["IMG_ID"], chunk["IMG_ID"].map(_stem), chunk["LAT"], chunk["LON"])
        none = pd.Series("", index=table.index)
        table["country"], _ = reading.named_countries(none, table["lat"], table["lng"])
        table = table.assign(meta_name=UNLABELLED, parent_concept=UNLABELLED, note="")
        extra = chunk.drop(columns=[column for column in (*_NAMES, *SCHEMA) if column in chunk])
        return table[list(SCHEMA)].join(extra.assign(data_set=name, split="test"))

    source.write([rows], in_schema)
    return source.conversion(notices)


def _table_file(name: str, folder: Path, target: Path) -> Path:
    usual = [inside / f"{name}{end}" for inside in (folder, folder / "metadata") for end in ("_places365.csv", ".csv")]
    others = [path for path in sorted(folder.glob("*.csv")) if path.resolve() != target.resolve()]
    found = next((path for path in usual if path.is_file()), others[0] if len(others) == 1 else None)
    if found is None:
        has = f"; it has {', '.join(path.name for path in others)}" if others else ""
        raise MissingInputError(f"There is no {name}_places365.csv in {folder}{has}: name the CSV with --csv.")
    return found


def _columns(path: Path) -> dict[str, str]:
    """Which column of the file is which of `IMG_ID`, `LAT` and `LON`."""
    header = reading.read_header(path)
    by_name = {name.strip().casefold(): name for name in reversed(header)}
    found = {
        wanted: next((by_name[spelling] for spelling in spellings if spelling in by_name), None)
        for wanted, spellings in _NAMES.items()
    }
    missing = [wanted for wanted, name in found.items() if name is None]
    reading.check_columns(path, header, missing, "", "Give the benchmark's CSV, which has IMG_ID, LAT and LON.")
    return {name: wanted for wanted, name in found.items() if name is not None}


def _exchanged(lat: np.ndarray, lng: np.ndarray) -> bool:
    """Whether what is called latitude can only be longitude."""
    lat, lng = np.abs(lat[np.isfinite(lat)]), np.abs(lng[np.isfinite(lng)])
    beyond = int((lat > 90).sum())
    enough = beyond >= 2 and beyond >= _EXCHANGED_SHARE * len(lat)
    return bool(enough and lat.max() <= 180 and lng.size and lng.max() <= 90)


def _stem(name: str) -> str:
    """Name of a picture without folders and without the ending of a picture (identifiers may hold other dots)."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, ending = os.path.splitext(last)
    return stem if ending.lower() in reading.PICTURES else last
