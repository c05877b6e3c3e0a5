"""Figures of evaluation: methods side by side, places one by one and nearness, with their intervals."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from geocbm.metrics import entry_of, interval_text
from geocbm.plots.primitives import ENDS, dots_by_bin, log_axis, whiskers
from geocbm.plots.theme import INK, LAND, PALETTE, finish
from geocbm.plots.values import escape, km_text, labels, numbers, percent, plural, refuse_empty

_FORESTS = {
    "median_km": ("median error, km", "How far off? (left is better)", "Stage 2"),
    "country_acc": ("country right", "Which country? (right is better)", "Stage 2"),
    "meta_top1": ("labelled concept right", "Which concept? (right is better)", "Stage 1"),
}
MOST_PLACES = 30


def method_forest(table: pd.DataFrame, metric: str) -> go.Figure:
    """Forest plot of `median_km`, `country_acc` or `meta_top1` of all methods of `evaluation.measure` that have it."""
    label, title, highlight = _FORESTS[metric]
    names = {"method": "name", metric: "value", f"{metric}_low": "low", f"{metric}_high": "high"}
    rows = table[list(names)].rename(columns=names).dropna(subset=["value"]).reset_index(drop=True)
    return forest(rows, label, title, highlight, log=metric == "median_km", share=metric != "median_km")


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
    """
    missing = {"name", "value"} - set(table.columns)
    if missing or not len(table):
        raise ValueError(f"a forest plot needs rows with name and value; missing: {sorted(missing) or 'rows'}")
    bounds = table.reindex(columns=["value", "low", "high"])
    value, low, high = bounds.to_numpy(float).T
    finite = np.abs(value[np.isfinite(value)]).max(initial=1e-9)
    decimals = max(0, 3 - int(np.ceil(np.log10(finite))))  # one for all rows: what is nothing beside the others is 0

    def write(number: float) -> str:
        return percent(number) if share else f"{number:z,.{decimals}f}"

    names = table["name"].astype(str).tolist()
    texts = [interval_text(entry, write) for entry in bounds.to_dict("records")]
    fig = go.Figure(
        go.Scatter(
            x=numbers(value),
            y=labels(names, 52),
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
    beside = {"x": 1.01, "xref": "paper", "xanchor": "left", "showarrow": False, "font": {"size": 12, "color": INK}}
    for name, text in zip(labels(names, 52), texts, strict=True):
        fig.add_annotation(y=name, text=text, **beside)
    if highlight in names and np.isfinite(value[names.index(highlight)]):
        fig.add_vline(x=float(value[names.index(highlight)]), line={"color": LAND, "dash": "dot", "width": 1})
    fig.update_xaxes(title_text=escape(label), tickformat=".0%" if share else None)
    if log:
        fig.update_xaxes(**log_axis(np.concatenate([value, low, high])))
    fig.update_yaxes(autorange="reversed", ticks="", type="category")
    listed = "; ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
    alt = f"{label} of {plural(len(names), 'method')}, intervals in brackets: {listed}."
    margin = {"l": 56, "r": 190, "t": 56, "b": 48}
    return finish(fig, title, alt, 150 + 34 * len(names), margin=margin)


def place_breakdown(table: pd.DataFrame, level: str = "country") -> go.Figure:
    """Median error and share named right of every place by itself, with intervals; the smallest error on top.

    A row of the table has `place, n, pooled` (places that it stands for), `median_km` and `right` (0 to 1), each with
    `_low` and `_high` (NaN: none). Of more than `MOST_PLACES` those with the most images are drawn; rows of pooled
    places stay, last. `level` is what the places are, such as "country".
    """
    refuse_empty("table", table, "place")
    single = table[table["pooled"] == 1].sort_values(["n", "place"], ascending=[False, True]).head(MOST_PLACES)
    shown = pd.concat([single.sort_values("median_km"), table[table["pooled"] > 1]])
    places = labels([f"{place} ({n:,})" for place, n in zip(shown["place"], shown["n"], strict=True)], 48)
    fig = make_subplots(cols=2, rows=1, shared_yaxes=True, horizontal_spacing=0.04)
    panels = (("median_km", PALETTE[0], km_text), ("right", PALETTE[2], percent))
    for column, (metric, colour, write) in enumerate(panels, start=1):
        value, low, high = (shown[metric + end].to_numpy(float) for end in ENDS)
        fig.add_scatter(
            x=numbers(value),
            y=places,
            mode="markers",
            marker={"size": 8, "color": colour},
            error_x=whiskers(value, low, high) | {"thickness": 1.4, "width": 3, "color": LAND},
            customdata=[interval_text(entry_of(row, metric), write) for row in shown.to_dict("records")],
            hovertemplate="%{y}: %{customdata}<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
    distances = shown[["median_km", "median_km_low", "median_km_high"]].to_numpy(float).ravel()
    fig.update_xaxes(title_text="median error, km", col=1, **log_axis(distances))
    fig.update_xaxes(title_text=f"{escape(level)} right", tickformat=".0%", range=[-0.04, 1.04], col=2)
    fig.update_yaxes(autorange="reversed", ticks="", type="category", dtick=1)
    order = shown["median_km"].to_numpy(float).argsort()
    best, worst = shown.iloc[int(order[0])], shown.iloc[int(order[-1])]
    alt = (
        f"Median error and share right, with intervals, of {plural(len(shown), 'row')}, a {level} each: the smallest "
        f"median error is {km_text(best['median_km'])} ({best['place']}), the largest {km_text(worst['median_km'])} "
        f"({worst['place']}); the {level} is named right in {percent(shown['right'].min())} to "
        f"{percent(shown['right'].max())} of the images."
    )
    return finish(fig, f"How good is it, {level} by {level}?", alt, max(240, 140 + 21 * len(shown)))


def errors_by_distance(table: pd.DataFrame) -> go.Figure:
    """Median error of methods by the distance to the nearest training place, with intervals.

    A row per bin and method: `bin` (in words, in order), `n`, `method`, `median_km`, `median_km_low`, `median_km_high`.
    """
    refuse_empty("table", table, "bin")
    columns = [f"median_km{end}" for end in ENDS]
    fig = dots_by_bin(table.assign(series=table["method"].map(escape)), columns)
    bins = list(dict.fromkeys(table["bin"]))
    sentences = []
    for method, trace in zip(dict.fromkeys(table["method"]), fig.data, strict=True):
        own = [km_text(km) for km in table[table["method"] == method].set_index("bin")["median_km"].reindex(bins)]
        trace.update(customdata=own, hovertemplate="%{customdata}<extra>%{fullData.name}</extra>")
        sentences.append(f"{method} " + ", ".join(f"{km} ({where})" for km, where in zip(own, bins, strict=True)))
    fig.update_yaxes(title_text="median error, km", **log_axis(table[columns].to_numpy(float).ravel()))
    fig.update_xaxes(title_text="distance to the nearest training place")
    alt = f"Median error by the distance to the nearest training place: {'; '.join(sentences)}."
    return finish(fig, "Does a training place nearby help?", alt, 440, legend={"y": -0.26})
