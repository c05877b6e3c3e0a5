"""Figures of training: losses over epochs, of one run and of several, and retrieval before and after."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from geocbm.metrics.table import RATE, metric
from geocbm.plots.primitives import DASHES, legend_once
from geocbm.plots.theme import INK, LAND, PALETTE, finish
from geocbm.plots.values import escape, numbers, percent, plural

_SPLIT_COLUMN = re.compile(r"^(train|val)[_/. ]+(.+)$")
_TOTAL = ("loss", "total", "total_loss", "loss_total")
_SPLITS = {"train": ("training", PALETTE[0]), "val": ("validation", PALETTE[1])}


def loss_curves(history: pd.DataFrame, title: str = "How training went") -> go.Figure:
    """Curves of every quantity over epochs, training and validation together, as small multiples.

    Each panel names its quantity and unit as the table of metrics has them (keys `epoch.<term>`); a term that is not in
    the table is a plain number. The history has a row per epoch, columns `train_<term>` or `val_<term>` (`/`, `.` or a
    space will do for `_`), at least one, and perhaps `epoch`. The total loss comes first; other columns are left out.
    """
    found: dict[str, dict[str, str]] = {}
    for column in history.columns:
        match = _SPLIT_COLUMN.match(str(column))
        if match and pd.api.types.is_numeric_dtype(history[column]):
            found.setdefault(match.group(2), {})[match.group(1)] = column
    if not len(history) or not found:
        listed = ", ".join(map(str, history.columns)) or "none"
        raise ValueError(f"history needs rows and columns named train_<term> or val_<term>; its columns are: {listed}")
    terms = sorted(found, key=lambda term: term not in _TOTAL)
    epoch = history["epoch"].to_numpy() if "epoch" in history else np.arange(1, len(history) + 1)
    columns = min(4, len(terms))
    rows = -(-len(terms) // columns)
    fig = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[escape(metric(f"epoch.{term}").axis) for term in terms],
        horizontal_spacing=0.28 / columns,
        vertical_spacing=min(0.2, 0.42 / rows),
    )
    first, parts = metric(f"epoch.{terms[0]}"), []
    for i, term in enumerate(terms):
        for split in (split for split in _SPLITS if split in found[term]):
            word, colour = _SPLITS[split]
            values = metric(f"epoch.{term}").unit.factor * history[found[term][split]].to_numpy(float)
            fig.add_trace(_by_epoch(epoch, values, word, {"color": colour}), i // columns + 1, i % columns + 1)
            if i == 0:
                parts.append(f"the {word} {first.axis} goes from {values[0]:.3g} to {values[-1]:.3g}")
    legend_once(fig)
    fig.update_annotations(font_size=12)
    span = int(max(epoch) - min(epoch))
    fig.update_xaxes(dtick=max(1, -(-span // 5)), tickfont_size=10)  # whole epochs only
    fig.update_yaxes(nticks=5, tickfont_size=10)
    for i in range(max(0, len(terms) - columns), len(terms)):
        fig.update_xaxes(title_text="epoch", row=i // columns + 1, col=i % columns + 1)
    alt = f"Curves of {plural(len(terms), 'quantity', 'quantities')} over {plural(len(history), 'epoch')}: "
    legend = {"x": 0.01, "y": 0.005, "yanchor": "bottom", "yref": "container"}
    margin = {"l": 48, "r": 16, "t": 78, "b": 76}
    return finish(fig, title, alt + " and ".join(parts) + ".", 160 + 185 * rows, legend=legend, margin=margin)


def _by_epoch(epoch: Any, values: Any, name: str, line: dict[str, Any]) -> go.Scatter:
    """A curve over epochs, with a mark at each where they are few."""
    return go.Scatter(
        x=[int(value) for value in epoch],
        y=numbers(values),
        mode="lines+markers" if len(epoch) <= 30 else "lines",
        marker_size=4,
        line=line | {"width": 1.8},
        name=name,
        hovertemplate="epoch %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
    )


def retrieval_bars(
    before: Mapping[str, float], after: Mapping[str, float], title: str = "Finding the place from the image"
) -> go.Figure:
    """Pairs of bars of image-to-GPS retrieval before and after pretraining, by name of a metric of the epoch.

    Those that are no recall are left out, whatever their value: a loss may lie between 0 and 1 too.
    """
    names = [name for name in before if name in after and name.startswith("recall")]
    words = {name: metric(f"epoch.{name}").label for name in names if metric(f"epoch.{name}").unit == RATE}
    if not words:
        raise ValueError(f"before and after share no rate of retrieval: {list(before)} and {list(after)}")
    fig = go.Figure()
    for side, name, colour in ((before, "before", LAND), (after, "after", PALETTE[0])):
        x, y = [escape(word) for word in words.values()], numbers([side[key] for key in words])
        fig.add_bar(x=x, y=y, text=list(map(percent, y)), marker_color=colour, name=name)
    hover = "%{x}: %{y:.1%}<extra>%{fullData.name}</extra>"
    fig.update_traces(textposition="outside", cliponaxis=False, hovertemplate=hover)
    fig.update_yaxes(tickformat=".0%", title_text="share of held-out images", rangemode="tozero")
    fig.update_xaxes(showgrid=False)
    parts = [f"{word} goes from {percent(before[name])} to {percent(after[name])}" for name, word in words.items()]
    alt = "Bars of image-to-place retrieval before and after pretraining: " + "; ".join(parts) + "."
    return finish(fig, title, alt, 380, barmode="group", bargap=0.3)


def compare_histories(curves: pd.DataFrame) -> go.Figure:
    """Learning curves of several runs (`run, stage, quantity, epoch, value`), a colour per run.

    There is a column of panels per stage and a row per quantity.
    """
    runs, stages = list(dict.fromkeys(curves["run"])), sorted(set(curves["stage"]))
    quantities = {stage: list(dict.fromkeys(curves.loc[curves["stage"] == stage, "quantity"])) for stage in stages}
    down = max([1, *(len(own) for own in quantities.values())])
    titles = [
        escape(f"{stage}: {quantities[stage][row]}") if row < len(quantities[stage]) else ""
        for row in range(down)
        for stage in stages
    ]
    fig = make_subplots(
        rows=down,
        cols=max(1, len(stages)),
        subplot_titles=titles or ["no stage yet"],
        horizontal_spacing=0.08,
        vertical_spacing=0.17,
    )
    lasts = []
    for (stage, quantity, run), part in curves.groupby(["stage", "quantity", "run"], sort=False):
        number = runs.index(run)
        lasts.append((stages.index(stage), quantities[stage].index(quantity), number, part["value"].iloc[-1]))
        line = {"color": PALETTE[number % len(PALETTE)], "dash": DASHES[number // len(PALETTE) % len(DASHES)]}
        curve = _by_epoch(part["epoch"], part["value"], escape(run), line)
        fig.add_trace(curve, quantities[stage].index(quantity) + 1, stages.index(stage) + 1)
    legend_once(fig)
    fig.update_annotations(font={"size": 13, "color": INK})
    for column, stage in enumerate(stages, 1):
        longest = int(curves.loc[curves["stage"] == stage, "epoch"].max())
        fig.update_xaxes(dtick=max(1, -(-longest // 6)), col=column)  # whole epochs only
    fig.update_xaxes(title_text="epoch", row=down)
    said = [
        f"{runs[run]} {stages[stage]} {quantities[stages[stage]][quantity]} {value:.3g}"
        for stage, quantity, run, value in sorted(lasts)
    ]
    alt = f"Learning curves of {plural(len(runs), 'run')}; at the end: {'; '.join(said)}."
    legend = {"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    margin = {"l": 56, "r": 24, "t": 84, "b": 96}
    shown = alt if said else "No run has a history yet."
    return finish(fig, "On validation, by epoch", shown, 170 + 200 * down, legend=legend, margin=margin)


def loss_and_gradients(terms: pd.DataFrame, parts: pd.DataFrame, title: str) -> go.Figure:
    """One step taken apart: what each term adds to the loss, and the norm of the gradient of each part of a model.

    `terms` are of `training.loss_terms`, `parts` of `training.gradient_norms`.
    """
    own, trained = terms.drop(index="loss"), parts[parts["trained"] > 0]
    whole = float(terms["value"]["loss"])
    heads = [f"weight × term, {whole:.3g} together", "norm of the gradient by part"]
    fig = make_subplots(rows=1, cols=2, subplot_titles=heads, horizontal_spacing=0.24)
    for column, values, texts in (
        (1, own["share"], own.apply(lambda row: f"{row['value']:.4g} × {row['weight']:g}", axis=1)),
        (2, trained["gradient"], trained["trained"].map("{:,} weights".format)),
    ):
        fig.add_bar(
            x=numbers(values),
            y=[escape(name) for name in values.index],
            text=texts.tolist(),
            textposition="none",
            orientation="h",
            marker_color=PALETTE[column - 1],
            hovertemplate="%{y}: %{x:.4g} (%{text})<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(rangemode="tozero", zeroline=True, zerolinecolor=INK)
    largest = trained["gradient"].fillna(0).idxmax() if len(trained) else "none"
    alt = (
        f"Bars of the {plural(len(own), 'term')} of the loss, the largest {own['share'].idxmax()} with "
        f"{own['share'].max():.3g} of {whole:.3g}, and of the gradients of "
        f"{plural(len(trained), 'part')} of the model, the largest in {largest}."
    )
    return finish(fig, title, alt, 120 + 26 * max(len(own), len(trained)), margin={"t": 84})
