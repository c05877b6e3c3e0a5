"""Folders of photographs as tables: a row for each whose EXIF or XMP data say where it was taken."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from geocbm.data.formats.records import named_in, with_country, write_rejected
from geocbm.data.images.photographs import is_photograph, read_photograph
from geocbm.data.public.reading import Conversion, check_folder
from geocbm.errors import BadTableError, UserError, printable
from geocbm.files import atomic_path

_SMALL = 96  # pixels of the shorter side to which a picture is decoded, to see that it is whole


def convert_photographs(folder: Path, out: Path | None = None) -> Conversion:
    """Write the table of the photographs at any depth of a folder; hidden folders are left aside.

    It has `pano_id` (the path in the folder), `image_path`, `lat`, `lng` and `country`, by borders. A photograph
    without a position, with a doubtful one or damaged stands in `TABLE.rejected.csv` instead, with the reason. Where
    none has a position that is a BadTableError.
    """
    check_folder(folder, "the photographs")
    target = out or folder / "geocbm_photos.csv"
    files, others = _look_into(folder)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_place_of, files))
    home, rows, rejected = target.resolve().parent, [], []
    for file, (place, reason) in zip(files, found, strict=True):
        name, path = file.relative_to(folder).as_posix(), file.parent.resolve() / file.name
        if place is None:
            rejected.append((name, reason))
        else:
            rows.append((name, (path.relative_to(home) if path.is_relative_to(home) else path).as_posix(), *place))
    if not rows:
        said = [f"No photograph of the {len(files):,} in {folder} says where it was taken", *named_in(rejected)]
        raise BadTableError("\n  ".join(said), said)
    table = with_country(pd.DataFrame(rows, columns=["pano_id", "image_path", "lat", "lng"]).round(7))  # to 1 cm
    with atomic_path(target) as temporary:
        table.to_csv(temporary, index=False)
    beside = write_rejected(target, ("image_path", "reason"), rejected)
    notices = [f"left out, see {beside}: {sentence}" for sentence in named_in(rejected)]
    if others:
        notices.append(f"other files: {', '.join(f'{n:,} {printable(kind)}' for kind, n in sorted(others.items()))}")
    if not folder.resolve().is_relative_to(home):
        notices.append("the photographs are not in the folder of the table: --set 01.allow_outside=true reads them")
    return Conversion(target, len(table), len(table), 0, tuple(notices))


def _look_into(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Photographs by path, and how many other files there are of each suffix."""
    files: list[Path] = []
    others = Counter[str]()
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        files += [Path(place, name) for name in sorted(names) if is_photograph(name)]
        others.update(Path(name).suffix.lower() or "without suffix" for name in names if not is_photograph(name))
    return files, others


def _place_of(file: Path) -> tuple[tuple[float, float] | None, str]:
    """Latitude and longitude, or None with the reason."""
    try:
        str(file).encode()  # a table is UTF-8
        photograph = read_photograph(file, "it", _SMALL)
    except UnicodeEncodeError:
        return None, "its name is not UTF-8; rename it"
    except UserError as problem:
        return None, str(problem)
    if photograph.doubts:
        return None, "; ".join(photograph.doubts)
    return photograph.own_place, "" if photograph.own_place else "it carries no position"
