"""Reading the table of panoramas: a CSV is either whole, or every one of its problems is named in one answer."""

from __future__ import annotations

import csv as csv_format
import json
import re
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Mapping
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.data import checks
from geocbm.data.concept_list import ConceptList
from geocbm.data.concepts import UNKNOWN, split_names
from geocbm.data.simulated import from_simulator
from geocbm.data.unlabelled import LEFT_OUT, complete, concept_columns
from geocbm.errors import BadTableError, MissingInputError, ParameterError, cut_middle, printable
from geocbm.files import atomic_path, paths, run_command, sha256_file
from geocbm.files.stored import opened
from geocbm.metrics.country_names import country_names

SCHEMA = ("pano_id", "image_path", "meta_name", "parent_concept", "country", "lat", "lng", "note")
ALIASES: dict[str, tuple[str, ...]] = {
    "pano_id": ("panoid", "panorama_id", "id", "image_id"),
    "image_path": ("image", "path", "file", "filename", "file_name", "img_path"),
    "meta_name": ("meta", "concept", "concept_name", "concepts"),
    "parent_concept": ("parent", "parent_name", "category", "parents"),
    "country": ("country_name", "nation"),
    "lat": ("latitude",),
    "lng": ("lon", "long", "longitude"),
    "note": ("notes", "description", "comment"),
}
SEVERAL = "concepts"
"""Name of the column that may hold several concepts."""
LARGEST_FIELD = 2**27
_HIDDEN = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
"""Control characters but for space, and what Unicode calls default ignorable: unseen, they make two of one name."""
UNKNOWN_SHOWN = 5


def load_table(
    csv: str | Path,
    on_bad: str = "error",
    rejected_csv: str | Path | None = None,
    check_images: bool = True,
    columns: Mapping[str, str] | None = None,
    allow_outside: bool = False,
    concepts: ConceptList | None = None,
) -> pd.DataFrame:
    """Read and validate a CSV of panoramas (specification, section Dataset Structure).

    Args:
        csv: file in UTF-8 with the columns of `SCHEMA`; usual other names of a column are accepted and printed. A
            column `concepts` may hold several names separated by `|`, and that of the parents one for all or one for
            each: such a line becomes a row for each name.
        on_bad: "error" raises when any row is bad; "drop" leaves bad rows out and writes them, with the reason, to
            `rejected_csv`. A problem of the file as a whole always raises.
        rejected_csv: by default `rejected.csv` beside the CSV, or in the current folder where that cannot be written.
        check_images: decode every image; if false, images are only hashed where they exist.
        columns: own names of columns, `{"name in the file": "name in the schema"}`.
        allow_outside: follow paths of images, and links, that lead out of the folder of the CSV.
        concepts: a list by which a table without `meta_name` and `parent_concept` is read, see `unlabelled.complete`:
            columns headed by a listed name hold 1, 0 or nothing; of a picture without a 1 both are `UNKNOWN`.

    Returns:
        The schema's columns, then extra columns, then `image_sha256`; `lat` and `lng` are floats in degrees, other
        columns text; countries are spelt as in `metrics.country_names`, unknown ones as they are. `attrs` holds `csv`,
        `folder`, `csv_sha256`, `n_rejected`, `notices` (what was normalised) and `simulated`.

    Raises:
        BadTableError: with one sentence per problem in `problems`.
    """
    if on_bad not in ("error", "drop"):
        raise ParameterError(f"on_bad is {on_bad!r}; choose 'error' or 'drop'.")
    path = Path(csv)
    header, raw, lines = _read_rows(path)
    names, notices = _map_columns(path, header, columns or {}, concepts)
    width = len(header)
    rows = pd.DataFrame([(cells + [""] * width)[:width] for cells in raw], columns=names, dtype=object)
    unequal: dict[int, str] = {}
    marks: dict[int, str] = {}
    if "meta_name" not in names and concepts is not None:
        rows, marks = complete(rows, concepts)
    if "meta_name" not in names or header[names.index("meta_name")].casefold() == SEVERAL:
        rows, unequal = split_names(rows)
        marks = {row: marks[line] for row, line in enumerate(rows.index) if line in marks}
        raw, lines = [raw[row] for row in rows.index], [lines[row] for row in rows.index]
        rows = rows.reset_index(drop=True)
    notices += _normalise(rows)
    rows.loc[rows["meta_name"] == UNKNOWN, "parent_concept"] = UNKNOWN
    lat, lng = (pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=np.float64) for name in ("lat", "lng"))
    folder = path.resolve().parent

    ragged = {row: f"{len(cells)} fields" for row, cells in enumerate(raw) if len(cells) != width}
    remedy = f"The header has {width} columns: put fields that contain a comma in double quotes."
    digests, image_problems = checks.check_images(rows["image_path"], folder, check_images, allow_outside)
    exchanged, elsewhere = checks.check_countries(rows, lat, lng)
    problems = [
        checks.Problem("the number of fields is wrong", ragged, remedy),
        checks.Problem("the column of a concept is neither 1, 0 nor empty", marks, "Correct the cells."),
        checks.Problem("concepts and parents differ in number", unequal, "Give one parent for all, or one for each."),
        *checks.check_names(rows),
        *checks.check_coordinates(rows, lat, lng),
        exchanged,
        *checks.check_parents(rows),
        *checks.check_identity(rows, lat, lng),
        *image_problems,
    ]
    sentences = [problem.sentence(lines) for problem in problems if problem.details]
    reasons: dict[int, list[str]] = {}
    for problem in problems:
        for row, detail in problem.details.items():
            reasons.setdefault(row, []).append(f"{problem.what} ({printable(detail)})" if detail else problem.what)
    if elsewhere.details:
        notices.append(elsewhere.sentence(lines))

    table = rows[[*SCHEMA, *(name for name in rows if name not in SCHEMA and name != "image_sha256")]].copy()
    table["lat"], table["lng"], table["image_sha256"] = lat + 0.0, lng + 0.0, digests  # never -0.0
    table = _plain_text(table)
    if reasons:
        if on_bad == "error" or len(reasons) == len(raw):
            every = "Every row is rejected. " if on_bad == "drop" else ""
            count = "1 problem" if len(sentences) == 1 else f"{len(sentences)} problems"
            found = f"{count} in {len(reasons)} of {len(raw)} rows (the header is line 1)"
            remedy = "Mend the file, or load it with on_bad='drop' to leave these rows out."
            what = f"{every}{path} breaks the schema: {found}.\n{_numbered(sentences)}\n  {remedy}"
            raise BadTableError(what, sentences)
        rejected = [[lines[row], "; ".join(reasons[row]), *raw[row]] for row in sorted(reasons)]
        written = _write_rejected(path, rejected_csv, [["line", "reason", *header], *rejected])
        notices.append(f"{len(reasons)} of {len(raw)} rows were rejected, see {written}")
        table = table.drop(index=list(reasons)).reset_index(drop=True)
    for notice in notices:
        print(f"{printable(path.name)}: {notice}")
    table.attrs = {
        "csv": str(path),
        "folder": str(folder),
        "csv_sha256": sha256_file(path),
        "n_rejected": len(reasons),
        "notices": notices,
        "simulated": from_simulator(folder, table["image_path"]),
    }
    return table


def _short(text: str) -> str:
    return repr(cut_middle(text, 80))


def _numbered(sentences: list[str]) -> str:
    return "\n".join(f"  {number}. {sentence}" for number, sentence in enumerate(sentences, 1))


def _read_rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Read header, rows of text and the line of the file on which each row starts."""
    needed = f"the columns {', '.join(SCHEMA)}"
    if not path.exists():
        raise MissingInputError(f"There is no table at {path}: give the path of a CSV with {needed}.")
    if not path.is_file():
        kind = (
            "a folder: give the path of the CSV inside it" if path.is_dir() else "no regular file: give that of a CSV"
        )
        raise BadTableError(f"{path} is {kind}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadTableError(f"{path} cannot be opened ({error.strerror}): make it readable.") from error
    if not content.removeprefix(BOM_UTF8).strip():
        raise BadTableError(f"{path} is empty: it needs a header with {needed}, and rows.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadTableError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} on line {line} does not belong there. "
            "Save the file again as 'CSV UTF-8' (it may be UTF-16, Latin-1 or Windows-1252 now)."
        ) from error
    previous = csv_format.field_size_limit(LARGEST_FIELD)
    rows: list[list[str]] = []
    lines: list[int] = []
    reader = csv_format.reader(StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(cells)
                lines.append(start)
            start = reader.line_num + 1
    except csv_format.Error as error:
        raise BadTableError(
            f"{path} cannot be read as CSV: {error}, in the row that starts on line {start}. Put text that contains "
            "commas or line breaks in double quotes, and double a quote inside it."
        ) from error
    finally:
        csv_format.field_size_limit(previous)
    if len(rows) < 2:
        raise BadTableError(f"{path} has a header but no rows: add one row per image.")
    return [cell.strip() for cell in rows[0]], rows[1:], lines[1:]


def _map_columns(
    path: Path, header: list[str], own: Mapping[str, str], concepts: ConceptList | None
) -> tuple[list[str], list[str]]:
    """Give each column its name in the schema; by a list of concepts a table may lack those of `LEFT_OUT`."""
    unknown = [f"{name!r} (not in the file)" for name in own if name not in header]
    unknown += [f"{name!r} (not in the schema)" for name in own.values() if name not in SCHEMA]
    if unknown:
        raise ParameterError(f"columns maps {', '.join(unknown)}; the file has {printable(', '.join(header), 2000)}.")
    names = [own.get(name, name) for name in header]
    problems, missing = [], []
    for target in (name for name in SCHEMA if name not in names):
        alike = [name.casefold() if name not in SCHEMA else "" for name in names]
        spelling = next((spelling for spelling in (target, *ALIASES[target]) if spelling in alike), None)
        if spelling is not None:
            names[alike.index(spelling)] = target
            continue
        missing.append(target)
    excused = LEFT_OUT if concepts is not None and {"meta_name", "parent_concept"} <= set(missing) else ()
    for target in (name for name in missing if name not in excused):
        remedy = {
            "note": "Add the column (it may be empty).",
            "meta_name": "Add the column; or have a column headed by each name of a list of concepts, with 1, 0 or "
            "nothing; or no labels, and let them be guessed (geocbm run --set 01.guess_with=ENCODER).",
        }.get(target, "Add the column or pass columns={...}.")
        problems.append(f"Column {target!r} is missing (also tried: {', '.join(ALIASES[target])}). {remedy}")
    headed = concept_columns(names, concepts) if excused and concepts is not None else {}
    meant = [headed.get(name, name) for name in names]
    twice = sorted({name for name in meant if meant.count(name) > 1})
    if twice:
        listed = ", ".join(map(_short, twice))
        problems.append(f"Column {listed} stands twice in the header. Rename or remove one of them.")
    if problems:
        mark = next((mark for mark in (";", "\t") if len(header) == 1 and mark in header[0]), "")
        hint = f" Its fields seem to be separated by {mark!r}: save it with commas." if mark else ""
        listed = printable(", ".join(header), 2000)
        what = f"{path} breaks the schema; it has the columns {listed}.{hint}\n{_numbered(problems)}"
        raise BadTableError(what, problems)
    renamed = [f"{printable(old)} -> {new}" for old, new in zip(header, names, strict=True) if old != new]
    return names, [f"columns read as {', '.join(renamed)}"] if renamed else []


def _normalise(rows: pd.DataFrame) -> list[str]:
    """Strip text, compose the letters of names and spell each country in one way, in place; say what changed."""
    notices = []
    for column in rows.columns.difference(["image_path"]):  # a file may be called as it likes
        hidden = {text: found for text in rows[column].unique() if (found := _HIDDEN.findall(text))}
        if hidden:
            own = rows[column].isin(hidden)
            kinds = ", ".join(
                f"U+{ord(letter):04X}" for letter in sorted({each for all_ in hidden.values() for each in all_})
            )
            notices.append(f"{printable(column)}: {cut_middle(kinds)} (not to be seen) removed in {own.sum():,} rows")
            rows.loc[own, column] = rows[column][own].map({text: _HIDDEN.sub("", text) for text in hidden})
    for column in SCHEMA:
        before = rows[column]
        after = before.str.strip()
        if column in checks.NAME_COLUMNS:
            # Two spellings of the same letter (e + accent, or é) would make two concepts out of one.
            after = after.map({name: unicodedata.normalize("NFC", " ".join(name.split())) for name in after.unique()})
        changed = int((before != after).sum())
        if changed and column not in ("lat", "lng", "note"):
            notices.append(f"{column}: surrounding or repeated space, or split accents, normalised in {changed} rows")
        rows[column] = after
    # Two spellings of a country would be two countries with cells of their own.
    names, unknown = country_names(rows["country"])
    count = {text: f"{n:,} row{'s' if n > 1 else ''}" for text, n in rows["country"].value_counts().items()}
    spelt = [f"{_short(text)} -> {name!r} ({count[text]})" for text, name in sorted(names.items()) if text != name]
    rows["country"] = rows["country"].map(names)
    if spelt:
        notices.append(f"country read as {', '.join(spelt)}")
    if unknown:
        shown = ", ".join(map(_short, unknown[:UNKNOWN_SHOWN]))
        more = f" and {len(unknown) - UNKNOWN_SHOWN} more" if len(unknown) > UNKNOWN_SHOWN else ""
        notices.append(f"country: no country is known by the name {shown}{more}; kept as written")
    return notices


def _plain_text(table: pd.DataFrame) -> pd.DataFrame:
    """Keep text as Python strings, whichever string type this version of pandas prefers."""
    return table.astype({name: object for name in table.columns if pd.api.types.is_string_dtype(table[name])})


def _write_rejected(path: Path, rejected_csv: str | Path | None, content: list[list[Any]]) -> Path:
    """Write the rejected rows as they stand in the file, with line and reason in front."""
    targets = [Path(rejected_csv)] if rejected_csv is not None else [path.parent / "rejected.csv", Path("rejected.csv")]
    for target in targets:
        try:
            with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
                csv_format.writer(stream).writerows(content)
            return target
        except OSError as error:
            failure = error
    raise ParameterError(f"rejected_csv {targets[-1]} cannot be written ({failure.strerror}): name a writable file.")


def image_files(table: pd.DataFrame) -> list[Path]:
    """Paths of the images, one per row: `image_path` joined to the folder of the CSV."""
    folder = Path(table.attrs["folder"])
    return [folder / path for path in table["image_path"]]


def save_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a validated table with its attributes as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    plain = table.copy(deep=False)
    places = {name: _portable(table.attrs[name]) for name in ("csv", "folder") if name in table.attrs}
    attributes, plain.attrs = json.dumps(table.attrs | places, sort_keys=True), {}
    content = pa.Table.from_pandas(plain, preserve_index=False)
    content = content.replace_schema_metadata({**(content.schema.metadata or {}), b"geocbm": attributes.encode()})
    with atomic_path(path) as temporary:
        parquet.write_table(content, temporary, write_page_checksum=True)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table written by `save_table`.

    Raises:
        MissingInputError: there is no such file.
        MismatchError: it is another one.
    """
    import pyarrow.parquet as parquet

    with opened(path, partial(run_command, path, "01")) as table:
        noted = (parquet.read_schema(path).metadata or {}).get(b"geocbm")
        if noted is None:
            raise ValueError("it is not a validated table")
        if absent := [name for name in (*SCHEMA, "image_sha256") if name not in table]:
            raise KeyError(absent[0])
        if not np.isfinite(table[["lat", "lng"]]).all(axis=None):
            raise ValueError("it holds places that are not numbers")
        attributes = dict(json.loads(noted))
        places = {name: str(paths.locate(attributes[name])) for name in ("csv", "folder") if name in attributes}
        table = _plain_text(table)
        table.attrs = attributes | places
        return table


def _portable(place: str) -> str:
    """A place as seen from the folder of data or of the project, so that both may be moved; others as they are."""
    text = paths.portable(place)
    return place if text.startswith(".../") else text
