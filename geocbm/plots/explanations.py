"""Figures of explanations held against the truth: maps, patches that go, concepts that count, leakage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.plots.style import LAND, MUTED, PALETTE, band, columns_of, escape, finish, labels, numbers, percent, plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "diamond", "triangle-up", "line-ns-open")


def pointing_by_concept(
    concepts: pd.DataFrame, title: str = "Does the map of each concept point at it?", most: int = 80
) -> go.Figure:
    """Share of hits of each concept by each way of pointing, concepts in the order of chance.

    Args:
        concepts: columns `concept`, `pairs`, `named` and, for each way, `hit WAY`: the first is the map's, the last
            is chance.
        title: headline.
        most: concepts shown; of more, those that chance hits most rarely.

    Raises:
        ValueError: no concept.
    """
    import plotly.graph_objects as go

    if not len(concepts):
        raise ValueError("concepts is empty: pass at least one concept")
    ways = [name for name in concepts.columns if name.startswith("hit ")]
    chance = ways[-1]
    shown = concepts.sort_values([chance, "concept"], kind="stable").head(most).iloc[::-1]
    names = labels(shown["concept"].tolist(), 40)
    fig = go.Figure()
    fig.add_trace(
        go.Bar(
            x=numbers(shown[ways[0]]),
            y=names,
            orientation="h",
            marker={"color": PALETTE[0]},
            customdata=shown[["pairs", "named"]].to_numpy(),
            hovertemplate="%{y}: %{x:.0%} of %{customdata[0]} pictures<br>named first in %{customdata[1]:.0%}"
            "<extra></extra>",
            name=escape(ways[0].removeprefix("hit ")),
        )
    )
    for i, way in enumerate(ways[1:]):
        fig.add_trace(
            go.Scatter(
                x=numbers(shown[way]),
                y=names,
                mode="markers",
                marker={
                    "symbol": _SYMBOLS[i % len(_SYMBOLS)] if way != chance else "line-ns",
                    "size": 8,
                    "color": (PALETTE[2], PALETTE[4], MUTED)[i % 3] if way != chance else "black",
                    "line": {"width": 2 if way == chance else 0.5, "color": "black" if way == chance else "white"},
                },
                hovertemplate="%{y}: %{x:.0%}<extra>%{fullData.name}</extra>",
                name=escape(way.removeprefix("hit ")),
            )
        )
    fig.update_xaxes(
        title_text="maximum on the concept, labelled pictures", tickformat=".0%", range=[0, 1.02], side="top"
    )
    # A category axis would leave room above and below for the markers.
    fig.update_yaxes(tickfont={"size": 11}, dtick=1, range=[-0.8, len(shown) - 0.2])
    below = concepts.loc[concepts[ways[0]] <= concepts[chance], "concept"].tolist()
    alt = (
        f"Share of pictures of {plural(len(shown), 'concept')} in which the maximum of the map lies on the concept: on "
        f"average {percent(float(shown[ways[0]].mean()))}, by chance {percent(float(shown[chance].mean()))}; "
        f"{'no better than chance for ' + ', '.join(below[:6]) if below else 'better than chance for each'}."
    )
    height = 170 + 15 * len(shown)
    legend = {"y": 1 + 60 / (height - 150), "yanchor": "bottom", "x": 0}
    margin = {"l": 56, "r": 24, "t": 130, "b": 20}
    # Left alone, a title stands in the middle of the margin, where the legend is.
    above = {"title_y": 1 - 14 / height, "title_yanchor": "top"}
    return finish(fig, title, alt, height, legend=legend, margin=margin, bargap=0.25, **above)


def _add_curve(fig: go.Figure, own: pd.DataFrame, x: str, i: int, name: str, banded: bool, **place: Any) -> None:
    """A line with markers over column `x`, and its band if it has one; `place` is the row and column of a panel."""
    import plotly.graph_objects as go

    colour, at = PALETTE[i % len(PALETTE)], numbers(own[x])
    if banded and np.isfinite(own[["low", "high"]].to_numpy(float)).all():
        fig.add_trace(band(at, own["low"], own["high"], colour, 0.12), **place)
    fig.add_trace(
        go.Scatter(
            x=at,
            y=numbers(own["value"]),
            mode="lines+markers",
            marker={"size": 6},
            line={"color": colour, "width": 2, "dash": _DASHES[i % len(_DASHES)]},
            hovertemplate=f"{x} %{{x}}: %{{y:.1%}}<extra>%{{fullData.name}}</extra>",
            name=escape(name),
            legendgroup=name,
            showlegend=place.get("col", 1) == 1,
        ),
        **place,
    )


def _add_level(fig: go.Figure, level: float, text: str) -> None:
    """A dotted line across all panels: what there is when nothing is taken away."""
    fig.add_hline(y=level, line={"color": LAND, "dash": "dot"})
    fig.add_annotation(x=0, xref="x domain", xanchor="left", y=level, yanchor="bottom", showarrow=False, text=text)


def removal_curves(curves: pd.DataFrame, whole: float, title: str = "What is lost with the patches?") -> go.Figure:
    """Probability of the true cell against the share of patches that are gone (or alone left), a panel for each curve.

    Args:
        curves: columns `curve` ("deletion", "insertion"), `order`, `share`, `value`, `low`, `high`; the first order
            and the last, the control, have bands.
        whole: the probability with all patches.
        title: headline.

    Raises:
        ValueError: no rows.
    """
    from plotly.subplots import make_subplots

    if not len(curves):
        raise ValueError("curves is empty: pass at least one curve")
    words = {"deletion": "taken away", "insertion": "alone left"}
    kinds, orders = list(dict.fromkeys(curves["curve"])), list(dict.fromkeys(curves["order"]))
    fig = make_subplots(cols=len(kinds), shared_yaxes=True, horizontal_spacing=0.05)
    parts, ticks = [], sorted(set(curves["share"]))
    marks = {"tickvals": numbers(ticks), "ticktext": [f"{tick:.0%}" for tick in ticks]}
    for column, kind in enumerate(kinds, start=1):
        for i, order in enumerate(orders):
            own = curves[(curves["curve"] == kind) & (curves["order"] == order)]
            # Bands of all orders would cover each other; those of the first and of the last are what is compared.
            _add_curve(fig, own, "share", i, order, order in (orders[0], orders[-1]), row=1, col=column)
            last = own.iloc[-1]
            parts.append(f"{percent(float(last['value']))} ({order}, {percent(float(last['share']))} {words[kind]})")
        fig.update_xaxes(title_text=f"patches {words[kind]}", type="log", row=1, col=column, **marks)
    _add_level(fig, float(whole), "all patches")
    fig.update_yaxes(rangemode="tozero")
    fig.update_yaxes(title_text="probability of the true cell", tickformat=".0%", row=1, col=1)
    alt = f"Mean probability of the true cell, {percent(float(whole))} with all patches: {'; '.join(parts)}."
    return finish(fig, title, alt, 440, legend={"y": -0.22})


def kept_concepts(curves: pd.DataFrame, full: float, title: str = "How many concepts does it need?") -> go.Figure:
    """Share of right cells against the number of concepts that count, a line with a band for each way of keeping them.

    Args:
        curves: columns `way, count, value, low, high`, shares from 0 to 1; a bound may be NaN.
        full: the share with all concepts.
        title: headline.

    Raises:
        ValueError: no rows.
    """
    import plotly.graph_objects as go

    if not len(curves):
        raise ValueError("curves is empty: pass the shares of at least one number of concepts")
    fig, parts = go.Figure(), []
    for i, (way, own) in enumerate(curves.groupby("way", sort=False)):
        _add_curve(fig, own, "count", i, str(way), banded=True)
        parts.append(f"{percent(float(own['value'].iloc[-1]))} with {own['count'].iloc[-1]} ({way})")
    _add_level(fig, float(full), "all concepts")
    fig.update_xaxes(title_text="concepts that count", rangemode="tozero")
    fig.update_yaxes(title_text="cell right", tickformat=".0%", rangemode="tozero")
    said = f"{percent(full)} with all, {', '.join(parts)}"
    return finish(fig, title, f"Share of cells named right by the number of concepts that count: {said}.", 440)


def told_by_concepts(
    names: Sequence[str], truth: Any, predicted: Any, beyond: Any, title: str = "What does one concept tell?"
) -> go.Figure:
    """What each concept and its score tell of the country, a point for each concept.

    Args:
        names: `[k]` the concepts.
        truth: `[k]` what the true concept tells, as a part of the entropy of the country.
        predicted: `[k]` what its score tells.
        beyond: `[k]` what the score tells once the concept is known.
        title: headline.
    """
    import plotly.graph_objects as go

    label, x, y, more = columns_of(names=names, truth=truth, predicted=predicted, beyond=beyond)
    x, y, more = (np.asarray(one, dtype=float) for one in (x, y, more))
    # Information freed of its bias scatters around 0 where there is none.
    top = 1.05 * max(float(np.max([x.max(), y.max()])), 1e-3)
    low = min(0.0, float(np.min([x.min(), y.min()])))
    fig = go.Figure(
        go.Scatter(x=[low, top], y=[low, top], mode="lines", line={"color": LAND, "dash": "dot"}, hoverinfo="skip")
    )
    fig.add_trace(
        go.Scatter(
            x=numbers(x),
            y=numbers(y),
            mode="markers",
            marker={
                "size": 8,
                "color": numbers(np.maximum(more, 0)),
                "colorscale": "Cividis",
                "reversescale": True,
                "cmin": 0,
                "line": {"color": "white", "width": 0.5},
                "colorbar": {"title": {"text": "beyond<br>the concept"}, "tickformat": ".1%", "thickness": 12},
            },
            text=[escape(str(one)) for one in label],
            customdata=numbers(more),
            hovertemplate="%{text}<br>concept %{x:.1%}, score %{y:.1%}, beyond %{customdata:.1%}<extra></extra>",
        )
    )
    fig.update_xaxes(title_text="told by the true concept, of the country's entropy", tickformat=".0%")
    fig.update_yaxes(title_text="told by its score", tickformat=".0%")
    most = int(more.argmax())
    alt = (
        f"What {plural(len(label), 'concept')} tell of the country: on average {percent(float(x.mean()))} of its "
        f"entropy by the true concept and {percent(float(y.mean()))} by its score, which is higher for "
        f"{int((y > x).sum())} of them; most beyond its concept is told by the score of "
        f"{label[most]}, {percent(float(more[most]))}."
    )
    return finish(fig, title, alt, 480, showlegend=False)
