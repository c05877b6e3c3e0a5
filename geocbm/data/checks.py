"""What can be wrong with a table of panoramas: one function per kind of problem.

Every check looks at all rows, so that one pass over a table reports everything there is to mend. Nothing here raises
because of the content of a row. Tables are indexed by the position of their rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.data.concepts import EMPTY_WORDS
from geocbm.errors import MissingInputError, UserError, printable
from geocbm.geodesy import KM_PER_DEGREE, haversine_km
from geocbm.metrics.borders import km_from_country
from geocbm.metrics.country_names import names_by_code

NAME_COLUMNS = ("meta_name", "parent_concept", "country")
ROWS_LISTED = 20
SAME_PLACE_KM = 0.001

FAR_KM = 550.0
"""A place further than this from the borders of its country is reported."""

_CALLED, _SMALL, _OUTSIDE, _MISSING = "the picture", 96, "outside", "missing"
_PARTS = 2000  # in which images are handed to threads
_USUAL_LENGTH = 1000  # of a path; the system may have more to say of a longer one than that it is missing


@dataclass(frozen=True)
class Problem:
    """One kind of problem with all rows that have it, if any."""

    what: str
    details: dict[Any, str]  # by position of the row, ascending: what was found there, or nothing
    remedy: str

    def sentence(self, lines: np.ndarray) -> str:
        """Say it in one sentence with the line `[n]` of the CSV of each row (header = line 1)."""
        n = len(said := dict.fromkeys((int(lines[row]), text) for row, text in self.details.items()))
        listed = [f"{line} ({printable(text)})" if text else str(line) for line, text in islice(said, ROWS_LISTED)]
        where = ("line " if n == 1 else "lines ") + ", ".join(listed)
        where += f" and {n - ROWS_LISTED} more" if n > ROWS_LISTED else ""
        return f"{self.what} in {n} row{'' if n == 1 else 's'}: {where}. {self.remedy}"


def is_empty(text: pd.Series) -> pd.Series:
    """Mark the cells that hold nothing, or a word that a program wrote for nothing."""
    return text.str.lower().isin(EMPTY_WORDS)


def check_names(rows: pd.DataFrame) -> Iterator[Problem]:
    """Find empty identifiers and names, and names whose letters were garbled by a wrong encoding."""
    for column in ("pano_id", *NAME_COLUMNS):
        details = rows[column][is_empty(rows[column])].map(lambda text: repr(text) if text else "").to_dict()
        yield Problem(f"{column} is empty", details, f"Fill in {column} or remove the row.")
    remedy = "The text was decoded with the wrong encoding once: write the suggested name, or export it as UTF-8."
    for column in NAME_COLUMNS:
        suggestion = _garbled(rows[column])
        garbled = rows[column][rows[column].isin(suggestion.keys())]
        details = {row: suggestion[text] for row, text in garbled.items()}
        yield Problem(f"{column} holds garbled letters (mojibake)", details, remedy)


def _garbled(names: pd.Series) -> dict[str, str]:
    """What to say of each name whose letters were garbled."""
    from ftfy import fix_encoding

    suggestion = {}
    for text in names.unique():
        repaired = fix_encoding(text)
        if repaired != text:
            suggestion[text] = f"{text!r}, perhaps {repaired!r}"
        elif "\ufffd" in text:
            suggestion[text] = f"{text!r}, letters are lost"
    return suggestion


def check_coordinates(rows: pd.DataFrame, lat: np.ndarray, lng: np.ndarray) -> Iterator[Problem]:
    """Find coordinates, `[n]` degrees each (NaN where the text is no number), that lie outside their range."""
    for column, values in (("lat", lat), ("lng", lng)):
        details = rows[column][np.isnan(values)].map(lambda text: repr(text) if text else "empty").to_dict()
        remedy = "Give decimal degrees with a point, such as 46.2260, or remove the row."
        yield Problem(f"{column} is not a number", details, remedy)
        details = rows[column][np.isinf(values)].map(repr).to_dict()
        yield Problem(f"{column} is infinite", details, "Give decimal degrees or remove the row.")

    usual = "Correct the value or remove the row."
    outside = np.flatnonzero(np.isfinite(lat) & (np.abs(lat) > 90))
    swapped = outside.size > 0 and bool(np.all(np.abs(lng[outside]) <= 90))
    remedy = "lat and lng look swapped: exchange the two columns." if swapped else usual
    yield Problem("lat lies outside -90..90", {int(row): f"{lat[row]:g}" for row in outside}, remedy)

    outside = np.flatnonzero(np.isfinite(lng) & (np.abs(lng) > 180))
    finite = lng[np.isfinite(lng)]
    what, remedy = "lng lies outside -180..180", usual
    if outside.size and finite.min() >= 0 and finite.max() <= 360:
        what += " because the column counts 0..360"
        remedy = "Subtract 360 from every longitude above 180."
    yield Problem(what, {int(row): f"{lng[row]:g}" for row in outside}, remedy)


def check_countries(rows: pd.DataFrame, lat: np.ndarray, lng: np.ndarray) -> tuple[Problem, Problem]:
    """Find places far from the country that the row names: those that lie in it once exchanged, and all others."""
    swapped: dict[Any, str] = {}
    others: dict[Any, str] = {}
    sound = np.isfinite(lat) & np.isfinite(lng) & (np.abs(lat) <= 90) & (np.abs(lng) <= 180)
    codes = {name: code for code, name in names_by_code().items() if len(code) == 2}
    number, names = pd.factorize(rows["country"].where(sound & rows["country"].isin(codes.keys())), sort=True)
    for each, name in enumerate(names):
        own = np.flatnonzero(number == each)
        far = own[_far(lat[own], lng[own], codes[name])]
        exchanged = np.abs(lng[far]) <= 90
        exchanged[exchanged] = km_from_country(lng[far][exchanged], lat[far][exchanged], codes[name]) == 0
        for row, is_swapped in zip(far.tolist(), exchanged.tolist(), strict=True):
            (swapped if is_swapped else others)[row] = f"{name} at {lat[row]:g}, {lng[row]:g}"
    remedy = "Exchange lat and lng of these rows, or correct the country."
    return (
        Problem(
            "lat and lng look exchanged: the place lies far from its country, the exchanged one in it", swapped, remedy
        ),
        Problem("the place lies far from its country", others, "Correct the coordinates or the country."),
    )


def _far(lat: np.ndarray, lng: np.ndarray, code: str) -> np.ndarray:
    """Whether points lie further than `FAR_KM` from a country, `[n]`; most are settled with their whole square."""
    south, west = np.floor(lat), np.floor((lng + 180) % 360 - 180)
    _, first, square = np.unique(south * 1000 + west, return_index=True, return_inverse=True)
    middle = km_from_country(south[first] + 0.5, west[first] + 0.5, code)
    far = (middle > FAR_KM - KM_PER_DEGREE)[square]  # no point is as far as a degree from the middle of its square
    far[far] = km_from_country(lat[far], lng[far], code) > FAR_KM
    return far


def _outvoted(groups: pd.Series, choice: pd.Series) -> pd.Series:
    """Mark rows whose `choice` is not the single most frequent one of their group (all rows of it when tied)."""
    count = choice.groupby([groups, choice]).transform("size")
    best = count.groupby(groups).transform("max")
    tied = choice[count == best].groupby(groups).nunique() > 1
    return (count < best) | groups.map(tied).astype(bool)


def check_parents(rows: pd.DataFrame) -> Iterator[Problem]:
    """Find metas under more than one parent; the rows named are those of the rarer parents (of all, when tied).

    Names that are empty or garbled say nothing.
    """
    pairs = rows[["meta_name", "parent_concept"]].drop_duplicates()
    filled = rows[rows["meta_name"].isin(pairs["meta_name"][pairs["meta_name"].duplicated()])]
    meta, parent = filled["meta_name"], filled["parent_concept"]
    filled = filled[~(is_empty(meta) | is_empty(parent) | meta.isin(_garbled(meta)) | parent.isin(_garbled(parent)))]
    losing = filled["meta_name"][_outvoted(filled["meta_name"], filled["parent_concept"])]
    parents = filled[filled["meta_name"].isin(losing)].groupby("meta_name")["parent_concept"]
    listing = {meta: ", ".join(f"{name!r} x{n}" for name, n in group.value_counts().items()) for meta, group in parents}
    details = losing.map(lambda meta: f"{meta!r} is under {listing[meta]}").to_dict()
    remedy = "A meta has exactly one parent: choose one, or give the metas different names."
    yield Problem("meta_name stands under two parents", details, remedy)


def check_identity(rows: pd.DataFrame, lat: np.ndarray, lng: np.ndarray) -> Iterator[Problem]:
    """Find a pano_id that stands at two places (more than a metre apart); the rows named are the outvoted ones."""
    ids = rows["pano_id"][np.isfinite(lat) & np.isfinite(lng) & rows["pano_id"].duplicated(keep=False).to_numpy()]
    ids = ids[~is_empty(ids)]
    at = ids.index.to_numpy()
    first = pd.Series(at, ids.index).groupby(ids).transform("first").to_numpy(dtype=np.int64)
    moved = haversine_km(lat[at], lng[at], lat[first], lng[first]) > SAME_PLACE_KM
    own = ids.isin(ids[moved]).to_numpy()
    ids, seen = ids[own], np.where(moved, at, first)[own]
    place = pd.Series([f"{lat[row]:.5f}, {lng[row]:.5f}" for row in seen], ids.index, dtype=object)
    details = (ids.map(repr) + " at " + place)[_outvoted(ids, place)].to_dict()
    remedy = "One panorama stands at one place: correct the coordinates, or give the images different pano_ids."
    yield Problem("pano_id is repeated with another location", details, remedy)


def inspect_image(path: Path, decode: bool = True) -> tuple[str, str]:
    """SHA-256 of an image file (empty if it cannot be read) and what is wrong with it (empty if nothing is).

    With `decode` it is read as training will, if smaller.
    """
    from geocbm.data.images.bounds import open_regular
    from geocbm.data.images.photographs import read_photograph

    digest = ""
    try:
        with open_regular(path, _CALLED) as (stream, size):
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if decode and not size:
            return digest, "zero bytes"
        if decode:
            read_photograph(path, _CALLED, least_side=_SMALL)
    except MissingInputError:
        return "", _MISSING
    except UserError as problem:
        return digest, str(problem).removeprefix(_CALLED).partition(";")[0].strip()
    return digest, ""


def _look(folder: Path, path: str, known: dict[str, tuple[str, bool]]) -> tuple[bool, bool]:
    """Whether a path, links followed, leads out of a table's real folder, and whether its own folder is missing.

    What is `known` of a folder (real path, whether it is missing) is kept, so that the system is asked once of each.
    """
    home, full = str(folder), os.path.join(folder, path)
    head, name = os.path.split(full)
    try:
        if head not in known:
            known[head] = os.path.realpath(head), _is_gone(head)
        real, is_gone = known[head]
        place = os.path.realpath(full) if not is_gone and os.path.islink(full) else os.path.join(real, name)
    except (OSError, ValueError):  # no path at all; whoever opens it says so
        return False, False
    is_outside = place != home and not place.startswith(os.path.join(home, ""))
    return is_outside, is_gone and len(full) < _USUAL_LENGTH and "\0" not in name


def _is_gone(folder: str) -> bool:
    try:
        os.lstat(folder)
    except FileNotFoundError:
        return True
    except OSError:  # such as a name too long; whoever opens the image says so
        pass
    return False


def check_images(
    paths: pd.Series, folder: Path, decode: bool, allow_outside: bool = False
) -> tuple[np.ndarray, list[Problem]]:
    """The SHA-256 `[n]` of each row's image (empty where there is none) and the problems found, by a pool of threads.

    Without `decode` they are only hashed where they exist. A path out of the folder is not followed unless that is
    allowed: a table that somebody sent must not read this disk.
    """
    folder, known = Path(os.path.realpath(folder)), dict[str, tuple[str, bool]]()

    def inspect(path: str) -> tuple[str, str]:
        if not path:
            return "", "no path given"
        if path.endswith(("/", "/.")):
            return "", "the path of a folder"
        is_outside, is_missing = _look(folder, path, known)
        if is_outside and not allow_outside:
            return "", _OUTSIDE
        return ("", _MISSING) if is_missing else inspect_image(folder / path, decode)

    number, distinct = pd.factorize(paths)
    digests, trouble = (np.full(len(distinct), "", dtype=object) for _ in range(2))

    def inspect_part(part: np.ndarray) -> None:
        for place, path in zip(part, distinct[part], strict=True):
            digests[place], trouble[place] = inspect(path)

    with ThreadPoolExecutor() as pool:
        list(pool.map(inspect_part, np.array_split(np.arange(len(distinct)), min(len(distinct), _PARTS))))
    digests, trouble = digests[number], trouble[number]
    stray = Problem(
        "the image lies outside of the table's folder",
        paths[trouble == _OUTSIDE].to_dict(),
        f"Put the files below {folder}; or, if you trust this table to read your disk, set allow_outside=true "
        "(geocbm run --set 01.allow_outside=true).",
    )
    if not decode:
        return digests, [stray]
    missing = np.isin(trouble, [_MISSING, "no path given"])
    absent = paths[missing].replace("", "no path given").to_dict()
    damaged = (paths + ": " + trouble)[(trouble != "") & (trouble != _OUTSIDE) & ~missing].to_dict()
    where = f"Image paths are relative to {folder}: put the files there, or correct image_path."
    return digests, [
        Problem("the image is missing", absent, where),
        Problem("the image is unreadable", damaged, "Fetch the file again or remove the row."),
        stray,
    ]
