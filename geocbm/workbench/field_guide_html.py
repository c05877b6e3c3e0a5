"""Sheets of the field guide as HTML that a browser prints one below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from geocbm.plots.locator import locator
from geocbm.workbench.html import clean_text, image_html, template

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.data.concepts import ConceptVocabulary
    from geocbm.explain.field_guide.guide import ConceptSheet, CountrySheet


def sheets_html(
    sheets: Sequence[CountrySheet | ConceptSheet],
    concepts: ConceptVocabulary,
    pictures: Mapping[tuple[int, int], Image],
    noun: str = "image",
    simulated: bool = False,
    guessed: bool = False,
) -> str:
    """Sheets of `FieldGuide`, one below the other; every text of the table is escaped.

    `pictures` are examples by row of the table and index of the concept, `noun` is what one image is called. Every
    sheet says where its facts are invented (`simulated`) or its labels `guessed`.
    """
    from markupsafe import Markup

    return template("field_guide.html.j2").render(
        sheets=sheets,
        metas=list(concepts.metas),
        parents=concepts.meta_to_parent,
        pictures=pictures,
        noun=noun,
        simulated=simulated,
        guessed=guessed,
        image=lambda picture, alt, width: Markup(image_html(picture, alt, width)),
        locator=lambda lat, lng: locator(lat, lng, 330, 220),
        plain=clean_text,
    )
