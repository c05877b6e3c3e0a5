"""Figures of the data: what there is, how uneven it is, how it is split and cut into cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.plots.style import (
    INK,
    LAND,
    PALETTE,
    columns_of,
    escape,
    finish,
    km_text,
    labels,
    log_ticks_of,
    numbers,
    percent,
    plural,
    thin_curve,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

THRESHOLDS_KM = {1: "street", 25: "city", 200: "region", 750: "country", 2500: "continent"}
_FLOOR_KM = 0.01  # a logarithmic axis has no zero: shorter distances are drawn at 10 m


def hierarchy(table: pd.DataFrame, title: str = "Parents and their metas") -> go.Figure:
    """Treemap of metas within their parents, as large as their number of images.

    Args:
        table: images with the columns `parent_concept` and `meta_name`.
        title: headline.
    """
    import plotly.graph_objects as go

    columns_of(parent_concept=table["parent_concept"], meta_name=table["meta_name"])
    sizes = table.groupby(["parent_concept", "meta_name"], sort=True).size()
    parents = sizes.groupby(level=0).sum().sort_values(ascending=False, kind="stable")
    colour = {str(parent): PALETTE[i % len(PALETTE)] for i, parent in enumerate(parents.index)}
    ids = [f"p:{parent}" for parent in parents.index] + [f"m:{parent}/{meta}" for parent, meta in sizes.index]
    texts = [escape(parent) for parent in parents.index] + [escape(meta) for _, meta in sizes.index]
    above = [""] * len(parents) + [f"p:{parent}" for parent, _ in sizes.index]
    shade = [colour[str(parent)] for parent in parents.index] + [colour[str(parent)] for parent, _ in sizes.index]
    fig = go.Figure(
        go.Treemap(
            ids=ids,
            labels=texts,
            parents=above,
            values=[int(size) for size in [*parents, *sizes]],
            branchvalues="total",
            marker={"colors": shade, "line": {"width": 1, "color": "white"}},
            textinfo="label+value",
            hovertemplate="%{label}: %{value} images<extra></extra>",
            pathbar={"visible": False},
            tiling={"pad": 2},
        )
    )
    alt = (
        f"Treemap of {plural(len(sizes), 'meta')} under {plural(len(parents), 'parent concept')}; the largest parent "
        f"is {parents.index[0]} with {parents.iloc[0]:,} of {plural(int(sizes.sum()), 'image')}, "
        f"the largest meta {sizes.index[int(sizes.to_numpy().argmax())][1]} with {sizes.max():,}."
    )
    return finish(fig, title, alt, 520, margin={"l": 8, "r": 8, "t": 48, "b": 8})


def imbalance(names: Any, noun: str = "meta", title: str = "How uneven the metas are") -> go.Figure:
    """Bars of how often each name occurs, most frequent first, on a logarithmic scale.

    Args:
        names: `[n]` one name per image.
        noun: what a name is, for texts.
        title: headline.
    """
    import plotly.graph_objects as go

    (values,) = columns_of(names=names)
    counts = pd.Series(values.astype(str)).value_counts(sort=False).sort_index()
    counts = counts.sort_values(ascending=False, kind="stable")
    fig = go.Figure(
        go.Bar(
            x=list(range(1, len(counts) + 1)),
            y=[int(count) for count in counts],
            customdata=[escape(name) for name in counts.index],
            marker_color=PALETTE[0],
            hovertemplate="%{customdata}: %{y}<extra></extra>",
        )
    )
    half = int(np.searchsorted(np.cumsum(counts.to_numpy()), counts.sum() / 2) + 1)
    alt = (
        f"Bars of images per {noun}, sorted, logarithmic: {counts.index[0]} has {counts.iloc[0]:,}, "
        f"{counts.index[-1]} has {counts.iloc[-1]:,}, the median {noun} has {counts.median():.0f}; "
        f"the {half} most frequent of {len(counts)} hold half of the images."
    )
    fig.update_yaxes(type="log", title_text="images", **log_ticks_of(counts.iloc[-1], counts.iloc[0]))
    fig.update_xaxes(title_text=f"{noun}, most frequent first", showgrid=False)
    return finish(fig, title, alt, 360, bargap=0.15)


def country_bars(country: Any, limit: int = 40, title: str = "", noun: str = "image") -> go.Figure:
    """Horizontal bars of images per country, most frequent on top.

    Args:
        country: `[n]` country of each image.
        limit: at most so many countries are drawn; the axis says how many are left out.
        title: headline.
        noun: what one image is called.
    """
    import plotly.graph_objects as go

    (values,) = columns_of(country=country)
    counts = pd.Series(values.astype(str)).value_counts(sort=False).sort_index()
    counts = counts.sort_values(ascending=False, kind="stable")
    shown = counts.iloc[:limit]
    texts, bars = labels(list(shown.index)), [int(count) for count in shown]
    fig = go.Figure(
        go.Bar(x=bars, y=texts, orientation="h", marker_color=PALETTE[0], hovertemplate="%{y}: %{x}<extra></extra>")
    )
    alt = (
        f"Bars of {plural(int(counts.sum()), noun)} in {plural(len(counts), 'country', 'countries')}: "
        f"{counts.index[0]} has most, {counts.iloc[0]:,} ({percent(counts.iloc[0] / counts.sum())}), "
        f"{counts.index[-1]} fewest, {counts.iloc[-1]:,}."
    )
    fig.update_yaxes(autorange="reversed", showgrid=False, ticks="", dtick=1)
    rest = counts.iloc[limit:]
    more = f" ({len(rest)} more countries, {plural(int(rest.sum()), noun)}, are not drawn)" if len(rest) else ""
    fig.update_xaxes(title_text=f"{noun}s" + more)
    return finish(fig, title or f"{noun.capitalize()}s per country", alt, 130 + 18 * len(bars), bargap=0.25)


def split_distances(distances: Mapping[str, Any], title: str = "How far is the nearest training image?") -> go.Figure:
    """Histogram of the distance from test images to the nearest training image, one per kind of split.

    Args:
        distances: name of the split kind -> `[n]` distances in km; kinds without a test image are left out.
        title: headline.

    Raises:
        ValueError: there is no distance at all.
    """
    import plotly.graph_objects as go

    distances = {name: km for name, km in distances.items() if np.size(km)}
    if not distances:
        raise ValueError("distances is empty: pass the distances of at least one kind of split")
    columns = {name: columns_of(**{name: km})[0].astype(float) for name, km in distances.items()}
    logs = {name: np.log10(np.maximum(km[np.isfinite(km)], _FLOOR_KM)) for name, km in columns.items()}
    top = max([1.0, *(float(values.max()) for values in logs.values() if len(values))])
    edges = np.linspace(np.log10(_FLOOR_KM), np.ceil(top * 4) / 4, 41)
    fig = go.Figure()
    parts = []
    for i, (name, values) in enumerate(logs.items()):
        share = np.histogram(values, bins=edges)[0] / max(len(values), 1)
        fig.add_trace(
            go.Bar(
                x=numbers((edges[:-1] + edges[1:]) / 2),
                y=numbers(share, 3),
                width=float(edges[1] - edges[0]),
                marker_color=PALETTE[i % len(PALETTE)],
                opacity=0.6,
                name=escape(name),
                customdata=[km_text(10**edge) for edge in edges[1:]],
                hovertemplate="up to %{customdata}: %{y:.1%}<extra></extra>",
            )
        )
        near = float((values <= 0).mean()) if len(values) else float("nan")
        middle = float(10 ** np.median(values)) if len(values) else float("nan")
        parts.append(f"with the {name} split the median is {km_text(middle)} and {percent(near)} lie within 1 km")
    fig.update_xaxes(title_text="distance to the nearest training image", **log_km_axis(edges[0], edges[-1]))
    fig.update_yaxes(title_text="share of test images", tickformat=".0%")
    alt = "Histogram of the distance from test images to the nearest training image: " + "; ".join(parts) + "."
    return finish(fig, title, alt, 380, barmode="overlay", bargap=0)


def log_km_axis(low: float, high: float) -> dict[str, Any]:
    """Axis entries for positions that are log10 km: ticks at powers of ten, in words."""
    powers = list(range(int(np.ceil(low - 1e-9)), int(np.floor(high + 1e-9)) + 1))
    texts = [f"{10**power:,} km" if power >= 0 else f"{round(1000 * 10.0**power):,} m" for power in powers]
    return {"tickvals": powers, "ticktext": texts, "range": [low, high]}


def cell_sizes(counts: Any, title: str = "Training images per cell") -> go.Figure:
    """Histogram of the number of training images in a cell.

    Args:
        counts: `[N]` images in each cell.
        title: headline.
    """
    import plotly.graph_objects as go

    (values,) = columns_of(counts=counts)
    sizes = values.astype(float)
    edges = np.unique(np.floor(np.linspace(0, sizes.max() + 1, 32)))
    shares = np.histogram(sizes, bins=edges)[0]
    fig = go.Figure(
        go.Bar(
            x=numbers((edges[:-1] + edges[1:]) / 2),
            y=[int(count) for count in shares],
            width=numbers(np.diff(edges)),
            marker_color=PALETTE[0],
            marker_line={"width": 1, "color": "white"},
            hovertemplate="about %{x:.0f} images: %{y} cells<extra></extra>",
        )
    )
    fig.add_vline(x=float(np.median(sizes)), line={"color": INK, "dash": "dot", "width": 1.2}, annotation_text="median")
    fig.update_xaxes(title_text="training images in the cell", range=[0, float(edges[-1])])
    fig.update_yaxes(title_text="cells")
    alt = (
        f"Histogram of the sizes of {plural(len(sizes), 'cell')}: from {sizes.min():.0f} to {sizes.max():.0f} training "
        f"images, median {np.median(sizes):.0f}."
    )
    return finish(fig, title, alt, 340, bargap=0)


def error_curves(
    errors: Mapping[str, Any], title: str = "How many guesses lie within a distance?", noun: str = "image"
) -> go.Figure:
    """Share of images within each distance, one line per method; higher and further left is better.

    Args:
        errors: name of the method -> `[n]` errors in km; NaN or infinite is a missing prediction, never within reach.
            Names without a row, such as an empty split, are left out.
        title: headline.
        noun: what a row is, for the alt text.

    Raises:
        ValueError: there is no row at all.
    """
    import plotly.graph_objects as go

    errors = {name: km for name, km in errors.items() if np.size(km)}
    if not errors:
        raise ValueError("errors is empty: pass the errors in km of at least one method")
    fig = go.Figure()
    parts = []
    top = np.log10(20040)
    for i, (name, km) in enumerate(errors.items()):
        values = columns_of(**{name: km})[0].astype(float)
        values = np.sort(np.where(np.isnan(values), np.inf, values))
        finite = values[np.isfinite(values)]
        if len(finite):
            chosen = thin_curve(len(finite))
            x = np.log10(np.maximum(finite[chosen], _FLOOR_KM))
            y = (chosen + 1) / len(values)
            fig.add_trace(
                go.Scatter(
                    x=numbers([np.log10(_FLOOR_KM), *x, top]),
                    y=numbers([float((values <= _FLOOR_KM).mean()), *y, y[-1]]),
                    mode="lines",
                    line={"shape": "hv", "width": 2.2, "color": PALETTE[i % len(PALETTE)]},
                    name=escape(name),
                    customdata=[km_text(10**value) for value in [np.log10(_FLOOR_KM), *x, top]],
                    hovertemplate="%{y:.1%} within %{customdata}<extra>%{fullData.name}</extra>",
                )
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
    fig.update_xaxes(title_text="distance between guess and truth", **log_km_axis(np.log10(_FLOOR_KM), top))
    fig.update_yaxes(title_text=f"share of {noun}s", tickformat=".0%", range=[0, 1.005])
    alt = f"Curves of the share of {noun}s within a distance: " + "; ".join(parts) + "."
    return finish(fig, title, alt, 460, margin={"l": 56, "r": 24, "t": 96, "b": 48})


def quantization_error(km: Any, title: str = "The error a perfect classifier would still make") -> go.Figure:
    """Share of images within each distance of the centre of their own cell.

    Args:
        km: `[n]` distances to the centre of the assigned cell in km, or a mapping from a name (a split) to them.
        title: headline.
    """
    curves = km if isinstance(km, Mapping) else {"centre of the true cell": km}
    fig = error_curves(curves, title)
    if len(curves) == 1:
        fig.update_layout(showlegend=False)
    fig.update_xaxes(title_text="distance from the image to its cell's centre")
    return fig
