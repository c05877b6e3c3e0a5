"""HTML from notebooks made safe and self-contained: what a page may hold, and pictures that must be described."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

_TAG_NAMES = """
    a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr
    i img ins kbd li mark meter ol p pre progress q s samp section small span strong sub summary sup table tbody td
    tfoot th thead tr u ul var
"""
_ATTRIBUTES = {
    "*": {"class", "id", "style", "title", "lang", "dir", "role", "aria-label", "aria-hidden"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height", "loading"},
    "td": {"colspan", "rowspan", "align"},
    "th": {"colspan", "rowspan", "align", "scope"},
    "ol": {"start"},
    "details": {"open"},
    "meter": {"min", "max", "low", "high", "optimum", "value"},
    "progress": {"max", "value"},
}
# None of these can name an address, so no style of a cell output can reach for the network.
_STYLE_NAMES = """
    color background-color text-align vertical-align width height max-width max-height min-width min-height margin
    margin-top margin-right margin-bottom margin-left padding padding-top padding-right padding-bottom padding-left
    border border-top border-right border-bottom border-left border-collapse border-color border-radius border-width
    border-style font-size font-weight font-style font-family font-variant-numeric line-height letter-spacing
    white-space word-break overflow overflow-x overflow-y overflow-wrap display flex flex-wrap flex-direction gap
    column-gap row-gap grid-template-columns grid-column align-items justify-content opacity text-decoration
    text-transform object-fit aspect-ratio image-rendering float
"""


def _keep_attribute(tag: str, attribute: str, value: str) -> str | None:
    """Drop addresses that would make the page fetch something, or run something on a click."""
    address = value.strip().lower()
    if attribute == "src":
        inline = address.startswith("data:image/")
        relative = not re.match(r"[a-z][a-z0-9+.-]*:|//|\\\\", address)
        return value if inline or relative else None
    if attribute == "href":
        return None if address.startswith("data:") else value
    return value


def clean_html(text: str) -> str:
    """Keep the harmless part of an HTML fragment.

    Scripts, style sheets, forms, frames, event handlers and every address that a browser would fetch from a network
    are removed; pictures stay when their data is inline or beside the page; ordinary links stay.

    Args:
        text: an HTML fragment, possibly written by strangers.

    Returns:
        The cleaned fragment.
    """
    import nh3

    from geocbm.workbench.formulas import MATHML_ATTRIBUTES, MATHML_TAGS

    return nh3.clean(
        text,
        tags={*_TAG_NAMES.split(), *MATHML_TAGS.split()},
        clean_content_tags={"script", "style"},
        attributes=_ATTRIBUTES | MATHML_ATTRIBUTES,
        attribute_filter=_keep_attribute,
        filter_style_properties=set(_STYLE_NAMES.split()),
        url_schemes={"http", "https", "mailto", "data"},
        link_rel="noopener noreferrer",
    )


class _PictureReader(HTMLParser):
    """Collects the pictures of a fragment and whether each is described."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.undescribed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "img":
            return
        values = dict(attrs)
        source = values.get("src") or ""
        self.sources.append(source)
        if not (values.get("alt") or "").strip():
            self.undescribed.append(source[:60])


def pictures(text: str) -> tuple[list[str], list[str]]:
    """Find the pictures of an HTML fragment.

    Args:
        text: an HTML fragment.

    Returns:
        The sources of all pictures in order, and the beginnings of the sources of those without alternative text.
    """
    reader = _PictureReader()
    reader.feed(text)
    return reader.sources, reader.undescribed


def plain_text(markup: str) -> str:
    """Reduce HTML, or the pseudo-HTML of plot labels, to one line of text."""
    spaced = re.sub(r"<\s*(br|/p|/div|/li)\b[^>]*>", ", ", markup, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", spaced))).strip(" ,")


def settle_carriage_returns(text: str) -> str:
    """Show of every terminal line what a terminal would show at the end: the last state of a progress bar."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
