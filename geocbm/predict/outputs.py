"""What `geocbm predict` writes: a journal of answers as they come, and at the end the files that were asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geocbm.files import write_json
from geocbm.predict.journal import Journal, write_list, write_parquet

LINES = ".jsonl"
"""Suffix of a file that holds one answer a line; it is its own journal."""
TEXT = "_text"
"""Entry of a process's share that holds the answer as text; it is not part of the answer."""
_PARTIAL, _SHARE, _SUMMARY = ".partial", ".process", ".summary.json"


class AnswerFiles:
    """The files of one call.

    Args:
        to_json: a list, or lines where the suffix is `LINES`; None for none.
        to_parquet: a table; None for none.
        made_by: what answers, see `geocbm.predict.journal.MADE_BY`.

    Raises:
        ParameterError: an unfinished file is of another model.
    """

    def __init__(self, to_json: Path | None, to_parquet: Path | None, made_by: Mapping[str, Any]) -> None:
        self._json, self._parquet, self.made_by = to_json, to_parquet, dict(made_by)
        self.place = journal_place(to_json, to_parquet)
        self.journal = None if self.place is None else Journal(self.place, made_by)
        if self.journal is not None:
            assert self.place is not None
            for left in sorted(self.place.parent.glob(f"{self.place.name}{_SHARE}*")):
                self.journal.absorb(left)  # an interrupted launch left it

    def kept(self, keys: Mapping[str, str | None]) -> set[str]:
        """Keys of the photographs that are answered already.

        Args:
            keys: the key of each path as it is now.
        """
        if self.journal is None:
            return set()
        self.journal.forget_changed(keys)
        return {key for key in keys.values() if key is not None and key in self.journal}

    def add(self, key: str | None, entry: Mapping[str, Any]) -> None:
        """Write an answer."""
        if self.journal is not None:
            self.journal.add(key, entry)

    def say_what_is_kept(self) -> None:
        """Say where the answers of an interrupted call lie."""
        if self.journal is not None and len(self.journal):
            print(
                f"geocbm: {len(self.journal):,} answers are kept in {self.place}; the same command goes on with them",
                file=sys.stderr,
                flush=True,
            )

    def finish(self, keys: Sequence[str | None], summary: Mapping[str, Any]) -> None:
        """Make the files that were asked for out of the journal, in the order of the photographs."""
        if self.journal is None:
            return
        self.journal.close()
        asked = [key for key in keys if key is not None and key in self.journal]
        if self._parquet is not None:
            if asked:
                write_parquet(self._parquet, self.journal, asked)
            write_json(_summary_place(self._parquet), summary)
        if self._json is not None:
            if self._json.suffix.lower() != LINES:
                write_list(self._json, self.journal.entries(asked))
            write_json(_summary_place(self._json), summary)
        if self.place is not None and self.place != self._json:
            self.journal.remove()

    def close(self) -> None:
        """Leave what was written as it is."""
        if self.journal is not None:
            self.journal.close()


def journal_place(to_json: Path | None, to_parquet: Path | None) -> Path | None:
    """Where answers are written as they come; None where no file was asked for."""
    if to_json is not None and to_json.suffix.lower() == LINES:
        return to_json
    final = to_json or to_parquet
    return None if final is None else final.with_name(final.name + _PARTIAL)


def share_place(place: Path, process: int) -> Path:
    """Where one of several processes writes its answers."""
    return place.with_name(f"{place.name}{_SHARE}{process}")


def _summary_place(path: Path) -> Path:
    return path.with_name(path.stem + _SUMMARY)


class ListOnStandardOutput:
    """The list of `--json -`, written one answer at a time and closed whatever happens."""

    def __init__(self) -> None:
        self._count = 0

    def __enter__(self) -> ListOnStandardOutput:
        sys.stdout.write("[")
        return self

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write one."""
        # ASCII only: whatever the encoding of the console, what arrives is the answer.
        sys.stdout.write((",\n" if self._count else "\n") + json.dumps(entry, sort_keys=True))
        sys.stdout.flush()
        self._count += 1

    def __exit__(self, *problem: Any) -> None:
        sys.stdout.write("\n]\n")
        sys.stdout.flush()
