"""Field guide as HTML: sheets of countries and concepts that a browser prints one below the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geocbm.workbench.html import clean_text, image_html

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.explain.field_guide import ConceptSheet, CountrySheet

Pictures = Mapping[tuple[int, int], "Image"]
"""Example pictures by row of the table and index of the concept."""


def country_sheet_html(
    sheet: CountrySheet,
    metas: Sequence[str],
    parents: Mapping[str, str],
    pictures: Pictures,
    side: int = 84,
    noun: str = "image",
) -> str:
    """One country: where its images lie, its clues with examples, and what it is taken for.

    Args:
        sheet: the sheet.
        metas: names of the concepts.
        parents: parent of each concept.
        pictures: examples.
        side: width of an example on the page, CSS pixels.
        noun: what one image is called.
    """
    exact = any(math.isfinite(clue.contribution) for clue in sheet.clues)
    alt = f"Where the {sheet.n} {noun}s lie"
    shared = {"metas": metas, "parents": parents, "pictures": pictures, "side": side, "noun": noun}
    return _sheet(sheet, alt, shared | {"country": True, "exact": exact})


def concept_sheet_html(
    sheet: ConceptSheet,
    metas: Sequence[str],
    parents: Mapping[str, str],
    pictures: Pictures,
    side: int = 84,
    noun: str = "image",
) -> str:
    """One concept: where in the world, which countries it speaks for, how well the model sees it.

    Args:
        sheet: the sheet.
        metas: names of the concepts.
        parents: parent of each concept.
        pictures: examples.
        side: width of an example on the page, CSS pixels.
        noun: what one image is called.
    """
    alt = f"Where the labels of {metas[sheet.meta]} lie"
    shared = {"metas": metas, "parents": parents, "pictures": pictures, "side": side, "noun": noun}
    return _sheet(sheet, alt, shared | {"country": False, "seen": sheet.figures, "note": clean_text(sheet.note)})


def _sheet(sheet: CountrySheet | ConceptSheet, alt: str, values: dict[str, Any]) -> str:
    """Fill the template, which escapes all texts."""
    from markupsafe import Markup

    from geocbm.plots.locator import locator
    from geocbm.workbench.site import template

    def picture(image: Any, alt: str, width: int) -> Markup:
        return Markup(image_html(image, alt, width))

    place = picture(locator(sheet.lat, sheet.lng, 330, 220), alt, 220)
    page = template("field_guide.html.j2")
    return page.render(sheet=sheet, map=place, picture=picture, finite=math.isfinite, **values)


def sheets_in_words(sheets: Sequence[CountrySheet | ConceptSheet], metas: Sequence[str], noun: str = "image") -> str:
    """The sheets as plain text, for where there is no page."""
    from geocbm.explain.field_guide import CountrySheet

    lines = []
    for sheet in sheets:
        if isinstance(sheet, CountrySheet):
            clues = ", ".join(f"{metas[clue.meta]} ({clue.lift:.1f}x)" for clue in sheet.clues)
            lines.append(f"{sheet.country}, {sheet.n} {noun}s: {clues or 'no clue'}")
        else:
            lines.append(f"{metas[sheet.meta]}: " + ", ".join(f"{name} {share:.0%}" for name, share in sheet.countries))
    return "\n".join(lines)
