"""What the readers of public data sets share: rows with a place and a picture are kept, bad ones counted and named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.data.checks import is_empty
from geocbm.errors import BadTableError, MissingInputError, ParameterError, check_choice, listed
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
        self.n_rows = self.n_written = self.n_images = 0
        self.rejected: list[tuple[str, str]] = []  # name and flaw of each bad row

    def located(self, ids: pd.Series, names: pd.Series, lat: pd.Series, lng: pd.Series) -> pd.DataFrame:
        """Keep the rows with an identifier, a place on the globe and a picture; note the others.

        All are texts `[n]`: identifiers, names of pictures without ending, degrees. Columns are `pano_id`, `image_path`
        (relative to the target where it lies below its folder), `lat` and `lng`.
        """
        north, east, nameless = np.abs(number(lat)), np.abs(number(lng)), is_empty(ids).to_numpy()
        flaws = {
            "the identifier is empty": nameless,
            "latitude or longitude is no number": ~(np.isfinite(north) & np.isfinite(east)),
            "latitude lies outside -90..90 or longitude outside -180..180": (north > 90) | (east > 180),
            "the image is missing": ~names.isin(self.pictures.keys()).to_numpy(),
        }
        flaw = np.select(list(flaws.values()), list(flaws), "")
        bad, named = flaw != "", ids.mask(nameless, [f"row {row + 2}" for row in ids.index])
        self.rejected += zip(named[bad], flaw[bad], strict=True)
        self.n_rows += len(ids)
        home = str(self.target.resolve().parent) + os.sep
        paths = [self.pictures[name] for name in names[~bad]]
        paths = [path.removeprefix(home).replace(os.sep, "/") if path.startswith(home) else path for path in paths]
        return pd.DataFrame({"pano_id": ids[~bad], "image_path": paths, "lat": lat[~bad], "lng": lng[~bad]})

    def write(self, chunks: Iterable[pd.DataFrame], in_schema: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        """Write the target, a chunk of the source at a time; `in_schema` calls `located`."""
        try:
            with atomic_path(self.target) as temporary:
                for chunk in chunks:
                    rows = in_schema(chunk)
                    rows.to_csv(temporary, mode="a", header=self.n_written == 0, index=False)
                    self.n_written += len(rows)
                    self.n_images += rows["image_path"].nunique()
                bad = named_in(self.rejected)
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

    def conversion(self, notices: Iterable[str]) -> Conversion:
        """What was written, and what is to be said of it."""
        said = (*notices, *(f"left out: {sentence}" for sentence in named_in(self.rejected)))
        return Conversion(self.target, self.n_written, self.n_images, len(self.rejected), said)


def named_in(rejected: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence for each reason, with the number and the first names of what was left out for it."""
    names: dict[str, list[str]] = {}
    for name, reason in rejected:
        names.setdefault(reason, []).append(name)
    return [f"{reason} ({len(own):,}): {listed(own, NAMES_LISTED)}" for reason, own in names.items()]


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


@contextmanager
def _said_when_no_csv(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as problem:
        raise BadTableError(f"{path} cannot be read as CSV in UTF-8 ({problem}): fetch it again.") from problem


def read_header(path: Path) -> list[str]:
    """Names of the columns of a CSV."""
    with _said_when_no_csv(path):
        return [str(name) for name in pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns]


def read_text(path: Path) -> Iterator[pd.DataFrame]:
    """Yield the rows of a CSV as text, many at a time; nothing becomes NaN, so Namibia's code NA stays a code."""
    options = {"dtype": str, "na_filter": False, "encoding": "utf-8-sig", "index_col": False}
    with _said_when_no_csv(path), pd.read_csv(path, chunksize=ROWS_AT_ONCE, **options) as chunks:
        for chunk in chunks:
            yield chunk.apply(lambda column: column.str.strip())


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
