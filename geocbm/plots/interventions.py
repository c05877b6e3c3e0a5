"""Figures of contributions and interventions: bars, a Sankey diagram, intervention curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from geocbm.plots.style import INK, LAND, PALETTE, band, escape, finish, km_text, labels, numbers, shorten

if TYPE_CHECKING:
    import plotly.graph_objects as go

FOR, AGAINST = PALETTE[0], PALETTE[1]
_KIND_COLOURS = {"rest": LAND, "other": "#CBD2D9"}


def contribution_bars(explanations: Sequence[Any], most: int = 10, title: str = "") -> go.Figure:
    """What concepts add to an answer, one panel per explanation: the largest terms, the rest and the constants.

    Args:
        explanations: `explain.attribution.Explanation` of pictures.
        most: concepts with a bar of their own.
        title: headline; by default it names the method.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if not explanations:
        raise ValueError("contribution_bars needs at least one explanation")
    panels = [explanation.largest(most) for explanation in explanations]
    heads = [f"{escape(shorten(one.target, 60))}: {one.quantity} {one.total:+z.2f}" for one in explanations]
    fig = make_subplots(rows=len(panels), cols=1, subplot_titles=heads, vertical_spacing=min(0.3, 0.2 / len(panels)))
    for i, (panel, one) in enumerate(zip(panels, explanations, strict=True), start=1):
        colours = [
            _KIND_COLOURS.get(kind, FOR if term >= 0 else AGAINST)
            for kind, term in zip(panel["kind"], panel["term"], strict=True)
        ]
        names = [
            escape(shorten(name)) + (" (family)" if kind == "parent" else "")
            for name, kind in zip(panel["name"], panel["kind"], strict=True)
        ]
        fig.add_trace(
            go.Bar(
                x=numbers(panel["term"]),
                y=names,
                orientation="h",
                marker={"color": colours},
                showlegend=False,
                hovertemplate="%{y}: %{x:.3f}<extra></extra>",
                name=escape(one.target),
            ),
            row=i,
            col=1,
        )
        fig.update_yaxes(autorange="reversed", row=i, col=1)
        fig.update_xaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1, row=i, col=1)
    method = explanations[0].method
    ends = [
        float(limit) for panel in panels for limit in (min(0.0, panel["term"].min()), max(0.0, panel["term"].max()))
    ]
    room = 0.04 * (max(ends) - min(ends))
    fig.update_xaxes(range=[min(ends) - room, max(ends) + room])
    fig.update_xaxes(title_text=f"what it adds to the {explanations[0].quantity} ({method})", row=len(panels), col=1)
    first = panels[0].iloc[0]
    alt = (
        f"Bars of the contributions ({method}) of concepts to {len(panels)} answers. For {explanations[0].target} the "
        f"largest is {first['name']} with {first['term']:+z.2f} of {explanations[0].total:+z.2f}."
    )
    bars = sum(len(panel) for panel in panels)
    shown = title or f"What each concept adds ({method})"
    return finish(fig, shown, alt, 110 + 22 * bars + 36 * len(panels), bargap=0.25, margin={"t": 84})


def concept_sankey(flows: Any, title: str = "From concepts through families to countries") -> go.Figure:
    """Flows from metas through parents to countries.

    Args:
        flows: `explain.flows.Flows`.
        title: headline.
    """
    import plotly.graph_objects as go

    first, second = flows.meta_to_parent, flows.parent_to_country
    if not len(first) or not len(second):
        alt = f"No diagram of {flows.what}: all of them are 0."
        empty = {"text": "no concept speaks for any country", "showarrow": False, "xref": "paper", "yref": "paper"}
        axis = {"visible": False}
        return finish(go.Figure(), title, alt, 160, annotations=[empty | {"x": 0.5, "y": 0.5}], xaxis=axis, yaxis=axis)
    nodes: dict[tuple[str, str], int] = {}
    for layer, names in (("meta", first["meta"]), ("parent", first["parent"]), ("country", second["country"])):
        for name in dict.fromkeys(names):
            nodes[layer, name] = len(nodes)
    parents = [name for layer, name in nodes if layer == "parent"]
    colour_of = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(parents)}
    owner = dict(zip(first["meta"], first["parent"], strict=True))
    colours = [
        colour_of[name] if layer == "parent" else colour_of[owner[name]] if layer == "meta" else LAND
        for layer, name in nodes
    ]
    total = first["value"].sum()
    links = [
        (nodes["meta", row["meta"]], nodes["parent", row["parent"]], row["value"], colour_of[row["parent"]])
        for row in first.to_dict("records")
    ] + [
        (nodes["parent", row["parent"]], nodes["country", row["country"]], row["value"], colour_of[row["parent"]])
        for row in second.to_dict("records")
    ]
    fig = go.Figure(
        go.Sankey(
            arrangement="snap",
            node={
                "label": labels([name for _, name in nodes], 30),
                "color": colours,
                "pad": 7,
                "thickness": 14,
                "line": {"width": 0},
                "hovertemplate": "%{label}: %{value:.1%}<extra></extra>",
            },
            link={
                "source": [link[0] for link in links],
                "target": [link[1] for link in links],
                "value": numbers([link[2] / total for link in links]),
                "color": [_faint(link[3]) for link in links],
                "hovertemplate": "%{source.label} to %{target.label}: %{value:.1%}<extra></extra>",
            },
            textfont={"size": 11},
        )
    )
    by_parent = first.groupby("parent")["value"].sum().sort_values(ascending=False)
    by_country = second.groupby("country")["value"].sum().sort_values(ascending=False)
    alt = (
        f"Sankey diagram of {flows.what} from {first['meta'].nunique()} groups of concepts through "
        f"{len(by_parent)} families to {len(by_country)} countries or groups of countries; the largest family is "
        f"{by_parent.index[0]} with {by_parent.iloc[0] / total:.0%}, the largest country {by_country.index[0]} with "
        f"{by_country.iloc[0] / total:.0%}."
    )
    most = max(sum(layer == kind for layer, _ in nodes) for kind in ("meta", "parent", "country"))
    return finish(fig, title, alt, max(420, 60 + 21 * most), margin={"l": 16, "r": 16, "t": 56, "b": 16})


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.28)"


def intervention_curves(
    curve: pd.DataFrame,
    names: Mapping[str, str],
    noun: str = "concepts",
    title: str = "How far off when it is told the truth?",
) -> go.Figure:
    """Median error against the number of corrected concepts, a line with its 95 % band per policy.

    Args:
        curve: columns `policy, n, median_km, median_km_low, median_km_high`.
        names: what the policies are called.
        noun: what is corrected, plural.
        title: headline.
    """
    import plotly.graph_objects as go

    if not len(curve):
        raise ValueError("intervention_curves needs at least one row")
    steps = sorted(curve["n"].unique())
    place = {n: i for i, n in enumerate(steps)}  # even spacing: the first few steps matter most
    fig = go.Figure()
    for (policy, rows), colour in zip(curve.groupby("policy", sort=False), PALETTE, strict=False):
        x = [place[n] for n in rows["n"]]
        area = band(x, rows["median_km_low"], rows["median_km_high"], colour, 0.10)
        fig.add_trace(area.update(legendgroup=policy, name=f"{policy} band"))
        fig.add_trace(
            go.Scatter(
                x=x,
                y=numbers(rows["median_km"]),
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": "dash" if policy == "error" else "solid"},
                marker={"size": 6},
                name=escape(names.get(str(policy), str(policy))),
                legendgroup=policy,
                customdata=rows[["n", "median_km_low", "median_km_high"]].round().to_numpy().tolist(),
                hovertemplate="%{customdata[0]} corrected: %{y:,.0f} km [%{customdata[1]:,.0f}, %{customdata[2]:,.0f}]"
                "<extra>%{fullData.name}</extra>",
            )
        )
    ends = curve[curve["policy"] == curve["policy"].iloc[0]]
    start, end = ends["median_km"].iloc[0], ends["median_km"].iloc[-1]
    alt = (
        f"Median error against the number of corrected {noun}, for {curve['policy'].nunique()} orders of correction: "
        f"from {km_text(start)} with none to {km_text(end)} with all {steps[-1]}."
    )
    return finish(
        fig,
        title,
        alt,
        440,
        xaxis={
            "title": {"text": f"corrected {noun}"},
            "tickvals": list(place.values()),
            "ticktext": [str(n) for n in steps],
        },
        yaxis={"title": {"text": "median error, km"}, "rangemode": "tozero"},
    )
