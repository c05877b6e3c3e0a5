"""Figures of evaluation: methods side by side, places one by one and nearness, with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.plots.style import (
    INK,
    LAND,
    PALETTE,
    escape,
    finish,
    km_text,
    labels,
    log_ticks_of,
    numbers,
    percent,
    plural,
    whiskers,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


_FORESTS: dict[str, tuple[str, str, str, str]] = {
    "median_km": ("median error, km", "How far off? (left is better)", "Stage 2", "log"),
    "country_acc": ("country right", "Which country? (right is better)", "Stage 2", "share"),
    "meta_top1": ("labelled concept right", "Which concept? (right is better)", "Stage 1", "share"),
}


def method_forest(table: pd.DataFrame, figure: str) -> go.Figure:
    """Forest plot of one figure of all methods that have it.

    Args:
        table: of `evaluation.measure`, with at least one method that has the figure.
        figure: `median_km`, `country_acc` or `meta_top1`.
    """
    label, title, highlight, kind = _FORESTS[figure]
    names = {"method": "name", figure: "value", f"{figure}_low": "low", f"{figure}_high": "high"}
    rows = table[list(names)].rename(columns=names).dropna(subset=["value"]).reset_index(drop=True)
    return forest(rows, label, title, highlight, log=kind == "log", share=kind == "share")


def forest(
    table: pd.DataFrame,
    label: str,
    title: str = "Against what a user would pick instead",
    highlight: str | None = None,
    log: bool = False,
    share: bool = False,
) -> go.Figure:
    """Forest plot: a dot with its interval for each method, in the order given.

    Args:
        table: a row per method with `name`, `value` and, where there is an interval, `low` and `high` (NaN: none).
        label: what is measured, with the unit.
        title: headline.
        highlight: name of the method to draw in another colour, with a line at its value.
        log: logarithmic axis.
        share: the values are shares, written as percentages.

    Raises:
        ValueError: no rows, or a missing column.
    """
    import plotly.graph_objects as go

    missing = {"name", "value"} - set(table.columns)
    if missing or not len(table):
        raise ValueError(f"a forest plot needs rows with name and value; missing: {sorted(missing) or 'rows'}")
    value = table["value"].to_numpy(float)
    low = table["low"].to_numpy(float) if "low" in table else np.full(len(table), np.nan)
    high = table["high"].to_numpy(float) if "high" in table else np.full(len(table), np.nan)

    def write(number: float) -> str:
        if np.isposinf(number):
            return "no answer"
        return percent(number) if share else f"{number:,.4g}"

    names = table["name"].astype(str).tolist()
    spans = [
        "" if np.isnan(lower) or np.isnan(upper) else f" ({write(lower)} to {write(upper)})"
        for lower, upper in zip(low, high, strict=True)
    ]
    ends = np.concatenate([value, low, high])
    texts = [write(number) + span for number, span in zip(value, spans, strict=True)]
    fig = go.Figure(
        go.Scatter(
            x=numbers(value),
            y=labels(names),
            mode="markers",
            marker={
                "size": 11,
                "color": [PALETTE[1] if name == highlight else PALETTE[0] for name in names],
                "line": {"width": 1, "color": "white"},
            },
            error_x=whiskers(value, low, high) | {"thickness": 1.8, "width": 5, "color": INK},
            customdata=texts,
            hovertemplate="%{y}: %{customdata}<extra></extra>",
            showlegend=False,
        )
    )
    for name, text in zip(labels(names), texts, strict=True):
        fig.add_annotation(
            x=1.01, xref="paper", y=name, text=text, showarrow=False, xanchor="left", font={"size": 12, "color": INK}
        )
    if highlight in names:
        reference = float(value[names.index(highlight)])
        if np.isfinite(reference):
            fig.add_vline(x=reference, line={"color": LAND, "dash": "dot", "width": 1})
    fig.update_xaxes(title_text=escape(label), type="log" if log else "linear", tickformat=".0%" if share else None)
    positive = ends[np.isfinite(ends) & (ends > 0)]
    if log and len(positive):
        fig.update_xaxes(**log_ticks_of(positive.min(), positive.max()))
    fig.update_yaxes(autorange="reversed", ticks="", type="category")
    listed = "; ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
    alt = f"{label} of {plural(len(names), 'method')}, intervals in brackets: {listed}."
    margin = {"l": 56, "r": 190, "t": 56, "b": 48}
    return finish(fig, title, alt, 150 + 34 * len(names), margin=margin)


def _log_km_axis(ends: np.ndarray) -> dict[str, Any]:
    """A logarithmic axis for distances in km that has at least two ticks within its range."""
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


def place_breakdown(table: pd.DataFrame, level: str = "country", limit: int = 30, title: str = "") -> go.Figure:
    """Median error and share named right of every place by itself, with intervals; the smallest error on top.

    Args:
        table: a row per place with `place, n, pooled` (places that a row stands for), `median_km` and `right` (0 to 1),
            each with `_low` and `_high` (NaN: none).
        level: what the places are, such as "country".
        limit: at most so many places, those with the most images; rows of pooled places always stay, last.
        title: headline.

    Raises:
        ValueError: no rows.
    """
    from plotly.subplots import make_subplots

    if not len(table):
        raise ValueError("table is empty: pass at least one place")
    single = table[table["pooled"] == 1].sort_values(["n", "place"], ascending=[False, True]).head(limit)
    shown = pd.concat([single.sort_values("median_km"), table[table["pooled"] > 1]])
    places = labels([f"{place} ({n:,})" for place, n in zip(shown["place"], shown["n"], strict=True)], 48)
    fig = make_subplots(cols=2, rows=1, shared_yaxes=True, horizontal_spacing=0.04)
    written = {"median_km": km_text, "right": percent}
    for column, (figure, colour) in enumerate((("median_km", PALETTE[0]), ("right", PALETTE[2])), start=1):
        value, low, high = (shown[f"{figure}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        ends = np.concatenate([value, low, high])
        write = written[figure]
        spans = [
            f"{write(middle)}" + (f" ({write(lower)} to {write(upper)})" if np.isfinite(lower) else "")
            for middle, lower, upper in zip(value, low, high, strict=True)
        ]
        fig.add_scatter(
            x=numbers(value),
            y=places,
            mode="markers",
            marker={"size": 8, "color": colour},
            error_x=whiskers(value, low, high) | {"thickness": 1.4, "width": 3, "color": LAND},
            customdata=spans,
            hovertemplate="%{y}: %{customdata}<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
        if figure == "median_km":
            fig.update_xaxes(title_text="median error, km", row=1, col=column, **_log_km_axis(ends))
        else:
            fig.update_xaxes(
                title_text=f"{escape(level)} right", tickformat=".0%", range=[-0.04, 1.04], row=1, col=column
            )
    fig.update_yaxes(autorange="reversed", ticks="", type="category", dtick=1)
    order = shown["median_km"].to_numpy(float).argsort()
    best, worst = shown.iloc[int(order[0])], shown.iloc[int(order[-1])]
    alt = (
        f"Median error and share right, with intervals, of {plural(len(shown), 'row')}, a {level} each: the smallest "
        f"median error is {km_text(best['median_km'])} ({best['place']}), the largest {km_text(worst['median_km'])} "
        f"({worst['place']}); the {level} is named right in {percent(shown['right'].min())} to "
        f"{percent(shown['right'].max())} of the images."
    )
    return finish(fig, title or f"How good is it, {level} by {level}?", alt, max(240, 140 + 21 * len(shown)))


def errors_by_distance(table: pd.DataFrame, title: str = "Does a training place nearby help?") -> go.Figure:
    """Median error of methods by the distance to the nearest training place, with intervals.

    Args:
        table: a row per bin and method with `bin` (in words), `n`, `method`, `median_km`, `median_km_low` and
            `median_km_high`; the bins in order.
        title: headline.

    Raises:
        ValueError: no rows.
    """
    import plotly.graph_objects as go

    if not len(table):
        raise ValueError("table is empty: pass at least one bin")
    fig = go.Figure()
    bins = list(dict.fromkeys(table["bin"]))
    counts = table.drop_duplicates("bin").set_index("bin")["n"]
    methods = list(dict.fromkeys(table["method"]))
    sentences = []
    for i, method in enumerate(methods):
        own = table[table["method"] == method].set_index("bin").reindex(bins)
        value, low, high = (own[f"median_km{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        fig.add_scatter(
            x=numbers(np.arange(len(bins)) + 0.16 * (i - (len(methods) - 1) / 2)),
            y=numbers(value),
            mode="markers",
            marker={"size": 10, "color": PALETTE[i % len(PALETTE)]},
            error_y=whiskers(value, low, high) | {"thickness": 1.6, "width": 4},
            name=escape(method),
            customdata=[km_text(each) for each in value],
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
        sentences.append(
            f"{method} " + ", ".join(f"{km_text(each)} ({where})" for each, where in zip(value, bins, strict=True))
        )
    ends = table[["median_km", "median_km_low", "median_km_high"]].to_numpy(float)
    fig.update_yaxes(title_text="median error, km", **_log_km_axis(ends.ravel()))
    fig.update_xaxes(
        title_text="distance to the nearest training place",
        tickvals=list(range(len(bins))),
        ticktext=[f"{escape(each)}<br>{plural(int(counts[each]), 'image')}" for each in bins],
        range=[-0.5, len(bins) - 0.5],
    )
    alt = f"Median error by the distance to the nearest training place: {'; '.join(sentences)}."
    return finish(fig, title, alt, 440, legend={"y": -0.26})
