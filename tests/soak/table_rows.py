"""Rows of dirty tables: clean ones whose values are known, and bad ones with what must be said of them."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

PLACES = {"France": (48.86, 2.35), "Japan": (35.68, 139.69), "Brazil": (-23.55, -46.63), "Norway": (61.2, 8.4)}
PARENTS = {"red pole": "pole", "white pole": "pole", "café sign": "sign", "dirt road": "road"}
ODD_NAMES = (
    *("a b.png", "a,b.png", 'a"b.png', "a\nb.png", "Ä ß.png", "道路.png", "%20.png", "a#?b.png", "-rf.png", "<b>.png"),
    *("{{x}}.png", "a\\b.png", "$(x).png", "a;b|c.png", "\u202ea.png", "\x1b[31m.png", "\u200b.png"),
    *("no ending", "picture.txt", ".hidden.png", "e\u0301.png", "CON.png", "n" * 250 + ".png"),
)


@dataclass
class Row:
    """A row of a table."""

    right: dict[str, str]  # what it means; of one that must be refused what it would
    cells: dict[str, str]  # as it stands in the file
    further: list[str] = field(default_factory=list)  # further concepts of the line
    fault: str = ""  # how the sentence begins that must name it
    line: int = 0
    raw: str = ""  # behind its last cell

    def copy(self) -> Row:
        return Row(dict(self.right), dict(self.cells), list(self.further), self.fault)


def clean_row(number: int, rng: random.Random) -> Row:
    """A row without dirt; no other has its number."""
    country = rng.choice(sorted(PLACES))
    meta = rng.choice(sorted(PARENTS))
    lat, lng = (f"{each + rng.uniform(-0.3, 0.3):.{rng.randint(3, 12)}f}" for each in PLACES[country])
    right = {"pano_id": f"p{number}", "image_path": f"images/{number % 10}.png", "meta_name": meta}
    right |= {"parent_concept": PARENTS[meta], "country": country, "lat": lat, "lng": lng, "note": f"note é {number}"}
    return Row(right, dict(right))


def digest(home: Path, path: str) -> str:
    return hashlib.sha256((home / path).read_bytes()).hexdigest()


Bad = Callable[[Callable[[], Row], random.Random], list[Row]]


def _cell(column: str, fault: str, *texts: str) -> Bad:
    """A bad text in a column."""

    def bad(new: Callable[[], Row], rng: random.Random) -> list[Row]:
        row = new()
        row.cells[column], row.fault = rng.choice(texts), fault
        return [row]

    return bad


def _place(fault: str, country: str, lat: str, lng: str) -> Bad:
    def bad(new: Callable[[], Row], rng: random.Random) -> list[Row]:
        row = new()
        row.cells |= {"country": country, "lat": lat, "lng": lng}
        row.fault = fault
        return [row]

    return bad


def _too_many(new: Callable[[], Row], rng: random.Random) -> list[Row]:
    row = new()
    row.raw, row.fault = rng.choice([",", ",x", ", and more, of it"]), "the number of fields is wrong"
    return [row]


def _too_few(new: Callable[[], Row], rng: random.Random) -> list[Row]:
    row = new()
    for name in list(row.cells)[: rng.randint(1, 7)]:
        del row.cells[name]
    row.fault = "the number of fields is wrong"
    return [row]


def _elsewhere(n_right: int) -> Bad:
    """A pano_id at two places: the rarer is wrong, and both are where they are as many."""

    def bad(new: Callable[[], Row], rng: random.Random) -> list[Row]:
        rows = [new() for _ in range(n_right + 1)]
        for row in rows:
            same = {name: rows[0].right[name] for name in ("pano_id", "country", "lat", "lng")}
            row.cells |= same
            row.right |= same
        rows[-1].cells["lat"] = f"{float(rows[0].right['lat']) + rng.choice([0.01, -0.5, 1e-4]):.6f}"
        for row in rows[-1:] if n_right > 1 else rows:
            row.fault = "pano_id is repeated with another location"
        return rows

    return bad


def _two_parents(n_right: int) -> Bad:
    def bad(new: Callable[[], Row], rng: random.Random) -> list[Row]:
        rows = [new() for _ in range(n_right + 1)]
        for row in rows:
            same = {"meta_name": f"meta of {rows[0].right['pano_id']}", "parent_concept": "pole"}
            row.cells |= same
            row.right |= same
        rows[-1].cells["parent_concept"] = "sign"
        for row in rows[-1:] if n_right > 1 else rows:
            row.fault = "meta_name stands under two parents"
        return rows

    return bad


_NO_NUMBER = (
    *("north", "46,2", "46.2 N", "46\u00b012'", "0x10", "1_0", "\u0661\u0662", "\uff11\uff12", "--5", "5-", "1,234.5"),
    *("True", "None", "nan", "NA", "#REF!", "4 6", "5.5.5", "\u22125", "1e", "=1+1", "46.2;8.1", "<b>5</b>", "[5]"),
)
_EMPTY = ("", "   ", "nan", "NaN", "NULL", "None", "N/A", "<NA>", "\u200b", "\x00\x07", "\t")
_GARBLED = ("cafÃ© sign", "PerÃº", "â€œsignâ€\x9d", "Ð·Ð½Ð°Ðº", "Espa\ufffda")
_FARTHER = ("../out.png", "/etc/passwd", "way_out.png", "far/out.png", "../../../../etc/passwd", "/dev/zero")
_UNREADABLE = (
    *("empty.png", "page.png", "cut.jpg", "folder.png", "pipe.png", "socket.png", "huge.png", "bomb.png", "eps.jpg"),
    *("narrow.png", "images/0.png/", "images/0.png/.", "n" * 300 + ".png", "images", ".", "gif.jpg", "pickle.png"),
)
_MISSING = (
    *("none.png", "IMAGES/0.PNG", "images\\0.png", "http://127.0.0.1/a.png", "file:///etc/passwd", "~/a.png", ""),
    *("images/0.png/x.png", "dangling.png", "images/0", "'images/0.png'", "images/0.png?x", "images%2F0.png"),
)
BAD: dict[str, Bad] = {
    "a latitude that is no number": _cell("lat", "lat is not a number", *_NO_NUMBER, ""),
    "a longitude that is no number": _cell("lng", "lng is not a number", *_NO_NUMBER, " "),
    "an infinite latitude": _cell("lat", "lat is infinite", "inf", "-Infinity", "1e400"),
    "an infinite longitude": _cell("lng", "lng is infinite", "INF", "-1e999"),
    "a latitude out of range": _cell("lat", "lat lies outside", "90.0001", "-91", "1e300", "9" * 300, "-720"),
    "a longitude out of range": _cell("lng", "lng lies outside", "180.001", "-181", "359.9", "1e18", "9" * 25),
    "exchanged coordinates": _place("lat and lng look exchanged", "Norway", "8", "61"),
    "exchanged coordinates out of range": _place("lat lies outside", "Japan", "139.7", "35.7"),
    "no identifier": _cell("pano_id", "pano_id is empty", *_EMPTY),
    "no meta": _cell("meta_name", "meta_name is empty", *_EMPTY),
    "no parent": _cell("parent_concept", "parent_concept is empty", *_EMPTY),
    "no country": _cell("country", "country is empty", *_EMPTY),
    "a garbled meta": _cell("meta_name", "meta_name holds garbled letters", *_GARBLED),
    "a garbled parent": _cell("parent_concept", "parent_concept holds garbled letters", *_GARBLED),
    "a garbled country": _cell("country", "country holds garbled letters", *_GARBLED),
    "a picture that is missing": _cell("image_path", "the image is missing", *_MISSING),
    "a picture that is none": _cell("image_path", "the image is unreadable", *_UNREADABLE),
    "a path with a null byte": _cell("image_path", "the image is unreadable", "images/0.png\x00", "\x00", "a\x00b.png"),
    "a picture elsewhere": _cell("image_path", "the image lies outside", *_FARTHER),
    "too many cells": _too_many,
    "too few cells": _too_few,
    "a panorama at two places": _elsewhere(2),
    "a panorama at two places as often": _elsewhere(1),
    "a meta under two parents": _two_parents(2),
    "a meta under two parents as often": _two_parents(1),
    "the header again": lambda new, rng: [_header_again(new())],
}


def _header_again(row: Row) -> Row:
    row.cells, row.fault = {name: name for name in row.cells}, "lat is not a number"
    return row


def write_world(folder: Path) -> Path:
    """Write what tables point to: pictures, odd names of one, and things that are none; the table's folder."""
    home = folder / "own"
    (home / "images").mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (16, 16), (25 * number, 99, 200)).save(home / "images" / f"{number}.png")
    one = (home / "images" / "0.png").read_bytes()
    for name in ODD_NAMES:
        (home / name).write_bytes(one)
    (folder / "out.png").write_bytes(one)
    for name, target in {
        "inner.png": "images/3.png",
        "way": "images",
        "way_out.png": "../out.png",
        "far": "..",
    }.items():
        (home / name).symlink_to(target)
    (home / "dangling.png").symlink_to("nowhere.png")
    (home / "empty.png").touch()
    (home / "page.png").write_text("<html><title>404 not found</title></html>")
    (home / "pickle.png").write_bytes(b"\x80\x04cos\nsystem\n.")
    (home / "gif.jpg").write_bytes(b"GIF89a\xff\xff\xff\xff")
    (home / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    Image.new("RGB", (300, 300), (9, 9, 9)).save(home / "cut.jpg")
    cut = (home / "cut.jpg").read_bytes()
    (home / "cut.jpg").write_bytes(cut[: len(cut) - 200])
    Image.new("RGB", (2000, 8)).save(home / "narrow.png")
    (home / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (home / "folder.png").mkdir()
    os.mkfifo(home / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(home)  # the name of a socket has at most 107 letters
        try:
            listener.bind("socket.png")
        finally:
            os.chdir(here)
    with (home / "huge.png").open("wb") as stream:
        stream.truncate((1 << 30) + 1)  # takes no room on the disk
    return home


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size, whose pixels are missing."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\r" + head + struct.pack(">I", zlib.crc32(head)) + b"\x00\x00\x00\x10IDAT"
