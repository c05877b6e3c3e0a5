"""What several figures are made of: bands, whiskers, dots with intervals, axes of distances, a legend of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geocbm.plots.theme import INK, LAND, PALETTE
from geocbm.plots.values import escape, numbers, plural

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
ENDS = ("", "_low", "_high")


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
    """A bar for each of `[n]` names in the order given, which has no room to be written; `hover` says the height."""
    bars = {"marker_color": colour, "hovertemplate": f"%{{customdata}}: {hover}<extra></extra>"}
    place, shown = list(range(1, len(names) + 1)), [escape(name) for name in names]
    return go.Figure(go.Bar(x=place, y=numbers(heights), customdata=shown, **bars))


def whiskers(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Error bars from a value to its interval's ends; one that reaches to infinity ends at the largest finite end."""
    ends = np.concatenate([value, low, high])
    top = float(ends[np.isfinite(ends)].max(initial=0.0))
    with np.errstate(invalid="ignore"):
        up, down = np.minimum(high, top) - value, value - low
    parts = {name: numbers(np.nan_to_num(bar, posinf=0.0, neginf=0.0)) for name, bar in (("up", up), ("down", down))}
    return {"type": "data", "symmetric": False, "array": parts["up"], "arrayminus": parts["down"]}


def interval_texts(value: np.ndarray, low: np.ndarray, high: np.ndarray, write: Callable[[float], str]) -> list[str]:
    """Values as `412 (380 to 447)`; without a known interval the value alone."""
    return [
        write(middle) + ("" if np.isnan(lower) or np.isnan(upper) else f" ({write(lower)} to {write(upper)})")
        for middle, lower, upper in zip(value, low, high, strict=True)
    ]


def line(x: Any, y: Any, number: int, name: str, hover: str, **more: Any) -> go.Scatter:
    """A curve `[n]`; `number` is that in its panel, for colour and dashes."""
    look = {"color": PALETTE[number % len(PALETTE)], "width": 2, "dash": DASHES[number % len(DASHES)]}
    drawn = {"mode": "lines", "line": look, "name": escape(name), "legendgroup": name, "hovertemplate": hover}
    return go.Scatter(x=numbers(x), y=numbers(y), **(drawn | more))


def add_curve(
    fig: go.Figure, own: pd.DataFrame, x: str, number: int, name: str, *, banded: bool = True, col: int | None = None
) -> None:
    """Add the shares `value` over column `x`, a line with markers, and the band from `low` to `high` where it is known.

    `number` is that of the curve in its panel, for colour and dashes, `col` the panel in a row of panels; only the
    first has legend entries.
    """
    colour, at = PALETTE[number % len(PALETTE)], numbers(own[x])
    panel = {} if col is None else {"row": 1, "col": col}
    if banded and np.isfinite(own[["low", "high"]].to_numpy(float)).all():
        fig.add_trace(band(at, own["low"], own["high"], colour, 0.12), **panel)
    hover = f"{x} %{{x}}: %{{y:.1%}}<extra>%{{fullData.name}}</extra>"
    shown = {"mode": "lines+markers", "marker_size": 6, "showlegend": col in (None, 1)}
    fig.add_trace(line(own[x], own["value"], number, name, hover, **shown), **panel)


def add_level(fig: go.Figure, level: float, text: str) -> None:
    """A dotted line across all panels: what there is when nothing is taken away."""
    fig.add_hline(y=level, line={"color": LAND, "dash": "dot"})
    fig.add_annotation(x=0, xref="x domain", xanchor="left", y=level, yanchor="bottom", showarrow=False, text=text)


def dots_by_bin(
    table: pd.DataFrame, series: str, columns: Sequence[str], step: float, names: Callable[[Any], str]
) -> go.Figure:
    """Dots with whiskers: a place on the axis for each bin with its number of images, a colour for each series.

    The table has `bin` (in order), `n`, a column that tells the `series` apart, and the `columns` of value, lower and
    upper end. Two series stand `step` bins apart in one bin, and `names` says what each is called.
    """
    fig = go.Figure()
    bins, own_series = list(dict.fromkeys(table["bin"])), list(dict.fromkeys(table[series]))
    counts = table.drop_duplicates("bin").set_index("bin")["n"]
    for i, each in enumerate(own_series):
        own = table[table[series] == each].set_index("bin").reindex(bins)
        value, low, high = (own[column].to_numpy(float) for column in columns)
        fig.add_scatter(
            x=numbers(np.arange(len(bins)) + step * (i - (len(own_series) - 1) / 2)),
            y=numbers(value),
            mode="markers",
            marker={"size": 10, "color": PALETTE[i % len(PALETTE)]},
            error_y=whiskers(value, low, high) | {"thickness": 1.6, "width": 4},
            name=names(each),
        )
    fig.update_xaxes(
        tickvals=list(range(len(bins))),
        ticktext=[f"{escape(each)}<br>{plural(int(counts[each]), 'image')}" for each in bins],
        range=[-0.5, len(bins) - 0.5],
    )
    return fig


def as_panels(fig: go.Figure) -> go.Figure:
    """Panels of plotly express under names of their own, each with its own axis across."""
    for note in fig.layout.annotations:
        note.update(text=note.text.partition("=")[2], font={"size": 13, "color": INK})
    return fig.update_layout(legend_title_text="").update_xaxes(matches=None, showticklabels=True)


def legend_once(fig: go.Figure) -> None:
    """One legend entry for all traces of one name, in the order of their first."""
    seen: set[str] = set()
    for trace in fig.data:
        trace.update(showlegend=trace.name not in seen, legendgroup=trace.name)
        seen.add(trace.name)


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
