"""What several figures are made of: bands, whiskers, dots with intervals, axes of distances, a legend of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geocbm.plots.theme import INK, LAND, PALETTE
from geocbm.plots.values import escape, labels, numbers, plural

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
ENDS = ("", "_low", "_high")
MOST_NAMED = 30  # places of an axis whose names can be written


def band(x: Sequence[Any], low: Any, high: Any, colour: str, opacity: float, legendgroup: str = "") -> go.Scatter:
    """The pale area between two curves `[n]`, without a legend entry; `colour` is `#RRGGBB`."""
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=[*numbers(high), *numbers(low)[::-1]],
        mode="lines",
        fill="toself",
        fillcolor=faint(colour, opacity),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=legendgroup or None,
    )


def faint(colour: str, opacity: float) -> str:
    """A colour `#RRGGBB` that lets through what lies below it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:.2f})"


def ranked_bars(names: Any, heights: Any, colour: str, hover: str) -> go.Figure:
    """A bar for each of `[n]` names in the order given, with its name where there is room; `hover` says the height."""
    bars = {"marker_color": colour, "hovertemplate": f"%{{customdata}}: {hover}<extra></extra>"}
    place, shown = list(range(1, len(names) + 1)), [escape(name) for name in names]
    fig = go.Figure(go.Bar(x=place, y=numbers(heights), customdata=shown, **bars))
    return fig.update_xaxes(named_ticks(names))


def named_ticks(names: Any) -> dict[str, Any]:
    """Settings of an axis whose places 1 to n have names: these, where they are few enough to be written."""
    ticks = {"tickvals": list(range(1, len(names) + 1)), "ticktext": labels(list(names), 24), "tickangle": -45}
    return ticks if len(names) <= MOST_NAMED else {}


def whiskers(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Error bars from a value to its interval's ends; one that reaches to infinity ends at the largest finite end."""
    ends = np.concatenate([value, low, high])
    top = float(ends[np.isfinite(ends)].max(initial=0.0))
    with np.errstate(invalid="ignore"):
        up, down = np.minimum(high, top) - value, value - low
    parts = {name: numbers(np.nan_to_num(bar, posinf=0.0, neginf=0.0)) for name, bar in (("up", up), ("down", down))}
    return {"type": "data", "symmetric": False, "array": parts["up"], "arrayminus": parts["down"]}


def line(x: Any, y: Any, number: int, name: str, hover: str, **more: Any) -> go.Scatter:
    """A curve `[n]`; `number` is that in its panel, for colour and dashes."""
    look = {"color": PALETTE[number % len(PALETTE)], "width": 2, "dash": DASHES[number % len(DASHES)]}
    drawn = {"mode": "lines", "line": look, "name": escape(name), "legendgroup": name, "hovertemplate": hover}
    return go.Scatter(x=numbers(x), y=numbers(y), **(drawn | more))


def add_curve(
    fig: go.Figure,
    own: pd.DataFrame,
    x: str,
    number: int,
    name: str,
    *,
    hover: str = "%{x}: %{y:.1%}",
    banded: bool = True,
    col: int = 1,
) -> None:
    """Add `value` over column `x`, a line with markers, and the band from `low` to `high` where it is known.

    `number` is that of the curve in its panel, for colour and dashes, `col` the panel in a row of panels; only the
    first has legend entries.
    """
    colour, at, panel = PALETTE[number % len(PALETTE)], numbers(own[x]), {"row": 1, "col": col} if col > 1 else {}
    if banded and np.isfinite(own[["low", "high"]].to_numpy(float)).all():
        fig.add_trace(band(at, own["low"], own["high"], colour, 0.12, name), **panel)
    shown = {"mode": "lines+markers", "marker_size": 6, "showlegend": col == 1}
    drawn = line(own[x], own["value"], number, name, f"{hover}<extra>%{{fullData.name}}</extra>", **shown)
    fig.add_trace(drawn, **panel)


def add_level(fig: go.Figure, level: float, text: str) -> None:
    """A dotted line across all panels: what there is when nothing is taken away."""
    fig.add_hline(y=level, line={"color": LAND, "dash": "dot"})
    fig.add_annotation(x=0, xref="x domain", xanchor="left", y=level, yanchor="bottom", showarrow=False, text=text)


def dots_by_bin(table: pd.DataFrame, columns: Sequence[str]) -> go.Figure:
    """Dots with whiskers: a place on the axis for each bin with its number of images, a colour for each series.

    The table has `bin` (in order), `n`, `series` (escaped), and the `columns` of value, lower and upper end.
    """
    import plotly.express as px

    value, low, high = (table[column].to_numpy(float) for column in columns)
    ends = whiskers(value, low, high)
    heads = [f"{escape(each)}<br>{plural(int(n), 'image')}" for each, n in zip(table["bin"], table["n"], strict=True)]
    fig = px.scatter(
        table.assign(head=heads, up=ends["array"], down=ends["arrayminus"], value=value),
        x="head",
        y="value",
        error_y="up",
        error_y_minus="down",
        color="series",
        render_mode="svg",
        color_discrete_sequence=PALETTE,
    )
    fig.update_traces(marker_size=10, error_y={"thickness": 1.6, "width": 4})
    return fig.update_layout(scattermode="group", scattergap=0.6, legend_title_text="")


def as_panels(fig: go.Figure) -> go.Figure:
    """Panels of plotly express under names of their own, each with its own axis across."""
    for note in fig.layout.annotations:
        note.update(text=note.text.partition("=")[2], font={"size": 13, "color": INK})
    return fig.update_layout(legend_title_text="").update_xaxes(matches=None, showticklabels=True)


def log_axis(ends: np.ndarray) -> dict[str, Any]:
    """A logarithmic axis for values such as distances in km that has at least two ticks within its range."""
    known = ends[np.isfinite(ends) & (ends > 0)]
    if not len(known):
        return {"type": "log"}
    low, high = known.min() / 1.15, known.max() * 1.15
    span = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), range(1, 10), np.arange(10, 100) / 10):
        ticks = [step * 10.0**power for power in span for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 2:
            break
    inside = inside[:: 1 + len(inside) // 12]
    return {
        "type": "log",
        "range": [float(np.log10(low)), float(np.log10(high))],
        "tickvals": inside,
        "ticktext": [f"{tick:,g}" for tick in inside],
    }
