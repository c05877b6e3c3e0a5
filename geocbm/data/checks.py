"""What can be wrong with a table of panoramas: one function per kind of problem.

Every check looks at all rows and answers with a list of `Problem`, so that one pass over a table reports everything
there is to mend. Nothing here raises because of the content of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.errors import UserError
from geocbm.geodesy import haversine_km

NAME_COLUMNS = ("meta_name", "parent_concept", "country")
EMPTY_WORDS = frozenset({"", "nan", "none", "null", "n/a", "<na>"})
ROWS_LISTED = 20
SAME_PLACE_KM = 0.001

_CALLED, _SMALL = "the picture", 96


@dataclass(frozen=True)
class Problem:
    """One kind of problem with all rows that have it.

    Attributes:
        what: the problem, e.g. "lat is not a number".
        rows: positions of the rows in the table, ascending.
        details: for each row what was found there, or nothing.
        remedy: what the user can do about it.
    """

    what: str
    rows: tuple[int, ...]
    details: tuple[str, ...]
    remedy: str

    def sentence(self, lines: Sequence[int]) -> str:
        """Say it in one sentence with the lines of the CSV (header = line 1)."""
        listed = [
            f"{lines[row]} ({detail})" if detail else str(lines[row])
            for row, detail in zip(self.rows[:ROWS_LISTED], self.details, strict=False)
        ]
        more = len(self.rows) - len(listed)
        where = ("line " if len(self.rows) == 1 else "lines ") + ", ".join(listed)
        where += f" and {more} more" if more else ""
        count = "1 row" if len(self.rows) == 1 else f"{len(self.rows)} rows"
        return f"{self.what} in {count}: {where}. {self.remedy}"


def _problem(what: str, rows: Iterable[int], details: Iterable[str], remedy: str) -> list[Problem]:
    """Make a list of one problem, or of none when no row has it."""
    pairs = sorted(zip((int(row) for row in rows), details, strict=True))
    if not pairs:
        return []
    positions, texts = zip(*pairs, strict=True)
    return [Problem(what, positions, texts, remedy)]


def _where(mask: np.ndarray | pd.Series) -> np.ndarray:
    return np.flatnonzero(np.asarray(mask, dtype=bool))


def is_empty(text: pd.Series) -> np.ndarray:
    """Mark the cells that hold nothing, or a word such as 'nan' that a program wrote for nothing."""
    return text.str.casefold().isin(EMPTY_WORDS).to_numpy()


def check_names(rows: pd.DataFrame) -> list[Problem]:
    """Find empty identifiers and names, and names whose letters were garbled by a wrong encoding."""
    from ftfy import fix_encoding

    found: list[Problem] = []
    for column in ("pano_id", *NAME_COLUMNS):
        at = _where(is_empty(rows[column]))
        details = [repr(value) if value else "" for value in rows[column].iloc[at]]
        found += _problem(f"{column} is empty", at, details, f"Fill in {column} or remove the row.")
    for column in NAME_COLUMNS:
        suggestion = {}
        for value in rows[column].unique():
            repaired = fix_encoding(value)
            if repaired != value:
                suggestion[value] = f"{value!r}, perhaps {repaired!r}"
            elif "\ufffd" in value:
                suggestion[value] = f"{value!r}, letters are lost"
        at = _where(rows[column].isin(list(suggestion)))
        details = [suggestion[value] for value in rows[column].iloc[at]]
        remedy = "The text was decoded with the wrong encoding once: write the suggested name, or export it as UTF-8."
        found += _problem(f"{column} holds garbled letters (mojibake)", at, details, remedy)
    return found


def check_coordinates(rows: pd.DataFrame, lat: np.ndarray, lng: np.ndarray) -> list[Problem]:
    """Find coordinates that are no finite numbers or lie outside their range.

    Args:
        rows: the text of the table.
        lat: latitudes parsed from it, degrees, NaN where the text is no number.
        lng: longitudes, likewise.
    """
    found: list[Problem] = []
    for column, values in (("lat", lat), ("lng", lng)):
        text = rows[column]
        at = _where(np.isnan(values))
        details = [repr(value) if value else "empty" for value in text.iloc[at]]
        remedy = "Give decimal degrees with a point, such as 46.2260, or remove the row."
        found += _problem(f"{column} is not a number", at, details, remedy)
        at = _where(np.isinf(values))
        remedy = "Give decimal degrees or remove the row."
        found += _problem(f"{column} is infinite", at, [repr(value) for value in text.iloc[at]], remedy)

    at = _where(np.isfinite(lat) & (np.abs(lat) > 90))
    swapped = at.size > 0 and bool(np.all(np.abs(lng[at]) <= 90))
    remedy = (
        "lat and lng look swapped: exchange the two columns." if swapped else "Correct the value or remove the row."
    )
    found += _problem("lat lies outside -90..90", at, [f"{value:g}" for value in lat[at]], remedy)

    at = _where(np.isfinite(lng) & (np.abs(lng) > 180))
    finite = lng[np.isfinite(lng)]
    if at.size and finite.min() >= 0 and finite.max() <= 360:
        what = "lng lies outside -180..180 because the column counts 0..360"
        remedy = "Subtract 360 from every longitude above 180."
    else:
        what, remedy = "lng lies outside -180..180", "Correct the value or remove the row."
    return found + _problem(what, at, [f"{value:g}" for value in lng[at]], remedy)


def _minority(groups: pd.Series, choice: pd.Series) -> pd.Series:
    """Mark rows whose `choice` is not the single most frequent one of their group (all rows of it when tied)."""
    counts = pd.DataFrame({"group": groups, "choice": choice}).groupby(["group", "choice"], sort=True).size()
    several = counts[counts.groupby(level="group").transform("size") > 1]
    outvoted = pd.Series(False, index=groups.index)
    if several.empty:
        return outvoted
    best = several.groupby(level="group").transform("max")
    tied = several.eq(best).groupby(level="group").transform("sum") > 1
    losing = set(several.index[(several < best) | tied])
    suspects = groups.isin(several.index.get_level_values("group"))
    pairs = zip(groups[suspects], choice[suspects], strict=True)
    outvoted[suspects] = np.array([pair in losing for pair in pairs], dtype=bool)
    return outvoted


def check_parents(rows: pd.DataFrame) -> list[Problem]:
    """Find metas under more than one parent; the rows named are those of the rarer parents (of all, when tied)."""
    filled = rows[~(is_empty(rows["meta_name"]) | is_empty(rows["parent_concept"]))]
    outvoted = _minority(filled["meta_name"], filled["parent_concept"])
    parents = filled[filled["meta_name"].isin(filled.loc[outvoted, "meta_name"])].groupby("meta_name")["parent_concept"]
    listing = {meta: ", ".join(f"{name!r} x{n}" for name, n in group.value_counts().items()) for meta, group in parents}
    losing = outvoted.index[outvoted]
    details = [f"{meta!r} is under {listing[meta]}" for meta in rows.loc[losing, "meta_name"]]
    remedy = "A meta has exactly one parent: choose one, or give the metas different names."
    return _problem("meta_name stands under two parents", losing, details, remedy)


def check_identity(rows: pd.DataFrame, lat: np.ndarray, lng: np.ndarray) -> list[Problem]:
    """Find a pano_id that stands at two places (more than a metre apart); the rows named are the outvoted ones."""
    usable = np.isfinite(lat) & np.isfinite(lng) & ~is_empty(rows["pano_id"])
    ids = rows["pano_id"][usable]
    ids = ids[ids.duplicated(keep=False)]
    if ids.empty:
        return []
    at = ids.index.to_numpy()
    first = ids.groupby(ids).transform(lambda group: group.index[0]).to_numpy(dtype=np.int64)
    moved = haversine_km(lat[at], lng[at], lat[first], lng[first]) > SAME_PLACE_KM
    place = pd.Series(
        [f"{lat[row]:.5f}, {lng[row]:.5f}" for row in np.where(moved, at, first)],
        index=ids.index,
    )
    outvoted = _minority(ids, place)
    losing = outvoted.index[outvoted]
    details = [f"{ids[row]!r} at {place[row]}" for row in losing]
    remedy = "One panorama stands at one place: correct the coordinates, or give the images different pano_ids."
    return _problem("pano_id is repeated with another location", losing, details, remedy)


def inspect_image(path: Path, decode: bool = True) -> tuple[str, str]:
    """Read one image file.

    Args:
        path: the file.
        decode: read the picture as training will, if smaller; otherwise the content is only hashed.

    Returns:
        Its SHA-256 (empty if it cannot be read) and what is wrong with it (empty if nothing is).
    """
    from geocbm.data.images.photographs import read_photograph

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return "", "missing"
    except OSError as error:
        return "", f"cannot be opened: {error.strerror or error}"
    except ValueError as error:  # a path with a null byte
        return "", f"cannot be opened: {error}"
    digest = hashlib.sha256(content).hexdigest()
    if not decode:
        return digest, ""
    if not content:
        return digest, "zero bytes"
    try:
        read_photograph(content, _CALLED, least_side=_SMALL)
    except UserError as problem:
        return digest, str(problem).removeprefix(_CALLED).partition(";")[0].strip()
    return digest, ""


def check_images(
    paths: pd.Series, folder: Path, decode: bool, workers: int | None = None
) -> tuple[list[str], list[Problem]]:
    """Read every image once, in a pool of threads.

    Args:
        paths: image paths as the table gives them.
        folder: the folder relative paths start from.
        decode: decode the images and report those that fail; otherwise they are hashed where they exist.
        workers: number of threads.

    Returns:
        The SHA-256 of each row's image (empty where there is none) and the problems found.
    """
    distinct = [path for path in paths.unique() if path]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        answers = dict(
            zip(distinct, pool.map(lambda path: inspect_image(folder / path, decode), distinct), strict=True)
        )
    answers[""] = ("", "no path given")
    digests = [answers[path][0] for path in paths]
    if not decode:
        return digests, []
    trouble = paths.map(lambda path: answers[path][1])
    missing = trouble.isin(["missing", "no path given"])
    at = _where(missing)
    details = [path or "no path given" for path in paths.iloc[at]]
    remedy = f"Image paths are relative to {folder}: put the files there, or correct image_path."
    found = _problem("the image is missing", at, details, remedy)
    at = _where((trouble != "") & ~missing)
    details = [f"{path}: {what}" for path, what in zip(paths.iloc[at], trouble.iloc[at], strict=True)]
    remedy = "Fetch the file again or remove the row."
    return digests, found + _problem("the image is unreadable", at, details, remedy)
