"""Records of another format on their way into a folder: pictures as files, all else as rows of a table."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from geocbm.data.concepts import SEPARATOR
from geocbm.data.public.reading import Conversion, named_countries
from geocbm.data.table import SEVERAL, column_of
from geocbm.errors import BadTableError, check_choice, printable
from geocbm.files import atomic_folder, atomic_path, paths

MOST_COLUMNS = 1000
_NAMED = 10  # records of each kind of problem
_KEY = " key"  # a column that no source has: names of theirs have no space around them


@dataclass(frozen=True)
class Record:
    """One picture with what is said of it, or what is wrong."""

    where: str  # file, and place in it, for messages
    key: str = ""  # its identifier where no column has one; else the digest of its content is
    columns: Mapping[str, Any] = field(default_factory=dict)  # called as in the source
    picture: bytes = b""
    suffix: str = ""  # of the picture's file
    problems: tuple[str, ...] = ()


def write_records(records: Iterable[Record], out: Path, on_bad: str) -> Conversion:
    """Write pictures and `table.csv` into a new folder, which is there whole or not at all.

    A picture's file is called by the digest of its content: no name from a source becomes a path, and what occurs
    twice is stored once. Columns keep their names, which `load_table` understands; without one the country is that of
    the place. `on_bad` is "error" to refuse bad records, once all were looked at, with a BadTableError, or "drop" to
    leave them out and name them in `table.rejected.csv`.
    """
    check_choice("on_bad", on_bad, ("error", "drop"))
    paths.check_new_folder("out", out)
    rows: list[dict[str, str]] = []
    rejected: list[tuple[str, str]] = []
    lists: dict[str, bool] = {}  # columns, and whether they hold lists
    with atomic_folder(out) as folder:
        for record in records:
            if record.problems or not record.picture:
                rejected += [(record.where, problem) for problem in record.problems or ["the picture is missing"]]
                continue
            digest = hashlib.sha256(record.picture).hexdigest()
            path = Path("images", digest[:2], f"{digest[:32]}{record.suffix}")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(record.picture)
            values = {_utf8(name).strip(): value for name, value in record.columns.items()}
            lists |= {name: lists.get(name, False) or isinstance(value, list) for name, value in values.items()}
            if len(lists) > MOST_COLUMNS:
                raise BadTableError(f"{record.where}: beyond {MOST_COLUMNS} columns; give all records the same ones.")
            own = {_KEY: record.key or digest[:32], "image_path": path.as_posix()}
            rows.append({name: _text(value) for name, value in values.items()} | own)
        said = named_in(rejected)
        if not rows or (rejected and on_bad == "error"):
            remedy = "mend them, or leave them out with --on-bad drop" if rows else "there is no whole record"
            raise BadTableError("\n  ".join([f"{len(rejected):,} problems of the source; {remedy}", *said]), said)
        table, notices = _completed(pd.DataFrame(rows).fillna(""), lists)
        table.to_csv(folder / "table.csv", index=False)
        beside = write_rejected(folder / "table.csv", ("record", "reason"), rejected)
    notices += [f"left out, see {out / beside.name}: {sentence}" for sentence in said]
    n_dropped = len({where for where, _ in rejected})
    return Conversion(out / "table.csv", len(table), table["image_path"].nunique(), n_dropped, tuple(notices))


def _completed(table: pd.DataFrame, lists: Mapping[str, bool]) -> tuple[pd.DataFrame, list[str]]:
    """The table with identifiers and countries where the source has none, and a sentence where it has no places."""
    key, meta = table.pop(_KEY), column_of("meta_name", list(lists))
    if column_of("pano_id", list(lists)) is None:
        table.insert(0, "pano_id", key)
    if column_of("note", list(lists)) is None:
        table["note"] = ""
    if meta is not None and lists[meta]:
        table = table.rename(columns={meta: SEVERAL})
    if all(column_of(name, list(lists)) for name in ("lat", "lng")):
        return with_country(table), []
    return table, [f"latitude and longitude are not among the columns, add them: {printable(', '.join(lists), 1000)}"]


def with_country(table: pd.DataFrame) -> pd.DataFrame:
    """A table with places, and the country of each where it has none."""
    columns = [str(name) for name in table]
    if column_of("country", columns) is not None:
        return table
    lat, lng = (table[column_of(name, columns)].astype(str) for name in ("lat", "lng"))
    return table.assign(country=named_countries(pd.Series("", table.index), lat, lng)[0])


def _text(value: Any) -> str:
    """A value as a cell: lists in the form that several concepts have, nested objects as JSON."""
    if value is None or value != value:  # what is no number
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list) and not any(isinstance(part, list | dict) for part in value):
        return SEPARATOR.join(map(_text, value))
    return _utf8(json.dumps(value, default=str) if isinstance(value, list | dict) else str(value))


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # JSON may hold halves of letters, which no file can


def named_in(rejected: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence for each reason, with the number and names of what was left out for it."""
    names: dict[str, list[str]] = {}
    for name, reason in rejected:
        names.setdefault(reason, []).append(printable(name))
    return [
        f"{reason} ({len(own):,}): {', '.join(own[:_NAMED])}" + (", ..." if len(own) > _NAMED else "")
        for reason, own in names.items()
    ]


def write_rejected(table: Path, header: tuple[str, str], rejected: Sequence[tuple[str, str]]) -> Path:
    """Write what was left out of a table beside it; where nothing was, the file of an earlier time goes."""
    beside = table.with_name(f"{table.stem}.rejected.csv")
    beside.unlink(missing_ok=True)
    if rejected:
        with atomic_path(beside) as file, file.open("w", encoding="utf-8", errors="replace", newline="") as stream:
            csv.writer(stream).writerows([header, *rejected])
    return beside
