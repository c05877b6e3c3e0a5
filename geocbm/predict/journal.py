"""Answers on disk, written as they come: an interrupted run leaves whole lines, and the next one goes on with them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from geocbm.errors import ParameterError, UserError
from geocbm.files import atomic_path, hold_lock, sha256_text

KEY, MADE_BY = "key", ("model", "top")
"""Entries of a line: which photograph it answers, and what answered it."""
_ROWS = 500
_PAIRS = ("concepts", "parents", "countries")


class AnswerFileError(UserError, OSError):
    """Answers cannot be written; what was written before is kept."""


def photo_key(source: Any, path: str) -> str | None:
    """What tells a photograph from any other, and from itself once it has changed: path, size and time of change.

    Args:
        source: a file, or the content of one.
        path: what it is called.

    Returns:
        16 hexadecimal digits; None where there is no such file.
    """
    if isinstance(source, bytes):
        import hashlib

        return hashlib.sha256(source).hexdigest()[:16]
    try:
        state = os.stat(source)
    except (OSError, ValueError):
        return None
    return sha256_text(json.dumps([path, state.st_size, state.st_mtime_ns]))[:16]


class Journal:
    """A file of answers, one a line.

    A last line that was cut off is removed; lines of another model are refused.

    Args:
        path: the file; it need not exist.
        made_by: what answers now, written into each line: an entry for each of `MADE_BY`, and the name of the run.

    Raises:
        ParameterError: the file holds something else, or answers of another model.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any]) -> None:
        self.path = path
        self._made_by = dict(made_by)
        self._starts: dict[str, int] = {}
        self._key_of: dict[str, str] = {}
        self._stream: IO[bytes] | None = None
        if path.exists():
            self._read()

    def __contains__(self, key: object) -> bool:
        return key in self._starts

    def __len__(self) -> int:
        return len(self._starts)

    def _read(self) -> None:
        end = 0
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                entry = _parsed(line)
                if not line.endswith(b"\n") and (entry is not None or (line.startswith(b'{"') and not _is_json(line))):
                    break  # cut off while it was written
                if entry is None:
                    raise ParameterError(f"line {number} of {self.path} is no answer of geocbm; give another file")
                self._check(entry)
                self._starts[entry[KEY]] = end
                self._key_of[str(entry.get("path"))] = entry[KEY]
                end += len(line)
        if end < self.path.stat().st_size:
            with self.path.open("r+b") as stream:
                stream.truncate(end)

    def _check(self, entry: dict[str, Any]) -> None:
        for name in MADE_BY:
            if entry.get(name) != self._made_by[name]:
                what = {"model": "another model", "top": f"--top {entry.get('top')}"}[name]
                raise ParameterError(
                    f"{self.path} holds answers of {what} (run {entry.get('run')!r}); give another file, or remove it"
                )

    def forget_changed(self, keys: Mapping[str, str | None]) -> int:
        """Remove answers for photographs that have changed since.

        Args:
            keys: the key that each path has now.

        Returns:
            How many were removed.
        """
        stale = {
            old for path, old in self._key_of.items() if keys.get(path) is not None and keys[path] != old
        }  # a file that is gone now was answered all the same
        if stale:
            with (
                atomic_path(self.path) as temporary,
                temporary.open("wb") as stream,
                self.path.open("rb") as old_stream,
            ):
                stream.writelines(line for line in old_stream if json.loads(line)[KEY] not in stale)
            self._starts.clear()
            self._key_of.clear()
            self._read()
        return len(stale)

    def add(self, key: str | None, entry: Mapping[str, Any]) -> None:
        """Append an answer and hand it to the operating system at once.

        Raises:
            AnswerFileError: it cannot be written.
        """
        content = {**entry, KEY: key, **self._made_by}
        line = (json.dumps(content, ensure_ascii=False, sort_keys=True) + "\n").encode("utf-8", "replace")
        try:
            if self._stream is None:
                self._stream = self.path.open("ab")
                self._lock(self._stream)
            start = self._stream.tell()
            self._stream.write(line)
            self._stream.flush()
        except AnswerFileError:
            raise
        except OSError as problem:
            raise AnswerFileError(
                f"{self.path} cannot be written ({problem.strerror or problem}); what was answered before is kept: "
                "make room and start the same command again"
            ) from None
        if key is not None:
            self._starts[key] = start
            self._key_of[str(entry.get("path"))] = key

    def _lock(self, stream: IO[bytes]) -> None:
        """Keep other commands from writing into the file as long as it is open here."""
        if not hold_lock(stream):
            raise AnswerFileError(
                f"{self.path} is being written by another geocbm predict; wait for it, or give another file"
            )

    def absorb(self, other: Path) -> None:
        """Take over the answers of another file that this one lacks, and remove it."""
        journal = Journal(other, self._made_by)
        for key in journal._starts:
            if key not in self:
                entry = journal.entry(key)
                self.add(key, {name: value for name, value in entry.items() if not name.startswith("_")})
        journal.remove()

    def entry(self, key: str) -> dict[str, Any]:
        """The answer for a photograph."""
        with self.path.open("rb") as stream:
            stream.seek(self._starts[key])
            return json.loads(stream.readline())

    def entries(self, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Answers in the order of `keys`, one at a time; keys without an answer are passed over."""
        if not self._starts:
            return
        with self.path.open("rb") as stream:
            for key in keys:
                if key in self._starts:
                    stream.seek(self._starts[key])
                    yield json.loads(stream.readline())

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get(KEY), str) else None


def write_list(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write answers as a JSON list, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for number, entry in enumerate(entries):
            stream.write((",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False, sort_keys=True))
        stream.write("\n]\n")


def write_parquet(path: Path, journal: Journal, keys: Iterable[str]) -> None:
    """Write answers as a parquet table, a row each, atomically and in bounded memory.

    Lists of name and probability become lists of structures with these two fields, maps of concepts lists of
    structures with `name` and `map`.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    keys = list(keys)
    parts = [keys[start : start + _ROWS] for start in range(0, len(keys), _ROWS)]
    # A column may hold nothing in one part and text in another: all parts are looked at before the first is written.
    tables = (pa.Table.from_pylist([_row(entry) for entry in journal.entries(part)]) for part in parts)
    schema = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            writer.write_table(pa.Table.from_pylist([_row(entry) for entry in journal.entries(part)], schema=schema))


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(entry)
    for name in _PAIRS:
        row[name] = [{"name": what, "probability": share} for what, share in row.get(name, ())]
    row["concept_maps"] = [{"name": name, "map": grid} for name, grid in row.get("concept_maps", {}).items()]
    return row
