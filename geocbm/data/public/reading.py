"""What all readers of public data sets share: columns by name, pictures by name, bad rows counted, one CSV written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.data.checks import EMPTY_WORDS
from geocbm.errors import BadTableError, MissingInputError, ParameterError

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
ROWS_AT_ONCE = 25_000
NAMES_LISTED = 5


@dataclass(frozen=True)
class Conversion:
    """What a reader wrote.

    Attributes:
        path: the CSV in the schema.
        n_rows: its rows.
        n_images: its distinct pictures.
        n_dropped: rows of the source that were bad and left out.
        notices: sentences on what was left out, renamed or assumed.
    """

    path: Path
    n_rows: int
    n_images: int
    n_dropped: int
    notices: tuple[str, ...]


@dataclass
class BadRows:
    """Counts the bad rows of a source, by kind, with the names of the first few."""

    count: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, names: Sequence[str]) -> None:
        """Note that the rows called `names` have the problem `what`."""
        if len(names):
            self.count[what] += len(names)
            listed = self.examples.setdefault(what, [])
            listed.extend(names[: NAMES_LISTED - len(listed)])

    def sentences(self) -> list[str]:
        """One sentence per kind of problem."""
        return [
            f"{what} in {n} row{'s' if n > 1 else ''}: {', '.join(self.examples[what])}"
            + (f" and {n - len(self.examples[what])} more" if n > len(self.examples[what]) else "")
            for what, n in self.count.items()
        ]

    def refuse(self, source: Path) -> None:
        """Raise when there are any.

        Raises:
            BadTableError: with one sentence per kind of problem.
        """
        if self.count:
            sentences = self.sentences()
            raise BadTableError(
                f"{source}: {'; '.join(sentences)}. Mend the files, or leave these rows out with --on-bad drop.",
                sentences,
            )


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise `ParameterError` when `value` is none of `choices`."""
    listed = list(choices)
    if value not in listed:
        raise ParameterError(f"{name} is {value!r}; choose one of {', '.join(listed)}.")


def check_folder(folder: Path, expected: str) -> None:
    """Raise when `folder` is no folder.

    Args:
        folder: what the user named.
        expected: what should lie in it, for the message.
    """
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise MissingInputError(f"The folder {folder} {what}: give the folder that holds {expected}.")


def read_header(path: Path) -> list[str]:
    """Read the names of the columns of a CSV.

    Raises:
        BadTableError: when the file is empty or no CSV in UTF-8.
    """
    try:
        return [str(name) for name in pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns]
    except pd.errors.EmptyDataError:
        raise BadTableError(f"{path} is empty: fetch it again, it must have a header and rows.") from None
    except (UnicodeDecodeError, pd.errors.ParserError) as problem:
        raise BadTableError(f"{path} cannot be read as CSV in UTF-8 ({problem}): fetch it again.") from problem


def read_text(path: Path) -> Iterator[pd.DataFrame]:
    """Yield the rows of a CSV as text, many at a time; nothing becomes NaN, so Namibia's code NA stays a code."""
    try:
        with pd.read_csv(
            path, dtype=str, na_filter=False, encoding="utf-8-sig", chunksize=ROWS_AT_ONCE, index_col=False
        ) as chunks:
            for chunk in chunks:
                yield chunk.apply(lambda column: column.str.strip()).reset_index(drop=True)
    except (UnicodeDecodeError, pd.errors.ParserError) as problem:
        raise BadTableError(
            f"{path} cannot be read as CSV in UTF-8 ({problem}): put text that contains commas in double quotes."
        ) from problem


def index_pictures(roots: Iterable[Path]) -> dict[str, str]:
    """Find every picture below some folders.

    Returns:
        Absolute path (text, for there may be millions) by file name without its ending; of two with the same name, the
        first in alphabetical order of folders.
    """
    found: dict[str, str] = {}
    for root in roots:
        for folder, inner, names in os.walk(root.resolve()):
            inner.sort()
            for name in sorted(names):
                stem, ending = os.path.splitext(name)
                if ending.lower() in PICTURES:
                    found.setdefault(stem, os.path.join(folder, name))
    return found


def number(text: pd.Series) -> np.ndarray:
    """Parse text as numbers, `[n]`; NaN where it is none."""
    return pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)


def is_blank(text: pd.Series) -> np.ndarray:
    """Mark the cells that are empty or hold a word such as NaN, `[n]` booleans."""
    return text.str.casefold().isin(EMPTY_WORDS).to_numpy()


def good_rows(ids: pd.Series, lat: np.ndarray, lng: np.ndarray, found: np.ndarray, bad: BadRows) -> np.ndarray:
    """Mark the rows with a name, a place on the globe and a picture; note the others in `bad`.

    Args:
        ids: `[n]` names of the rows.
        lat: `[n]` latitudes in degrees, NaN where the text is no number.
        lng: `[n]` longitudes in degrees, likewise.
        found: `[n]` whether the picture is there.
        bad: where bad rows are counted.

    Returns:
        `[n]` booleans.
    """
    nameless = is_blank(ids)
    missing = ~(np.isfinite(lat) & np.isfinite(lng))
    outside = ~missing & ((np.abs(lat) > 90) | (np.abs(lng) > 180))
    names = ids.to_numpy(dtype=object)
    bad.add("the identifier is empty", [f"row {row + 2}" for row in ids.index[nameless]])
    bad.add("latitude or longitude is no number", list(names[missing & ~nameless]))
    places = [f"{name} at {a:g}, {b:g}" for name, a, b in zip(names[outside], lat[outside], lng[outside], strict=True)]
    bad.add("latitude lies outside -90..90 or longitude outside -180..180", places)
    bad.add("the image is missing", list(names[~found & ~nameless]))
    return ~(nameless | missing | outside | ~found)


def picture_paths(pictures: Iterable[str], out: Path) -> list[str]:
    """Paths as the schema wants them: relative to the folder of the CSV `out` where they lie below it."""
    folder = str(out.resolve().parent) + os.sep
    return [path[len(folder) :].replace(os.sep, "/") if path.startswith(folder) else path for path in pictures]
