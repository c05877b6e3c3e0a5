"""Figures of concepts: likeness of their words, accuracy by concept, confusion, drift of prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from geocbm.plots.primitives import named_ticks, ranked_bars
from geocbm.plots.theme import GRID, PALETTE, finish
from geocbm.plots.values import columns_of, escape, labels, numbers, percent, plural

if TYPE_CHECKING:
    from geocbm.data.concepts import ConceptVocabulary

MOST_PAIRS = 12


def prototype_similarity(prototypes: Any, concepts: ConceptVocabulary) -> go.Figure:
    """Cosine between the text prototypes `[k_m, t]` of all pairs of metas, grouped by parent, as a heat map."""
    unit = np.asarray(prototypes, dtype=float)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    order = np.argsort(concepts.parent_index, kind="stable")
    similarity, owner = (unit @ unit.T)[np.ix_(order, order)], concepts.parent_index[order]
    names = [escape(concepts.metas[i]) for i in order]
    same = owner[:, None] == owner[None, :]
    off = ~np.eye(len(names), dtype=bool)
    within, across = similarity[same & off], similarity[~same]
    parts = [f"Cosine between the words of {plural(len(names), 'meta')}, grouped by parent."]
    if len(within) and len(across):
        parts.append(f"Mean within a parent {within.mean():.2f}, across parents {across.mean():.2f}.")
    if len(names) > 1:
        first, second = np.unravel_index(np.where(off, similarity, -2).argmax(), similarity.shape)
        parts.append(f"Most alike: {names[first]} and {names[second]} ({similarity[first, second]:.2f}).")
    heat = {"colorscale": "Cividis", "colorbar": {"title": {"text": "cosine"}, "thickness": 12}}
    hover = "%{x}<br>%{y}<br>cosine %{z}<extra></extra>"
    fig = go.Figure(go.Heatmap(z=np.round(similarity, 3).tolist(), x=names, y=names, hovertemplate=hover, **heat))
    for edge in np.flatnonzero(np.diff(owner)) + 0.5:
        fig.add_vline(x=edge, line_width=0.6, line_color="white")
        fig.add_hline(y=edge, line_width=0.6, line_color="white")
    fig.update_xaxes(showticklabels=len(names) <= 40, tickangle=-60)
    fig.update_yaxes(autorange="reversed", showticklabels=len(names) <= 80, tickfont={"size": 8})
    title = "How similar are the words of two concepts?"
    return finish(fig, title, " ".join(parts), height=max(420, 9 * len(names) + 120))


def per_meta_accuracy(meta: Any, correct: Any, parent: Any) -> go.Figure:
    """Accuracy of each meta as a dot, best first, as large as its number of images, coloured by parent.

    Of `n` images the true `meta`, whether it was named right, and its `parent`; the largest seven parents have a colour
    of their own.
    """
    import plotly.express as px

    meta, correct, parent = columns_of(meta=meta, correct=correct, parent=parent)
    frame = pd.DataFrame({"name": meta.astype(str), "hit": correct.astype(float), "parent": parent.astype(str)})
    table = frame.groupby("name").agg(mean=("hit", "mean"), size=("hit", "size"), parent=("parent", "last"))
    table = table.reset_index().sort_values(["mean", "size", "name"], ascending=[False, False, True], kind="stable")
    table["place"] = np.arange(1, len(table) + 1)
    ranked = table.groupby("parent")["size"].sum().sort_values(ascending=False, kind="stable").index
    own, others = ranked[: len(PALETTE) - 1], ranked[len(PALETTE) - 1 :]
    names = {name: escape(name) for name in own} | dict.fromkeys(others, f"{len(others)} other parents")
    shown = table.assign(parent=table["parent"].map(names), name=table["name"].map(escape))
    fig = px.scatter(
        shown.assign(area=np.clip(4 + 2 * np.sqrt(table["size"]), 5, 24) ** 2),
        x="place",
        y="mean",
        size="area",
        size_max=24,
        color="parent",
        color_discrete_sequence=PALETTE,
        category_orders={"parent": list(dict.fromkeys(names.values()))},
        custom_data=["name", "size"],
        render_mode="svg",
    )
    hover = "%{customdata[0]}: %{y:.0%} of %{customdata[1]}<extra></extra>"
    fig.update_traces(hovertemplate=hover, marker={"opacity": 0.8, "line": {"width": 0.6, "color": "white"}})
    fig.update_yaxes(title_text="accuracy", tickformat=".0%", range=[-0.04, 1.04])
    fig.update_xaxes(
        named_ticks(table["name"]), title_text="meta, best first (larger dot: more images)", showgrid=False
    )
    best, worst = table.iloc[0], table.iloc[-1]
    alt = (
        f"Accuracy of {plural(len(table), 'meta')}, best first: {best['name']} {percent(best['mean'])} of "
        f"{best['size']}, {worst['name']} {percent(worst['mean'])} of {worst['size']}; the mean over metas is "
        f"{percent(table['mean'].mean())}, and {int((table['mean'] == 0).sum())} are never named rightly."
    )
    above = {"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}
    return finish(fig, "Which metas are recognised?", alt, 440, legend_title_text="", legend=above, margin_t=90)


def confusion(
    true_meta: Any, predicted_meta: Any, metas: Sequence[str], meta_to_parent: Any, parents: Sequence[str]
) -> go.Figure:
    """Confusion of parents as a heat map, beside the pairs of metas that are most often confused.

    True and named metas `[n]` are indices into `metas` `[k_m]`, `meta_to_parent` `[k_m]` into `parents` `[k_p]`.
    """
    true, named = (values.astype(int) for values in columns_of(true_meta=true_meta, predicted_meta=predicted_meta))
    owner = np.asarray(meta_to_parent).astype(int)
    wrong, same = true != named, owner[true] == owner[named]
    pairs = pd.DataFrame({"true": true[wrong], "named": named[wrong], "same": same[wrong]})
    pairs = pairs.groupby(["true", "named", "same"]).size().rename("count").reset_index()
    pairs["order"] = [str(pair) for pair in zip(pairs["true"].tolist(), pairs["named"].tolist(), strict=True)]
    top = pairs.sort_values(["count", "order"], ascending=[False, True]).head(MOST_PAIRS).reset_index(drop=True)
    fig = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.56, 0.44],
        horizontal_spacing=0.1,
        subplot_titles=["parents (share of each row)", "most confused metas"],
    )
    _add_parents(fig, owner[true], owner[named], parents)
    names = [" → ".join(labels([metas[i] for i in pair], 32)) for pair in top[["true", "named"]].to_numpy()]
    for is_same, name, colour in ((True, "within a parent", PALETTE[0]), (False, "across parents", PALETTE[1])):
        chosen = np.flatnonzero(top["same"] == is_same)
        if len(chosen):
            fig.add_bar(
                x=top["count"].iloc[chosen].tolist(),
                y=chosen.tolist(),
                width=0.4,
                orientation="h",
                marker_color=colour,
                name=name,
                customdata=[names[i] for i in chosen],
                hovertemplate="%{customdata}: %{x}<extra></extra>",
                row=1,
                col=2,
            )
    # Names stand above their bars: beside them, two of them would take half of the figure.
    fig.add_scatter(
        x=[0] * len(top),
        y=[i - 0.42 for i in range(len(top))],
        mode="text",
        text=names,
        textposition="middle right",
        textfont={"size": 11},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=2,
    )
    fig.update_yaxes(range=[len(top) - 0.5, -0.8], showticklabels=False, showgrid=False, ticks="", row=1, col=2)
    fig.update_xaxes(title_text="images", rangemode="tozero", row=1, col=2)
    alt = (
        f"Confusion of {plural(len(parents), 'parent')} and the most confused metas: of "
        f"{plural(len(true), 'image')} {percent(float((~wrong).mean()))} get the right meta, "
        f"{percent(float((wrong & same).mean()))} another meta of the same parent, "
        f"{percent(float((~same).mean()))} one of another parent"
    )
    if len(top):
        first = top.iloc[0]
        alt += f"; the most frequent mistake is {metas[first['true']]} named {metas[first['named']]}, "
        alt += f"{first['count']} times"
    fig.update_annotations(font_size=13)
    height = 220 + 30 * max(len(parents), len(top), 8)
    margin = {"l": 48, "r": 16, "t": 84, "b": 60}
    legend = {"x": 1, "xanchor": "right"}
    return finish(fig, "What is confused with what?", alt + ".", height, bargap=0.3, legend=legend, margin=margin)


def _add_parents(fig: go.Figure, true: np.ndarray, named: np.ndarray, parents: Sequence[str]) -> None:
    """The confusion of parents, a row for each true one, in the first panel."""
    counts = np.zeros((len(parents), len(parents)), dtype=int)
    np.add.at(counts, (true, named), 1)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    short = labels(list(parents), 22)
    fig.add_heatmap(
        z=[numbers(row, 3) for row in share],
        x=short,
        y=short,
        customdata=counts.tolist(),
        colorscale=[[0, "#FFFFFF"], [1, PALETTE[0]]],
        zmin=0,
        zmax=1,
        colorbar={"len": 0.6, "thickness": 8, "x": 0.535, "xanchor": "left", "tickformat": ".0%", "outlinewidth": 0},
        xgap=1,
        ygap=1,
        hovertemplate="%{y} named %{x}: %{z:.0%} (%{customdata})<extra></extra>",
        row=1,
        col=1,
    )
    fig.update_yaxes(autorange="reversed", tickfont_size=11, row=1, col=1, showgrid=False)
    fig.update_xaxes(tickangle=-45, tickfont_size=11, row=1, col=1, showgrid=False)


def prototype_drift(names: Sequence[str], cosine: Any) -> go.Figure:
    """Cosine `[k]` between each concept's text prototype and the learned one (1: unmoved), most moved on the left."""
    name, values = columns_of(names=list(names), cosine=cosine)
    order = np.argsort(values, kind="stable")
    fig = ranked_bars(name[order], 1 - values[order].astype(float), PALETTE[2], "1 - cosine = %{y:.3g}")
    fig.update_xaxes(title_text="concept, most moved first", showgrid=False)
    fig.update_yaxes(title_text="1 - cosine to the text prototype", rangemode="tozero", gridcolor=GRID)
    alt = (
        f"Bars of how far {plural(len(order), 'prototype')} moved from their text prototypes: "
        f"{name[order[0]]} moved most, to cosine {values[order[0]]:.3f}, "
        f"{name[order[-1]]} least, to {values[order[-1]]:.3f}; "
        f"the median cosine is {np.median(values):.3f}."
    )
    return finish(fig, "How far did the prototypes move?", alt, 360, bargap=0.15)
