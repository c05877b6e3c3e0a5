"""Figures of concepts: accuracy by concept, confusion, drift of prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.plots.style import GRID, PALETTE, columns_of, escape, finish, labels, numbers, percent, plural

if TYPE_CHECKING:
    import plotly.graph_objects as go


def _by_class(names: Any, correct: Any) -> pd.DataFrame:
    name, hit = columns_of(names=names, correct=correct)
    frame = pd.DataFrame({"name": name.astype(str), "accuracy": hit.astype(float)})
    table = frame.groupby("name")["accuracy"].agg(["mean", "size"]).reset_index()
    return table.sort_values(["mean", "size", "name"], ascending=[False, False, True], kind="stable")


def per_meta_accuracy(
    meta: Any, correct: Any, parent: Any | None = None, title: str = "Which metas are recognised?"
) -> go.Figure:
    """Accuracy of each meta as a dot, best first, as large as its number of images, coloured by parent.

    Args:
        meta: `[n]` name of the true meta.
        correct: `[n]` whether it was named rightly.
        parent: `[n]` name of the parent, for the colours; the largest seven have a colour of their own.
        title: headline.
    """
    import plotly.graph_objects as go

    table = _by_class(meta, correct)
    table["place"] = np.arange(1, len(table) + 1)
    owner = (
        dict(zip(map(str, np.asarray(meta)), map(str, np.asarray(parent)), strict=True)) if parent is not None else {}
    )
    table["parent"] = [owner.get(name, "") for name in table["name"]]
    ranked = table.groupby("parent")["size"].sum().sort_values(ascending=False, kind="stable").index
    own = list(ranked[: len(PALETTE) - 1])
    fig = go.Figure()
    groups = [(name, table[table["parent"] == name], PALETTE[i]) for i, name in enumerate(own)]
    rest = table[~table["parent"].isin(own)]
    if len(rest):
        groups.append((f"{rest['parent'].nunique()} other parents", rest, PALETTE[-1]))
    for name, part, colour in groups:
        fig.add_trace(
            go.Scatter(
                x=part["place"].tolist(),
                y=numbers(part["mean"]),
                mode="markers",
                marker={
                    "size": numbers(np.clip(4 + 2 * np.sqrt(part["size"]), 5, 24), 3),
                    "color": colour,
                    "opacity": 0.8,
                    "line": {"width": 0.6, "color": "white"},
                },
                customdata=[
                    [escape(meta_name), int(n)] for meta_name, n in zip(part["name"], part["size"], strict=True)
                ],
                hovertemplate="%{customdata[0]}: %{y:.0%} of %{customdata[1]}<extra></extra>",
                name=escape(name),
                showlegend=bool(owner),
            )
        )
    fig.update_yaxes(title_text="accuracy", tickformat=".0%", range=[-0.04, 1.04])
    fig.update_xaxes(title_text="meta, best first (larger dot: more images)", showgrid=False)
    best, worst = table.iloc[0], table.iloc[-1]
    alt = (
        f"Accuracy of {plural(len(table), 'meta')}, best first: {best['name']} {percent(best['mean'])} of "
        f"{best['size']}, {worst['name']} {percent(worst['mean'])} of {worst['size']}; the mean over metas is "
        f"{percent(table['mean'].mean())}, and {int((table['mean'] == 0).sum())} are never named rightly."
    )
    return finish(fig, title, alt, 420)


def per_parent_accuracy(parent: Any, correct: Any, title: str = "Which parents are recognised?") -> go.Figure:
    """Accuracy of each parent as a bar, best on top, with its number of images.

    Args:
        parent: `[n]` name of the true parent.
        correct: `[n]` whether the parent was named rightly.
        title: headline.
    """
    import plotly.graph_objects as go

    table = _by_class(parent, correct)
    fig = go.Figure(
        go.Bar(
            x=numbers(table["mean"]),
            y=labels(table["name"].tolist()),
            orientation="h",
            text=[f"{100 * mean:.0f} %  (n = {n})" for mean, n in zip(table["mean"], table["size"], strict=True)],
            textposition="auto",
            marker_color=PALETTE[0],
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    )
    fig.update_xaxes(title_text="accuracy", tickformat=".0%", range=[0, 1])
    fig.update_yaxes(autorange="reversed", showgrid=False, ticks="", dtick=1)
    best, worst = table.iloc[0], table.iloc[-1]
    alt = (
        f"Bars of accuracy for {plural(len(table), 'parent')}: {best['name']} {percent(best['mean'])} is best, "
        f"{worst['name']} {percent(worst['mean'])} is worst."
    )
    return finish(fig, title, alt, 130 + 26 * len(table), bargap=0.25)


def confusion(
    true_meta: Any,
    predicted_meta: Any,
    metas: Sequence[str],
    meta_to_parent: Any,
    parents: Sequence[str],
    pairs: int = 12,
    title: str = "What is taken for what?",
) -> go.Figure:
    """Confusion of parents as a heat map, beside the pairs of metas that are most often confused.

    Args:
        true_meta: `[n]` indices of the true metas.
        predicted_meta: `[n]` indices of the named metas.
        metas: `[k_m]` names of the metas.
        meta_to_parent: `[k_m]` index of each meta's parent.
        parents: `[k_p]` names of the parents.
        pairs: how many pairs of metas are listed.
        title: headline.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    true, named = (values.astype(int) for values in columns_of(true_meta=true_meta, predicted_meta=predicted_meta))
    owner = np.asarray(meta_to_parent).astype(int)
    counts = np.zeros((len(parents), len(parents)), dtype=int)
    np.add.at(counts, (owner[true], owner[named]), 1)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    wrong = true != named
    within = wrong & (owner[true] == owner[named])
    across = wrong & ~within
    mixed = pd.Series(list(zip(true[wrong].tolist(), named[wrong].tolist(), strict=True)), dtype=object)
    top = mixed.value_counts(sort=False)
    top = top.iloc[np.lexsort((np.array([str(pair) for pair in top.index], dtype=str), -top.to_numpy()))][:pairs]
    fig = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.56, 0.44],
        horizontal_spacing=0.06,
        subplot_titles=["parents (share of each row)", "most confused metas"],
    )
    short = labels(list(parents), 22)
    fig.add_trace(
        go.Heatmap(
            z=[numbers(row, 3) for row in share],
            x=short,
            y=short,
            customdata=counts.tolist(),
            colorscale=[[0, "#FFFFFF"], [1, PALETTE[0]]],
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{y} named %{x}: %{z:.0%} (%{customdata})<extra></extra>",
        ),
        row=1,
        col=1,
    )

    pair_names = [" → ".join(labels([metas[index] for index in pair], 32)) for pair in top.index]
    same_parent = np.array([owner[true_one] == owner[named_one] for true_one, named_one in top.index], dtype=bool)
    for same, name, colour in ((True, "within a parent", PALETTE[0]), (False, "across parents", PALETTE[1])):
        chosen = np.flatnonzero(same_parent == same)
        if not len(chosen):
            continue
        fig.add_trace(
            go.Bar(
                x=[int(top.iloc[i]) for i in chosen],
                y=chosen.tolist(),
                width=0.4,
                orientation="h",
                marker_color=colour,
                name=name,
                customdata=[pair_names[i] for i in chosen],
                hovertemplate="%{customdata}: %{x}<extra></extra>",
            ),
            row=1,
            col=2,
        )
    # Names stand above their bars: beside them, two of them would take half of the figure.
    fig.add_trace(
        go.Scatter(
            x=[0] * len(top),
            y=[i - 0.42 for i in range(len(top))],
            mode="text",
            text=pair_names,
            textposition="middle right",
            textfont={"size": 11},
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
        ),
        row=1,
        col=2,
    )
    fig.update_yaxes(autorange="reversed", tickfont_size=11, row=1, col=1, showgrid=False)
    fig.update_xaxes(tickangle=-45, tickfont_size=11, row=1, col=1, showgrid=False)
    fig.update_yaxes(range=[len(top) - 0.5, -0.8], showticklabels=False, showgrid=False, ticks="", row=1, col=2)
    fig.update_xaxes(title_text="images", rangemode="tozero", row=1, col=2)
    alt = (
        f"Confusion of {plural(len(parents), 'parent')} and the most confused metas: of "
        f"{plural(len(true), 'image')} {percent(float((~wrong).mean()))} get the right meta, "
        f"{percent(float(within.mean()))} another meta of the same parent, "
        f"{percent(float(across.mean()))} one of another parent"
    )
    if len(top):
        first = top.index[0]
        alt += f"; the most frequent mistake is {metas[first[0]]} named {metas[first[1]]}, {top.iloc[0]} times"
    fig.update_annotations(font_size=13)
    return finish(
        fig,
        title,
        alt + ".",
        220 + 30 * max(len(parents), len(top), 8),
        bargap=0.3,
        legend={"x": 1, "xanchor": "right"},
        margin={"l": 48, "r": 16, "t": 84, "b": 60},
    )


def prototype_drift(names: Sequence[str], cosine: Any, title: str = "How far did the prototypes move?") -> go.Figure:
    """Cosine between each concept's text prototype and the learned one, most moved on the left.

    Args:
        names: `[k]` names of the concepts.
        cosine: `[k]` cosine similarity between base and learned prototype; 1 is unmoved.
        title: headline.
    """
    import plotly.graph_objects as go

    name, values = columns_of(names=list(names), cosine=cosine)
    order = np.argsort(values, kind="stable")
    fig = go.Figure(
        go.Bar(
            x=list(range(1, len(order) + 1)),
            y=numbers(1 - values[order].astype(float)),
            customdata=[escape(name[i]) for i in order],
            marker_color=PALETTE[2],
            hovertemplate="%{customdata}: 1 - cosine = %{y:.3g}<extra></extra>",
        )
    )
    fig.update_xaxes(title_text="concept, most moved first", showgrid=False)
    fig.update_yaxes(title_text="1 - cosine to the text prototype", rangemode="tozero", gridcolor=GRID)
    alt = (
        f"Bars of how far {plural(len(order), 'prototype')} moved from their text prototypes: "
        f"{name[order[0]]} moved most, to cosine {values[order[0]]:.3f}, "
        f"{name[order[-1]]} least, to {values[order[-1]]:.3f}; "
        f"the median cosine is {np.median(values):.3f}."
    )
    return finish(fig, title, alt, 360, bargap=0.15)
