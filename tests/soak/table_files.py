"""Files that are no table, or none that can be read: each with what must be said of it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.data.table import LARGEST_FIELD, SCHEMA

File = Callable[[bytes, Path, random.Random], str]
"""Takes the bytes of a clean table and a path; puts something there; gives a part of the sentence."""


def _bytes(change: Callable[[bytes, random.Random], bytes], said: str) -> File:
    def write(clean: bytes, path: Path, rng: random.Random) -> str:
        path.write_bytes(change(clean, rng))
        return said

    return write


def _encoded(encoding: str, said: str = "is not UTF-8") -> File:
    return _bytes(lambda clean, rng: clean.decode().encode(encoding, "replace"), said)


def _separated(mark: str, said: str) -> File:
    return _bytes(lambda clean, rng: clean.replace(b",", mark.encode()), said)


def _header(change: Callable[[list[str], str], list[str]], said: str) -> File:
    """A header with one of its names changed; `said` has `{}` for the name."""

    def write(clean: bytes, path: Path, rng: random.Random) -> str:
        head, _, rest = clean.partition(b"\n")
        name = rng.choice(SCHEMA)
        path.write_bytes(",".join(change(head.decode().split(","), name)).encode() + b"\n" + rest)
        return said.format(name)

    return write


def _inserted(text: str, said: str) -> File:
    """A text in front of the last line, which the sentence must number."""

    def write(clean: bytes, path: Path, rng: random.Random) -> str:
        lines = clean.splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-1]) + text.encode() + lines[-1])
        return said.format(len(lines))

    return write


def _zipped(clean: bytes, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(rng.choice(["table.csv", "xl/workbook.xml", "[Content_Types].xml"]), clean)
    return stream.getvalue()


def _parquet(clean: bytes, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    pd.read_csv(io.BytesIO(clean)).to_parquet(stream)
    return stream.getvalue()


def _npz(clean: bytes, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.arange(9))
    return stream.getvalue()


def _sqlite(clean: bytes, path: Path, rng: random.Random) -> str:
    connection = sqlite3.connect(path)
    connection.execute("create table t (pano_id text)")
    connection.commit()
    connection.close()
    return ""


def _json(clean: bytes, rng: random.Random) -> bytes:
    return json.dumps(pd.read_csv(io.BytesIO(clean)).to_dict("records")).encode()


def _cut_letter(clean: bytes, rng: random.Random) -> bytes:
    at = clean.index("é".encode())
    return clean[: at + 1] + clean[at + 2 :]


def _huge(clean: bytes, path: Path, rng: random.Random) -> str:
    """A field longer than any may be."""
    with path.open("wb") as stream:
        stream.write(clean + b'"')
        stream.write(b"x" * (LARGEST_FIELD + 1))
        stream.write(b'"\n')
    return f"the row that starts on line {clean.count(bytes([10])) + 1}"


def _linked(target: str) -> File:
    def write(clean: bytes, path: Path, rng: random.Random) -> str:
        path.symlink_to(target)
        return "no regular file" if target == "/dev/zero" else "There is no table"

    return write


def _folder(clean: bytes, path: Path, rng: random.Random) -> str:
    path.mkdir()
    return "is a folder"


def _fifo(clean: bytes, path: Path, rng: random.Random) -> str:
    os.mkfifo(path)
    return "no regular file"


FILES: dict[str, File] = {
    "an empty file": _bytes(lambda clean, rng: b"", "is empty"),
    "only space": _bytes(lambda clean, rng: b" \n\t\r\n" * rng.randint(1, 99), "is empty"),
    "only a byte order mark": _bytes(lambda clean, rng: b"\xef\xbb\xbf", "is empty"),
    "only a header": _bytes(
        lambda clean, rng: clean.partition(b"\n")[0] + rng.choice([b"", b"\n", b"\n,,,\n"]), "no rows"
    ),
    "no header": _bytes(lambda clean, rng: clean.partition(b"\n")[2], "'pano_id' is missing"),
    **{
        f"in {name}": _encoded(name)
        for name in ("utf-16", "utf-32", "latin-1", "cp1252", "cp437", "mac-roman", "cp500")
    },
    **{f"in {name}": _encoded(name, "") for name in ("utf-16-le", "utf-16-be", "utf-32-be")},
    "half a letter": _bytes(_cut_letter, "is not UTF-8"),
    "one line in another encoding": _bytes(lambda clean, rng: clean + "é,\n".encode("latin-1"), "is not UTF-8"),
    "lone surrogates": _bytes(lambda clean, rng: clean + b"\xed\xa0\x80,,,,,,,\n", "is not UTF-8"),
    "semicolons": _separated(";", "separated by ';'"),
    "tabs": _separated("\t", "separated by '\\t'"),
    "bars": _separated("|", "'pano_id' is missing"),
    "a column missing": _header(
        lambda names, name: [f"x{each}" if each == name else each for each in names], "Column '{}' is missing"
    ),
    "a column twice": _header(
        lambda names, name: [name if each == names[-1 - (names[-1] == name)] else each for each in names],
        "Column '{}' stands twice",
    ),
    "a quote that is never closed": _inserted('"p, 1, 2\n', "the row that starts on line {}"),
    "text behind a quote": _inserted('"p"x,1,2,3,4,5,6,7\n', "the row that starts on line {}"),
    "quotes within quotes": _inserted('"p "in" q",1,2,3,4,5,6,7\n', "the row that starts on line {}"),
    "a backslash before a quote": _inserted('"p \\" q",1,2,3,4,5,6,7\n', "the row that starts on line {}"),
    "a field without end": _huge,
    "gzip": _bytes(lambda clean, rng: gzip.compress(clean), "is not UTF-8"),
    "bzip2": _bytes(lambda clean, rng: bz2.compress(clean), "is not UTF-8"),
    "xz": _bytes(lambda clean, rng: lzma.compress(clean), "is not UTF-8"),
    "a spreadsheet": _bytes(_zipped, ""),
    "parquet": _bytes(_parquet, ""),
    "npz": _bytes(_npz, ""),
    "a database": _sqlite,
    "JSON": _bytes(_json, ""),
    "HTML": _bytes(lambda clean, rng: b"<html><table><tr><td>pano_id</td></tr></table>\n<p>\n", "'pano_id' is missing"),
    "a pickle": _bytes(lambda clean, rng: pickle.dumps({"a": [1.5, "é" * 300]}), ""),
    "noise": _bytes(lambda clean, rng: b"\xff" + rng.randbytes(rng.randint(1, 9000)), "is not UTF-8"),
    "null bytes": _bytes(lambda clean, rng: bytes(rng.randint(1, 9000)), ""),
    "a folder": _folder,
    "a pipe": _fifo,
    "nothing": lambda clean, path, rng: "There is no table",
    "a link to nothing": _linked("nowhere.csv"),
    "a link to itself": _linked("table.csv"),
    "a link to /dev/zero": _linked("/dev/zero"),
}


def clear(path: Path) -> None:
    """Remove whatever stands at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
