"""HTML that notebooks show, and what of it a page keeps: escaped tables, pictures with alt text, no scripts."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html.parser import HTMLParser
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import ParameterError
from geocbm.files.progress import kernel

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = Path(__file__).parent / "templates"
ANSWER_MIME = "application/vnd.geocbm.answer+json"
"""Marks the output of `Notebook.answer`, which a page shows first."""


def interactive() -> bool:
    """True when there is a page to show things on: a kernel, not a terminal."""
    return kernel() is not None


def put(page: str, plain: str, mark: str = "") -> None:
    """Show HTML on a page, or print the plain form; `mark` is a MIME type of its own, for the reports."""
    if interactive():
        from IPython.display import display

        display({"text/html": page, "text/plain": plain} | ({mark: {}} if mark else {}), raw=True)
    else:
        print(plain)


def put_figure(fig: Any, alt: str | None = None, preview: bool = False) -> None:
    """Show a plotly figure with the sentence that describes it, or print that sentence; see `Notebook.show`."""
    meta = dict(fig.layout.meta) if isinstance(fig.layout.meta, Mapping) else {}
    text = needed_alt(alt or meta.get("alt"))
    fig.layout.meta = meta | {"alt": text} | ({"preview": True} if preview else {})
    if interactive():
        from IPython.display import display

        display(fig)
    else:
        print(f"[figure] {text}")


def template(name: str) -> Any:
    """Load one of the package's page templates; everything it prints is escaped unless marked safe."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from geocbm.plots.theme import ON_DARK

    loader = FileSystemLoader(TEMPLATES)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name, globals={"shades": ON_DARK})


def explorers_css() -> str:
    """Looks of explorers, and the shades of figures in a dark theme; a browser writes colours as `rgb()`."""
    from geocbm.plots.theme import ON_DARK

    rules = [(TEMPLATES / "explorers.css").read_text(encoding="utf-8")]
    for light, dark in ON_DARK.items():
        shade = ", ".join(map(str, bytes.fromhex(light[1:])))
        for part in ("fill", "stroke"):
            where = f'.js-plotly-plot [style*="{part}: rgb({shade})"]'
            rules.append(f'[data-jp-theme-light="false"] {where} {{ {part}: {dark} !important; }}')
    return "\n".join(rules)


def needed_alt(alt: str | None) -> str:
    """The alt text; refused where there is none, since a reader who cannot see the picture would get nothing."""
    if not alt or not alt.strip():
        raise ParameterError("a figure needs a sentence of alt text: pass alt='what is to be seen'")
    return alt.strip()


def clean_text(text: str) -> str:
    """One line of plain text of a stranger's HTML: scripts and styles are dropped, tags removed, entities resolved."""
    import nh3

    # Ends of paragraphs, items and lines become spaces, so that words do not run together.
    spaced = re.sub(r"(?i)<\s*(?:br|/p|/div|/li|/h\d|/tr)\b[^>]*>", r"\g<0> ", str(text))
    return " ".join(html.unescape(nh3.clean(spaced, tags=set())).split())


def _cell_text(value: Any) -> str:
    """A value as a reader wants it: four significant digits, no NaN, no Python quotes."""
    if value is None or (isinstance(value, Real) and value != value):
        return "–"
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if isinstance(value, Integral):
        return f"{value:,}" if abs(int(value)) >= 1e4 else str(value)
    return f"{value:,.0f}" if 1e4 <= abs(float(value)) < 1e15 else f"{value:.4g}"


_NUMBER = re.compile(r"[<≈]?\s*[-+−±]?\.?\d|–$")
"""How a cell of a column of numbers begins; one of a few words may follow, as in `3.4 km`."""


def rows_html(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table of texts, escaped but for `Markup`. Columns of numbers end at the right, all others begin at the left."""
    from markupsafe import escape

    sides = [
        "right" if all(_NUMBER.match(str(cell) or "–") for cell in column) else "left"
        for column in zip(*rows, strict=True)
    ]
    styled = list(zip(header, sides or ["left"] * len(header), strict=True))
    head = "".join(f'<th scope="col" style="text-align:{side}">{escape(name)}</th>' for name, side in styled)
    lines = (zip(row, sides, strict=True) for row in rows)
    body = "</tr><tr>".join(
        "".join(f'<td style="text-align:{side}">{escape(cell)}</td>' for cell, side in line) for line in lines
    )
    return (
        f'<table class="workbench"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody><tr>{body}</tr></tbody></table>"
    )


def table_html(frame: "pd.DataFrame", caption: str, max_rows: int = 200, index: bool | None = None) -> str:
    """A DataFrame as an HTML table; all texts escaped, floats shortened, long tables cut with a note."""
    if not len(frame):  # a table without columns would be as narrow as a letter, and its caption too
        return f"<p>{html.escape(caption)}: nothing to show.</p>"
    shown = frame.head(max_rows)
    if index is None:
        index = bool(frame.index.name) or any(isinstance(label, str | tuple) for label in frame.index[:1])
    header = [str(column) for column in shown.columns]
    rows = [[_cell_text(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    if index:
        header = [str(frame.index.name or ""), *header]
        labels = [
            " / ".join(map(str, label)) if isinstance(label, tuple) else _cell_text(label) for label in shown.index
        ]
        rows = [[label, *row] for label, row in zip(labels, rows, strict=True)]
    if len(frame) > max_rows:
        caption = f"{caption} (the first {max_rows} of {len(frame)} rows)"
    return rows_html(header, rows, caption)


def image_html(image: Any, alt: str, width: int | None = None) -> str:
    """An ``<img>`` with the picture inside as a JPEG of quality 85, `width` CSS pixels wide, else as wide as it is."""
    from PIL import Image

    picture = image if isinstance(image, Image.Image) else _picture(image)
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, format="JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    size = f' width="{int(width)}"' if width else ""
    return f'<img alt="{html.escape(alt, quote=True)}"{size} src="data:image/jpeg;base64,{data}">'


def _picture(array: Any) -> Any:
    """A PIL image of an array of shape (H, W) or (H, W, 3); floats lie between 0 and 1."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(array)
    if pixels.ndim < 2 or pixels.shape[2:] not in ((), (3,)):
        raise ParameterError(f"an image of shape {pixels.shape} cannot be shown; it must be (H, W) or (H, W, 3)")
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = (255 * np.nan_to_num(pixels)).round()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


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
    return f'<div class="gallery" style="display:flex;flex-wrap:wrap;gap:8px;margin:8px 0">{figures}</div>'


_MATHML_TAGS = """
    math mfrac mi mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr
    munder munderover menclose
"""
_MORE_TAGS = {"meter", "progress", "section", "tfoot", *_MATHML_TAGS.split()}
_MORE_ATTRIBUTES = {
    "*": {"class", "id", "style", "title", "lang", "dir", "role", "aria-label", "aria-hidden"},
    "img": {"src", "alt", "width", "height", "loading"},
    "details": {"open"},
    "meter": {"min", "max", "low", "high", "optimum", "value"},
    "progress": {"max", "value"},
    "math": {"display"},
    "mi": {"mathvariant"},
    "mo": {"stretchy", "fence", "form", "minsize", "maxsize", "movablelimits", "separator", "lspace", "rspace"},
    "mover": {"accent"},
    "mfrac": {"linethickness"},
    "mspace": {"width"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mtable": {"columnalign", "rowspacing", "displaystyle"},
    "mtd": {"columnalign"},
}
"""What a page keeps beside the tags and attributes that nh3 takes for harmless."""
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


def _keep_attribute(_tag: str, attribute: str, value: str) -> str | None:
    """Drop addresses that would make the page fetch something, or run something on a click."""
    address = value.strip().lower()
    if attribute == "src":
        local = address.startswith("data:image/") or not re.match(r"[a-z][a-z0-9+.-]*:|//|\\\\", address)
        return value if local else None
    return None if attribute == "href" and address.startswith("data:") else value


def clean_html(text: str) -> str:
    """Keep the harmless part of an HTML fragment, possibly written by strangers.

    Scripts, style sheets, forms, frames, event handlers and every address that a browser would fetch from a network
    are removed; pictures stay when their data is inline or beside the page; ordinary links stay.
    """
    import nh3

    clean = partial(
        nh3.clean,
        text,
        tags={*nh3.ALLOWED_TAGS, *_MORE_TAGS},
        clean_content_tags={"script", "style"},
        attributes=nh3.ALLOWED_ATTRIBUTES | _MORE_ATTRIBUTES,
        attribute_filter=_keep_attribute,
        filter_style_properties=set(_STYLE_NAMES.split()),
        url_schemes={"http", "https", "mailto", "data"},
        link_rel="noopener noreferrer",
    )
    # Signals are met by the main thread: one that was met in the filter would be lost, with what it was asked about.
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(clean).result()


class _Pictures(HTMLParser):
    """Collects source and alternative text of each picture of a fragment."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            values = dict(attrs)
            self.found.append((values.get("src") or "", (values.get("alt") or "").strip()))


def pictures(text: str) -> list[tuple[str, str]]:
    """Source and alternative text of every picture of an HTML fragment, in order; either may be empty."""
    reader = _Pictures()
    reader.feed(text)
    return reader.found
