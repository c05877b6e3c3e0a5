"""The map of geocells: samples coloured by their cell, centres as red stars; interactive, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from geocbm.geodesy import cartesian_to_latlng
from geocbm.plots.locator import GROUND, draw_lines
from geocbm.plots.maps import base_map, finish_map, map_points
from geocbm.plots.theme import INK, MAX_POINTS, escape, km_text, numbers, plural, thin

if TYPE_CHECKING:
    import pandas as pd
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
STAR = "#D7191C"
SOUTH, NORTH = -60.0, 84.0
"""Latitudes that the picture shows."""


def cell_colours(centers: Any) -> np.ndarray:
    """A colour for each cell, such that cells of one colour lie far apart.

    One cell after the other gets the colour whose nearest cell so far is the farthest, so that neighbours differ.
    From unit vectors `(N, 3)` to positions `(N,)` in `CELL_COLOURS`.
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
    cells: Any, table: pd.DataFrame, title: str = "Samples by geocell; red stars are the centres"
) -> go.Figure:
    """Samples coloured by their geocell, and the centres as red stars (DECISIONS G5).

    Args:
        cells: `Geocells`.
        table: the `n` samples that the cells were made from, with columns `lat` and `lng`.
        title: headline.
    """
    lat, lng = cartesian_to_latlng(np.asarray(cells.centers, dtype=float))
    count = np.asarray(cells.counts).astype(int)
    colour = np.asarray(CELL_COLOURS)[cell_colours(cells.centers)]
    rows = thin(len(table))
    member = np.asarray(cells.sample_to_cell)[rows]
    samples = table.iloc[rows]
    marker = {"size": 4, "color": colour[member].tolist(), "opacity": 0.8}
    texts = [f"cell {cell}" for cell in member]
    fig = base_map()
    fig.add_trace(map_points(samples["lat"], samples["lng"], texts, marker, "samples, coloured by cell"))
    rows = np.argsort(-count, kind="stable")[:MAX_POINTS]
    stars = {
        "symbol": "star",
        "size": numbers(6 + 5 * np.sqrt(count[rows] / max(count.max(), 1)), 3),
        "color": STAR,
        "opacity": 1,  # sizes that differ would make it 0.7
        "line": {"width": 0.6, "color": "white"},
    }
    texts = [
        f"cell {row}, {escape(cells.country[row])}: {count[row]}, spread {km_text(float(cells.scale_km[row]))}"
        for row in rows
    ]
    fig.add_trace(map_points(lat[rows], lng[rows], texts, stars, "centres"))
    countries = plural(len(np.unique(cells.country)), "country", "countries")
    alt = (
        f"World map of {plural(len(count), 'geocell')} in {countries}, "
        f"holding {count.min()} to {count.max()} training images each, median {np.median(count):.0f}; "
        "images are coloured by cell, centres are red stars."
    )
    return finish_map(fig, title, alt)


def cell_picture(cells: Any, table: pd.DataFrame, width: int = 2000) -> Image.Image:
    """The same map, with all samples, as a picture for which no browser is needed; `width` in pixels."""
    from PIL import Image, ImageDraw, ImageFont

    fine = 2  # drawn larger and made smaller: Pillow draws hard edges
    scale = fine * width / 360
    letter = fine * width / 80
    size = (fine * width, round(scale * (NORTH - SOUTH) + 2 * letter))  # a line of words below the map
    picture = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(picture)

    def place(lng: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (lng + 180) * scale, (NORTH - lat) * scale

    draw_lines(draw, place, size[0], fine)
    colours = cell_colours(cells.centers)
    radius = fine * width / 900
    samples = place(table["lng"].to_numpy(float), table["lat"].to_numpy(float))
    for x, y, cell in zip(*samples, np.asarray(cells.sample_to_cell), strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=CELL_COLOURS[colours[cell]])
    angle = np.pi * np.arange(10) / 5 - np.pi / 2
    reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.42) * fine * width / 240  # of the ten corners of a star
    corners = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=-1)  # (10, 2)
    lat, lng = cartesian_to_latlng(np.asarray(cells.centers, dtype=float))
    for centre in np.stack(place(lng, lat), axis=-1):
        draw.polygon([tuple(each) for each in centre + corners], fill=STAR, outline="white", width=fine)
    words = f"{plural(len(colours), 'geocell')}: samples coloured by cell, red stars are the centres"
    draw.rectangle((0, size[1] - 2 * letter, *size), fill=GROUND)
    draw.text((letter, size[1] - letter), words, INK, ImageFont.load_default(letter), anchor="lm")
    return picture.resize((width, round(size[1] / fine)), Image.Resampling.LANCZOS)
