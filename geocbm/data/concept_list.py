"""Lists of concepts that a person writes in YAML: parents, the names below each, and sentences for a text encoder."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from geocbm.data.concepts import EMPTY_WORDS, META_TEMPLATES, SEPARATOR, UNKNOWN, prompts
from geocbm.errors import MissingInputError, ParameterError, printable
from geocbm.files import MOST_YAML, read_yaml, sha256_text

_FORM = "write a parent, and below it its names: `- name`, `name:` or `name: a sentence with it`"


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
