"""Figures of how much goes through the concepts: what scores tell, and how many of them are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.plots.style import LAND, PALETTE, band, columns_of, escape, finish, numbers, percent, plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DASHES = ("solid", "dash", "dot", "dashdot")


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
        colour, x = PALETTE[i % len(PALETTE)], [int(count) for count in own["count"]]
        if np.isfinite(own[["low", "high"]].to_numpy()).all():
            fig.add_trace(band(x, own["low"], own["high"], colour, 0.14))
        fig.add_trace(
            go.Scatter(
                x=x,
                y=numbers(own["value"]),
                mode="lines+markers",
                marker={"size": 5},
                line={"color": colour, "width": 2, "dash": _DASHES[i % len(_DASHES)]},
                hovertemplate="%{x} concepts: %{y:.1%}<extra>%{fullData.name}</extra>",
                name=escape(str(way)),
            )
        )
        parts.append(f"{percent(float(own['value'].iloc[-1]))} with {x[-1]} ({way})")
    fig.add_hline(y=float(full), line={"color": LAND, "dash": "dot"})
    fig.add_annotation(
        x=0, xref="paper", xanchor="left", y=float(full), yanchor="bottom", showarrow=False, text="all concepts"
    )
    fig.update_xaxes(title_text="concepts that count", rangemode="tozero")
    fig.update_yaxes(title_text="cell right", tickformat=".0%", rangemode="tozero")
    alt = (
        f"Share of cells named right by the number of concepts that count: {percent(full)} with all, "
        f"{', '.join(parts)}."
    )
    return finish(fig, title, alt, 440)


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
