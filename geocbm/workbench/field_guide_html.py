"""Sheets of the field guide as HTML that a browser prints one below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from geocbm.plots.locator import locator
from geocbm.workbench.html import clean_text, image_html, template

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.explain.field_guide.guide import ConceptSheet, CountrySheet
    from geocbm.run import Run


def sheets_html(
    sheets: Sequence[CountrySheet | ConceptSheet], run: Run, pictures: Mapping[tuple[int, int], Image]
) -> str:
    """Sheets of `FieldGuide` on a run, one below the other; every text of the table is escaped.

    `pictures` are examples by row of the table and index of the concept. Every sheet says where its facts are invented
    or its labels guessed.
    """
    return template("field_guide.html.j2").render(
        sheets=sheets,
        metas=run.concepts.metas,
        parents=run.concepts.meta_to_parent,
        pictures=pictures,
        noun=run.noun,
        simulated=run.simulated,
        guessed=run.guessed,
        image=lambda picture, alt, width: Markup(image_html(picture, alt, width)),
        locator=lambda lat, lng: locator(lat, lng, 330, 220),
        plain=clean_text,
    )
