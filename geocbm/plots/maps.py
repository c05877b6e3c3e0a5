"""Maps that draw without a network: places, errors, and where one run is better than another.

Plotly fetches its base map from a server, and draws nothing at all when that fails. It does not ask for one when the
base map is switched off and the first trace consists of lines; so the coast line, from a file of the package, is that
first trace.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geocbm.data.table import image_files
from geocbm.geodesy import cartesian_to_latlng, haversine_km, latlng_to_cartesian
from geocbm.plots.pictures import small_picture
from geocbm.plots.theme import INK, MUTED, PALETTE, finish
from geocbm.plots.values import columns_of, degrees, escape, km_text, numbers, percent, plural, thin

LINES = (("coast", "#8290A0", 0.9), ("borders", "#CBD2D9", 0.4))
"""Kind, colour and width of the lines of every map."""
WORLD = (-180.0, -60.0, 180.0, 84.0)
"""West, south, east and north of a map of the whole world, degrees."""
MOST_ERRORS, HOVER_SIDE = 400, 120
_ERROR_BANDS = (
    (25, "up to 25 km", "#009E73"),
    (200, "up to 200 km", "#56B4E9"),
    (750, "up to 750 km", "#E69F00"),
    (2500, "up to 2,500 km", "#D55E00"),
    (np.inf, "beyond 2,500 km", "#882255"),
)
# From worse to better: told apart with every common kind of colour blindness.
_GAIN_SCALE = [[0.0, PALETTE[1]], [0.5, "#F4F1EC"], [1.0, PALETTE[0]]]


@cache
def outline(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes of the lines `coast` or `borders`, with gaps (NaN) between lines.

    As arrays they are not looked at one by one whenever a map is made.
    """
    lines = json.loads(files("geocbm").joinpath("metrics/coastline.json").read_text(encoding="utf-8"))[kind]
    lng: list[float] = []
    lat: list[float] = []
    for line in lines:
        points = [(round(x, 1), round(y, 1)) for x, y in zip(line[::2], line[1::2], strict=True)]
        kept = [point for i, point in enumerate(points) if i == 0 or point != points[i - 1]]
        if len(kept) > 1:
            lng += [*(x for x, _ in kept), np.nan]
            lat += [*(y for _, y in kept), np.nan]
    return np.array(lng, dtype=np.float32), np.array(lat, dtype=np.float32)


def base_map() -> go.Figure:
    """A world map with coast lines (first trace) and country borders, for traces to be added to."""
    fig = go.Figure()
    for kind, colour, width in LINES:
        lng, lat = outline(kind)
        line = {"width": width, "color": colour}
        shown = {"mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False, "name": kind}
        fig.add_scattergeo(lon=lng, lat=lat, **shown)
    fig.update_geos(
        visible=False,
        fitbounds=False,
        projection_type="natural earth",
        bgcolor="#F7F9FB",
        lataxis_range=[-60, 84],
        lonaxis_range=[-180, 180],
    )
    return fig


def frame_of(lat: np.ndarray, lng: np.ndarray, aspect: float, least_degrees: float = 12.0) -> tuple[float, ...]:
    """The frame of a map, `aspect` times as wide as high, around points `[n]` in degrees.

    Returns `(middle, west, south, east, north)`: a middle meridian, and the frame with longitudes counted from it, so
    that a country across the antimeridian is one piece; the whole world where points lie too far apart for less.
    """
    mean = latlng_to_cartesian(lat, lng).mean(axis=0)
    middle = float(cartesian_to_latlng(mean)[1]) if np.linalg.norm(mean[:2]) > 1e-6 else 0.0
    east_of = (np.asarray(lng, dtype=float) - middle + 180) % 360 - 180
    stretch = float(np.cos(np.radians(np.clip(np.mean(lat), -70, 70))))
    height = max(least_degrees, 1.3 * np.ptp(lat), 1.3 * np.ptp(east_of) * stretch / aspect)
    width = height * aspect / stretch
    if width > 200:
        return (0.0, *WORLD)
    x = (east_of.min() + east_of.max()) / 2
    y = float(np.clip((np.min(lat) + np.max(lat)) / 2, -90 + height / 2, 90 - height / 2))
    return middle, x - width / 2, y - height / 2, x + width / 2, y + height / 2


def show_around(fig: go.Figure, lat: Any, lng: Any, aspect: float = 1.7, least_degrees: float = 20.0) -> None:
    """Let a map show the surroundings of points `[n]` in degrees, or the world where they lie far apart."""
    middle, west, south, east, north = frame_of(lat, lng, aspect, least_degrees)
    if east - west < 360:
        fig.update_geos(
            projection_type="mercator",
            projection_rotation_lon=middle,
            lonaxis_range=[middle + west, middle + east],
            lataxis_range=[max(south, -75), min(north, 82)],
        )


def map_points(lat: Any, lng: Any, texts: Sequence[str], marker: Mapping[str, Any], name: str) -> go.Scattergeo:
    """Points `[n]` in degrees that show their texts under the pointer."""
    return go.Scattergeo(
        lat=degrees(lat),
        lon=degrees(lng),
        mode="markers",
        marker=dict(marker),
        text=list(texts),
        hovertemplate="%{text}<extra></extra>",
        name=name,
    )


def add_menu(fig: go.Figure, shown: Mapping[str, Sequence[bool]]) -> None:
    """Give a map a menu whose entries show some of the traces that lie above the base map."""
    buttons = [
        {"label": escape(label), "method": "restyle", "args": [{"visible": [True] * len(LINES) + list(visible)}]}
        for label, visible in shown.items()
    ]
    place = {"x": 0.01, "xanchor": "left", "y": 0.99, "yanchor": "top"}  # a corner that the projection leaves empty
    fig.update_layout(updatemenus=[{"buttons": buttons} | place])


def finish_map(fig: go.Figure, title: str, alt: str, height: int = 460) -> go.Figure:
    """Give a map its headline, its alternative text and the room it needs."""
    legend = {"x": 0.01, "y": -0.01, "itemsizing": "constant"}
    return finish(fig, title, alt, height, margin={"l": 8, "r": 8, "t": 48, "b": 34}, legend=legend)


def error_map(pred_lat: Any, pred_lng: Any, table: pd.DataFrame) -> go.Figure:
    """Lines from true places to predicted ones `[n]` in degrees, coloured by their length.

    A missing prediction (NaN) is left out and counted in the alt text; of more than `MOST_ERRORS` an even random choice
    is drawn. `table` has the `n` rows of the images; a page shows the picture of a point under the pointer.
    """
    pred_lat, pred_lng, true_lat, true_lng = columns_of(
        pred_lat=pred_lat, pred_lng=pred_lng, true_lat=table["lat"], true_lng=table["lng"]
    )
    km = haversine_km(pred_lat, pred_lng, true_lat, true_lng)
    present = np.flatnonzero(np.isfinite(km))
    rows = present[thin(len(present), MOST_ERRORS)]
    band = np.searchsorted([limit for limit, _, _ in _ERROR_BANDS], km)
    fig = base_map()
    for number, (_, name, colour) in enumerate(_ERROR_BANDS):
        chosen = rows[band[rows] == number]
        if not len(chosen):
            continue
        gap = np.full(len(chosen), np.nan)
        lat = np.stack([true_lat[chosen], pred_lat[chosen], gap], axis=1)
        lng = np.stack([true_lng[chosen], pred_lng[chosen], gap], axis=1)
        line = {"width": 1.1, "color": colour}
        lines = {"mode": "lines", "line": line, "opacity": 0.55, "hoverinfo": "skip", "legendgroup": name}
        fig.add_scattergeo(lat=degrees(lat.ravel()), lon=degrees(lng.ravel()), name=name, **lines)
        marker = {"size": 4.5, "color": colour, "line": {"width": 0.4, "color": INK}}
        shown = table.iloc[chosen]
        of = zip(shown["meta_name"], shown["country"], km[chosen], strict=True)
        texts = [f"{escape(f'{meta}, {country}')}: off by {km_text(each)}" for meta, country, each in of]
        ends = map_points(pred_lat[chosen], pred_lng[chosen], texts, marker, name)
        ends.update(customdata=[small_picture(file, HOVER_SIDE) for file in image_files(shown)])
        fig.add_trace(ends.update(legendgroup=name, showlegend=False))
    alt = f"World map with lines from {len(rows):,} of {plural(len(km), 'true place')} to the predicted places"
    if len(present):
        near = percent(float((km[present] <= 200).sum() / len(km)))
        alt += f"; the median error is {km_text(float(np.median(km[present])))} and {near} lie within 200 km"
    if missing := len(km) - len(present):
        alt += f"; {plural(missing, 'prediction')} missing"
    return finish_map(fig, "From the true place to the answer", alt + ".")


def gain_map(gains: Mapping[str, pd.DataFrame], reference: str, title: str = "Where is it better?") -> go.Figure:
    """Regions of the world, coloured by how much better a run is there than another, with a menu of the runs.

    By name of the run, `gains` over the `reference` are a row per region with `lat, lng, images, country, gain` (in
    GeoScore).
    """
    fig = base_map()
    parts = []
    for number, (run, table) in enumerate(gains.items()):
        gain = table["gain"].to_numpy(float)
        # Regions of one or two images would stretch the colours beyond use.
        limit = max(1.0, float(np.quantile(np.abs(gain), 0.9))) if len(gain) else 1.0
        bar = {"title": {"text": "gain in GeoScore", "side": "right"}, "thickness": 12, "len": 0.75, "outlinewidth": 0}
        marker = {
            "size": numbers(5 + 3.2 * np.sqrt(table["images"].to_numpy(float))),
            "color": numbers(gain, 3),
            "colorscale": _GAIN_SCALE,
            "cmin": -limit,
            "cmax": limit,
            "line": {"width": 0.6, "color": MUTED},
            "opacity": 0.9,
            "colorbar": bar,
        }
        regions = zip(table["country"], table["images"], strict=True)
        texts = [f"{escape(country)}, {plural(int(images), 'image')}" for country, images in regions]
        points = map_points(table["lat"], table["lng"], texts, marker, escape(run))
        points.hovertemplate = "%{text}<br>GeoScore %{marker.color:+,.0f}<extra></extra>"
        fig.add_trace(points.update(visible=number == 0, showlegend=False))
        better, worse = int((gain > 0).sum()), int((gain < 0).sum())
        parts.append(f"{run} gains in {better} of {plural(len(gain), 'region')} and loses in {worse}")
    if len(gains) > 1:
        add_menu(fig, {run: [other == run for other in gains] for run in gains})
    alt = f"World map of mean gain in GeoScore over {reference}, by region: {'; '.join(parts)}."
    if not parts:
        alt = f"World map without regions: no run has its test images in common with {reference}."
    return finish_map(fig, title, alt, height=500)
