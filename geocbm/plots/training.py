"""Figures of training: losses over epochs, of one run and of several, and retrieval before and after."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from geocbm.metrics.table import RATE, metric
from geocbm.plots.primitives import DASHES, as_panels
from geocbm.plots.theme import INK, LAND, PALETTE, finish
from geocbm.plots.values import escape, numbers, percent, plural

_SPLIT_COLUMN = re.compile(r"^(train|val)[_/. ]+(.+)$")
_TOTAL = ("loss", "total", "total_loss", "loss_total")
_WORDS = {"train": "training", "val": "validation"}


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
    columns, first = min(4, len(terms)), metric(f"epoch.{terms[0]}")
    rows, curves, parts = -(-len(terms) // columns), [], []
    for term in terms:
        own = metric(f"epoch.{term}")
        for word, column in ((_WORDS[split], found[term][split]) for split in _WORDS if split in found[term]):
            values = own.unit.factor * history[column].to_numpy(float)
            curve = pd.DataFrame({"name": word, "epoch": epoch, "value": numbers(values)})
            curves.append(curve.assign(panel=escape(own.axis)))
            if term == terms[0]:
                parts.append(f"the {word} {first.axis} goes from {values[0]:.3g} to {values[-1]:.3g}")
    spacing = {"facet_col_spacing": 0.28 / columns, "facet_row_spacing": min(0.2, 0.42 / rows)}
    fig = _by_epoch(pd.concat(curves), columns, **spacing)
    fig.update_annotations(font_size=12)
    fig.update_xaxes(tickfont_size=10)
    fig.update_yaxes(nticks=5, tickfont_size=10)
    alt = f"Curves of {plural(len(terms), 'quantity', 'quantities')} over {plural(len(history), 'epoch')}: "
    legend = {"x": 0.01, "y": 0.005, "yanchor": "bottom", "yref": "container"}
    margin = {"l": 48, "r": 16, "t": 78, "b": 76}
    return finish(fig, title, alt + " and ".join(parts) + ".", 160 + 185 * rows, legend=legend, margin=margin)


def _by_epoch(curves: pd.DataFrame, columns: int, **more: Any) -> go.Figure:
    """Curves `panel, name, epoch, value` as small multiples, with a mark at each epoch where they are few."""
    import plotly.express as px

    epochs = curves["epoch"]
    look = {"color_discrete_sequence": PALETTE, "line_dash_sequence": DASHES, "markers": epochs.nunique() <= 30}
    sides = {"x": "epoch", "y": "value", "facet_col": "panel", "facet_col_wrap": columns, "labels": {"value": ""}}
    fig = px.line(curves, color="name", render_mode="svg", **sides, **look, **more)
    hover = "epoch %{x}: %{y:.4g}<extra>%{fullData.name}</extra>"
    as_panels(fig).update_traces(marker_size=4, line_width=1.8, hovertemplate=hover)
    fig.update_yaxes(matches=None, showticklabels=True)
    return fig.update_xaxes(dtick=max(1, -(-int(epochs.max() - epochs.min()) // 5)))  # whole epochs only


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
        fig.add_bar(x=x, y=y, text=[percent(side[key]) for key in words], marker_color=colour, name=name)
    hover = "%{x}: %{y:.1%}<extra>%{fullData.name}</extra>"
    fig.update_traces(textposition="outside", cliponaxis=False, hovertemplate=hover)
    fig.update_yaxes(tickformat=".0%", title_text="share of held-out images", rangemode="tozero")
    fig.update_xaxes(showgrid=False)
    parts = [f"{word} goes from {percent(before[name])} to {percent(after[name])}" for name, word in words.items()]
    alt = "Bars of image-to-place retrieval before and after pretraining: " + "; ".join(parts) + "."
    return finish(fig, title, alt, 380, barmode="group", bargap=0.3)


def compare_histories(curves: pd.DataFrame) -> go.Figure:
    """Learning curves of several runs (`run, stage, quantity, epoch, value`), a colour each, a panel per quantity."""
    if curves.empty:
        return finish(go.Figure(), "On validation, by epoch", "No run has a history yet.")
    drawn = curves.sort_values("stage", kind="stable", ignore_index=True)
    drawn["name"] = drawn["run"].map(escape)
    drawn["panel"] = (drawn["stage"] + ": " + drawn["quantity"]).map(escape)
    across = min(3, drawn["panel"].nunique())
    down = -(-drawn["panel"].nunique() // across)
    order = {"name": list(dict.fromkeys(curves["run"].map(escape)))}
    spacing = {"facet_col_spacing": 0.08, "facet_row_spacing": 0.17}
    fig = _by_epoch(drawn, across, line_dash="name", category_orders=order, **spacing)
    ends = drawn.groupby(["stage", "quantity", "run"], sort=False)["value"].last().reset_index()
    said = "; ".join(
        f"{one['run']} {one['stage']} {one['quantity']} {one['value']:.3g}" for one in ends.to_dict("records")
    )
    alt = f"Learning curves of {plural(curves['run'].nunique(), 'run')}; at the end: {said}."
    legend = {"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    margin = {"l": 56, "r": 24, "t": 84, "b": 96}
    return finish(
        fig, "On validation, by epoch", alt, 170 + 200 * down, legend=legend, margin=margin, legend_title_text=""
    )


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
