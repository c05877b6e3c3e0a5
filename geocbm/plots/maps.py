"""Maps that draw without a network.

Plotly fetches its base map from a server, and draws nothing at all when that fails. It does not ask for one when the
base map is switched off and the first trace consists of lines; so the coast line, from a file of the package, is that
first trace.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.geodesy import haversine_km
from geocbm.plots.style import (
    INK,
    PALETTE,
    columns_of,
    degrees,
    escape,
    finish,
    km_text,
    log_ticks,
    numbers,
    percent,
    plural,
    thin,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


@cache
def outline(kind: str) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Longitudes and latitudes of the lines `coast` or `borders`, with gaps (None) between lines."""
    lines = json.loads(files("geocbm").joinpath("metrics/coastline.json").read_text(encoding="utf-8"))[kind]
    lng: list[float | None] = []
    lat: list[float | None] = []
    for line in lines:
        points = [(round(x, 1), round(y, 1)) for x, y in zip(line[::2], line[1::2], strict=True)]
        kept = [point for i, point in enumerate(points) if i == 0 or point != points[i - 1]]
        if len(kept) > 1:
            lng += [*(x for x, _ in kept), None]
            lat += [*(y for _, y in kept), None]
    return tuple(lng), tuple(lat)


def base_map(borders: bool = True) -> go.Figure:
    """Return a world map with coast lines (first trace) and country borders, for traces to be added to."""
    import plotly.graph_objects as go

    fig = go.Figure()
    for kind, width, colour in (("coast", 0.9, "#8290A0"), ("borders", 0.4, "#CBD2D9")):
        if kind == "borders" and not borders:
            continue
        lng, lat = outline(kind)
        fig.add_trace(
            go.Scattergeo(
                lon=list(lng),
                lat=list(lat),
                mode="lines",
                line={"width": width, "color": colour},
                hoverinfo="skip",
                showlegend=False,
                name=kind,
            )
        )
    fig.update_geos(
        visible=False,
        fitbounds=False,
        projection_type="natural earth",
        bgcolor="#F7F9FB",
        lataxis_range=[-60, 84],
        lonaxis_range=[-180, 180],
    )
    return fig


def finish_map(fig: go.Figure, title: str, alt: str, height: int = 460) -> go.Figure:
    """Give a map its headline, its alternative text and the room it needs."""
    return finish(
        fig,
        title,
        alt,
        height,
        margin={"l": 8, "r": 8, "t": 48, "b": 34},
        legend={"x": 0.01, "y": -0.01, "itemsizing": "constant"},
    )


def _colour_bar(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "side": "right"}, "thickness": 12, "len": 0.75, "outlinewidth": 0}


def _marker_size(count: int) -> float:
    return float(np.clip(14 - 2.5 * np.log10(count + 1), 3.5, 9))


def _spread(lat: np.ndarray, lng: np.ndarray) -> str:
    south, north = np.min(lat), np.max(lat)
    return f"latitudes {south:.0f} to {north:.0f} and longitudes {np.min(lng):.0f} to {np.max(lng):.0f} degrees"


def world_map(
    lat: Any,
    lng: Any,
    color: Any | None = None,
    hover: Sequence[Any] | None = None,
    title: str = "",
    color_title: str = "",
    log_color: bool = False,
    noun: str = "image",
) -> go.Figure:
    """Points on a world map.

    Args:
        lat: `[n]` latitudes in degrees.
        lng: `[n]` longitudes in degrees.
        color: `[n]` numbers (a colour scale) or names (a colour each for the most frequent seven, grey for the rest).
        hover: `[n]` texts to show under the pointer.
        title: headline.
        color_title: what the colours mean, with the unit.
        log_color: spread the colour scale over powers of ten.
        noun: what one point is called.
    """
    import plotly.graph_objects as go

    lat, lng = columns_of(lat=lat, lng=lng)
    title = title or f"Where the {noun}s lie"
    rows = thin(len(lat))
    texts = None if hover is None else np.array([escape(text) for text in columns_of(lat=lat, hover=hover)[1]])
    fig = base_map()
    size = _marker_size(len(rows))

    def points(chosen: np.ndarray, **trace: Any) -> None:
        fig.add_trace(
            go.Scattergeo(
                lat=degrees(lat[chosen]),
                lon=degrees(lng[chosen]),
                mode="markers",
                text=None if texts is None else texts[chosen].tolist(),
                hovertemplate=("%{text}<br>" if texts is not None else "") + "%{lat:.2f}, %{lon:.2f}<extra></extra>",
                **trace,
            )
        )

    alt = f"World map of {plural(len(lat), noun)}, {_spread(lat, lng)}"
    if color is None:
        points(rows, marker={"size": size, "color": PALETTE[0], "opacity": 0.65}, name=noun, showlegend=False)
    elif np.asarray(color).dtype.kind in "fiub":
        values = columns_of(lat=lat, color=color)[1].astype(float)
        shown = np.log10(np.maximum(values, 1e-3)) if log_color else values
        bar = _colour_bar(color_title)
        if log_color:
            bar |= log_ticks(np.nanmin(shown), np.nanmax(shown))
        marker = {"size": size, "color": numbers(shown[rows], 3), "colorscale": "Cividis", "colorbar": bar}
        points(rows, marker=marker | {"opacity": 0.8, "showscale": True}, showlegend=False, name=color_title)
        alt += f", coloured by {color_title or 'value'} from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}"
    else:
        names = columns_of(lat=lat, color=color)[1].astype(str)
        kinds, counts = np.unique(names, return_counts=True)
        frequent = [str(kind) for kind in kinds[np.argsort(-counts, kind="stable")][: len(PALETTE) - 1]]
        for kind, colour in zip(frequent, PALETTE, strict=False):
            chosen = rows[names[rows] == kind]
            points(chosen, marker={"size": size, "color": colour, "opacity": 0.75}, name=escape(kind))
        rest = rows[~np.isin(names[rows], frequent)]
        if len(rest):
            other = f"{len(kinds) - len(frequent)} others"
            points(rest, marker={"size": size, "color": PALETTE[-1], "opacity": 0.5}, name=other)
        alt += f", in {plural(len(kinds), 'group')}; the largest is {frequent[0]} with {counts.max():,}"
    if len(rows) < len(lat):
        alt += f" ({len(rows):,} of them drawn)"
    return finish_map(fig, title, alt + ".")


def error_map(
    pred_lat: Any,
    pred_lng: Any,
    true_lat: Any,
    true_lng: Any,
    hover: Sequence[Any] | None = None,
    limit: int = 400,
    title: str = "From the truth to the guess",
) -> go.Figure:
    """Lines from true places to predicted ones, coloured by their length.

    Args:
        pred_lat: `[n]` predicted latitudes in degrees; NaN is left out and counted in the alt text.
        pred_lng: `[n]` predicted longitudes in degrees.
        true_lat: `[n]` true latitudes in degrees.
        true_lng: `[n]` true longitudes in degrees.
        hover: `[n]` texts to show at the predicted place.
        limit: at most so many images are drawn, an even random choice.
        title: headline.
    """
    import plotly.graph_objects as go

    pred_lat, pred_lng, true_lat, true_lng = columns_of(
        pred_lat=pred_lat, pred_lng=pred_lng, true_lat=true_lat, true_lng=true_lng
    )
    km = haversine_km(pred_lat, pred_lng, true_lat, true_lng)
    present = np.flatnonzero(np.isfinite(km))
    rows = present[thin(len(present), limit)]
    fig = base_map()
    bands = (
        (0, 25, "up to 25 km"),
        (25, 200, "up to 200 km"),
        (200, 750, "up to 750 km"),
        (750, 2500, "up to 2,500 km"),
    )
    colours = ("#009E73", "#56B4E9", "#E69F00", "#D55E00", "#882255")
    for (low, high, name), colour in zip((*bands, (2500, np.inf, "beyond 2,500 km")), colours, strict=True):
        chosen = rows[(km[rows] <= high) & ((km[rows] > low) | (low == 0))]
        if not len(chosen):
            continue
        gap = [None] * len(chosen)
        lat = [v for trio in zip(degrees(true_lat[chosen]), degrees(pred_lat[chosen]), gap, strict=True) for v in trio]
        lng = [v for trio in zip(degrees(true_lng[chosen]), degrees(pred_lng[chosen]), gap, strict=True) for v in trio]
        style = {"width": 1.1, "color": colour}
        fig.add_trace(
            go.Scattergeo(
                lat=lat, lon=lng, mode="lines", line=style, opacity=0.55, hoverinfo="skip", name=name, legendgroup=name
            )
        )
        texts = [
            (f"{escape(hover[row])}<br>" if hover is not None else "") + f"off by {km_text(km[row])}" for row in chosen
        ]
        fig.add_trace(
            go.Scattergeo(
                lat=degrees(pred_lat[chosen]),
                lon=degrees(pred_lng[chosen]),
                mode="markers",
                marker={"size": 4.5, "color": colour, "line": {"width": 0.4, "color": INK}},
                text=texts,
                hovertemplate="%{text}<extra></extra>",
                name=name,
                legendgroup=name,
                showlegend=False,
            )
        )
    missing = len(km) - len(present)
    alt = f"World map with lines from {len(rows):,} of {plural(len(km), 'true place')} to the predicted places"
    if len(present):
        reached = float((km[present] <= 200).sum() / len(km))
        alt += (
            f"; the median error is {km_text(float(np.median(km[present])))} and {percent(reached)} lie within 200 km"
        )
    if missing:
        alt += f"; {plural(missing, 'prediction')} missing"
    return finish_map(fig, title, alt + ".")
