"""Figures of training: losses over epochs, retrieval before and after."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.metrics.table import RATE, metric
from geocbm.plots.style import LAND, PALETTE, escape, finish, numbers, percent, plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SPLIT_COLUMN = re.compile(r"^(train|val)[_/. ]+(.+)$")
_TOTAL = ("loss", "total", "total_loss", "loss_total")


def loss_curves(
    history: pd.DataFrame, title: str = "How training went", terms: Sequence[str] | None = None
) -> go.Figure:
    """Curves of every quantity over epochs, training and validation together, as small multiples.

    Each panel names its quantity and unit as the table of metrics has them (keys `epoch.<term>`); a term that is not
    in the table is a plain number.

    Args:
        history: a row per epoch; columns named `train_<term>` or `val_<term>` (`/`, `.` or a space will do for `_`),
            and an optional `epoch`. The total loss comes first; other columns are left out.
        title: headline.
        terms: only these terms, in this order; by default all.

    Raises:
        ValueError: no epochs, no such column, or an unknown term.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    found: dict[str, dict[str, str]] = {}
    for column in history.columns:
        match = _SPLIT_COLUMN.match(str(column))
        if match and pd.api.types.is_numeric_dtype(history[column]):
            found.setdefault(match.group(2), {})[match.group(1)] = column
    if not len(history) or not found:
        listed = ", ".join(map(str, history.columns)) or "none"
        raise ValueError(f"history needs rows and columns named train_<term> or val_<term>; its columns are: {listed}")
    chosen = list(terms) if terms is not None else sorted(found, key=lambda term: term not in _TOTAL)
    unknown = [term for term in chosen if term not in found]
    if unknown:
        raise ValueError(f"history has no term {unknown[0]!r}; it has: {', '.join(found)}")
    epoch = history["epoch"].to_numpy() if "epoch" in history else np.arange(1, len(history) + 1)
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    fig = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[escape(metric(f"epoch.{term}").axis) for term in chosen],
        horizontal_spacing=0.28 / columns,
        vertical_spacing=min(0.2, 0.42 / rows),
    )
    seen: set[str] = set()
    for i, term in enumerate(chosen):
        factor = metric(f"epoch.{term}").unit.factor
        for split, colour in (("train", PALETTE[0]), ("val", PALETTE[1])):
            if split not in found[term]:
                continue
            fig.add_trace(
                go.Scatter(
                    x=[int(value) for value in epoch],
                    y=numbers(factor * history[found[term][split]]),
                    mode="lines+markers" if len(history) <= 30 else "lines",
                    marker={"size": 4},
                    line={"color": colour, "width": 1.8},
                    name={"train": "training", "val": "validation"}[split],
                    legendgroup=split,
                    showlegend=split not in seen,
                    hovertemplate="epoch %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
                ),
                row=i // columns + 1,
                col=i % columns + 1,
            )
            seen.add(split)
    parts, first = [], metric(f"epoch.{chosen[0]}")
    for split, column in found[chosen[0]].items():
        values = first.unit.factor * history[column].to_numpy(float)
        word = {"train": "training", "val": "validation"}[split]
        parts.append(f"the {word} {first.axis} goes from {values[0]:.3g} to {values[-1]:.3g}")
    fig.update_annotations(font_size=12)
    span = int(max(epoch) - min(epoch))
    fig.update_xaxes(dtick=max(1, -(-span // 5)), tickfont_size=10)  # whole epochs only
    fig.update_yaxes(nticks=5, tickfont_size=10)
    for i in range(max(0, len(chosen) - columns), len(chosen)):
        fig.update_xaxes(title_text="epoch", row=i // columns + 1, col=i % columns + 1)
    alt = f"Curves of {plural(len(chosen), 'quantity', 'quantities')} over {plural(len(history), 'epoch')}: "
    legend = {"x": 0.01, "y": 0.005, "yanchor": "bottom", "yref": "container"}
    margin = {"l": 48, "r": 16, "t": 78, "b": 76}
    return finish(fig, title, alt + " and ".join(parts) + ".", 160 + 185 * rows, legend=legend, margin=margin)


def retrieval_bars(
    before: Mapping[str, float], after: Mapping[str, float], title: str = "Finding the place from the image"
) -> go.Figure:
    """Pairs of bars of image-to-GPS retrieval before and after pretraining.

    Args:
        before: name of a metric of the epoch, such as `recall_1`, -> value. Those that are no recall are left
            out, whatever their value: a loss may lie between 0 and 1 too.
        after: the same names after pretraining.
        title: headline.
    """
    import plotly.graph_objects as go

    names = [name for name in before if name in after and name.startswith("recall")]
    names = [name for name in names if metric(f"epoch.{name}").unit == RATE]
    if not names:
        raise ValueError(f"before and after share no rate of retrieval: {list(before)} and {list(after)}")
    fig = go.Figure()
    for side, name, colour in ((before, "before", LAND), (after, "after", PALETTE[0])):
        fig.add_trace(
            go.Bar(
                x=[escape(metric(f"epoch.{key}").label) for key in names],
                y=numbers([side[key] for key in names]),
                text=[percent(side[key]) for key in names],
                textposition="outside",
                cliponaxis=False,
                marker_color=colour,
                name=name,
                hovertemplate="%{x}: %{y:.1%}<extra>%{fullData.name}</extra>",
            )
        )
    fig.update_yaxes(tickformat=".0%", title_text="share of held-out images", rangemode="tozero")
    fig.update_xaxes(showgrid=False)
    parts = [
        f"{metric(f'epoch.{name}').label} goes from {percent(before[name])} to {percent(after[name])}" for name in names
    ]
    alt = "Bars of image-to-place retrieval before and after pretraining: " + "; ".join(parts) + "."
    return finish(fig, title, alt, 380, barmode="group", bargap=0.3)
