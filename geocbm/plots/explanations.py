"""Figures of explanations held against the truth: what maps point at, and what it costs to lose what they name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.plots.style import LAND, MUTED, PALETTE, band, escape, finish, labels, numbers, percent, plural

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
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if not len(curves):
        raise ValueError("curves is empty: pass at least one curve")
    words = {"deletion": "taken away", "insertion": "alone left"}
    kinds = list(dict.fromkeys(curves["curve"]))
    orders = list(dict.fromkeys(curves["order"]))
    fig = make_subplots(cols=len(kinds), shared_yaxes=True, horizontal_spacing=0.05)
    parts = []
    for column, kind in enumerate(kinds, start=1):
        for i, order in enumerate(orders):
            own = curves[(curves["curve"] == kind) & (curves["order"] == order)]
            x, colour = numbers(own["share"]), PALETTE[i % len(PALETTE)]
            # Bands of all orders would cover each other; those of the first and of the last are what is compared.
            if order in (orders[0], orders[-1]) and np.isfinite(own[["low", "high"]].to_numpy(float)).all():
                fig.add_trace(band(x, own["low"], own["high"], colour, 0.10), row=1, col=column)
            fig.add_trace(
                go.Scatter(
                    x=x,
                    y=numbers(own["value"]),
                    mode="lines+markers",
                    marker={"size": 6},
                    line={"color": colour, "width": 2, "dash": _DASHES[i % len(_DASHES)]},
                    hovertemplate="%{x:.0%} of the patches: %{y:.1%}<extra>%{fullData.name}</extra>",
                    name=escape(order),
                    legendgroup=order,
                    showlegend=column == 1,
                ),
                row=1,
                col=column,
            )
            last = own.iloc[-1]
            parts.append(f"{percent(float(last['value']))} ({order}, {percent(float(last['share']))} {words[kind]})")
        ticks = sorted(set(curves["share"]))
        fig.update_xaxes(
            title_text=f"patches {words[kind]}",
            type="log",
            tickvals=numbers(ticks),
            ticktext=[f"{tick:.0%}" for tick in ticks],
            row=1,
            col=column,
        )
        fig.add_hline(y=float(whole), line={"color": LAND, "dash": "dot"}, row=1, col=column)
    fig.add_annotation(
        x=0, xref="x domain", xanchor="left", y=float(whole), yanchor="bottom", showarrow=False, text="all patches"
    )
    fig.update_yaxes(title_text="probability of the true cell", tickformat=".0%", rangemode="tozero", row=1, col=1)
    fig.update_yaxes(rangemode="tozero")
    alt = f"Mean probability of the true cell, {percent(float(whole))} with all patches: {'; '.join(parts)}."
    return finish(fig, title, alt, 440, legend={"y": -0.22})
