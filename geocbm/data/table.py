"""Reading the table of panoramas: a CSV is either whole, or every one of its problems is named in one answer."""

from __future__ import annotations

import codecs
import csv as csv_format
import hashlib
import json
import re
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.data import checks
from geocbm.data.concept_list import LEFT_OUT, ConceptList, complete, concept_columns
from geocbm.data.concepts import UNKNOWN, split_names
from geocbm.data.simulated import from_simulator
from geocbm.errors import BadTableError, MissingInputError, ParameterError, check_choice, cut_middle, printable
from geocbm.files import atomic_path, paths, run_command
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
_ROWS_AT_ONCE = 5_000  # of a file, as lists of Python's texts
_HIDDEN = (
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
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
        concepts: a list by which a table without `meta_name` and `parent_concept` is read, see `concept_list.complete`:
            columns headed by a listed name hold 1, 0 or nothing; of a picture without a 1 both are `UNKNOWN`.

    Returns:
        The schema's columns, then extra columns, then `image_sha256`; `lat` and `lng` are floats in degrees, other
        columns text; countries are spelt as in `metrics.country_names`, unknown ones as they are. `attrs` holds `csv`,
        `folder`, `csv_sha256`, `n_rejected`, `notices` (what was normalised) and `simulated`.

    Raises:
        BadTableError: with one sentence per problem in `problems`.
    """
    import pyarrow as pa

    check_choice("on_bad", on_bad, ("error", "drop"))
    path = Path(csv)
    digest = _checked_text(path)
    header, rows, lines, ragged = _read_columns(path)
    names, notices = _map_columns(path, header, columns or {}, concepts)
    rows.columns = names
    unequal: dict[int, str] = {}
    marks: dict[int, str] = {}
    if "meta_name" not in names and concepts is not None:
        rows, marks = complete(rows, concepts)
    if "meta_name" not in names or header[names.index("meta_name")].casefold() == SEVERAL:
        rows, unequal = split_names(rows)
        marks = {row: marks[line] for row, line in enumerate(rows.index) if line in marks} if marks else {}
        ragged = {row: ragged[line] for row, line in enumerate(rows.index) if line in ragged} if ragged else {}
        lines = lines[rows.index.to_numpy()]
        rows = rows.reset_index(drop=True)
    notices += _normalise(rows)
    pa.default_memory_pool().release_unused()  # of texts as they were
    rows.loc[rows["meta_name"] == UNKNOWN, "parent_concept"] = UNKNOWN
    lat, lng = (pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=np.float64) for name in ("lat", "lng"))
    folder = path.resolve().parent

    remedy = f"The header has {len(header)} columns: put fields that contain a comma in double quotes."
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
    if reasons:
        if on_bad == "error" or len(reasons) == len(table):
            every = "Every row is rejected. " if on_bad == "drop" else ""
            count = "1 problem" if len(sentences) == 1 else f"{len(sentences)} problems"
            found = f"{count} in {len(reasons)} of {len(table)} rows (the header is line 1)"
            remedy = "Mend the file, or load it with on_bad='drop' to leave these rows out."
            what = f"{every}{path} breaks the schema: {found}.\n{_numbered(sentences)}\n  {remedy}"
            raise BadTableError(what, sentences)
        wanted = {int(lines[row]) for row in reasons}
        raw = {line: cells for line, cells in _rows(path) if line in wanted}
        rejected = [[lines[row], "; ".join(reasons[row]), *raw[lines[row]]] for row in sorted(reasons)]
        written = _write_rejected(path, rejected_csv, [["line", "reason", *header], *rejected])
        notices.append(f"{len(reasons)} of {len(table)} rows were rejected, see {written}")
        table = table.drop(index=list(reasons)).reset_index(drop=True)
    for notice in notices:
        print(f"{printable(path.name)}: {notice}")
    table.attrs = {
        "csv": str(path),
        "folder": str(folder),
        "csv_sha256": digest,
        "n_rejected": len(reasons),
        "notices": notices,
        "simulated": from_simulator(folder, table["image_path"]),
    }
    return table


def _short(text: str) -> str:
    return repr(cut_middle(text, 80))


def _numbered(sentences: list[str]) -> str:
    return "\n".join(f"  {number}. {sentence}" for number, sentence in enumerate(sentences, 1))


def _checked_text(path: Path) -> str:
    """SHA-256 of a file of text in UTF-8 (hexadecimal); what is no such file is refused."""
    needed = f"the columns {', '.join(SCHEMA)}"
    if not path.exists():
        raise MissingInputError(f"There is no table at {path}: give the path of a CSV with {needed}.")
    if not path.is_file():
        kind = (
            "a folder: give the path of the CSV inside it" if path.is_dir() else "no regular file: give that of a CSV"
        )
        raise BadTableError(f"{path} is {kind}.")
    digest, decoder, line, is_empty = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), 1, True
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                decoder.decode(block)
                line += block.count(b"\n")
                is_empty = is_empty and not block.removeprefix(BOM_UTF8).strip()
            decoder.decode(b"", final=True)
    except OSError as error:
        raise BadTableError(f"{path} cannot be opened ({error.strerror}): make it readable.") from error
    except UnicodeDecodeError as error:
        line += error.object.count(b"\n", 0, error.start)
        raise BadTableError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} on line {line} does not belong there. "
            "Save the file again as 'CSV UTF-8' (it may be UTF-16, Latin-1 or Windows-1252 now)."
        ) from error
    if is_empty:
        raise BadTableError(f"{path} is empty: it needs a header with {needed}, and rows.")
    return digest.hexdigest()


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of text that are not blank, the header among them, each with the line of the file on which it starts."""
    previous = csv_format.field_size_limit(LARGEST_FIELD)
    start = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv_format.reader(stream, strict=True)
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield start, cells
                start = reader.line_num + 1
    except csv_format.Error as error:
        raise BadTableError(
            f"{path} cannot be read as CSV: {error}, in the row that starts on line {start}. Put text that contains "
            "commas or line breaks in double quotes, and double a quote inside it."
        ) from error
    finally:
        csv_format.field_size_limit(previous)


def _read_columns(path: Path) -> tuple[list[str], pd.DataFrame, np.ndarray, dict[int, str]]:
    """Read a table by columns: a Python text of each cell at once would take ten times the room.

    Gives the header; the columns as text, by number, rows with too few or too many fields filled up or cut; the line of
    the file on which each row starts, `[n]`; and how many fields such a row has, by position.
    """
    import pyarrow as pa

    rows = _rows(path)
    header = [cell.strip() for cell in next(rows, (0, [""]))[1]]
    width, parts, lines, ragged = len(header), [], [np.zeros(0, dtype=np.int64)], {}
    while part := list(islice(rows, _ROWS_AT_ONCE)):
        numbers, cells = map(list, zip(*part, strict=True))
        for row, own in enumerate(cells):
            if len(own) != width:
                ragged[sum(map(len, lines)) + row] = f"{len(own)} fields"
                cells[row] = (own + [""] * width)[:width]
        columns = [pa.array(column, pa.large_string()) for column in zip(*cells, strict=True)]
        parts.append(pa.table(columns, names=[str(number) for number in range(width)]))
        lines.append(np.array(numbers))
    if not parts:
        raise BadTableError(f"{path} has a header but no rows: add one row per image.")
    whole = pa.concat_tables(parts).combine_chunks()  # the system gets large pieces back as soon as they are free
    return header, whole.to_pandas(), np.concatenate(lines), ragged


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
        if (column := column_of(target, names)) is None:
            missing.append(target)
        else:
            names[names.index(column)] = target
    excused = LEFT_OUT if concepts is not None and {"meta_name", "parent_concept"} <= set(missing) else ()
    for target in (name for name in missing if name not in excused):
        remedy = {
            "note": "Add the column (it may be empty).",
            "meta_name": "Add the column; or have a column headed by each name of a list of concepts, with 1, 0 or "
            "nothing; or no labels, and let them be guessed (geocbm run --set 01.guess_with=ENCODER).",
        }.get(target, "Add the column, or rename yours in the file (in Python: columns={...}).")
        problems.append(f"Column {target!r} is missing (also tried: {', '.join(ALIASES[target])}). {remedy}")
    headed = concept_columns(names, concepts) if excused and concepts is not None else {}
    meant = [headed.get(name, name) for name in names]
    twice = sorted({name for name in meant if meant.count(name) > 1})
    if "meta_name" in header and SEVERAL in (name.casefold() for name in names):
        problems.append(f"Columns 'meta_name' and {SEVERAL!r} both name concepts. Rename or remove one of them.")
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


def column_of(target: str, names: Sequence[str]) -> str | None:
    """The column that is read as `target` of the schema, by its name or a usual other one; None where none is."""
    if target in names:
        return target
    alike = [name.casefold() if name not in SCHEMA else "" for name in names]
    spelling = next((spelling for spelling in (target, *ALIASES[target]) if spelling in alike), None)
    return None if spelling is None else names[alike.index(spelling)]


def _normalise(rows: pd.DataFrame) -> list[str]:
    """Strip text, compose the letters of names and spell each country in one way, in place; say what changed."""
    notices = []
    for column in rows.columns.difference(["image_path"]):  # a file may be called as it likes
        own = rows[column].str.contains(_HIDDEN)
        if own.any():
            kinds = sorted({letter for text in rows[column][own].unique() for letter in re.findall(_HIDDEN, text)})
            listed = cut_middle(", ".join(f"U+{ord(letter):04X}" for letter in kinds))
            notices.append(f"{printable(column)}: {listed} (not to be seen) removed in {own.sum():,} rows")
            rows.loc[own, column] = rows[column][own].str.replace(_HIDDEN, "", regex=True)
    for column in [*SCHEMA, *rows.columns.difference(list(SCHEMA))]:
        before = rows[column]
        after = before.str.strip()
        if column in checks.NAME_COLUMNS:
            # Two spellings of the same letter (e + accent, or é) would make two concepts out of one.
            after = _renamed(
                after, {name: unicodedata.normalize("NFC", " ".join(name.split())) for name in after.unique()}
            )
        changed = int((before != after).sum())
        if changed and column in SCHEMA and column not in ("lat", "lng", "note"):
            notices.append(f"{column}: surrounding or repeated space, or split accents, normalised in {changed} rows")
        rows[column] = after
    # Two spellings of a country would be two countries with cells of their own.
    names, unknown = country_names(rows["country"].unique())
    count = {text: f"{n:,} row{'s' if n > 1 else ''}" for text, n in rows["country"].value_counts().items()}
    spelt = [f"{_short(text)} -> {name!r} ({count[text]})" for text, name in sorted(names.items()) if text != name]
    rows["country"] = _renamed(rows["country"], names)
    if spelt:
        notices.append(f"country read as {', '.join(spelt)}")
    if unknown:
        shown = ", ".join(map(_short, unknown[:UNKNOWN_SHOWN]))
        more = f" and {len(unknown) - UNKNOWN_SHOWN} more" if len(unknown) > UNKNOWN_SHOWN else ""
        notices.append(f"country: no country is known by the name {shown}{more}; kept as written")
    return notices


def _renamed(texts: pd.Series, names: Mapping[str, str]) -> pd.Series:
    """Texts with the new name of each; most tables have none that changes."""
    changed = {text: name for text, name in names.items() if text != name}
    return texts.where(~texts.isin(changed.keys()), texts.map(changed)) if changed else texts


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


def first_of_picture(table: pd.DataFrame) -> np.ndarray:
    """Whether each row is the first of its picture, `[n]`: one with several concepts has a row for each of them."""
    return ~table.duplicated(["pano_id", "image_path"]).to_numpy()


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
    """Read a table written by `save_table`; another one is a MismatchError."""
    import pyarrow.parquet as parquet

    with opened(path, partial(run_command, Path(path).parent, "01")) as table:
        noted = (parquet.read_schema(path).metadata or {}).get(b"geocbm")
        if noted is None:
            raise ValueError("it is not a validated table")
        if absent := [name for name in (*SCHEMA, "image_sha256") if name not in table]:
            raise KeyError(absent[0])
        if not np.isfinite(table[["lat", "lng"]]).all(axis=None):
            raise ValueError("it holds places that are not numbers")
        attributes = dict(json.loads(noted))
        places = {name: str(paths.locate(attributes[name])) for name in ("csv", "folder") if name in attributes}
        table.attrs = attributes | places
        return table


def _portable(place: str) -> str:
    """A place as seen from the folder of data or of the project, so that both may be moved; others as they are."""
    text = paths.portable(place)
    return place if text.startswith(".../") else text
