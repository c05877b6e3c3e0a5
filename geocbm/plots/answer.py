"""The map of one answer: the predicted place, the likeliest cells, and the regions that should hold the truth."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from geocbm.geodesy import cartesian_to_latlng
from geocbm.plots.maps import base_map, map_points, show_around
from geocbm.plots.theme import INK, PALETTE, finish
from geocbm.plots.values import degrees, escape, numbers, percent, plural

_SHADES = ("#0B5CAD", "#6AAEE0", "#BFDDF3")
_SHOWN_FROM = 0.02
"""A cell with less probability does not widen the frame of the map."""


def answer_map(answer: Any, centers: np.ndarray, country: np.ndarray, cell_km2: np.ndarray | None = None) -> go.Figure:
    """The likeliest cells, numbered, the predicted place, and the cells of the conformal regions.

    The answer is of `GeoCBM.predict`; its run has cells with `centers` `[N, 3]` (unit vectors) in countries `[N]`,
    whose discs grow with their land `cell_km2` `[N]`.
    """
    lat, lng = cartesian_to_latlng(np.asarray(centers, dtype=float))
    texts = np.array([f"{escape(where)}, cell {cell}" for cell, where in enumerate(country)], dtype=object)
    size = np.full(len(lat), 10.0)
    if cell_km2 is not None:
        texts = np.array([f"{text}: {km2:,.0f} km²" for text, km2 in zip(texts, cell_km2, strict=True)], dtype=object)
        size = np.clip(np.sqrt(cell_km2) / 25, 7, 36)
    fig = base_map()
    shown: set[int] = set()
    for region, colour in zip(answer.regions, _SHADES, strict=False):
        name = f"added for {100 * region.coverage:.0f} %" if shown else f"{100 * region.coverage:.0f} % region"
        chosen = np.array([cell for cell in region.cells if cell not in shown], dtype=int)
        shown.update(region.cells)
        if len(chosen):
            marker = {"size": numbers(size[chosen], 3), "color": colour, "opacity": 0.55, "line": {"width": 0}}
            fig.add_trace(map_points(lat[chosen], lng[chosen], texts[chosen], marker, name))
    fig.add_scattergeo(
        lat=degrees([cell.lat for cell in answer.cells]),
        lon=degrees([cell.lng for cell in answer.cells]),
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
    _add_point(fig, (answer.lat, answer.lng), "circle-open", INK, "answer", 27)
    points = [(answer.lat, answer.lng), *((cell.lat, cell.lng) for cell in answer.cells if cell.best >= _SHOWN_FROM)]
    if answer.own_place is not None:
        _add_point(fig, answer.own_place, "diamond", PALETTE[2], "the file's own coordinates", 12)
        points.append(answer.own_place)
    show_around(fig, *np.array(points).T)
    alt = (
        f"Map with the answer at {answer.lat:.2f}, {answer.lng:.2f} and the "
        f"{plural(len(answer.cells), 'likeliest cell')}, the first in {answer.cells[0].country} with "
        f"{percent(answer.cells[0].best)}"
    )
    for region in answer.regions:
        alt += f"; the {100 * region.coverage:.0f} % region has {plural(len(region.cells), 'cell')}"
    legend = {"x": 0, "y": -0.01, "itemsizing": "constant", "font": {"size": 12}}
    return finish(fig, "", alt + ".", 430, margin={"l": 4, "r": 4, "t": 6, "b": 4}, legend=legend)


def _add_point(fig: go.Figure, place: tuple[float, float], symbol: str, colour: str, name: str, size: int) -> None:
    fig.add_scattergeo(
        lat=degrees([place[0]]),
        lon=degrees([place[1]]),
        mode="markers",
        marker={"symbol": symbol, "size": size, "color": colour, "line": {"width": 2.5, "color": colour}},
        hovertemplate="%{lat:.2f}, %{lon:.2f}<extra></extra>",
        name=name,
    )
