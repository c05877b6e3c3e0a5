"""WebDataset shards: tar files in which files of one sample stand together and share their name up to its first dot.

Python's tarfile reads them, by the library's convention. The library itself would unpickle members of a stranger's
archive (`.pyd`, `.pickle`) and run a shell command that stands in place of a file's name (`pipe:`).
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from geocbm.data.formats.records import Record
from geocbm.data.images.bounds import MOST_BYTES
from geocbm.data.images.photographs import ENDINGS
from geocbm.errors import MissingInputError, first_line, printable

MOST_TEXT = 1 << 20  # bytes of a sample's JSON or text
_TEXTS = {"json": "", "txt": "note", "cls": "cls"}
"""Endings of members that are read as text, and the column for what is no JSON."""


def read_shards(shards: Sequence[Path], unread: Counter[str]) -> Iterator[Record]:
    """Samples of plain tar files, each with its picture and the columns of its JSON, text and class.

    Nothing is unpacked, and links are never followed. A damaged shard is a record with its problem, a missing one a
    MissingInputError. `unread` counts the endings of members that are left aside.
    """
    if missing := [str(shard) for shard in shards if not shard.is_file()]:
        listed = printable(", ".join(missing[:5]), 1000)
        raise MissingInputError(f"{len(missing)} of {len(shards)} shards are no files: {listed}; check the names")
    seen: dict[str, str] = {}  # keys, each with its first shard
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as tar:  # plain: a compressed one may grow without bound
                for key, members in groupby(_members(tar, unread), lambda member: _split(member.name)[0]):
                    where = f"{shard.name}, key {key}" + (f" (first in {seen[key]})" if key in seen else "")
                    yield _sample(tar, Record(where, key), list(members), unread, key in seen)
                    seen.setdefault(key, shard.name)
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            yield Record(shard.name, problems=(f"the shard is damaged, or no plain tar file: {first_line(error)}",))


def _split(name: str) -> tuple[str, str]:
    """Key and ending of a member: what stands before and behind the first dot of its own name."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return (f"{folder}{slash}{stem}" if stem and ending else ""), ending.lower()


def _members(tar: tarfile.TarFile, unread: Counter[str]) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if member.size < 0:  # older versions of Python would go back, and round and round
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        if _split(member.name)[0]:
            yield member
        elif not member.isdir():
            unread["without key or ending"] += 1


def _sample(
    tar: tarfile.TarFile, named: Record, members: Sequence[tarfile.TarInfo], unread: Counter[str], is_known: bool
) -> Record:
    """The record of members that share a key."""
    problems = ["the key occurs before"] if is_known else []
    endings = [_split(member.name)[1] for member in members]
    if len(set(endings)) < len(endings):
        problems.append("two members have one name")
    pictures: list[tarfile.TarInfo] = []
    columns: dict[str, Any] = {}
    for ending, member in sorted(zip(endings, members, strict=True), key=lambda pair: pair[0] == "json"):
        is_picture = f".{ending}" in ENDINGS
        if not member.isreg() or member.issparse():
            problems.append("a member is no plain file but a link, a device or sparse")
        elif member.size > (MOST_BYTES if is_picture else MOST_TEXT) and (is_picture or ending in _TEXTS):
            problems.append(f"its .{ending} is too long")
        elif is_picture:
            pictures.append(member)
        elif ending in _TEXTS:
            try:
                columns |= _columns(_content(tar, member), ending)
            except (ValueError, RecursionError):
                problems.append(f"its .{ending} is no {'object of JSON' if ending == 'json' else 'text in UTF-8'}")
        else:
            unread[f".{ending}"] += 1
    if len(pictures) > 1:
        problems.append("there are several pictures")
    if problems or not pictures:
        return replace(named, problems=tuple(problems))
    return replace(named, columns=columns, picture=_content(tar, pictures[0]), suffix=f".{_split(pictures[0].name)[1]}")


def _columns(content: bytes, ending: str) -> dict[str, Any]:
    value = json.loads(content) if ending == "json" else {_TEXTS[ending]: content.decode("utf-8-sig").strip()}
    if not isinstance(value, dict):
        raise ValueError
    return value


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream is not None else b""
