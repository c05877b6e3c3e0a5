"""The map of geocells: samples coloured by cell, borders, centres as red stars; interactive, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from geocbm.geodesy import cartesian_to_latlng
from geocbm.metrics.country_names import country_name
from geocbm.metrics.places import country_of
from geocbm.plots.locator import GROUND, draw_lines
from geocbm.plots.maps import base_map, finish_map, map_points, show_around
from geocbm.plots.theme import INK, LAND
from geocbm.plots.values import MAX_POINTS, escape, km_text, numbers, plural, thin

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
_STEP = np.radians(0.4)  # between points of a border
_BEYOND = np.radians(4.0)  # how far borders are looked for beyond the outermost centre of a country


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


def cell_borders(cells: Any) -> tuple[np.ndarray, np.ndarray]:
    """Borders between the cells of a country, longitudes and latitudes in degrees, with gaps (NaN) between lines.

    They lie where two centres of a country are equally near and no other is nearer: the edges of the spherical Voronoi
    diagram of the centres, of which each country has its own. Which cells may touch is read from the convex hull of the
    centres, the dual of that diagram. An edge ends where its country does, if that is one that the world's borders
    know.
    """
    points, owners = [np.zeros((0, 3))], [np.zeros(0, dtype=object)]
    for name in np.unique(cells.country):
        edges = _voronoi_edges(np.asarray(cells.centers, dtype=float)[cells.country == name])
        points.append(edges)
        owners.append(np.full(len(edges), country_name(name) or "", dtype=object))
    edge, owner = np.concatenate(points), np.concatenate(owners)
    lat, lng = cartesian_to_latlng(edge)
    known = (owner != "") & np.isfinite(lat)
    outside = known.copy()
    outside[known] = country_of(lat[known], lng[known]) != owner[known]
    turn = np.flatnonzero(np.abs(np.diff(lng)) > 180)  # a line does not cross the map at the date line
    lat[outside], lng[outside] = np.nan, np.nan
    return np.insert(lng, turn + 1, np.nan), np.insert(lat, turn + 1, np.nan)


def _voronoi_edges(centers: np.ndarray) -> np.ndarray:
    """Points `[m, 3]` along the borders between centres `[k, 3]`, with a row of NaN between borders."""
    from scipy.spatial import ConvexHull

    count = len(centers)
    if count < 2:
        return np.zeros((0, 3))
    if count < 4:
        pairs = np.stack(np.triu_indices(count, 1), axis=1)
    else:  # joggled: centres in a row have no hull
        sides = ConvexHull(centers, qhull_options="QJ").simplices
        pairs = np.unique(
            np.sort(np.concatenate([sides[:, [0, 1]], sides[:, [1, 2]], sides[:, [0, 2]]]), axis=1), axis=0
        )
    first, second = centers[pairs[:, 0]], centers[pairs[:, 1]]  # (p, 3) each
    middle, across = first + second, np.cross(first, second)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    across /= np.linalg.norm(across, axis=1, keepdims=True)  # from the middle along the border, a quarter of the way
    reach = min(np.arccos(np.clip(centers @ centers.T, -1, 1)).max() + _BEYOND, np.pi)
    angle = np.arange(-reach, reach + _STEP, _STEP)
    line = np.cos(angle)[:, None] * middle[:, None] + np.sin(angle)[:, None] * across[:, None]  # (p, angles, 3)
    near = (line * first[:, None]).sum(axis=-1)
    line[(line @ centers.T).max(axis=-1) > near + 1e-12] = np.nan
    line = np.concatenate([line, np.full((len(line), 1, 3), np.nan)], axis=1).reshape(-1, 3)
    empty = np.isnan(line[:, 0])
    return line[~(empty & np.r_[True, empty[:-1]])]


def border_lines(cells: Any) -> go.Scattergeo:
    """`cell_borders` as lines of a map."""
    lng, lat = (np.round(part, 2).astype(np.float32) for part in cell_borders(cells))
    line = {"width": 1, "color": INK}
    return go.Scattergeo(lon=lng, lat=lat, mode="lines", line=line, hoverinfo="skip", name="borders of cells")


def centre_stars(cells: Any) -> go.Scattergeo:
    """The centres of the largest cells, larger where there are more samples; `customdata` is the cell."""
    lat, lng = cells.latlng
    rows = np.argsort(-cells.counts, kind="stable")[:MAX_POINTS]
    stars = {
        "symbol": "star",
        "size": numbers(6 + 5 * np.sqrt(cells.counts[rows] / max(cells.counts.max(), 1)), 3),
        "color": STAR,
        "opacity": 1,  # sizes that differ would make it 0.7
        "line": {"width": 0.6, "color": "white"},
    }
    texts = [
        f"cell {row}, {escape(cells.country[row])}: {cells.counts[row]}, spread {km_text(float(cells.scale_km[row]))}"
        for row in rows
    ]
    return map_points(lat[rows], lng[rows], texts, stars, "centres").update(customdata=rows)


def cell_map(
    cells: Any, table: pd.DataFrame, title: str = "Samples by geocell; red stars are the centres"
) -> go.Figure:
    """Samples coloured by their geocell, borders of cells, and the centres as red stars (DECISIONS G5).

    `table` has `lat` and `lng` of the `n` samples that the `Geocells` were made from. The map shows the world, or the
    surroundings of samples that lie near one another.
    """
    count = np.asarray(cells.counts).astype(int)
    colour = np.asarray(CELL_COLOURS)[cell_colours(cells.centers)]
    rows = thin(len(table))
    member = np.asarray(cells.sample_to_cell)[rows]
    samples = table.iloc[rows]
    marker = {"size": 4, "color": colour[member].tolist(), "opacity": 0.8}
    texts = [f"cell {cell}" for cell in member]
    points = map_points(samples["lat"], samples["lng"], texts, marker, "samples, coloured by cell")
    fig = base_map().add_traces([points, border_lines(cells), centre_stars(cells)])
    if len(samples):
        show_around(fig, samples["lat"], samples["lng"])
    countries = plural(len(np.unique(cells.country)), "country", "countries")
    alt = (
        f"Map of {plural(len(count), 'geocell')} in {countries}, "
        f"holding {count.min()} to {count.max()} training images each, median {np.median(count):.0f}; "
        "images are coloured by cell, centres are red stars."
    )
    return finish_map(fig, title, alt)


def cell_slider(by_size: Mapping[int, Any], table: pd.DataFrame, size: int) -> go.Figure:
    """Borders and centres of the cells by their `min_samples_per_cell`, with a slider that begins at `size`.

    `table` has `lat` and `lng` of the `n` samples that the cells were made from.
    """
    samples = table.iloc[thin(len(table))]
    marker = {"size": 3, "color": LAND, "opacity": 0.6}
    fig = base_map().add_trace(map_points(samples["lat"], samples["lng"], [""] * len(samples), marker, "samples"))
    fig.data[-1].hoverinfo, fig.data[-1].hovertemplate = "skip", None
    below, steps = len(fig.data), []
    for number, (value, cells) in enumerate(by_size.items()):
        fig.add_traces([trace.update(visible=value == size) for trace in (border_lines(cells), centre_stars(cells))])
        visible = [True] * below + [each // 2 == number for each in range(2 * len(by_size))]
        steps.append({"label": f"{value:,}", "method": "restyle", "args": [{"visible": visible}]})
    now = {"prefix": "min_samples_per_cell: ", "xanchor": "left"}
    fig.update_layout(sliders=[{"active": list(by_size).index(size), "steps": steps, "currentvalue": now}])
    parts = [f"{plural(len(cells), 'cell')} at {value}" for value, cells in by_size.items()]
    alt = f"World map of cells, their borders and centres, with a slider over min_samples_per_cell: {', '.join(parts)}."
    return finish_map(fig, "Cells by min_samples_per_cell", alt, 540)


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
