"""HTML that notebooks show, and what of it a page keeps: escaped tables, pictures with alt text, no scripts."""

import base64
import html
import io
import re
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from geocbm.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd

_BREAKS = re.compile(r"<\s*(?:br|/p|/div|/li|/h\d|/tr)\b[^>]*>", re.IGNORECASE)


def shell() -> Any:
    """The running IPython shell, or None in plain Python (IPython is not imported for the question)."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def interactive() -> bool:
    """True when there is a page to show things on: a kernel, not a terminal."""
    running = shell()
    return running is not None and getattr(running, "kernel", None) is not None


def put(page: str, plain: str) -> None:
    """Show HTML on a page, or print the plain form."""
    if interactive():
        from IPython.display import display

        display({"text/html": page, "text/plain": plain}, raw=True)
    else:
        print(plain)


def needed_alt(alt: str | None) -> str:
    """Return the alt text.

    Raises:
        ParameterError: If there is none: a reader who cannot see the picture would get nothing.
    """
    if not alt or not alt.strip():
        raise ParameterError("a figure needs a sentence of alt text: pass alt='what is to be seen'")
    return alt.strip()


def clean_text(text: str) -> str:
    """Plain text of a stranger's HTML: scripts and styles are dropped, tags removed, entities resolved.

    Ends of paragraphs, items and lines become spaces, so that words do not run together.
    """
    import nh3

    spaced = _BREAKS.sub(lambda match: f"{match[0]} ", str(text))
    return " ".join(html.unescape(nh3.clean(spaced, tags=set())).split())


def cell_text(value: Any) -> str:
    """A value as a reader wants it: four significant digits, no NaN, no Python quotes."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    kind = type(value).__name__
    if kind.startswith(("bool", "str")):
        return str(value)
    if kind.startswith(("int", "uint")):
        return str(int(value))
    if kind.startswith("float"):
        number = float(value)
        if number != number:
            return "–"
        return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"
    return str(value)


def rows_html(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table of texts; everything is escaped."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<table class="workbench"><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def table_html(frame: "pd.DataFrame", caption: str, max_rows: int = 200, index: bool | None = None) -> str:
    """A DataFrame as an HTML table; all texts escaped, floats shortened, long tables cut with a note."""
    if not len(frame):  # a table without columns would be as narrow as a letter, and its caption too
        return f"<p>{html.escape(caption)}: nothing to show.</p>"
    shown = frame.head(max_rows)
    if index is None:
        index = bool(frame.index.name) or any(isinstance(label, str | tuple) for label in frame.index[:1])
    header = [str(column) for column in shown.columns]
    rows = [[cell_text(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    if index:
        header = [str(frame.index.name or ""), *header]
        labels = [
            " / ".join(map(str, label)) if isinstance(label, tuple) else cell_text(label) for label in shown.index
        ]
        rows = [[label, *row] for label, row in zip(labels, rows, strict=True)]
    if len(frame) > max_rows:
        caption = f"{caption} (the first {max_rows} of {len(frame)} rows)"
    return rows_html(header, rows, caption)


def image_html(image: Any, alt: str, width: int | None = None) -> str:
    """An ``<img>`` with the picture inside as a JPEG of quality 85."""
    from PIL import Image

    if not isinstance(image, Image.Image):
        import numpy as np

        pixels = np.asarray(image)
        if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
            raise ParameterError(f"an image of shape {pixels.shape} cannot be shown; it must be (H, W) or (H, W, 3)")
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        if pixels.dtype != np.uint8:
            scale = 255.0 if np.issubdtype(pixels.dtype, np.floating) else 1.0
            pixels = (np.nan_to_num(pixels) * scale).round().clip(0, 255).astype(np.uint8)
        image = Image.fromarray(pixels)
    stream = io.BytesIO()
    image.convert("RGB").save(stream, format="JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    size = f' width="{int(width)}"' if width else ""
    return f'<img alt="{html.escape(alt, quote=True)}"{size} src="data:image/jpeg;base64,{data}">'


def gallery_html(images: Sequence[Any], alts: Sequence[str], captions: Sequence[str] | None, width: int) -> str:
    """Pictures that stand side by side and wrap."""
    captions = captions if captions is not None else [""] * len(images)
    if not len(images) == len(alts) == len(captions):
        raise ParameterError(
            f"{len(images)} images have {len(alts)} alt texts and {len(captions)} captions; give one each"
        )
    figures = "".join(
        f'<figure style="margin:0;max-width:{int(width)}px">{image_html(image, alt, width)}'
        + (f"<figcaption>{html.escape(caption)}</figcaption>" if caption else "")
        + "</figure>"
        for image, alt, caption in zip(images, alts, captions, strict=True)
    )
    return f'<div class="gallery" style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div>'


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
