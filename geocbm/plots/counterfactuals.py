"""Figures of counterfactuals: a map that follows an edit of concepts, with controls that need no Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.basedatatypes import Undefined

from geocbm.plots.maps import base_map
from geocbm.plots.pictures import as_image, data_uri
from geocbm.plots.theme import INK, LAND, MUTED, PALETTE, finish
from geocbm.plots.values import degrees, escape, labels, numbers, percent, refuse_empty, shorten

CELLS, ANSWER, TRUTH, BARS = CHANGING = [2, 3, 4, 5]
"""Traces of the figure; those before are the lines of the base map."""
MIN_PROBABILITY = 0.004
MOST_CELLS, MOST_COUNTRIES = 40, 6
PICTURE_WIDTH = 220
_MAP = {"x": [0.0, 0.68], "y": [0.10, 1.0]}


@dataclass(frozen=True)
class _Frames:
    """What the traces show at each strength of one edit."""

    fixed: dict[str, list[Any]]  # entries that stay, a part for each changing trace: texts of cells, names of countries
    steps: list[dict[str, list[Any]]]  # entries that change, likewise, one mapping per strength
    best: list[tuple[str, float]]  # most probable country at each strength


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


def _drawn(frames: _Frames, true_place: tuple[float, float], step: int = 0) -> go.Figure:
    """The figure at one strength, without picture, title and controls."""
    now, fixed = frames.steps[step], frames.fixed
    fig = base_map()
    fig.add_scattergeo(
        lat=now["lat"][0],
        lon=now["lon"][0],
        text=fixed["text"][0],
        customdata=now["customdata"][0],
        mode="markers",
        marker={"size": now["marker.size"][0], "color": PALETTE[0], "opacity": 0.6, "line": {"width": 0}},
        hovertemplate="%{text}: %{customdata:.1%}<extra></extra>",
        name="probability of a cell (area)",
    )
    star = {"symbol": "star", "size": 15, "color": PALETTE[1], "line": {"width": 1, "color": "white"}}
    cross = {"symbol": "x-thin", "size": 11, "color": INK, "line": {"width": 2.5, "color": INK}}
    truth = (degrees([true_place[0]]), degrees([true_place[1]]))
    for name, (lat, lng), marker in (("answer", (now["lat"][1], now["lon"][1]), star), ("true place", truth, cross)):
        hover = f"{name}: %{{lat:.1f}}, %{{lon:.1f}}<extra></extra>"
        fig.add_scattergeo(lat=lat, lon=lng, mode="markers", marker=marker, hovertemplate=hover, name=name)
    fig.add_bar(
        x=now["x"][2],
        y=fixed["y"][2],
        orientation="h",
        marker={"color": PALETTE[0]},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        showlegend=False,
        name="countries",
    )
    fig.update_geos(domain=_MAP)
    return fig.update_layout(
        xaxis={"domain": [0.81, 1.0], "anchor": "y", "range": [0, 1], "tickformat": ".0%", "tickvals": [0, 0.5, 1]},
        yaxis={"domain": [0.13, 0.46], "anchor": "x", "autorange": "reversed", "automargin": False},
        margin={"l": 12, "r": 28, "t": 92, "b": 100},
        legend={"x": 0.0, "y": 0.10, "yanchor": "top", "itemsizing": "constant"},
    )


def _beside(picture: Any, caption: str) -> dict[str, list[dict[str, Any]]]:
    """The picture and its caption, as entries of the layout."""
    image = as_image(picture)
    small = image.resize((PICTURE_WIDTH, round(PICTURE_WIDTH * image.height / image.width)))
    centred = {"xref": "paper", "yref": "paper", "x": 0.85, "xanchor": "center", "yanchor": "top"}
    source = {"source": data_uri(small), "layer": "above", "y": 1.0, "sizex": 0.30, "sizey": 0.40}
    text = centred | {"showarrow": False, "font": {"size": 12, "color": INK}}
    captions = ((escape(shorten(caption, 44)), 0.585), ("Likeliest countries", 0.52))
    return {"images": [centred | source], "annotations": [text | {"text": words, "y": y} for words, y in captions]}


def distribution_map(
    places: Any, cells: Any, true_place: tuple[float, float], picture: Any, caption: str, title: str
) -> go.Figure:
    """The answer for one picture: distribution over the cells, place answered, countries.

    `places` is one answer (`lat` and `lng` `[1]`, `probabilities` `[1, N]`), `true_place` latitude and longitude in
    degrees, the picture as the model sees it, and `caption` what it truly is.
    """
    around = distribution_update(places, cells, true_place, picture, caption)[1]
    fig = finish(_drawn(_frames(places, cells), true_place), escape(title), around["meta"]["alt"], 470)
    return fig.update_layout(**_beside(picture, caption), margin={"t": 56, "b": 24})


def distribution_update(
    places: Any, cells: Any, true_place: tuple[float, float], picture: Any, caption: str
) -> tuple[dict[str, Any], dict[str, Any], list[int]]:
    """What another picture changes in a `distribution_map`, for its `plotly_update`."""
    frames, beside = _frames(places, cells), _beside(picture, caption)
    name, chance = frames.best[0]
    alt = (
        f"World map of the probabilities of cells for a picture of {caption}. The likeliest "
        f"country is {name} with {percent(chance)}."
    )
    around = {"images[0].source": beside["images"][0]["source"], "meta": {"alt": alt}}
    around["annotations[0].text"] = beside["annotations"][0]["text"]
    begin = _begin(frames, true_place).items()
    return {key: [Undefined if one is None else one for one in own] for key, own in begin}, around, CHANGING


def _begin(frames: _Frames, true_place: tuple[float, float]) -> dict[str, list[Any]]:
    """What the traces `CHANGING` show at the first strength."""
    truth = {"lat": degrees([true_place[0]]), "lon": degrees([true_place[1]]), "marker.size": 11}
    return {key: [*value[:2], truth.get(key), value[2]] for key, value in (frames.steps[0] | frames.fixed).items()}


def before_after_map(places: Any, cells: Any, true_place: tuple[float, float], title: str) -> go.Figure:
    """The answer for one picture before and after an edit of its concepts, on one map.

    `places` are both answers (`lat` and `lng` `[2]`, `probabilities` `[2, N]`), `true_place` is in degrees.
    """
    frames = _frames(places, cells)
    fig, before = _drawn(frames, true_place, step=1), frames.steps[0]
    fig.data[CELLS].name, fig.data[ANSWER].name, fig.data[BARS].name = "probability now", "answer now", "now"
    ring: dict[str, Any] = {"color": "rgba(0,0,0,0)", "line": {"width": 1.4, "color": MUTED}}
    star: dict[str, Any] = {"symbol": "star-open", "size": 15, "color": MUTED}
    for number, (name, marker) in enumerate((("probability before", ring), ("answer before", star))):
        fig.add_scattergeo(
            lat=before["lat"][number],
            lon=before["lon"][number],
            text=frames.fixed["text"][number],
            customdata=before["customdata"][number],
            mode="markers",
            marker=marker | {"size": before["marker.size"][number]},
            hovertemplate=(f"{name}: %{{text}} %{{customdata:.1%}}" if number == 0 else name) + "<extra></extra>",
            name=name,
        )
    fig.add_bar(
        x=before["x"][2],
        y=frames.fixed["y"][2],
        orientation="h",
        marker={"color": LAND},
        hovertemplate="%{y} before: %{x:.1%}<extra></extra>",
        showlegend=False,
        name="before",
    )
    (first, was), (second, now) = frames.best
    alt = (
        f"World map of the probabilities of cells before and after an edit. The likeliest country was {first} with "
        f"{percent(was)} and is {second} with {percent(now)}."
    )
    fig = finish(fig, escape(title), alt, 560, barmode="group", bargap=0.25, legend={"y": 0.39})
    fig.update_geos(domain={"x": [0, 1], "y": [0.4, 1]}).update_xaxes(domain=[0.2, 1])
    return fig.update_yaxes(domain=[0, 0.27]).update_layout(margin={"t": 40, "b": 24})


def what_if(
    counterfactuals: Sequence[Any],
    strengths: Sequence[float],
    cells: Any,
    true_places: Sequence[tuple[float, float]],
    pictures: Sequence[Any],
) -> go.Figure:
    """A map that follows two controls, in a page without Python: a list of edits, and a slider for their strength.

    Of each picture there are the counterfactual (of `explain.counterfactuals.find_counterfactuals`), the true latitude
    and longitude in degrees, and the picture as the model sees it.
    """
    refuse_empty("counterfactuals", counterfactuals, "counterfactual")
    first = _frames(counterfactuals[0].answers[0], cells)
    fig = _drawn(first, true_places[0])
    buttons: list[dict[str, Any]] = []
    moved: list[str] = []
    layouts = []
    for number, (one, place, picture) in enumerate(zip(counterfactuals, true_places, pictures, strict=True), start=1):
        beside = _beside(picture, f"Picture {number}: {one.caption}")
        for edit, places in zip(one.edits, one.answers, strict=True):
            frames = _frames(places, cells)
            layouts.append({"sliders": [_slider(frames, strengths)]} | beside)
            label = escape(shorten(f"{number}: {edit.label}", 60))
            arguments = [_begin(frames, place), layouts[-1], CHANGING]
            buttons.append({"label": label, "method": "update", "args": arguments})
            (before, was), (after, now) = frames.best[0], frames.best[-1]
            if after != before:
                moved.append(
                    f"{edit.label} moves the likeliest country from {before} ({was:.0%}) to {after} ({now:.0%})"
                )
    told = f"For example, {moved[0]}." if moved else "None of them changes the likeliest country."
    alt = (
        f"World map of the probabilities of cells for {len(counterfactuals)} pictures, with a list of {len(buttons)} "
        f"edits of their concepts and a slider for their strength; {len(moved)} edits change the likeliest country. "
        f"{told}"
    )
    finish(fig, "What if it saw something else?", alt, 580)
    menu = {"x": 0.0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "pad": {"l": 0}, "font": {"size": 12}}
    return fig.update_layout(**layouts[0], updatemenus=[menu | {"buttons": buttons}])


def _slider(frames: _Frames, strengths: Sequence[float]) -> dict[str, Any]:
    steps = [
        {"label": f"{strength:.0%}", "method": "restyle", "args": [step, [CELLS, ANSWER, BARS]]}
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
