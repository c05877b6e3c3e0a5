"""A dirty table gives exactly the rows and values of the clean one, or is refused with what is wrong in which line.

Each table has up to nine rows whose values are known, dirt of one kind and often of up to three others: dirt that
changes no meaning (the table must be used, and be the same when it is stored and read again), bad rows (all named by
line and fault, nothing else; with `on_bad="drop"` exactly the others are used, and rejected.csv names exactly these),
or a file that is no table (refused with what it is). Nothing that is said holds a control character.
"""

from __future__ import annotations

import csv
import io
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from itertools import count as numbers
from pathlib import Path
from typing import Any

import pandas as pd

from geocbm.data import load_table, read_table, save_table
from geocbm.data.table import SCHEMA
from geocbm.errors import UserError
from tests.soak.table_files import FILES, clear
from tests.soak.table_rows import BAD, ODD_NAMES, Row, clean_row, digest, write_world
from tests.soak.trial import Trial


@dataclass
class Draft:
    """A table on its way to a file."""

    home: Path
    rows: list[Row]
    names: dict[str, str] = field(default_factory=lambda: {name: name for name in SCHEMA})  # header of each column
    order: list[str] = field(default_factory=lambda: list(SCHEMA))
    extra: dict[str, str] = field(default_factory=dict)  # further columns, the same text in each row
    end: str = "\n"
    begin: bytes = b""
    quote_all: bool = False
    pad: str = ""  # beside every cell that stands without quotes
    blank: tuple[str, ...] = ()  # lines that hold nothing, in front of some rows
    last_end: bool = True

    def write(self) -> bytes:
        """The file; notes in each row the line on which it begins."""
        order = [*self.order, *self.extra]
        text = self._line([self.names.get(name, name) for name in order])
        for number, row in enumerate(self.rows):
            if self.blank and number % 2:
                text += self.blank[number % len(self.blank)] + self.end
            row.line = 1 + len(io.StringIO(text, newline="").readlines())
            cells = row.cells | self.extra
            text += self._line([cells[name] for name in order if name in cells], row.raw)
        return self.begin + (text if self.last_end else text.rstrip("\r\n")).encode("utf-8")

    def _line(self, cells: list[str], raw: str = "") -> str:
        done = []
        for cell in cells:
            special = any(mark in cell for mark in ',"\r\n') or cell != cell.strip()
            quoted = '"' + cell.replace('"', '""') + '"'
            done.append(quoted if self.quote_all or special else f"{self.pad}{cell}{self.pad}")
        return ",".join(done) + raw + self.end


Dirt = Callable[[Draft, random.Random], None]


def _each(column: str, change: Callable[[str, random.Random], str]) -> Dirt:
    """Dirt that changes the text of a column and not what it means."""

    def dirt(draft: Draft, rng: random.Random) -> None:
        for row in draft.rows:
            if rng.random() < 0.7:
                row.cells[column] = change(row.cells[column], rng)

    return dirt


def _set(**values: Any) -> Dirt:
    def dirt(draft: Draft, rng: random.Random) -> None:
        for name, value in values.items():
            setattr(draft, name, value)

    return dirt


def _text(column: str, *texts: tuple[str, str]) -> Dirt:
    """Dirt that puts texts, each with what it means, into a column."""

    def dirt(draft: Draft, rng: random.Random) -> None:
        for row in draft.rows:
            written, meant = texts[rng.randrange(len(texts))]
            row.cells[column] = written.replace("§", row.right["pano_id"])
            row.right[column] = meant.replace("§", row.right["pano_id"])

    return dirt


def _inside(letters: str) -> Callable[[str, random.Random], str]:
    def change(text: str, rng: random.Random) -> str:
        at = rng.randrange(1, len(text)) if len(text) > 1 else 1
        return text[:at] + rng.choice(letters) + text[at:]

    return change


def _spaced(text: str, rng: random.Random) -> str:
    blank = rng.choice(["  ", "\t", "\u00a0", " \u2003 ", "\n"])
    return rng.choice([" ", "", "\t"]) + text.replace(" ", blank) + rng.choice([" ", "\u00a0", ""])


def _renamed(draft: Draft, rng: random.Random) -> None:
    choices = {"lat": "Latitude", "lng": rng.choice(["lon", "LONG", " lng "]), "note": "comment", "country": "Nation"}
    choices |= {"pano_id": rng.choice(["panoid", "ID"]), "image_path": "File_Name", "parent_concept": "category"}
    draft.names.update({name: choices[name] for name in rng.sample(sorted(choices), rng.randint(1, 5))})


def _shuffled(draft: Draft, rng: random.Random) -> None:
    rng.shuffle(draft.order)


def _extra(draft: Draft, rng: random.Random) -> None:
    name = rng.choice(["region", "", "lat_2", "Größe", "a b", "image_id2", "x" * 300, "None", "index"])
    draft.extra[name] = rng.choice(["7", "", "nan", "a, b", '<b>"', "x" * 9000])


def _several(draft: Draft, rng: random.Random) -> None:
    """Several concepts in a line: a row for each."""
    draft.names["meta_name"] = rng.choice(["concepts", "Concepts"])
    for row in draft.rows:
        meta = row.right["meta_name"]
        further = [f"{meta} {letter}" for letter in "xyz"[: rng.randint(0, 3)]]
        row.cells["meta_name"] = rng.choice(["|", " | ", "||"]).join([meta, *further])
        row.further = further
        if rng.random() < 0.5:
            row.cells["parent_concept"] = "|".join([row.cells["parent_concept"]] * (1 + len(further)))


def _same_place(draft: Draft, rng: random.Random) -> None:
    first = draft.rows[0]
    for row in draft.rows[1:3]:
        for name in ("pano_id", "lat", "lng", "country"):
            row.cells[name], row.right[name] = first.cells[name], first.right[name]


def _repeated(draft: Draft, rng: random.Random) -> None:
    draft.rows += [row.copy() for row in draft.rows[:2]]


def _alike(name: str) -> Dirt:
    """All rows of one class, country or picture; a meta takes its parent along, a country its place."""
    along = {"meta_name": ["meta_name", "parent_concept"], "country": ["country", "lat", "lng"], "image_path": []}

    def dirt(draft: Draft, rng: random.Random) -> None:
        first = draft.rows[0]
        for row in draft.rows:
            for column in {name, *along[name]}:
                row.cells[column], row.right[column] = first.cells[column], first.right[column]

    return dirt


FRANCE = ("FR", "FRA", "france", "FRANCE", "French Republic", "  France", "Françe")
HIDDEN = "\u200b\u200d\u00ad\u202e\u2066\ufeff\u2060\ufe0f\x00\x01\x07\x08\x1b\x7f\x9b\U000e0041"
MARKUP = '<script>alert(1)</script>, "quoted"\n=HYPERLINK("x")\n{{ x }} %s 😀'


def _whole_path(draft: Draft, rng: random.Random) -> None:
    for row in draft.rows:
        row.cells["image_path"] = row.right["image_path"] = str(draft.home / row.right["image_path"])


def _one_row(draft: Draft, rng: random.Random) -> None:
    del draft.rows[1:]


def _odd_path(draft: Draft, rng: random.Random) -> None:
    for row in draft.rows:
        path = rng.choice(["./", "images/../", "images/.././", "way/../"]) + row.right["image_path"]
        row.right["image_path"], row.cells["image_path"] = path, rng.choice([path, f" {path}", f"{path}\t"])


HARMLESS: dict[str, Dirt] = {  # in the order in which they are laid upon one another
    "one row": _one_row,
    "one class": _alike("meta_name"),
    "one country": _alike("country"),
    "one picture": _alike("image_path"),
    "long notes": _text("note", ("x" * 100_000, "x" * 100_000), ("Ä" * 9000, "Ä" * 9000)),
    "markup in notes": _text("note", (MARKUP, MARKUP), ("nan", "nan"), ("", "")),
    "identifiers like numbers": _text("pano_id", ("00§", "00§"), ("1e5§", "1e5§"), ("-§.0", "-§.0")),
    "markup in metas": _text("meta_name", ("<b>&amp; §</b>", "<b>&amp; §</b>"), ("=1+1 §", "=1+1 §")),
    "long metas": _text("meta_name", ("m" * 5000 + "§", "m" * 5000 + "§")),
    "metas of every script": _text("meta_name", *((f"{name} §",) * 2 for name in ("знак", "道路", "علامة", "🛣"))),
    "odd names of files": _text("image_path", *((name, name) for name in ODD_NAMES)),
    "a link within": _text("image_path", ("inner.png", "inner.png"), ("way/0.png", "way/0.png")),
    "odd paths": _odd_path,
    "whole paths": _whole_path,
    "spellings of a country": _text("country", *((text, "France") for text in FRANCE)),
    "a country that is none": _text("country", ("Atlantis", "Atlantis"), ("S\u00e4rland", "S\u00e4rland")),
    "one panorama in several rows": _same_place,
    "rows that are repeated": _repeated,
    "numbers with a sign": _each("lat", lambda text, rng: text if text[0] == "-" else f"+{text}"),
    "numbers in powers": _each("lat", lambda text, rng: f"{text}{rng.choice(['e0', 'E+00', 'e-0'])}"),
    "numbers with zeros": _each("lng", lambda text, rng: rng.choice([f"{text}000", text.replace("-", "-00")])),
    "numbers in spaces": _each("lng", lambda text, rng: f"  {text}\u00a0"),
    "spaces in names": _each("meta_name", _spaced),
    "spaces in parents": _each("parent_concept", _spaced),
    "split accents": _each("meta_name", lambda text, rng: unicodedata.normalize("NFD", text)),
    **{
        f"unseen letters in {column}": _each(column, _inside(HIDDEN))
        for column in SCHEMA
        if column not in ("image_path", "pano_id")
    },
    "unseen letters in pano_id": _each("pano_id", _inside(HIDDEN)),
    "several concepts": _several,
    "a byte order mark": _set(begin=b"\xef\xbb\xbf"),
    "Windows line ends": _set(end="\r\n"),
    "old Mac line ends": _set(end="\r"),
    "no last line end": _set(last_end=False),
    "everything in quotes": _set(quote_all=True),
    "spaces beside cells": _set(pad=" "),
    "empty lines": _set(blank=("", "  ", ",,,,,,,", "\t")),
    "columns in another order": _shuffled,
    "other names of columns": _renamed,
    "a further column": _extra,
}


def _expected(rows: list[Row], home: Path, extra: dict[str, str]) -> list[tuple[Any, ...]]:
    """What a table must hold: a row for each concept of a line, with the schema's values and the picture's digest."""
    found = []
    for row in rows:
        right = row.right | {"lat": float(row.right["lat"]), "lng": float(row.right["lng"])}
        for meta in [row.right["meta_name"], *row.further]:
            values = [meta if name == "meta_name" else right[name] for name in SCHEMA]
            found.append((*values, *extra.values(), digest(home, row.right["image_path"])))
    return found


def _wrong_rows(table: pd.DataFrame, expected: list[tuple[Any, ...]]) -> str:
    """What of a table is not as it must be, if anything."""
    got = [tuple(row) for row in table.itertuples(index=False)]
    if len(got) != len(expected):
        return f"{len(got)} rows instead of {len(expected)}"
    return next((f"{a!r:.300} instead of {b!r:.300}" for a, b in zip(got, expected, strict=True) if a != b), "")


def _unsaid(message: str) -> str:
    """What makes a message no answer for people, if anything."""
    odd = sorted({letter for letter in message if not letter.isprintable() and letter != "\n"})
    if odd:
        return f"it holds {odd}"
    return "it has no end" if len(message) > 20_000 else ""


def _judge(draft: Draft, path: Path) -> tuple[bool, str]:
    """Whether a table is used or refused as it must be, and what was seen."""
    bad = [row for row in draft.rows if row.fault]
    good = [row for row in draft.rows if not row.fault]
    said = io.StringIO()
    rejected = path.with_name("rejected.csv")
    try:
        with redirect_stdout(said):
            table = load_table(path, on_bad="drop" if bad and good else "error", rejected_csv=rejected)
    except UserError as problem:
        if good:
            return False, f"refused: {problem}"
        table = pd.DataFrame()
    if wrong := _wrong_rows(table, _expected(good, draft.home, draft.extra)) or _unsaid(said.getvalue()):
        return False, wrong
    if not bad:
        save_table(table, stored := path.with_suffix(".parquet"))
        wrong = _wrong_rows(read_table(stored), _expected(good, draft.home, draft.extra))
        return not wrong, wrong or f"{len(table)} rows are used"
    if good:
        with rejected.open(encoding="utf-8", newline="") as stream:
            lines = [int(row["line"]) for row in csv.DictReader(stream)]
        if lines != [row.line for row in bad]:
            return False, f"rejected.csv names the lines {lines}"
    return _judge_refusal(path, bad, len(draft.rows) + sum(len(row.further) for row in draft.rows))


def _judge_refusal(path: Path, bad: list[Row], n_rows: int) -> tuple[bool, str]:
    try:
        load_table(path)
    except UserError as problem:
        sentences, message = list(getattr(problem, "problems", [])), str(problem)
    else:
        return False, "used in spite of bad rows"
    for row in bad:
        named = [each for each in sentences if each.startswith(row.fault)]
        if not any(f"line {row.line}" in each or f" {row.line} (" in each or f" {row.line}," in each for each in named):
            return False, f"line {row.line} is not named: {row.fault!r} in {message[:1500]}"
    if f"in {len(bad)} of {n_rows} rows" not in message:
        return False, f"{len(bad)} of {n_rows} rows are bad: {message[:1500]}"
    return not _unsaid(message), _unsaid(message) or message[:200]


def _dirty(kind: str, home: Path, rng: random.Random) -> tuple[Draft, list[str]]:
    """A table with dirt of a kind and of some others."""
    number = numbers()
    draft = Draft(home, [clean_row(next(number), rng) for _ in range(rng.randint(1, 9))])
    laid = {kind, *rng.sample(sorted(HARMLESS), rng.choice([0, 1, 1, 2, 3]))}
    for name, dirt in HARMLESS.items():
        if name in laid:
            dirt(draft, rng)
    faults = [kind, *rng.sample(sorted(BAD), rng.choice([0, 0, 1, 2]))] if kind in BAD else []
    for name in dict.fromkeys(faults):
        rows = BAD[name](lambda: clean_row(next(number), rng), rng)
        at = sorted(rng.randint(0, len(draft.rows)) for _ in rows)
        for shift, (place, row) in enumerate(zip(at, rows, strict=True)):
            draft.rows.insert(place + shift, row)
    return draft, sorted((laid | set(faults)) - {kind})


def campaign(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Try so many dirty tables, every kind of dirt as often."""
    home = write_world(folder)
    path = home / "table.csv"
    kinds = [*HARMLESS, *BAD, *FILES]
    random.Random(seed).shuffle(kinds)
    tried: Counter[str] = Counter()
    for number in range(count):
        kind = kinds[number % len(kinds)]
        rng = random.Random(f"{seed} {kind} {tried[kind]}")
        tried[kind] += 1
        draft, with_it = _dirty(kind if kind not in FILES else "a byte order mark", home, rng)
        clear(path)
        try:
            if kind in FILES:
                with_it = []
                held, seen = _judge_file(kind, home, path, rng)
            else:
                path.write_bytes(draft.write())
                held, seen = _judge(draft, path)
        except Exception as error:  # what must never come out
            held, seen = False, f"{type(error).__name__}: {error}"
        yield Trial(f"{kind}: {', '.join(with_it) or 'alone'}", held, seen.replace(str(home), "FOLDER"))


def _judge_file(kind: str, home: Path, path: Path, rng: random.Random) -> tuple[bool, str]:
    """Whether what is no table is refused with what it is."""
    clean = Draft(home, [clean_row(each, rng) for each in range(rng.randint(2, 9))]).write()
    part = FILES[kind](clean, path, rng)
    try:
        load_table(path)
    except UserError as problem:
        said = str(problem)
        wrong = _unsaid(said) or ("" if part in said and str(path) in said else f"it does not say {part!r}")
        return not wrong, f"{wrong}: {said[:1500]}" if wrong else said[:200]
    return False, "used"
