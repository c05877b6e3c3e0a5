"""Figures of the data: what there is, how uneven it is, how it is split and cut into cells."""

from collections.abc import Mapping
from itertools import cycle
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geocbm.plots.primitives import log_axis, ranked_bars
from geocbm.plots.theme import INK, LAND, PALETTE, finish
from geocbm.plots.values import columns_of, escape, km_text, labels, numbers, percent, plural, refuse_empty

THRESHOLDS_KM = {1: "street", 25: "city", 200: "region", 750: "country", 2500: "continent"}
MOST_COUNTRIES = 40
_FLOOR_KM = 0.01  # a logarithmic axis has no zero: shorter distances are drawn at 10 m
_HALF_EARTH_KM = 20040
_MOST_STEPS = 400  # points of a curve


def _counts(names: Any) -> pd.Series:
    """How often each name occurs, most frequent first, then by name."""
    (values,) = columns_of(names=names)
    counts = pd.Series(values.astype(str)).value_counts(sort=False).sort_index()
    return counts.sort_values(ascending=False, kind="stable")


def hierarchy(table: pd.DataFrame) -> go.Figure:
    """Treemap of the columns `meta_name` within `parent_concept`, as large as their number of images."""
    import plotly.express as px  # half a second, which no other figure here needs

    sizes = table.groupby(["parent_concept", "meta_name"], sort=True).size()
    parents = sizes.groupby(level=0).sum().sort_values(ascending=False, kind="stable")
    frame = sizes.rename("images").reset_index()
    for level, width in (("parent_concept", 80), ("meta_name", 13)):
        frame[level] = ["<br>".join(map(escape, wrap(str(name), width))) for name in frame[level]]
    order = frame.groupby("parent_concept")["images"].sum().sort_values(ascending=False, kind="stable").index
    colours = dict(zip(order, cycle(PALETTE), strict=False))
    levels = ["parent_concept", "meta_name"]
    fig = px.treemap(frame, path=levels, values="images", color=levels[0], color_discrete_map=colours)
    fig.update_traces(
        marker_line={"width": 1, "color": "white"},
        texttemplate="%{label} %{value:,}",
        hovertemplate="%{label}: %{value} images<extra></extra>",
        pathbar={"visible": False},
        tiling={"pad": 2},
    )
    alt = (
        f"Treemap of {plural(len(sizes), 'meta')} under {plural(len(parents), 'parent concept')}; the largest parent "
        f"is {parents.index[0]} with {parents.iloc[0]:,} of {plural(int(sizes.sum()), 'image')}, "
        f"the largest meta {sizes.index[int(sizes.to_numpy().argmax())][1]} with {sizes.max():,}."
    )
    readable = {"minsize": 10, "mode": "hide"}  # what has no room for its name says it under the pointer
    margin = {"l": 8, "r": 8, "t": 48, "b": 8}
    return finish(fig, "Parents and their metas", alt, 680, margin=margin, uniformtext=readable)


def imbalance(metas: Any) -> go.Figure:
    """Bars of how often each meta occurs among `[n]` names, most frequent first, on a logarithmic scale."""
    counts = _counts(metas)
    fig = ranked_bars(counts.index, counts, PALETTE[0], "%{y}")
    half = int(np.searchsorted(np.cumsum(counts.to_numpy()), counts.sum() / 2) + 1)
    alt = (
        f"Bars of images per meta, sorted, logarithmic: {counts.index[0]} has {counts.iloc[0]:,}, "
        f"{counts.index[-1]} has {counts.iloc[-1]:,}, the median meta has {counts.median():.0f}; "
        f"the {half} most frequent of {len(counts)} hold half of the images."
    )
    fig.update_yaxes(title_text="images", **log_axis(counts.to_numpy(float)))
    fig.update_xaxes(title_text="meta, most frequent first", showgrid=False)
    return finish(fig, "How uneven the metas are", alt, 360, bargap=0.15)


def country_bars(country: Any, noun: str = "image") -> go.Figure:
    """Horizontal bars of images per country `[n]`, most frequent on top; a button opens those beyond the first."""
    counts = _counts(country)
    shown, rest = counts.iloc[:MOST_COUNTRIES], counts.iloc[MOST_COUNTRIES:]
    bars = {"orientation": "h", "marker_color": PALETTE[0], "hovertemplate": "%{y}: %{x}<extra></extra>"}
    fig = go.Figure(go.Bar(x=counts.tolist(), y=labels(list(counts.index)), **bars))
    alt = (
        f"Bars of {plural(int(counts.sum()), noun)} in {plural(len(counts), 'country', 'countries')}: "
        f"{counts.index[0]} has most, {counts.iloc[0]:,} ({percent(counts.iloc[0] / counts.sum())}), "
        f"{counts.index[-1]} fewest, {counts.iloc[-1]:,}."
    )
    fig.update_yaxes(range=[len(shown) - 0.5, -0.5], showgrid=False, ticks="", dtick=1)
    fig.update_xaxes(title_text=f"{escape(noun)}s")
    if len(rest):
        text = f"and {plural(len(rest), 'more country', 'more countries')}, {plural(int(rest.sum()), noun)}"
        opened = {"yaxis.range": [len(counts) - 0.5, -0.5], "height": 130 + 18 * len(counts)}
        closed = {"yaxis.range": [len(shown) - 0.5, -0.5], "height": 130 + 18 * len(shown)}
        button = {"label": text, "method": "relayout", "args": [opened], "args2": [closed]}
        place = {"x": 1, "xanchor": "right", "y": 0.02, "yanchor": "bottom", "showactive": False, "active": -1}
        fig.update_layout(updatemenus=[{"type": "buttons", "buttons": [button], **place}])
    return finish(fig, f"{noun.capitalize()}s per country", alt, 130 + 18 * len(shown), bargap=0.25)


def cell_sizes(counts: Any) -> go.Figure:
    """Histogram of the number of training images `[N]` in a cell."""
    import plotly.express as px

    sizes = np.asarray(counts, dtype=float)
    fig = px.histogram(x=sizes, nbins=31, color_discrete_sequence=PALETTE)
    hover = "%{x} images: %{y} cells<extra></extra>"
    fig.update_traces(marker_line={"width": 1, "color": "white"}, hovertemplate=hover)
    fig.add_vline(x=float(np.median(sizes)), line={"color": INK, "dash": "dot", "width": 1.2}, annotation_text="median")
    fig.update_xaxes(title_text="training images in the cell", rangemode="tozero")
    fig.update_yaxes(title_text="cells")
    alt = (
        f"Histogram of the sizes of {plural(len(sizes), 'cell')}: from {sizes.min():.0f} to {sizes.max():.0f} training "
        f"images, median {np.median(sizes):.0f}."
    )
    return finish(fig, "Training images per cell", alt, 340, bargap=0)


def error_curves(
    errors: Mapping[str, Any],
    title: str = "How many answers lie within a distance?",
    label: str = "distance from answer to true place",
) -> go.Figure:
    """Share of images within each distance, one line per method; higher and further left is better.

    `errors` `[n]` in km are by name of the method; NaN or infinite is a missing prediction, never within reach. Names
    without a row, such as an empty split, are left out.
    """
    errors = {name: np.asarray(km, dtype=float) for name, km in errors.items() if np.size(km)}
    refuse_empty("errors", errors, "method with its errors in km")
    fig, parts = go.Figure(), []
    top = np.log10(_HALF_EARTH_KM)
    for i, (name, km) in enumerate(errors.items()):
        values = np.sort(np.where(np.isnan(km), np.inf, km))
        finite = values[np.isfinite(values)]
        if len(finite):
            steps = min(len(finite), _MOST_STEPS)
            chosen = np.unique(np.linspace(0, len(finite) - 1, steps).round().astype(int))
            x = [np.log10(_FLOOR_KM), *np.log10(np.maximum(finite[chosen], _FLOOR_KM)), top]
            y = (chosen + 1) / len(values)
            fig.add_scatter(
                x=numbers(x),
                y=numbers([float((values <= _FLOOR_KM).mean()), *y, y[-1]]),
                mode="lines",
                line={"shape": "hv", "width": 2.2, "color": PALETTE[i % len(PALETTE)]},
                name=escape(name),
                customdata=[km_text(10**value) for value in x],
                hovertemplate="%{y:.1%} within %{customdata}<extra>%{fullData.name}</extra>",
            )
        parts.append(
            f"{name} reaches {percent(float((values <= 25).mean()))} within 25 km, "
            f"{percent(float((values <= 750).mean()))} within 750 km"
        )
    for limit, name in THRESHOLDS_KM.items():
        fig.add_vline(
            x=float(np.log10(limit)),
            line={"color": LAND, "dash": "dot", "width": 1},
            annotation={"text": f"{name}<br>{limit:,} km", "font": {"size": 10}, "yanchor": "bottom", "y": 1.0},
        )
    powers = range(int(np.log10(_FLOOR_KM)), int(top) + 1)
    texts = [f"{10**power:,} km" if power >= 0 else f"{round(1000 * 10.0**power):,} m" for power in powers]
    ticks = {"tickvals": list(powers), "ticktext": texts, "range": [np.log10(_FLOOR_KM), top]}
    fig.update_xaxes(title_text=escape(label), **ticks)
    fig.update_yaxes(title_text="share of images", tickformat=".0%", range=[0, 1.005])
    alt = "Curves of the share of images within a distance: " + "; ".join(parts) + "."
    return finish(fig, title, alt, 460, margin={"l": 56, "r": 24, "t": 96, "b": 48})
