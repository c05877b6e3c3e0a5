"""Figures of counterfactuals: a map that follows an edit of concepts, with controls that need no Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.plots.maps import base_map
from geocbm.plots.pictures import _as_image, _data_uri
from geocbm.plots.style import INK, PALETTE, degrees, escape, finish, labels, numbers, percent, shorten

if TYPE_CHECKING:
    import plotly.graph_objects as go


CELLS, ANSWER, TRUTH, BARS = 2, 3, 4, 5
"""Traces of the figure; those before are the lines of the base map."""
MIN_PROBABILITY = 0.004
MOST_CELLS, MOST_COUNTRIES = 40, 6
PICTURE_WIDTH = 220
_MAP = {"x": [0.0, 0.68], "y": [0.10, 1.0]}
_BARS = ([0.81, 1.0], [0.13, 0.46])


@dataclass(frozen=True)
class _Frames:
    """What the traces show at each strength of one edit.

    Attributes:
        fixed: entries that stay: places and texts of cells, names of countries.
        steps: entries that change, one mapping per strength; each value has a part per changing trace.
        best: name and probability of the most probable country at each strength.
    """

    fixed: dict[str, list[Any]]
    steps: list[dict[str, list[Any]]]
    best: list[tuple[str, float]]


def _frames(places: Any, cells: Any) -> _Frames:
    """Frames of one edit, over the cells and countries that matter at any of its strengths."""
    chance = places.probabilities  # (S, N)
    country, by_country = cells.countries, cells.by_country(chance)  # (S, C)
    likely = np.argsort(-chance.max(axis=0), kind="stable")[:MOST_CELLS]
    likely = likely[(chance[:, likely].max(axis=0) >= MIN_PROBABILITY) | (np.arange(len(likely)) == 0)]
    named = np.argsort(-by_country.max(axis=0), kind="stable")[:MOST_COUNTRIES]
    lat, lng = cells.latlng
    fixed: dict[str, list[Any]] = {
        "text": [[escape(name) for name in cells.country[likely].astype(str)], None, None],
        "y": [None, None, labels([str(name) for name in country[named]], 16)],
    }
    steps: list[dict[str, list[Any]]] = [
        {
            "lat": [degrees(lat[likely]), degrees([places.lat[s]]), None],
            "lon": [degrees(lng[likely]), degrees([places.lng[s]]), None],
            "marker.size": [numbers(4 + 34 * np.sqrt(row[likely]), 3), 15, None],
            "customdata": [numbers(row[likely], 3), None, None],
            "x": [None, None, numbers(by_country[s, named], 3)],
        }
        for s, row in enumerate(chance)
    ]
    best = [(str(country[row.argmax()]), float(row.max())) for row in by_country]
    return _Frames(fixed, steps, best)


def _drawn(frames: _Frames, step: int, true_place: tuple[float, float]) -> go.Figure:
    """The figure at one strength, without picture, title and controls."""
    import plotly.graph_objects as go

    now, fixed = frames.steps[step], frames.fixed
    fig = base_map()
    fig.add_trace(
        go.Scattergeo(
            lat=now["lat"][0],
            lon=now["lon"][0],
            text=fixed["text"][0],
            customdata=now["customdata"][0],
            mode="markers",
            marker={"size": now["marker.size"][0], "color": PALETTE[0], "opacity": 0.6, "line": {"width": 0}},
            hovertemplate="%{text}: %{customdata:.1%}<extra></extra>",
            name="belief (area: probability of a cell)",
        )
    )
    for lat, lng, symbol, colour, name in (
        (now["lat"][1], now["lon"][1], "star", PALETTE[1], "answer"),
        (degrees([true_place[0]]), degrees([true_place[1]]), "x-thin", INK, "true place"),
    ):
        line = {"width": 2.5 if symbol == "x-thin" else 1, "color": INK if symbol == "x-thin" else "white"}
        fig.add_trace(
            go.Scattergeo(
                lat=lat,
                lon=lng,
                mode="markers",
                marker={"symbol": symbol, "size": 15 if name == "answer" else 11, "color": colour, "line": line},
                hovertemplate=f"{name}: %{{lat:.1f}}, %{{lon:.1f}}<extra></extra>",
                name=name,
            )
        )
    fig.add_trace(
        go.Bar(
            x=now["x"][2],
            y=fixed["y"][2],
            orientation="h",
            marker={"color": PALETTE[0]},
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
            showlegend=False,
            name="countries",
        )
    )
    fig.update_geos(domain=_MAP)
    fig.update_layout(
        xaxis={"domain": _BARS[0], "anchor": "y", "range": [0, 1], "tickformat": ".0%", "tickvals": [0, 0.5, 1]},
        yaxis={"domain": _BARS[1], "anchor": "x", "autorange": "reversed", "automargin": False},
        margin={"l": 12, "r": 16, "t": 92, "b": 100},
        legend={"x": 0.0, "y": 0.10, "yanchor": "top", "itemsizing": "constant"},
    )
    return fig


def _beside(picture: Any, caption: str) -> dict[str, list[dict[str, Any]]]:
    """The picture and its caption, as entries of the layout."""
    image = _as_image(picture)
    small = image.resize((PICTURE_WIDTH, round(PICTURE_WIDTH * image.height / image.width)))
    place = {"xref": "paper", "yref": "paper", "x": 0.85, "y": 1.0, "sizex": 0.30, "sizey": 0.40}
    place |= {"xanchor": "center", "yanchor": "top"}
    text = {
        "text": escape(shorten(caption, 44)),
        "xref": "paper",
        "yref": "paper",
        "x": 0.85,
        "y": 0.585,
        "yanchor": "top",
        "xanchor": "center",
        "showarrow": False,
        "font": {"size": 12},
    }
    heading = text | {"text": "Where it believes to be", "y": 0.52, "font": {"size": 12, "color": INK}}
    return {"images": [place | {"source": _data_uri(small), "layer": "above"}], "annotations": [text, heading]}


def edit_map(
    places: Any, cells: Any, true_place: tuple[float, float], picture: Any, caption: str, title: str
) -> go.Figure:
    """The answer to one edit of one picture: belief over the cells, place answered, countries.

    Args:
        places: one answer: `lat` and `lng` `[1]`, `probabilities` `[1, N]`.
        cells: `Geocells`.
        true_place: latitude and longitude, degrees.
        picture: as the model sees it.
        caption: what it truly is.
        title: what is edited.
    """
    frames = _frames(places, cells)
    fig = _drawn(frames, 0, true_place)
    name, chance = frames.best[0]
    alt = (
        f"World map of the model's belief for a picture of {caption}, after the edit: {title}. The likeliest country "
        f"is {name} with {percent(chance)}."
    )
    finish(fig, escape(title), alt, 470)
    return fig.update_layout(**_beside(picture, caption), margin={"t": 56, "b": 24})


def what_if(
    counterfactuals: Sequence[Any],
    strengths: Sequence[float],
    cells: Any,
    true_places: Sequence[tuple[float, float]],
    pictures: Sequence[Any],
    title: str = "What if it saw something else?",
) -> go.Figure:
    """A map that follows two controls, in a page without Python: a list of edits, and a slider for their strength.

    Args:
        counterfactuals: of `explain.counterfactuals.find_counterfactuals`.
        strengths: of the steps of the slider.
        cells: `Geocells`.
        true_places: latitude and longitude of each picture, degrees.
        pictures: as the model sees them.
        title: headline.
    """
    if not counterfactuals:
        raise ValueError("what_if needs at least one counterfactual")
    changing = [CELLS, ANSWER, BARS]
    buttons: list[dict[str, Any]] = []
    fig: go.Figure | None = None
    moved: list[str] = []
    first_slider: dict[str, Any] = {}
    beside = [
        _beside(picture, f"Picture {number}: {one.caption}")
        for number, (one, picture) in enumerate(zip(counterfactuals, pictures, strict=True), start=1)
    ]
    for number, (one, place) in enumerate(zip(counterfactuals, true_places, strict=True)):
        for edit, places in zip(one.edits, one.answers, strict=True):
            frames = _frames(places, cells)
            slider = _slider(frames, strengths, changing)
            if fig is None:
                fig, first_slider = _drawn(frames, 0, place), slider
            truth = {"lat": degrees([place[0]]), "lon": degrees([place[1]])}
            start = {key: [*value[:2], truth.get(key), value[2]] for key, value in frames.steps[0].items()}
            start["marker.size"][2] = 11
            start |= {key: [*value[:2], None, value[2]] for key, value in frames.fixed.items()}
            buttons.append(
                {
                    "label": escape(shorten(f"{number + 1}: {edit.label}", 60)),
                    "method": "update",
                    "args": [start, {"sliders": [slider]} | beside[number], [CELLS, ANSWER, TRUTH, BARS]],
                }
            )
            (before, was), (after, now) = frames.best[0], frames.best[-1]
            if after != before:
                moved.append(f"{edit.label} moves the belief from {before} ({was:.0%}) to {after} ({now:.0%})")
    assert fig is not None
    told = f"For example, {moved[0]}." if moved else "None of them changes the likeliest country."
    alt = (
        f"World map of the model's belief about {len(counterfactuals)} pictures, with a list of {len(buttons)} edits "
        f"of their concepts and a slider for their strength; {len(moved)} edits change the likeliest country. {told}"
    )
    finish(fig, title, alt, 580)
    return fig.update_layout(
        **beside[0],
        sliders=[first_slider],
        updatemenus=[
            {
                "buttons": buttons,
                "x": 0.0,
                "y": 1.02,
                "xanchor": "left",
                "yanchor": "bottom",
                "pad": {"l": 0},
                "font": {"size": 12},
            }
        ],
    )


def _slider(frames: _Frames, strengths: Sequence[float], traces: list[int]) -> dict[str, Any]:
    steps = [
        {"label": f"{strength:.0%}", "method": "restyle", "args": [step, traces]}
        for strength, step in zip(strengths, frames.steps, strict=True)
    ]
    return {
        "active": 0,
        "steps": steps,
        "currentvalue": {"prefix": "strength of the edit: ", "font": {"size": 13}},
        "x": 0.0,
        "len": 0.68,
        "y": 0.0,
        "yanchor": "top",
        "pad": {"t": 18},
    }
