"""The map of geocells: samples coloured by their cell, centres as red stars; interactive, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.geodesy import cartesian_to_latlng
from geocbm.plots.maps import base_map, finish_map, outline
from geocbm.plots.style import INK, MAX_POINTS, degrees, escape, km_text, numbers, plural, thin

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from PIL import Image

CELL_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#7B4FA3",
    "#A6C64C",
    "#8C6D31",
    "#6B6B6B",
    "#1F3A6E",
)
"""Colours of cells; none is near the red of the stars."""
STAR, GROUND = "#D7191C", "#F7F9FB"
SOUTH, NORTH = -60.0, 84.0
"""Latitudes that the picture shows."""


def cell_colours(centers: Any) -> np.ndarray:
    """A colour for each cell, such that cells of one colour lie far apart.

    One cell after the other gets the colour whose nearest cell so far is the farthest, so that neighbours differ.

    Args:
        centers: `(N, 3)` unit vectors.

    Returns:
        `(N,)` positions in `CELL_COLOURS`.
    """
    centers = np.asarray(centers, dtype=np.float64)
    colours = np.zeros(len(centers), dtype=np.int64)
    for cell in range(len(centers)):
        cosine = centers[:cell] @ centers[cell]  # (cell,): the nearer, the higher
        nearest = np.full(len(CELL_COLOURS), -2.0)
        np.maximum.at(nearest, colours[:cell], cosine)
        colours[cell] = nearest.argmin()
    return colours


def cell_map(
    cells: Any, table: Any | None = None, title: str = "Samples by geocell; red stars are the centres"
) -> go.Figure:
    """Samples coloured by their geocell, and the centres as red stars (DECISIONS G5).

    Args:
        cells: `Geocells`: `centers [N, 3]`, `country [N]`, `counts [N]`, `sample_to_cell [n]` and, if there,
            `scale_km [N]`.
        table: the `n` samples that the cells were made from, with columns `lat` and `lng`.
        title: headline.
    """
    import plotly.graph_objects as go

    lat, lng = cartesian_to_latlng(np.asarray(cells.centers, dtype=float))
    country = np.asarray(cells.country).astype(str)
    count = np.asarray(cells.counts).astype(int)
    colour = np.asarray(CELL_COLOURS)[cell_colours(cells.centers)]
    fig = base_map()
    if table is not None and len(table):
        rows = thin(len(table), MAX_POINTS)
        member = np.asarray(cells.sample_to_cell)[rows]
        fig.add_trace(
            go.Scattergeo(
                lat=degrees(table["lat"].to_numpy(float)[rows]),
                lon=degrees(table["lng"].to_numpy(float)[rows]),
                mode="markers",
                marker={"size": 4, "color": colour[member].tolist(), "opacity": 0.8},
                text=[f"cell {cell}" for cell in member],
                hovertemplate="%{text}<extra></extra>",
                name="samples, coloured by cell",
            )
        )
    rows = np.argsort(-count, kind="stable")[:MAX_POINTS]
    scale = getattr(cells, "scale_km", None)
    spread = ["" if scale is None else f", spread {km_text(float(scale[row]))}" for row in rows]
    texts = [f"cell {row}, {escape(country[row])}: {count[row]}{text}" for row, text in zip(rows, spread, strict=True)]
    fig.add_trace(
        go.Scattergeo(
            lat=degrees(lat[rows]),
            lon=degrees(lng[rows]),
            mode="markers",
            marker={
                "symbol": "star",
                "size": numbers(6 + 5 * np.sqrt(count[rows] / max(count.max(), 1)), 3),
                "color": STAR,
                "opacity": 1,  # sizes that differ would make it 0.7
                "line": {"width": 0.6, "color": "white"},
            },
            text=texts,
            hovertemplate="%{text}<extra></extra>",
            name="centres",
        )
    )
    return finish_map(fig, title, cell_words(cells))


def cell_words(cells: Any) -> str:
    """What the map shows, for those who do not see it."""
    count, countries = np.asarray(cells.counts), len(np.unique(np.asarray(cells.country).astype(str)))
    return (
        f"World map of {plural(len(count), 'geocell')} in {plural(countries, 'country', 'countries')}, "
        f"holding {count.min():.0f} to {count.max():.0f} training images each, median {np.median(count):.0f}; "
        "images are coloured by cell, centres are red stars."
    )


def cell_picture(cells: Any, table: Any, width: int = 2000) -> Image.Image:
    """The same map as a picture, for which no browser is needed: longitude to the right, latitude upwards.

    Args:
        cells: as for `cell_map`.
        table: the samples, all of which are drawn.
        width: pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    fine = 2  # drawn larger and made smaller: Pillow draws hard edges
    scale = fine * width / 360
    letter = fine * width / 80
    size = (fine * width, round(scale * (NORTH - SOUTH) + 2 * letter))  # a line of words below the map
    picture = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(picture)

    def place(lat: np.ndarray, lng: np.ndarray) -> np.ndarray:
        """Pixels `(n, 2)` of points in degrees."""
        return np.stack([(lng + 180) % 360 * scale, (NORTH - lat) * scale], axis=-1)

    for kind, weight, colour in (("borders", 1, "#CBD2D9"), ("coast", 2, "#8290A0")):
        line: list[tuple[float, float]] = []
        for x, y in zip(*outline(kind), strict=True):
            point = None if x is None or y is None else ((x + 180) * scale, (NORTH - y) * scale)
            # A line that crosses the antimeridian is not drawn across the whole world.
            if line and (point is None or abs(point[0] - line[-1][0]) > size[0] / 2):
                draw.line(line, fill=colour, width=fine * weight)
                line = []
            if point is not None:
                line.append(point)
    colours = cell_colours(cells.centers)
    member = np.asarray(cells.sample_to_cell)
    radius = fine * width / 900
    for (x, y), cell in zip(place(table["lat"].to_numpy(float), table["lng"].to_numpy(float)), member, strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=CELL_COLOURS[colours[cell]])
    angle = np.pi * np.arange(10) / 5 - np.pi / 2
    reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.42) * fine * width / 240  # of the ten corners of a star
    corners = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=-1)  # (10, 2)
    for centre in place(*cartesian_to_latlng(np.asarray(cells.centers, dtype=float))):
        draw.polygon([tuple(each) for each in centre + corners], fill=STAR, outline="white", width=fine)
    words = f"{plural(len(colours), 'geocell')}: samples coloured by cell, red stars are the centres"
    draw.rectangle((0, size[1] - 2 * letter, *size), fill=GROUND)
    draw.text((letter, size[1] - letter), words, INK, ImageFont.load_default(letter), anchor="lm")
    return picture.resize((width, round(size[1] / fine)), Image.Resampling.LANCZOS)
