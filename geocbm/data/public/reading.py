"""What the readers of public data sets share: rows with a place and a picture are kept, bad ones counted and named."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.data.checks import is_empty
from geocbm.errors import BadTableError, MissingInputError, ParameterError, check_choice
from geocbm.files import atomic_path
from geocbm.metrics.country_names import country_name
from geocbm.metrics.places import country_of

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
ROWS_AT_ONCE = 25_000
NAMES_LISTED = 5


@dataclass(frozen=True)
class Conversion:
    """What a reader wrote."""

    path: Path
    n_rows: int
    n_images: int
    n_dropped: int  # rows of the source that were bad and left out
    notices: tuple[str, ...]  # sentences on what was left out, renamed or assumed


class Source:
    """A CSV of a public data set on its way into a target, a CSV in the schema of `geocbm.data.table`.

    `pictures` are paths by name (`index_pictures`). Bad rows and missing pictures are refused ("error") or left out
    ("drop"), as `on_bad` says.
    """

    def __init__(self, path: Path, target: Path, pictures: dict[str, str], on_bad: str) -> None:
        check_choice("on_bad", on_bad, ("error", "drop"))
        if target.resolve() == path.resolve():
            raise ParameterError(f"out is {target}, the source itself; name another file.")
        self.path, self.target, self.pictures, self.on_bad = path, target, pictures, on_bad
        self.n_rows = self.n_dropped = self.n_written = self.n_images = 0
        self._bad: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def located(self, ids: pd.Series, names: pd.Series, lat: pd.Series, lng: pd.Series) -> pd.DataFrame:
        """Keep the rows with an identifier, a place on the globe and a picture; count the others.

        All are texts `[n]`: identifiers, names of pictures without ending, degrees. Columns are `pano_id`, `image_path`
        (relative to the target where it lies below its folder), `lat` and `lng`.
        """
        north, east = number(lat), number(lng)
        nameless = is_empty(ids).to_numpy()
        missing = ~(np.isfinite(north) & np.isfinite(east))
        outside = ~missing & ((np.abs(north) > 90) | (np.abs(east) > 180))
        lost = ~names.isin(self.pictures.keys()).to_numpy()
        self._note("the identifier is empty", [f"row {row + 2}" for row in ids.index[nameless]])
        self._note("latitude or longitude is no number", ids[missing & ~nameless])
        places = [f"{ids.iloc[row]} at {north[row]:g}, {east[row]:g}" for row in np.flatnonzero(outside)]
        self._note("latitude lies outside -90..90 or longitude outside -180..180", places)
        self._note("the image is missing", ids[lost & ~nameless])
        good = ~(nameless | missing | outside | lost)
        self.n_rows += len(ids)
        self.n_dropped += int((~good).sum())
        home = str(self.target.resolve().parent) + os.sep
        paths = [self.pictures[name] for name in names[good]]
        paths = [path.removeprefix(home).replace(os.sep, "/") if path.startswith(home) else path for path in paths]
        return pd.DataFrame({"pano_id": ids[good], "image_path": paths, "lat": lat[good], "lng": lng[good]})

    def _note(self, what: str, names: Sequence[str] | pd.Series) -> None:
        if len(names):
            self._bad[what] += len(names)
            listed = self._examples.setdefault(what, [])
            listed.extend(names[: NAMES_LISTED - len(listed)])

    def write(self, chunks: Iterable[pd.DataFrame], in_schema: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        """Write the target, a chunk of the source at a time; `in_schema` calls `located`."""
        try:
            with atomic_path(self.target) as temporary:
                for chunk in chunks:
                    rows = in_schema(chunk)
                    rows.to_csv(temporary, mode="a", header=self.n_written == 0, index=False)
                    self.n_written += len(rows)
                    self.n_images += rows["image_path"].nunique()
                bad = self.bad_rows()
                if bad and self.on_bad == "error":
                    remedy = "Mend the files, or leave these rows out with --on-bad drop."
                    raise BadTableError(f"{self.path}: {'; '.join(bad)}. {remedy}", bad)
                if not self.n_rows:
                    raise BadTableError(f"{self.path} has a header but no rows: fetch it again.")
                if not self.n_written:
                    why = "; ".join(bad) or "no picture has a value"
                    raise BadTableError(f"Nothing is left of the {self.n_rows} rows of {self.path}: {why}.", bad)
        except OSError as problem:
            raise ParameterError(
                f"out {self.target} cannot be written ({problem.strerror}): name another with --out."
            ) from None

    def bad_rows(self) -> list[str]:
        """One sentence per kind of problem, with the names of the first few rows."""
        return [
            f"{what} in {n} row{'s' if n > 1 else ''}: {', '.join(self._examples[what])}"
            + (f" and {n - len(self._examples[what])} more" if n > len(self._examples[what]) else "")
            for what, n in self._bad.items()
        ]

    def conversion(self, notices: Iterable[str]) -> Conversion:
        """What was written, and what is to be said of it."""
        said = (*notices, *(f"left out: {sentence}" for sentence in self.bad_rows()))
        return Conversion(self.target, self.n_written, self.n_images, self.n_dropped, said)


def check_folder(folder: Path, expected: str) -> None:
    """Raise `MissingInputError` when `folder` is no folder; `expected` says what should lie in it."""
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise MissingInputError(f"The folder {folder} {what}: give the folder that holds {expected}.")


def check_columns(path: Path, header: Sequence[str], missing: Sequence[str], of: str, remedy: str) -> None:
    """Raise `BadTableError` when columns are missing from a header."""
    if missing:
        raise BadTableError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}{of}; it has "
            f"{', '.join(header)}. {remedy}",
            [f"column {name} is missing" for name in missing],
        )


def read_header(path: Path) -> list[str]:
    """Names of the columns of a CSV."""
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
                yield chunk.apply(lambda column: column.str.strip())
    except (UnicodeDecodeError, pd.errors.ParserError) as problem:
        raise BadTableError(
            f"{path} cannot be read as CSV in UTF-8 ({problem}): put text that contains commas in double quotes."
        ) from problem


def index_pictures(roots: Iterable[Path]) -> dict[str, str]:
    """Absolute path, as text, of every picture below some folders, by name without ending.

    Of two with the same name the first in alphabetical order of folders is taken.
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


def named_countries(codes: pd.Series, lat: pd.Series, lng: pd.Series) -> tuple[pd.Series, int]:
    """Turn ISO 3166 codes in any case, or names, to the project's names ("unknown" where nothing helps).

    What is neither is found by its coordinates; how many, is the second answer.
    """
    names = codes.map({code: country_name(code) or country_name(code.upper()) or "" for code in codes.unique()})
    rows = np.flatnonzero(names == "")
    if len(rows):
        names.iloc[rows] = [name or "unknown" for name in country_of(number(lat)[rows], number(lng)[rows])]
    return names, len(rows)
