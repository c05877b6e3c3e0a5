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

from geocbm.data.public.countries import UNKNOWN
from geocbm.data.public.reading import (
    PICTURES,
    BadRows,
    Conversion,
    check_choice,
    check_folder,
    good_rows,
    index_pictures,
    number,
    picture_paths,
    read_header,
    read_text,
)
from geocbm.data.table import SCHEMA
from geocbm.errors import BadTableError, MissingInputError, ParameterError
from geocbm.files import atomic_path
from geocbm.metrics.places import country_of

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
    name: str,
    folder: str | Path,
    out: str | Path | None = None,
    on_bad: str = "error",
    csv: str | Path | None = None,
) -> Conversion:
    """Write the CSV of this project for a photo benchmark.

    The photographs have no concepts: every row has the meta and the parent "unlabelled", and `split` is "test". Such a
    table is for evaluation only, because one meta teaches nothing. `country` comes from the coordinates.

    Args:
        name: "im2gps3k" or "yfcc4k".
        folder: holds the CSV and, at any depth, the pictures.
        out: the CSV to write; by default `geocbm_<name>.csv` in `folder`.
        on_bad: "error" refuses a source with bad rows or missing pictures, "drop" leaves those rows out.
        csv: the benchmark's CSV, where it does not lie in `folder` under a usual name.

    Raises:
        MissingInputError: a folder or file is not there.
        BadTableError: a column is missing, rows are bad, or nothing is left.
        ParameterError: an argument has an impossible value, or `out` cannot be written.
    """
    check_choice("name", name, BENCHMARKS)
    check_choice("on_bad", on_bad, ("error", "drop"))
    folder = Path(folder)
    check_folder(folder, f"{name}_places365.csv and the pictures")
    target = Path(out) if out is not None else folder / f"geocbm_{name}.csv"
    source = Path(csv) if csv is not None else _table_file(name, folder, target)
    if not source.is_file():
        raise MissingInputError(f"There is no file {source}: give the CSV of {name} with IMG_ID, LAT and LON.")
    if target.resolve() == source.resolve():
        raise ParameterError(f"out is {target}, the source itself; name another file.")
    columns = _columns(source, read_header(source))
    chunks = [chunk for chunk in read_text(source) if len(chunk)]
    if not chunks:
        raise BadTableError(f"{source} has a header but no rows: fetch it again.")
    rows = pd.concat(chunks, ignore_index=True).rename(columns=columns)
    notices = [f"{old} read as {new}" for old, new in columns.items() if old != new]
    if _exchanged(number(rows["LAT"]), number(rows["LON"])):
        rows[["LAT", "LON"]] = rows[["LON", "LAT"]].to_numpy()
        notices.append("the headings of latitude and longitude are exchanged in this file; they were put right")
    pictures = index_pictures([folder])
    if not pictures:
        raise MissingInputError(
            f"There is no picture in {folder}: put those of {name} there, in a folder such as images."
        )
    bad = BadRows()
    stems = rows["IMG_ID"].map(_stem)
    lat, lng = number(rows["LAT"]), number(rows["LON"])
    good = good_rows(rows["IMG_ID"], lat, lng, stems.isin(pictures.keys()).to_numpy(), bad)
    if on_bad == "error":
        bad.refuse(source)
    if not good.any():
        raise BadTableError(f"Nothing is left of {source}: {'; '.join(bad.sentences())}.", bad.sentences())
    table = _in_schema(name, rows[good], [pictures[stem] for stem in stems[good]], lat[good], lng[good], target)
    try:
        with atomic_path(target) as temporary:
            table.to_csv(temporary, index=False)
    except OSError as problem:
        raise ParameterError(f"out {target} cannot be written ({problem.strerror}): name another with --out.") from None
    notices += [f"left out: {sentence}" for sentence in bad.sentences()]
    return Conversion(target, len(table), table["image_path"].nunique(), int((~good).sum()), tuple(notices))


def _table_file(name: str, folder: Path, target: Path) -> Path:
    usual = [inside / f"{name}{end}" for inside in (folder, folder / "metadata") for end in ("_places365.csv", ".csv")]
    for path in usual:
        if path.is_file():
            return path
    others = [path for path in sorted(folder.glob("*.csv")) if path.resolve() != target.resolve()]
    if len(others) == 1:
        return others[0]
    found = f"; it has {', '.join(path.name for path in others)}" if others else ""
    raise MissingInputError(f"There is no {name}_places365.csv in {folder}{found}: name the CSV with --csv.")


def _columns(source: Path, header: list[str]) -> dict[str, str]:
    """Which column of the file is which of `IMG_ID`, `LAT` and `LON`."""
    by_name = {name.strip().casefold(): name for name in reversed(header)}
    found = {}
    for wanted, spellings in _NAMES.items():
        name = next((by_name[spelling] for spelling in spellings if spelling in by_name), None)
        if name is not None:
            found[name] = wanted
    missing = [wanted for wanted in _NAMES if wanted not in found.values()]
    if missing:
        raise BadTableError(
            f"{source} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; it has "
            f"{', '.join(header)}. Give the benchmark's CSV, which has IMG_ID, LAT and LON.",
            [f"column {name} is missing" for name in missing],
        )
    return found


def _exchanged(lat: np.ndarray, lng: np.ndarray) -> bool:
    """Whether what is called latitude can only be longitude."""
    beyond = np.abs(lat[np.isfinite(lat)])
    other = np.abs(lng[np.isfinite(lng)])
    count = int((beyond > 90).sum())
    return bool(
        count >= 2
        and count >= _EXCHANGED_SHARE * len(beyond)
        and beyond.max() <= 180
        and other.size
        and other.max() <= 90
    )


def _stem(name: str) -> str:
    """Name of a picture without folders and without the ending of a picture (identifiers may hold other dots)."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, ending = os.path.splitext(last)
    return stem if ending.lower() in PICTURES else last


def _in_schema(
    name: str, rows: pd.DataFrame, pictures: list[str], lat: np.ndarray, lng: np.ndarray, target: Path
) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "pano_id": rows["IMG_ID"],
            "image_path": picture_paths(pictures, target),
            "meta_name": UNLABELLED,
            "parent_concept": UNLABELLED,
            "country": [country or UNKNOWN for country in country_of(lat, lng)],
            "lat": rows["LAT"],
            "lng": rows["LON"],
            "note": "",
        },
        index=rows.index,
    )
    extra = rows.drop(columns=[column for column in ("IMG_ID", "LAT", "LON", *SCHEMA) if column in rows])
    return table.join(extra.assign(data_set=name, split="test"))
