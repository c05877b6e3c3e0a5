"""Images in figures: attention laid over them, and contact sheets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from geocbm.data.images.photographs import open_picture, to_rgb
from geocbm.errors import UserError, cut_middle
from geocbm.plots.theme import INK, finish
from geocbm.plots.values import escape, plural, shorten

if TYPE_CHECKING:
    from PIL import Image

# Black through red and yellow to near white, so that more attention is also lighter.
_HEAT = np.array([[20, 11, 52], [120, 28, 109], [207, 68, 70], [251, 155, 6], [252, 255, 164]], dtype=float)

_WIDTH, _GAP, _PAIRS_IN_A_ROW = 140, 4, 3  # pixels of one picture of an overlay, and between it and its copy


def _heat_colours(level: np.ndarray) -> np.ndarray:
    """Colours `(..., 3)` of levels from 0 to 1."""
    place = np.clip(level, 0, 1) * (len(_HEAT) - 1)
    lower = np.minimum(place.astype(int), len(_HEAT) - 2)
    part = (place - lower)[..., None]
    return _HEAT[lower] * (1 - part) + _HEAT[lower + 1] * part


def as_image(picture: Any) -> Image.Image:
    """An RGB image of a PIL image or of uint8 `(H, W, 3)`."""
    from PIL import Image

    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    values = np.asarray(picture)
    if values.ndim != 3 or values.shape[2] != 3 or values.dtype != np.uint8:
        raise ValueError(f"a picture must be uint8 of shape (H, W, 3), it is {values.dtype} of shape {values.shape}")
    return Image.fromarray(values)


def blend_heat(picture: Any, attention: Any, width: int | None = None) -> Image.Image:
    """Lay an attention map over a picture: the more attention, the lighter and the less of the picture is dimmed.

    The picture is uint8 `(H, W, 3)` or a PIL image, attention `(rows, columns)`, not negative; its largest value is
    full heat. The result is `width` pixels wide, by default as wide as the picture.
    """
    from PIL import Image

    image = as_image(picture)
    size = (width or image.width, round((width or image.width) * image.height / image.width))
    grid = np.asarray(attention, dtype=np.float32)
    if grid.ndim != 2 or not grid.size or not np.isfinite(grid).all() or (grid < 0).any():
        raise ValueError(f"attention must be a grid (rows, columns) of numbers from 0 up, its shape is {grid.shape}")
    level = grid / max(float(grid.max()), 1e-12)
    smooth = np.asarray(Image.fromarray(level).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)  # (H, W)
    base = np.asarray(image.resize(size, Image.Resampling.LANCZOS), dtype=float)
    weight = (0.15 + 0.6 * smooth)[..., None]
    return Image.fromarray((base * (1 - weight) + _heat_colours(smooth) * weight).round().astype(np.uint8))


def data_uri(image: Image.Image) -> str:
    """A picture as text, for a figure."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def small_picture(file: Path, side: int) -> str:
    """A picture file, at most `side` pixels wide and high, as text; empty for one that cannot be read."""
    try:
        picture = open_picture(file, side).convert("RGB")
    except UserError:
        return ""
    picture.thumbnail((side, side))
    return data_uri(picture)


def attention_overlay(
    images: Sequence[Any],
    attention: Sequence[Any],
    captions: Sequence[str] = (),
    boxes: Sequence[Any] = (),
    title: str = "Where does it look?",
    noun: str = "attention",
) -> go.Figure:
    """Pictures, each beside itself with the attention, or another map, laid over it.

    Args:
        images: uint8 `(H, W, 3)` arrays or PIL images; what the model saw, so that the grid fits.
        attention: for each picture a grid `(rows, columns)`, not negative.
        captions: a line of plain text below each pair, or none at all.
        boxes: for each picture None or `(x0, y0, x1, y1)` from 0 to 1, drawn on both pictures (the true place of the
            concept), or none at all.
        title: headline.
        noun: what the map is of.
    """
    import plotly.express as px

    count = len(images)
    if not count or count != len(attention) or any(len(each) not in (0, count) for each in (captions, boxes)):
        raise ValueError(
            f"attention_overlay needs as many grids, captions and boxes as images: "
            f"{count} images, {len(attention)} grids"
        )
    first, across = as_image(images[0]), min(_PAIRS_IN_A_ROW, count)
    size = (_WIDTH, round(_WIDTH * first.height / first.width))
    gap = np.full((size[1], _GAP, 3), 255, dtype=np.uint8)
    pairs = []
    for picture, grid in zip(images, attention, strict=True):
        plain, heat = as_image(picture).resize(size), blend_heat(picture, grid, _WIDTH).resize(size)
        pairs.append(np.hstack([np.asarray(plain), gap, np.asarray(heat)]))
    down, high = -(-count // across), size[1] + 30  # of a row, with its captions
    facets = {
        "facet_col": 0,
        "facet_col_wrap": across,
        "facet_col_spacing": 0.02,
        "facet_row_spacing": 30 / down / high,
    }
    fig = px.imshow(np.stack(pairs), binary_string=True, binary_format="jpg", **facets)
    for note in fig.layout.annotations:
        number = int(note.text.partition("=")[2])
        note.update(text=escape(shorten(captions[number], _WIDTH // 3)) if len(captions) else "", font_size=12)
    for trace, box in zip(fig.data, boxes, strict=False):
        for left in (0, _WIDTH + _GAP) if box is not None else ():
            (x0, x1), (y0, y1) = left + size[0] * np.array(box[::2]), size[1] * np.array(box[1::2])
            place = {"x0": x0, "y0": y0, "x1": x1, "y1": y1, "xref": trace.xaxis, "yref": trace.yaxis}
            fig.add_shape(type="rect", line={"color": "#FFFFFF", "width": 1.6, "dash": "dot"}, **place)
    fig.update_traces(hoverinfo="skip", hovertemplate=None)
    fig.update_xaxes(visible=False).update_yaxes(visible=False)
    peaks = [np.max(grid) / max(np.mean(grid), 1e-12) for grid in attention]
    said = f"; the first is “{captions[0]}”" if len(captions) else ""
    alt = (
        f"{plural(count, 'image')}, each beside itself with the model's {noun} laid over it, the lighter the more; the "
        f"peak is {np.median(peaks):.1f} times the mean {noun} in the median picture{said}."
    )
    margin = {"l": 16, "r": 16, "t": 72, "b": 8}
    wide = across * (2 * _WIDTH + _GAP + 8)
    return finish(fig, title, alt, 80 + down * high, margin=margin, width=round(wide * 1.02) + 32)


def patch_heat(picture: Any, grid: np.ndarray, texts: Sequence[str], title: str) -> go.Figure:
    """One picture with a map over its patches laid over it, which says under the pointer what each patch is.

    The picture is uint8 `(H, W, 3)` or a PIL image, as the model saw it, the grid `(rows, columns)` not negative;
    `texts` are those of the patches, row by row.
    """
    (heat, around), (rows, columns) = patch_heat_update(picture, grid, texts, title), grid.shape
    fig = go.Figure()
    fig.add_heatmap(
        **{name: value for name, (value,) in heat.items()},
        zmin=0,
        hovertemplate="%{text}<extra></extra>",
        colorscale=[[i / 4, f"rgba({r:.0f},{g:.0f},{b:.0f},{0.2 * i})"] for i, (r, g, b) in enumerate(_HEAT)],
        showscale=False,
        hoverlabel={"bgcolor": "white", "font": {"color": INK}},
        name="attention",
    )
    place = {"x": -0.5, "y": -0.5, "sizex": columns, "sizey": rows, "xref": "x", "yref": "y"}
    look = {"source": around["images[0].source"], "sizing": "stretch", "layer": "below", "yanchor": "top"}
    fig.update_xaxes(visible=False, range=[-0.5, columns - 0.5], constrain="domain")
    fig.update_yaxes(visible=False, range=[rows - 0.5, -0.5], scaleanchor="x", constrain="domain")
    alt, margin = around["meta"]["alt"], {"l": 8, "r": 8, "t": 44, "b": 8}
    return finish(fig, title, alt, 420, images=[place | look], plot_bgcolor="rgba(0,0,0,0)", margin=margin)


def patch_heat_update(picture: Any, grid: np.ndarray, texts: Sequence[str], title: str) -> tuple[dict[str, Any], ...]:
    """What another picture or map changes in a `patch_heat`, for its `plotly_update`."""
    image, (rows, columns) = as_image(picture), grid.shape
    if len(texts) != rows * columns:
        raise ValueError(f"patch_heat needs a text for each of {rows} x {columns} patches, not {len(texts)}")
    words = np.array([escape(text).replace("\n", "<br>") for text in texts]).reshape(rows, columns).tolist()
    heat = {"z": [np.round(grid, 6).tolist()], "zmax": [max(float(grid.max()), 1e-9)], "text": [words]}
    small = image.copy()
    small.thumbnail((4 * _WIDTH, 4 * _WIDTH))  # larger than in an overlay: it is looked at, not only compared
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    alt = f"A picture with the attention of its {rows} by {columns} patches laid over it"
    if grid.any():
        times = grid.max() / grid.mean()
        alt += f"; it is highest in row {row + 1}, column {column + 1}, at {times:.1f} times the mean"
    return heat, {"title.text": title, "images[0].source": data_uri(small), "meta": {"alt": f"{alt}."}}


def contact_sheet(files: Sequence[Any], captions: Sequence[str], columns: int = 6, width: int = 150) -> Image.Image:
    """Arrange pictures in rows of `columns`, cropped to squares of `width` pixels, with a line of text below each.

    They are paths, PIL images or uint8 `(H, W, 3)`; one that cannot be read becomes a grey field.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    count = len(files)
    if not count or len(captions) != count:
        raise ValueError(f"a contact sheet needs pictures and a caption for each: {count} pictures")
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    gap, line = 8, 18
    sheet = Image.new("RGB", (gap + columns * (width + gap), gap + rows * (width + line + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for i, (file, caption) in enumerate(zip(files, captions, strict=True)):
        left, top = gap + (i % columns) * (width + gap), gap + (i // columns) * (width + line + gap)
        try:
            picture = open_picture(file, width) if isinstance(file, str | Path) else as_image(file)
        except (OSError, UserError):
            picture = Image.new("RGB", (width, width), "#C4CAD0")
        sheet.paste(ImageOps.fit(picture, (width, width)), (left, top))
        text = cut_middle(" ".join(str(caption).split()), width // 2)
        while len(text) > 2 and draw.textlength(text, font=font) > width:
            text = cut_middle(text, len(text) - 1)
        draw.text((left, top + width + 3), text, fill=INK, font=font)
    return sheet
