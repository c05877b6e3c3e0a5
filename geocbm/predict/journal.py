"""Answers on disk, written as they come: an interrupted run leaves whole lines, and the next one goes on with them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from geocbm.errors import ParameterError, UserError
from geocbm.files import atomic_path, write_json
from geocbm.files.owners import hold_lock

if TYPE_CHECKING:
    import pyarrow as pa

    from geocbm.predict.answers import Answer

KEY = "key"
"""Entry of a line that says which photograph it answers."""
LINES = ".jsonl"
"""Suffix of a file that holds one answer a line; it is its own journal."""
_ROWS = 500
GRIDS = ("attention", "concept_maps")
"""Entries that are left out of files unless they are asked for: most of an answer's length."""
FLAT = ("lat", "lng", "country", "cell", "cell_country", "cell_probability", "countries", "concepts")
"""Columns of the table of answers, behind the photograph."""
_PAIRS = ("concepts", "parents", "countries")


class AnswerFileError(UserError, OSError):
    """Answers cannot be written; what was written before is kept."""


class Journal:
    """A file of answers, one a line, with what they were `made_by`: `model`, `top` and the name of the `run`.

    A last line that was cut off is removed; a file of something else, or of another model, is a `ParameterError`.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any]) -> None:
        self.path, self.made_by = path, dict(made_by)
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
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = None
                is_answer = isinstance(entry, dict) and isinstance(entry.get(KEY), str)
                if not line.endswith(b"\n") and (is_answer or (line.startswith(b'{"') and entry is None)):
                    break  # cut off while it was written
                if not is_answer:
                    raise ParameterError(f"line {number} of {self.path} is no answer of geocbm; give another file")
                check_made_by(entry, self.made_by, self.path)
                self._starts[entry[KEY]] = end
                self._key_of[str(entry.get("path"))] = entry[KEY]
                end += len(line)
        if end < self.path.stat().st_size:
            with self.path.open("r+b") as stream:
                stream.truncate(end)

    def forget_changed(self, keys: Mapping[str, str | None]) -> None:
        """Remove answers for photographs that have changed since."""
        stale = {old for path, old in self._key_of.items() if keys.get(path) not in (None, old)}
        if not stale:
            return
        with atomic_path(self.path) as temporary, temporary.open("wb") as new, self.path.open("rb") as old_lines:
            new.writelines(line for line in old_lines if json.loads(line)[KEY] not in stale)
        self._starts.clear()
        self._key_of.clear()
        self._read()

    def add(self, key: str, entry: Mapping[str, Any]) -> None:
        """Append an answer and hand it to the operating system at once; `AnswerFileError` if it cannot be written."""
        content = {**entry, KEY: key, **self.made_by}
        line = (json.dumps(content, ensure_ascii=False, sort_keys=True) + "\n").encode("utf-8", "replace")
        try:
            if self._stream is None:
                self._stream = self.path.open("ab")
                if not hold_lock(self._stream):
                    raise AnswerFileError(
                        f"{self.path} is being written by another geocbm predict; wait for it, or give another file"
                    )
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
        self._starts[key] = start
        self._key_of[str(entry.get("path"))] = key

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


def check_made_by(entry: Mapping[str, Any], made_by: Mapping[str, Any], path: Path) -> None:
    """Refuse an answer in a file that another model gave, or to another question (`ParameterError`)."""
    for name, what in (
        ("model", "another model"),
        ("top", f"--top {entry.get('top')}"),
        ("given_clues", "other clues"),
    ):
        if entry.get(name) != made_by.get(name):
            raise ParameterError(
                f"{path} holds answers of {what} (run {entry.get('run')!r}); give another file, or remove it"
            )


def entry_of(path: str, answer: Answer, attention: bool) -> dict[str, Any]:
    """What a file says of a photograph, with attention and maps only where they are asked for."""
    entry = {"photo": Path(path).name, "path": path} | answer.as_json()
    return entry if attention else {name: value for name, value in entry.items() if name not in GRIDS}


def journal_place(to_json: Path | None, to_parquet: Path | None) -> Path | None:
    """Where answers are written as they come; None where no file was asked for."""
    final = to_json or to_parquet
    if final is None or (to_json is not None and to_json.suffix.lower() == LINES):
        return final
    return final.with_name(final.name + ".partial")


def write_answers(
    journal: Journal,
    to_json: Path | None,
    to_parquet: Path | None,
    keys: Sequence[str | None],
    summary: Mapping[str, Any],
) -> None:
    """Make the files that were asked for out of the journal, in the order of the photographs."""
    journal.close()
    asked = [key for key in keys if key is not None and key in journal]
    if to_parquet is not None:
        if asked:
            _write_parquet(to_parquet, journal, asked)
        write_json(to_parquet.with_name(f"{to_parquet.stem}.summary.json"), summary)
    if to_json is not None:
        if to_json != journal.path:
            _write_list(to_json, journal.entries(asked))
        write_json(to_json.with_name(f"{to_json.stem}.summary.json"), summary)
    if to_json != journal.path:
        journal.remove()


def write_points(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write answers as a table (.csv), or as points on a map (.geojson, RFC 7946: longitude before latitude)."""
    rows = (_flat(entry) for entry in entries)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix.lower() == ".csv":
            writer = csv.DictWriter(stream, ["photo", "path", *FLAT])
            writer.writeheader()
            writer.writerows(rows)
            return
        stream.write('{"type": "FeatureCollection", "features": [')
        for number, row in enumerate(rows):
            point = {"type": "Point", "coordinates": [row.pop("lng"), row.pop("lat")]}
            feature = {"type": "Feature", "geometry": point, "properties": row}
            stream.write((",\n" if number else "\n") + json.dumps(feature, ensure_ascii=False))
        stream.write("\n]}\n")


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The best of an answer in one row; pairs of name and probability as text."""
    best = entry["cells"][0]
    probability = best["probability"] if best["calibrated"] is None else best["calibrated"]
    pairs = {
        name: "; ".join(f"{what} {share:.3f}" for what, share in entry[name]) for name in ("countries", "concepts")
    }
    own = {"cell": best["cell"], "cell_country": best["country"], "cell_probability": probability}
    return {name: entry[name] for name in ("photo", "path", "lat", "lng", "country")} | own | pairs


def _write_list(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for number, entry in enumerate(entries):
            stream.write((",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False, sort_keys=True))
        stream.write("\n]\n")


def _write_parquet(path: Path, journal: Journal, keys: Sequence[str]) -> None:
    """Write a row for each answer, in bounded memory; pairs become structures of `name` with `probability` or `map`."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(keys), _ROWS):
            yield table_of(list(journal.entries(keys[start : start + _ROWS])))

    # A column may hold nothing in one part and a value in another: all parts are looked at before the first is written.
    schema = pa.unify_schemas([table.schema for table in tables()], promote_options="permissive")
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for table in tables():
            writer.write_table(pa.concat_tables([schema.empty_table(), table], promote_options="permissive"))


def table_of(entries: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of answers whose columns have their types also where all these answers lack a value."""
    import pyarrow as pa

    filled = {"notes": [""], "own_place": [0.0, 0.0], "own_place_km": 0.0, "clues": []}
    return pa.Table.from_pylist([_row({**entries[0], **filled}), *map(_row, entries)]).slice(1)


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    pairs = {name: [{"name": what, "probability": share} for what, share in entry.get(name, ())] for name in _PAIRS}
    maps = [{"name": name, "map": grid} for name, grid in entry.get("concept_maps", {}).items()]
    return {**entry, **pairs, "concept_maps": maps}
