"""Figures of explanations held against the truth: maps, patches that go, concepts that count, leakage, clues."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from geocbm.plots.primitives import add_curve, add_level
from geocbm.plots.theme import LAND, MUTED, PALETTE, finish
from geocbm.plots.values import escape, labels, numbers, percent, plural, refuse_empty, thin

MOST_CONCEPTS = 80
_MARKS = (("circle", PALETTE[2]), ("diamond", PALETTE[4]), ("triangle-up", MUTED), ("line-ns-open", PALETTE[2]))


def pointing_by_concept(concepts: pd.DataFrame) -> go.Figure:
    """Share of hits of each concept by each way of pointing, concepts in the order of chance.

    Columns are `concept`, `pairs`, `named` and, for each way, `hit WAY`: the first is the map's, the last is chance. Of
    more than `MOST_CONCEPTS` those that chance hits most rarely are drawn.
    """
    refuse_empty("concepts", concepts, "concept")
    own, *others, chance = [name for name in concepts.columns if name.startswith("hit ")]
    shown = concepts.sort_values([chance, "concept"], kind="stable").head(MOST_CONCEPTS).iloc[::-1]
    names = labels(shown["concept"].tolist(), 40)
    fig = go.Figure(
        go.Bar(
            x=numbers(shown[own]),
            y=names,
            orientation="h",
            marker={"color": PALETTE[0]},
            customdata=shown[["pairs", "named"]].to_numpy(),
            hovertemplate="%{y}: %{x:.0%} of %{customdata[0]} pictures<br>named first in %{customdata[1]:.0%}"
            "<extra></extra>",
            name=escape(own.removeprefix("hit ")),
        )
    )
    marks = {way: (symbol, colour, 0.5, "white") for way, (symbol, colour) in zip(others, _MARKS, strict=False)}
    for way, (symbol, colour, width, edge) in (marks | {chance: ("line-ns", "black", 2, "black")}).items():
        fig.add_scatter(
            x=numbers(shown[way]),
            y=names,
            mode="markers",
            marker={"symbol": symbol, "size": 8, "color": colour, "line": {"width": width, "color": edge}},
            hovertemplate="%{y}: %{x:.0%}<extra>%{fullData.name}</extra>",
            name=escape(way.removeprefix("hit ")),
        )
    axis = {"tickformat": ".0%", "range": [0, 1.02], "side": "top"}
    fig.update_xaxes(title_text="maximum on the concept, labelled pictures", **axis)
    # A category axis would leave room above and below for the markers.
    fig.update_yaxes(tickfont={"size": 11}, dtick=1, range=[-0.8, len(shown) - 0.2])
    below = concepts.loc[concepts[own] <= concepts[chance], "concept"].tolist()
    alt = (
        f"Share of pictures of {plural(len(shown), 'concept')} in which the maximum of the map lies on the concept: on "
        f"average {percent(float(shown[own].mean()))}, by chance {percent(float(shown[chance].mean()))}; "
        f"{'no better than chance for ' + ', '.join(below[:6]) if below else 'better than chance for each'}."
    )
    height = 170 + 15 * len(shown)
    legend = {"y": 1 + 60 / (height - 150), "yanchor": "bottom", "x": 0}
    margin = {"l": 56, "r": 24, "t": 130, "b": 20}
    finish(fig, "Does the map of each concept point at it?", alt, height, legend=legend, margin=margin, bargap=0.25)
    # Left alone, a title stands in the middle of the margin, where the legend is.
    return fig.update_layout(title_y=1 - 14 / height, title_yanchor="top")


def removal_curves(curves: pd.DataFrame, whole: float, title: str = "What do the patches contribute?") -> go.Figure:
    """Probability of the true cell against the share of patches that are gone (or alone left), a panel for each curve.

    Columns are `curve` ("deletion", "insertion"), `order`, `share`, `value`, `low`, `high`; the first order and the
    last, the control, have bands. `whole` is the probability with all patches.
    """
    refuse_empty("curves", curves, "curve")
    words = {"deletion": "removed", "insertion": "left alone"}
    kinds, orders = list(dict.fromkeys(curves["curve"])), list(dict.fromkeys(curves["order"]))
    fig = make_subplots(cols=len(kinds), shared_yaxes=True, horizontal_spacing=0.05)
    parts, ticks = [], sorted(set(curves["share"]))
    marks = {"tickvals": numbers(ticks), "ticktext": [f"{tick:.0%}" for tick in ticks]}
    for column, kind in enumerate(kinds, start=1):
        for i, order in enumerate(orders):
            own = curves[(curves["curve"] == kind) & (curves["order"] == order)]
            # Bands of all orders would cover each other; those of the first and of the last are what is compared.
            add_curve(fig, own, "share", i, order, banded=order in (orders[0], orders[-1]), col=column)
            last = own.iloc[-1]
            parts.append(f"{percent(float(last['value']))} ({order}, {percent(float(last['share']))} {words[kind]})")
        fig.update_xaxes(title_text=f"patches {words[kind]}", type="log", row=1, col=column, **marks)
    add_level(fig, float(whole), "all patches")
    fig.update_yaxes(rangemode="tozero")
    fig.update_yaxes(title_text="probability of the true cell", tickformat=".0%", row=1, col=1)
    alt = f"Mean probability of the true cell, {percent(float(whole))} with all patches: {'; '.join(parts)}."
    return finish(fig, title, alt, 440, legend={"y": -0.22})


def kept_concepts(curves: pd.DataFrame, full: float) -> go.Figure:
    """Share of right cells against the number of concepts that count, a line with a band for each way of keeping them.

    Columns are `way, count, value, low, high`, shares from 0 to 1 (a bound may be NaN); `full` is that with all
    concepts.
    """
    refuse_empty("curves", curves, "number of concepts")
    fig, parts = go.Figure(), []
    for i, (way, own) in enumerate(curves.groupby("way", sort=False)):
        add_curve(fig, own, "count", i, str(way))
        parts.append(f"{percent(float(own['value'].iloc[-1]))} with {own['count'].iloc[-1]} ({way})")
    add_level(fig, full, "all concepts")
    fig.update_xaxes(title_text="concepts that count", rangemode="tozero")
    fig.update_yaxes(title_text="cell right", tickformat=".0%", rangemode="tozero")
    said = f"{percent(full)} with all, {', '.join(parts)}"
    alt = f"Share of cells named right by the number of concepts that count: {said}."
    return finish(fig, "How many concepts does it need?", alt, 440)


def told_by_concepts(names: Sequence[str], truth: Any, predicted: Any, beyond: Any) -> go.Figure:
    """What each concept and its score tell of the country, a point for each of `k` concepts.

    All `[k]`, as a part of the entropy of the country: what the true concept tells, what its score tells (`predicted`),
    and what the score tells once the concept is known (`beyond`).
    """
    import plotly.express as px

    x, y, more = (np.asarray(one, dtype=float) for one in (truth, predicted, beyond))
    hover = [list(map(escape, names)), more]
    fig = px.scatter(
        x=x, y=y, color=np.maximum(more, 0), color_continuous_scale="Cividis_r", custom_data=hover, render_mode="svg"
    )
    hover_text = "%{customdata[0]}<br>concept %{x:.1%}, score %{y:.1%}, beyond %{customdata[1]:.1%}<extra></extra>"
    fig.update_traces(marker={"size": 8, "line": {"color": "white", "width": 0.5}}, hovertemplate=hover_text)
    bar = {"title": {"text": "beyond<br>the concept"}, "tickformat": ".1%", "thickness": 12}
    fig.update_coloraxes(cmin=0, colorbar=bar)
    # Information freed of its bias scatters around 0 where there is none.
    least, most = min(0.0, x.min(), y.min()), 1.05 * max(x.max(), y.max(), 1e-3)
    fig.add_shape(type="line", x0=least, y0=least, x1=most, y1=most, line={"color": LAND, "dash": "dot"}, layer="below")
    fig.update_xaxes(title_text="information in the true concept, part of the country's entropy", tickformat=".0%")
    fig.update_yaxes(title_text="information in its score", tickformat=".0%")
    first = int(more.argmax())
    alt = (
        f"What {plural(len(names), 'concept')} tell about the country: on average {percent(float(x.mean()))} of its "
        f"entropy by the true concept and {percent(float(y.mean()))} by its score, which is higher for "
        f"{int((y > x).sum())} of them; most beyond its concept is in the score of "
        f"{names[first]}, {percent(float(more[first]))}."
    )
    return finish(fig, "How much does one concept say about the country?", alt, 480, showlegend=False)


def clue_agreement(evidence: pd.DataFrame) -> go.Figure:
    """A dot for each concept in each country: log odds by the labels against contribution in the model.

    Columns are `country, meta_name, labels, log_odds_z, contribution`; pairs without labels or contribution are left
    out, and without any other there is no figure (ValueError).
    """
    import plotly.express as px

    shown = evidence[(evidence["labels"] > 0) & np.isfinite(evidence["contribution"])]
    if shown.empty:
        raise ValueError("clue_agreement needs pairs with labels and contributions, there are none")
    part = shown.iloc[thin(len(shown), 3000)]
    texts = part["meta_name"].map(escape) + " in " + part["country"].map(escape)
    fig = px.scatter(
        x=numbers(part["log_odds_z"], 3),
        y=numbers(part["contribution"], 3),
        custom_data=[texts, part["labels"]],
        opacity=0.45,
        render_mode="svg",
        color_discrete_sequence=PALETTE,
    )
    hover = "%{customdata[0]}: %{customdata[1]} labels<br>%{x:.1f} standard deviations, %{y:+.2f} logits<extra></extra>"
    size = numbers(np.clip(3 + 1.5 * np.sqrt(part["labels"]), 4, 14), 3)
    fig.update_traces(marker_size=size, hovertemplate=hover)
    fig.add_hline(y=0, line={"width": 1, "color": PALETTE[-1]})
    fig.add_vline(x=0, line={"width": 1, "color": PALETTE[-1]})
    fig.update_xaxes(title_text="by the labels: more frequent here than elsewhere, in standard deviations")
    fig.update_yaxes(title_text="by the model: contribution, logits")
    rank = float(shown["log_odds_z"].corr(shown["contribution"], method="spearman"))
    alt = (
        f"Scatter of {plural(len(shown), 'pair')} of country and concept: log odds by the labels across, "
        f"contribution in the model upwards; rank correlation {rank:.2f}."
    )
    return finish(fig, "What the labels say, and what the model makes of it", alt, 460)
