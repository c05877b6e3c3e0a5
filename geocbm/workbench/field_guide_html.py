"""Sheets of the field guide as HTML that a browser prints one below the other."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geocbm.workbench.html import clean_text, image_html

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.explain.field_guide import Clue, ConceptSheet, CountrySheet

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
    from geocbm.plots.locator import locator

    name = _safe(sheet.country)
    known = (
        f"The model names it for {sheet.named} of {sheet.n_held_out} {noun}s it was not trained on."
        if sheet.n_held_out
        else f"No {noun} of it was held out, so how well the model knows it is not measured."
    )
    rows = "".join(_clue_row(clue, sheet, metas, parents, pictures, side) for clue in sheet.clues)
    exact = any(math.isfinite(clue.contribution) for clue in sheet.clues)
    heads = ("clue", "labels", "lift", *(("in the model",) if exact else ()), "looks like")
    clues = (
        f'<table class="clues"><thead><tr>{"".join(f"<th scope=col>{head}</th>" for head in heads)}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        if sheet.clues
        else "<p>No concept is surely more frequent here than elsewhere.</p>"
    )
    map_picture = image_html(locator(sheet.lat, sheet.lng, 330, 220), f"Where the {sheet.n} {noun}s lie", 220)
    return (
        f'<section class="sheet"><h3>{name}</h3><div class="sheet-head">{map_picture}<div>'
        f"<p>{sheet.n:,} {noun}s. {known}</p>{_look_alikes(sheet, metas)}</div></div>{clues}</section>"
    )


def _clue_row(
    clue: Clue,
    sheet: CountrySheet,
    metas: Sequence[str],
    parents: Mapping[str, str],
    pictures: Pictures,
    side: int,
) -> str:
    concept = metas[clue.meta]
    shown = "".join(
        image_html(pictures[row, clue.meta], f"Example of {concept} in {sheet.country}", side)
        for row in clue.rows
        if (row, clue.meta) in pictures
    )
    source = "" if clue.of_labels else f"<br><small>the model leans on it{_support(clue)}</small>"
    contribution = f"<td>{clue.contribution:+z.2f}</td>" if math.isfinite(clue.contribution) else ""
    return (
        f"<tr><td><strong>{_safe(concept)}</strong><br><small>{_safe(parents[concept])}</small>{source}</td>"
        f"<td>{clue.labels} of {sheet.n}</td><td>{clue.lift:.1f}×</td>{contribution}<td>{shown}</td></tr>"
    )


def _support(clue: Clue) -> str:
    return "" if clue.shown_by_labels else "; the labels do not show it"


def _look_alikes(sheet: CountrySheet, metas: Sequence[str]) -> str:
    if not sheet.look_alikes:
        return ""
    items = []
    for other in sheet.look_alikes:
        parts = []
        if other.here:
            parts.append(f"here rather: {_listed(metas, other.here)}")
        if other.there:
            parts.append(f"there rather: {_listed(metas, other.there)}")
        apart = "; ".join(parts) or "no concept surely tells the two apart"
        items.append(f"<li><strong>{_safe(other.country)}</strong> ({other.probability:.0%}): {apart}</li>")
    return f"<p>Taken for:</p><ul>{''.join(items)}</ul>"


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
    from geocbm.plots.locator import locator

    concept, figures = metas[sheet.meta], sheet.figures
    shown = "".join(
        image_html(pictures[row, sheet.meta], f"Example of {concept}", side)
        for row in sheet.rows
        if (row, sheet.meta) in pictures
    )
    countries = ", ".join(f"{_safe(name)} {share:.0%}" for name, share in sheet.countries)
    spread = figures["effective_countries"]
    where = f"{figures['labels']:,} labels: {countries}. Spread as over {spread:.1f} equal countries."
    map_picture = image_html(locator(sheet.lat, sheet.lng, 330, 220), f"Where the labels of {concept} lie", 220)
    note = f"<blockquote>{_safe(_cut(clean_text(sheet.note)))}</blockquote>" if sheet.note else ""
    return (
        f'<section class="sheet"><h3>{_safe(concept)} <small>{_safe(parents[concept])}</small></h3>'
        f'<div class="sheet-head">{map_picture}<div><p>{where}</p><p>{_seen(figures, metas, noun)}</p>{note}'
        f"<p>{shown}</p></div></div></section>"
    )


def _seen(figures: Any, metas: Sequence[str], noun: str) -> str:
    """How well the model sees a concept, in a sentence."""
    n = int(figures["n_test"])
    if not n:
        return f"No test {noun} carries this label, so how well the model sees it is not measured."
    text = (
        f"The model names {figures['recall']:.0%} of its {n} test {noun}s "
        f"[{figures['recall_low']:.0%}, {figures['recall_high']:.0%}]"
    )
    if math.isfinite(figures["precision"]):
        text += f"; of the {noun}s it names so, {figures['precision']:.0%} carry the label"
    if figures["confused_with"] >= 0:
        text += f". Most often named instead: {_safe(metas[int(figures['confused_with'])])}"
    return text + "."


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


def _listed(metas: Sequence[str], chosen: Sequence[int]) -> str:
    return ", ".join(_safe(metas[meta]) for meta in chosen)


def _safe(text: str) -> str:
    return html.escape(str(text))


def _cut(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
