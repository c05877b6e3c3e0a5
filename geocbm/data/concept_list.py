"""Lists of concepts in YAML: parents, names, sentences for a text encoder; and tables without `meta_name` read by them.

Such a table has a column for each concept of a list, or no labels at all.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.data.concepts import EMPTY_WORDS, META_TEMPLATES, SEPARATOR, UNKNOWN, prompts
from geocbm.errors import MissingInputError, ParameterError, printable
from geocbm.files import MOST_YAML, read_yaml, sha256_text
from geocbm.metrics.borders import country_codes
from geocbm.metrics.country_names import names_by_code

_FORM = "write a parent, and below it its names: `- name`, `name:` or `name: a sentence with it`"

LEFT_OUT = ("pano_id", "meta_name", "parent_concept", "country", "note")
"""Columns that a table without labels need not have."""
ABSENT = "known_absent"
"""Column with the concepts that were looked for in a picture and not seen."""
_SAID = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0} | dict.fromkeys(EMPTY_WORDS, -1)


@dataclass(frozen=True)
class ConceptList:
    """Names of concepts in the order of the list."""

    parents: dict[str, str]  # parent of each name
    own: dict[str, tuple[str, ...]]  # sentences that the list gives a name; none for most
    digest: str  # hash of the text

    def sentences(self, name: str) -> list[str]:
        """What a text encoder reads of a concept: the sentences of the list, else those of the method."""
        return list(self.own.get(name, ())) or prompts(name, META_TEMPLATES)


def starter_text() -> str:
    """The list that comes with the package, road scenes of the whole world, as it is written."""
    return files("geocbm").joinpath("data/starter_concepts.yaml").read_text(encoding="utf-8")


def read_concept_list(path: str | Path = "") -> ConceptList:
    """Read a list; without a path the one that comes with the package. What is none is refused with what to write."""
    if not path:
        return _parse(starter_text(), "the starter list")
    if not Path(path).is_file():
        raise MissingInputError(f"there is no list of concepts at {path}; begin one with: geocbm data concepts {path}")
    try:
        with Path(path).open(encoding="utf-8") as stream:
            text = stream.read(MOST_YAML + 1)
    except (OSError, UnicodeDecodeError) as problem:
        raise ParameterError(f"{path} cannot be read as text in UTF-8 ({problem}); save it again") from None
    return _parse(text, str(path))


def _parse(text: str, where: str) -> ConceptList:
    try:
        content = read_yaml(text)
    except ValueError as problem:
        raise ParameterError(f"{where} is no plain YAML: {problem}") from None
    if not isinstance(content, dict) or not content:
        raise ParameterError(f"{where} holds no parents; {_FORM}")
    parents: dict[str, str] = {}
    own: dict[str, tuple[str, ...]] = {}
    spelt: dict[str, str] = {}  # by its letters in lower case, since columns are found by them
    for written, below in content.items():
        parent = _name(written, where)
        for each, sentences in _names_below(below, f"{where}, {parent!r}"):
            name = _name(each, f"{where}, {parent!r}")
            if (twin := spelt.setdefault(name.casefold(), name)) in parents:
                both = f"{twin!r} of {parents[twin]!r} and {name!r} of {parent!r}"
                raise ParameterError(f"{where}: {both} are one name; keep one of them")
            parents[name] = parent
            if sentences:
                own[name] = sentences
    return ConceptList(parents, own, sha256_text(text))


def _names_below(below: Any, where: str) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Names of a parent, each with the sentences that it is given."""
    entries = below if isinstance(below, list) else [below] if isinstance(below, dict) and below else []
    if not entries or any(isinstance(entry, list) for entry in entries):
        raise ParameterError(f"{where} holds {printable(below)} in place of names; {_FORM}")
    for entry in entries:
        for name, said in entry.items() if isinstance(entry, dict) else [(entry, None)]:
            sentences = said if isinstance(said, list) else [] if said is None else [said]
            if not all(isinstance(each, str) and each.strip() for each in sentences):
                raise ParameterError(f"{where}, {name!r}: {printable(said)} is no sentence; put it in quotes")
            yield name, tuple(each.strip() for each in sentences)


def _name(written: Any, where: str) -> str:
    """A name as the validated table spells it."""
    if not isinstance(written, str):
        raise ParameterError(f"{where}: {printable(written)} is no text to YAML; put the name in quotes")
    name = unicodedata.normalize("NFC", " ".join(written.split()))
    if name.casefold() in EMPTY_WORDS or not name.isprintable() or SEPARATOR in name or name == UNKNOWN:
        raise ParameterError(
            f"{where}: {printable(name)!r} is no name of a concept; it may not be empty, {UNKNOWN!r} or "
            f"hold {SEPARATOR!r} or letters that cannot be seen"
        )
    return name


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def concept_columns(header: Iterable[str], concepts: ConceptList) -> dict[str, str]:
    """Columns that are headed by a concept of the list, whatever their case and spaces, and its name."""
    known = {_key(name): name for name in concepts.parents}
    return {column: known[_key(column)] for column in header if _key(column) in known}


def complete(rows: pd.DataFrame, concepts: ConceptList) -> tuple[pd.DataFrame, dict[int, str]]:
    """Fill in what a table without `meta_name` leaves out, in the form that several concepts of a picture have.

    A picture is named by its file, its country is that of its place. A column of a concept holds 1 (seen), 0 (looked
    for and not seen) or nothing; a picture without a 1 is `UNKNOWN`. With the rows comes, by position, what a concept's
    column holds instead.
    """
    rows = rows.copy()
    if "pano_id" not in rows:
        rows["pano_id"] = rows["image_path"]
    if "country" not in rows:
        lat, lng = (pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=np.float64) for name in ("lat", "lng"))
        rows["country"] = [names_by_code().get(code, "") for code in country_codes(lat, lng)]
    if "note" not in rows:
        rows["note"] = ""
    own = concept_columns(rows.columns, concepts)
    odd: dict[int, str] = {}
    names = sorted(own.values(), key=list(concepts.parents).index)
    said = {}
    for column, name in own.items():
        texts = rows.pop(column).str.strip()
        said[name] = texts.str.casefold().str.removesuffix(".0").map(_SAID).fillna(-2).to_numpy(dtype=int)
        odd |= {int(row): f"{name}: {texts.iloc[row]!r}" for row in np.flatnonzero(said[name] == -2)}
    seen, absent = (
        [[name for name in names if said[name][row] == mark] for row in range(len(rows))] for mark in (1, 0)
    )
    rows["meta_name"] = [SEPARATOR.join(row or [UNKNOWN]) for row in seen]
    rows["parent_concept"] = [SEPARATOR.join([concepts.parents[name] for name in row] or [UNKNOWN]) for row in seen]
    if names:
        rows[ABSENT] = [SEPARATOR.join(row) for row in absent]
    return rows, odd
