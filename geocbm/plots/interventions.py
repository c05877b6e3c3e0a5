"""Figures of contributions and interventions: bars, a Sankey diagram, intervention curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from geocbm.plots.primitives import add_curve, faint
from geocbm.plots.theme import INK, LAND, PALETTE, finish
from geocbm.plots.values import escape, km_text, labels, numbers, plural, refuse_empty, shorten

MOST_TERMS = 10
_KIND_COLOURS = {"rest": LAND, "other": "#CBD2D9"}


def contribution_bars(explanations: Sequence[Any], title: str = "") -> go.Figure:
    """What concepts add to an answer, one panel per `explain.attribution.Explanation` by one method.

    A panel has the largest terms, the rest and the constants.
    """
    refuse_empty("explanations", explanations, "explanation")
    bars, around = contribution_update(explanations)
    heads = [around[f"annotations[{i}].text"] for i in range(len(explanations))]
    fig = make_subplots(rows=len(heads), cols=1, subplot_titles=heads, vertical_spacing=min(0.3, 0.2 / len(heads)))
    look = {"orientation": "h", "showlegend": False, "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}
    for i in range(len(heads)):
        shown = {name.replace(".", "_"): values[i] for name, values in bars.items()}
        fig.add_bar(**shown, **look, row=i + 1, col=1)
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1, range=around["xaxis.range"])
    first, method = explanations[0], escape(explanations[0].method)
    fig.update_xaxes(title_text=f"what it adds to the {escape(first.quantity)} ({method})", row=len(heads), col=1)
    title, alt = title or f"What each concept adds ({method})", around["meta"]["alt"]
    return finish(fig, title, alt, around["height"], bargap=0.25, margin={"t": 84})


def contribution_update(explanations: Sequence[Any]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """What other explanations by the same method change in `contribution_bars`, for its `plotly_update`."""
    panels = [explanation.largest(MOST_TERMS) for explanation in explanations]
    rows = [list(zip(panel["name"], panel["kind"], panel["term"], strict=True)) for panel in panels]
    bars: dict[str, list[Any]] = {
        "x": [numbers(panel["term"]) for panel in panels],
        "y": [[escape(shorten(name)) + " (parent)" * (kind == "parent") for name, kind, _ in own] for own in rows],
        "marker.color": [[_KIND_COLOURS.get(kind, PALETTE[int(term < 0)]) for _, kind, term in own] for own in rows],
        "name": [escape(one.target) for one in explanations],
    }
    around: dict[str, Any] = {
        f"annotations[{i}].text": f"{escape(shorten(one.target, 60))}: {escape(one.quantity)} {one.total:+z.2f}"
        for i, one in enumerate(explanations)
    }
    terms = pd.concat(panels)["term"]
    low, high = min(0.0, float(terms.min())), max(0.0, float(terms.max()))
    room = 0.04 * (high - low)
    around |= {"xaxis.range": [low - room, high + room], "height": 110 + 22 * len(terms) + 36 * len(panels)}
    first, largest = explanations[0], panels[0].iloc[0]
    alt = (
        f"Bars of the contributions ({escape(first.method)}) of concepts to {plural(len(panels), 'answer')}. For "
        f"{first.target} the largest is {largest['name']} with {largest['term']:+z.2f} of {first.total:+z.2f}."
    )
    return bars, around | {"meta": {"alt": alt}}


def concept_sankey(flows: Any) -> go.Figure:
    """Flows from metas through parents to countries (`explain.attribution.Flows`)."""
    title = "From metas through parents to countries"
    first, second = flows.meta_to_parent, flows.parent_to_country
    if not len(first) or not len(second):
        alt = f"No diagram of {flows.what}: all of them are 0."
        empty = {"text": "no concept speaks for any country", "showarrow": False, "xref": "paper", "yref": "paper"}
        axis = {"visible": False}
        return finish(go.Figure(), title, alt, 160, annotations=[empty | {"x": 0.5, "y": 0.5}], xaxis=axis, yaxis=axis)
    layers = {"meta": first["meta"], "parent": first["parent"], "country": second["country"]}
    nodes = [(layer, name) for layer, names in layers.items() for name in dict.fromkeys(names)]
    place = {node: i for i, node in enumerate(nodes)}
    colour_of = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(first["parent"]))}
    colours = dict.fromkeys(nodes, LAND) | {("parent", name): colour for name, colour in colour_of.items()}
    colours |= {("meta", meta): colour_of[parent] for meta, parent in zip(first["meta"], first["parent"], strict=True)}
    total = first["value"].sum()
    links = pd.concat(
        [
            first.assign(source=[place["meta", name] for name in first["meta"]])
            .assign(target=[place["parent", name] for name in first["parent"]]),
            second.assign(source=[place["parent", name] for name in second["parent"]])
            .assign(target=[place["country", name] for name in second["country"]]),
        ]
    )  # fmt: skip
    fig = go.Figure(
        go.Sankey(
            arrangement="snap",
            node={
                "label": labels([name for _, name in nodes], 30),
                "color": list(colours.values()),
                "pad": 7,
                "thickness": 14,
                "line": {"width": 0},
                "hovertemplate": "%{label}: %{value:.1%}<extra></extra>",
            },
            link={
                "source": links["source"].tolist(),
                "target": links["target"].tolist(),
                "value": numbers(links["value"] / total),
                "color": [faint(colour_of[parent], 0.28) for parent in links["parent"]],
                "hovertemplate": "%{source.label} to %{target.label}: %{value:.1%}<extra></extra>",
            },
            textfont={"size": 11},
        )
    )
    by_parent = first.groupby("parent")["value"].sum().sort_values(ascending=False)
    by_country = second.groupby("country")["value"].sum().sort_values(ascending=False)
    alt = (
        f"Sankey diagram of {flows.what} from {first['meta'].nunique()} groups of concepts through "
        f"{len(by_parent)} parents to {len(by_country)} countries or groups of countries; the largest parent is "
        f"{by_parent.index[0]} with {by_parent.iloc[0] / total:.0%}, the largest country {by_country.index[0]} with "
        f"{by_country.iloc[0] / total:.0%}."
    )
    most = max(names.nunique() for names in layers.values())
    return finish(fig, title, alt, max(420, 60 + 21 * most), margin={"l": 16, "r": 16, "t": 56, "b": 16})


def intervention_curves(
    curve: pd.DataFrame,
    names: Mapping[str, str],
    noun: str = "concepts",
    title: str = "How far off when concepts are corrected?",
) -> go.Figure:
    """Median error against the number of corrected concepts, a line with its 95 % band per policy.

    Columns are `policy, n, median_km, median_km_low, median_km_high`; `names` says what the policies are called and
    `noun` what is corrected, in the plural.
    """
    refuse_empty("curve", curve, "row")
    steps = sorted(curve["n"].unique())
    place = {n: i for i, n in enumerate(steps)}  # even spacing: the first few steps matter most
    fig, heads = go.Figure(), {"median_km": "value", "median_km_low": "low", "median_km_high": "high"}
    for i, (policy, rows) in enumerate(curve.groupby("policy", sort=False)):
        own = rows.rename(columns=heads).assign(place=rows["n"].map(place))
        add_curve(fig, own, "place", i, names.get(str(policy), str(policy)), hover="%{y:,.0f} km")
    ends = curve[curve["policy"] == curve["policy"].iloc[0]]["median_km"]
    alt = (
        f"Median error against the number of corrected {noun}, for {curve['policy'].nunique()} orders of correction: "
        f"from {km_text(ends.iloc[0])} with none to {km_text(ends.iloc[-1])} with all {steps[-1]}."
    )
    ticks = {"tickvals": list(place.values()), "ticktext": [str(n) for n in steps]}
    fig.update_xaxes(title_text=f"corrected {escape(noun)}", **ticks)
    fig.update_yaxes(title_text="median error, km", rangemode="tozero")
    return finish(fig, title, alt, 440)
