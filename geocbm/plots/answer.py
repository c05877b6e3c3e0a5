"""The map of one answer: the predicted place, the likeliest cells, and the regions that should hold the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.geodesy import cartesian_to_latlng
from geocbm.plots.locator import frame_of
from geocbm.plots.maps import base_map
from geocbm.plots.style import INK, PALETTE, degrees, escape, finish, numbers, percent, plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SHADES = ("#0B5CAD", "#6AAEE0", "#BFDDF3")
_ASPECT = 1.7
_SHOWN_FROM = 0.02
"""A cell with less probability does not widen the frame of the map."""


def answer_map(
    answer: Any, centers: np.ndarray, country: np.ndarray, cell_km2: np.ndarray | None = None, title: str = ""
) -> go.Figure:
    """The likeliest cells, numbered, the predicted place, and the cells of the conformal regions.

    Args:
        answer: of `GeoCBM.predict`: `lat`, `lng`, `cells`, `regions` and `own_place` are drawn.
        centers: `[N, 3]` unit vectors of the cells of its run.
        country: `[N]` their countries.
        cell_km2: `[N]` land of each cell in km², for the size of the marks of a region.
        title: headline.
    """
    import plotly.graph_objects as go

    lat, lng = cartesian_to_latlng(np.asarray(centers, dtype=float))
    fig = base_map()
    shown: set[int] = set()
    for region, colour in zip(answer.regions, _SHADES, strict=False):
        chosen = np.array([cell for cell in region.cells if cell not in shown], dtype=int)
        shown.update(region.cells)
        name = (
            f"{100 * region.coverage:.0f} % region"
            if colour == _SHADES[0]
            else f"added for {100 * region.coverage:.0f} %"
        )
        if len(chosen):
            fig.add_trace(_region(go, lat[chosen], lng[chosen], country[chosen], chosen, cell_km2, colour, name))
    top_lat, top_lng = np.array([cell.lat for cell in answer.cells]), np.array([cell.lng for cell in answer.cells])
    fig.add_trace(
        go.Scattergeo(
            lat=degrees(top_lat),
            lon=degrees(top_lng),
            mode="markers+text",
            text=[str(rank) for rank in range(1, len(answer.cells) + 1)],
            textfont={"color": "white", "size": 11},
            marker={
                "size": numbers([15 + 13 * np.sqrt(cell.best) for cell in answer.cells], 3),
                "color": PALETTE[1],
                "opacity": 0.9,
                "line": {"width": 1, "color": "white"},
            },
            customdata=[f"{escape(cell.country)}, {percent(cell.best)}" for cell in answer.cells],
            hovertemplate="%{customdata}<extra></extra>",
            name="likeliest cells",
        )
    )
    fig.add_trace(_point(go, (answer.lat, answer.lng), "circle-open", INK, "answer", 27))
    points = [(answer.lat, answer.lng), *((c.lat, c.lng) for c in answer.cells if c.best >= _SHOWN_FROM)]
    if answer.own_place is not None:
        fig.add_trace(_point(go, answer.own_place, "diamond", PALETTE[2], "the file's own coordinates"))
        points.append(answer.own_place)
    _frame(fig, np.array(points))
    alt = (
        f"Map with the answer at {answer.lat:.2f}, {answer.lng:.2f} and the "
        f"{plural(len(answer.cells), 'likeliest cell')}, the first in {answer.cells[0].country} with "
        f"{percent(answer.cells[0].best)}"
    )
    for region in answer.regions:
        alt += f"; the {100 * region.coverage:.0f} % region has {plural(len(region.cells), 'cell')}"
    return finish(
        fig,
        title,
        alt + ".",
        430,
        margin={"l": 4, "r": 4, "t": 44 if title else 6, "b": 4},
        legend={"x": 0, "y": -0.01, "itemsizing": "constant", "font": {"size": 12}},
    )


def _region(
    go: Any,
    lat: np.ndarray,
    lng: np.ndarray,
    country: np.ndarray,
    index: np.ndarray,
    cell_km2: np.ndarray | None,
    colour: str,
    name: str,
) -> go.Scattergeo:
    """Cells of a region as discs whose area on the page grows with their land."""
    size = np.full(len(lat), 10.0)
    texts = [f"{escape(where)}, cell {cell}" for where, cell in zip(country, index, strict=True)]
    if cell_km2 is not None:
        land = np.asarray(cell_km2)[index]
        size = np.clip(np.sqrt(land) / 25, 7, 36)
        texts = [f"{text}: {km2:,.0f} km²" for text, km2 in zip(texts, land, strict=True)]
    return go.Scattergeo(
        lat=degrees(lat),
        lon=degrees(lng),
        mode="markers",
        marker={"size": numbers(size, 3), "color": colour, "opacity": 0.55, "line": {"width": 0}},
        text=texts,
        hovertemplate="%{text}<extra></extra>",
        name=name,
    )


def _point(go: Any, place: tuple[float, float], symbol: str, colour: str, name: str, size: int = 12) -> go.Scattergeo:
    return go.Scattergeo(
        lat=degrees([place[0]]),
        lon=degrees([place[1]]),
        mode="markers",
        marker={"symbol": symbol, "size": size, "color": colour, "line": {"width": 2.5, "color": colour}},
        hovertemplate="%{lat:.2f}, %{lon:.2f}<extra></extra>",
        name=name,
    )


def _frame(fig: go.Figure, points: np.ndarray) -> None:
    """Show the surroundings of the points, or the world where they lie far apart."""
    middle, west, south, east, north = frame_of(points[:, 0], points[:, 1], _ASPECT, least_degrees=20.0)
    if east - west >= 360:
        return
    fig.update_geos(
        projection_type="mercator",
        projection_rotation_lon=middle,
        lonaxis_range=[middle + west, middle + east],
        lataxis_range=[max(south, -75), min(north, 82)],
    )
