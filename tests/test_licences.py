"""Licence and citation are there, say the same everywhere, and the citation keeps its schema."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from geocbm import __version__

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = {"authors", "cff-version", "message", "title"}
# Keys of the Citation File Format 1.2.0, and those of a reference that are used here.
KEYS = REQUIRED | {
    "abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url",
    "version", "preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type",
    "url",
}  # fmt: skip
REFERENCE_KEYS = {"type", "title", "authors", "year", "collection-title", "conference", "notes", "doi", "url"}
REFERENCE_TYPES = {"article", "conference-paper", "software", "dataset"}


def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_licence_is_named_alike_everywhere() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n") and 'THE SOFTWARE IS PROVIDED "AS IS"' in text
    holder = re.search(r"^Copyright \(c\) 2026 (.+)$", text, re.MULTILINE)
    assert project()["license"] == citation()["license"] == "MIT"
    assert project()["license-files"] == ["LICENSE"]
    assert holder and [holder[1]] == [author["name"] for author in project()["authors"]]
    assert [author["name"] for author in citation()["authors"]] == [holder[1]]


def test_the_citation_keeps_the_schema_and_the_version() -> None:
    cited = citation()
    assert cited["cff-version"] == "1.2.0" and set(cited) <= KEYS and set(cited) >= REQUIRED
    assert str(cited["version"]) == __version__ and cited["type"] == "software"
    assert all(isinstance(word, str) for word in cited["keywords"])
    for reference in cited["references"]:
        assert set(reference) <= REFERENCE_KEYS and {"type", "title", "authors"} <= set(reference)
        assert reference["type"] in REFERENCE_TYPES and isinstance(reference["year"], int)
        for author in reference["authors"]:
            assert set(author) in ({"family-names", "given-names"}, {"name"})


def test_the_readme_tells_what_others_ask_for() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Licences\n")[2].partition("\n## ")[0]
    for what, licence in {
        "StreetCLIP": "CC BY-NC 4.0",
        "GeoCLIP": "MIT",
        "Natural Earth": "public domain",
        "GeoNames": "CC BY 4.0",
        "libheif": "LGPL",
    }.items():
        rows = [line for line in section.splitlines() if what in line]
        assert any(licence in line for line in rows), what
