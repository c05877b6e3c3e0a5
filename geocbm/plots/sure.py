"""Figures of how sure the model is: calibration before and after, sizes of regions, error against what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.metrics.calibration import expected_calibration_error, reliability_bins
from geocbm.plots.style import LAND, PALETTE, columns_of, escape, finish, km_text, numbers, percent, plural, whiskers

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DASHES = ("solid", "dash", "dot", "dashdot")


def reliability_before_after(
    before: Any, after: Any, correct: Any, bins: int = 10, title: str = "Does a probability mean what it says?"
) -> go.Figure:
    """Reliability diagrams of the same answers with two sets of probabilities, beside the line of perfect calibration.

    Args:
        before: `[n]` probability of the named class as trained.
        after: `[n]` the same after calibration.
        correct: `[n]` whether the named class was the true one.
        bins: number of bins of equal width.
        title: headline.
    """
    import plotly.graph_objects as go

    fig = go.Figure(
        go.Scatter(
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            line={"color": LAND, "dash": "dot"},
            hoverinfo="skip",
            name="perfect calibration",
        )
    )
    parts = []
    for name, confidence, colour in (("as trained", before, PALETTE[1]), ("calibrated", after, PALETTE[0])):
        table = reliability_bins(confidence, correct, bins)
        error = expected_calibration_error(confidence, correct)
        fig.add_trace(
            go.Scatter(
                x=numbers(table["confidence"]),
                y=numbers(table["accuracy"]),
                mode="lines+markers",
                marker={"size": numbers(6 + 10 * np.sqrt(table["n"] / table["n"].max())), "color": colour},
                line={"color": colour, "width": 2},
                customdata=[int(count) for count in table["n"]],
                hovertemplate="confidence %{x:.0%}, right %{y:.0%} of %{customdata}<extra>%{fullData.name}</extra>",
                name=f"{name} (ECE {error:.3f})",
            )
        )
        sure = float(np.mean(np.asarray(confidence, dtype=float)))
        parts.append(f"{name} the mean confidence is {percent(sure)} and the expected calibration error {error:.3f}")
    fig.update_xaxes(title_text="confidence", range=[0, 1], tickformat=".0%")
    fig.update_yaxes(title_text="accuracy", range=[0, 1.02], tickformat=".0%")
    right = np.asarray(correct, dtype=float)
    alt = (
        f"Reliability diagram of {plural(len(right), 'image')}, of which {percent(float(right.mean()))} have the "
        f"right cell: {'; '.join(parts)}."
    )
    return finish(fig, title, alt, 440)


def region_areas(areas: Mapping[str, Any], title: str = "How large are the regions?") -> go.Figure:
    """Share of images whose region is at most so large, a line for each wanted coverage.

    Args:
        areas: name of the coverage -> `[n]` areas in km².
        title: headline.

    Raises:
        ValueError: no areas.
    """
    import plotly.graph_objects as go

    if not areas:
        raise ValueError("areas is empty: pass the areas in km² of at least one coverage")
    fig = go.Figure()
    parts, ends = [], []
    for i, (name, values) in enumerate(areas.items()):
        ordered = np.sort(columns_of(**{name: values})[0].astype(float))
        shares = np.linspace(0, 1, 101)
        km2 = np.quantile(ordered, shares)
        ends += [max(km2[0], 1.0), max(km2[-1], 1.0)]
        fig.add_trace(
            go.Scatter(
                x=numbers(np.log10(np.maximum(km2, 1.0))),
                y=numbers(shares),
                mode="lines",
                line={"width": 2.2, "color": PALETTE[i % len(PALETTE)]},
                name=escape(name),
                customdata=[f"{value:,.0f} km²" for value in km2],
                hovertemplate="%{y:.0%} have at most %{customdata}<extra>%{fullData.name}</extra>",
            )
        )
        parts.append(f"{name}: median {np.median(ordered):,.0f} km², largest {ordered[-1]:,.0f} km²")
    powers = range(int(np.floor(np.log10(min(ends)))), int(np.ceil(np.log10(max(ends)))) + 1)
    ticks = {"tickvals": list(powers), "ticktext": [f"{10**power:,}" for power in powers]}
    fig.update_xaxes(title_text="area of the region, km²", **ticks)
    fig.update_yaxes(title_text="share of images", tickformat=".0%", range=[0, 1.005])
    return finish(fig, title, "Curves of the areas of the regions by coverage: " + "; ".join(parts) + ".", 400)


def risk_coverage(
    curves: Mapping[str, pd.DataFrame], title: str = "What if the least sure are not answered?"
) -> go.Figure:
    """Median error and share of far misses among the answered images, a line for each order.

    Args:
        curves: name of the order -> columns `kept`, `median_km` and `beyond_750km` (see `uncertainty.risk_coverage`).
        title: headline.

    Raises:
        ValueError: no curves.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if not curves:
        raise ValueError("curves is empty: pass the curve of at least one order")
    panels = {"median_km": "median error, km", "beyond_750km": "share beyond 750 km"}
    fig = make_subplots(cols=2, subplot_titles=list(panels.values()), horizontal_spacing=0.1)
    parts = []
    for i, (name, curve) in enumerate(curves.items()):
        best = i == len(curves) - 1 and name.startswith("true error")
        colour = LAND if best else PALETTE[i % len(PALETTE)]
        for column, figure in enumerate(panels, start=1):
            fig.add_trace(
                go.Scatter(
                    x=numbers(curve["kept"]),
                    y=numbers(curve[figure]),
                    mode="lines",
                    line={"color": colour, "width": 2, "dash": _DASHES[i % len(_DASHES)]},
                    name=escape(name),
                    legendgroup=name,
                    showlegend=column == 1,
                    hovertemplate=f"%{{x:.0%}} answered: %{{y:{',.0f' if column == 1 else '.1%'}}}"
                    "<extra>%{fullData.name}</extra>",
                ),
                row=1,
                col=column,
            )
        half = curve.iloc[(curve["kept"] - 0.5).abs().argmin()]
        parts.append(f"{name} {km_text(half['median_km'])} and {percent(half['beyond_750km'])}")
    whole = next(iter(curves.values())).iloc[-1]
    fig.update_xaxes(title_text="share of images answered", tickformat=".0%", range=[0, 1.01])
    fig.update_yaxes(rangemode="tozero")
    fig.update_yaxes(tickformat=".0%", col=2)
    fig.update_annotations(font_size=13)
    alt = (
        f"Curves of median error and of the share beyond 750 km against the share of images answered: all of them "
        f"{km_text(whole['median_km'])} and {percent(whole['beyond_750km'])}; the surer half by {'; by '.join(parts)}."
    )
    return finish(fig, title, alt, 430, legend={"y": -0.22})


def coverage_by_novelty(
    table: pd.DataFrame, title: str = "Does the promise hold far from the training pictures?"
) -> Any:
    """Measured coverage of the regions by how far an image lies from the training pictures, beside the wanted one.

    Args:
        table: of `measures.coverage_by_novelty`: `bin`, `n`, `coverage` (wanted), `value`, `low` and `high`; the bins
            in order.
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
    wanted = sorted(set(table["coverage"]))
    sentences = []
    for i, coverage in enumerate(wanted):
        colour = PALETTE[i % len(PALETTE)]
        own = table[table["coverage"] == coverage].set_index("bin").reindex(bins)
        value, low, high = (own[name].to_numpy(float) for name in ("value", "low", "high"))
        fig.add_shape(
            type="line", x0=-0.5, x1=len(bins) - 0.5, y0=coverage, y1=coverage, line={"color": colour, "dash": "dot"}
        )
        fig.add_scatter(
            x=numbers(np.arange(len(bins)) + 0.2 * (i - (len(wanted) - 1) / 2)),
            y=numbers(value),
            mode="markers",
            marker={"size": 10, "color": colour},
            error_y=whiskers(value, low, high) | {"thickness": 1.6, "width": 4},
            name=f"{100 * coverage:.0f} % region",
            hovertemplate="%{y:.0%}<extra>%{fullData.name}</extra>",
        )
        sentences.append(
            f"{100 * coverage:.0f} % regions hold the true cell in " + ", ".join(percent(v) for v in value)
        )
    fig.update_yaxes(title_text="region holds the true cell", tickformat=".0%", range=[0, 1.04])
    fig.update_xaxes(
        title_text="share of validation images at least as far",
        tickvals=list(range(len(bins))),
        ticktext=[f"{escape(each)}<br>{plural(int(counts[each]), 'image')}" for each in bins],
        range=[-0.5, len(bins) - 0.5],
    )
    alt = f"Coverage in {plural(len(bins), 'bin')} from near to far ({'; '.join(bins)}): {'; '.join(sentences)}."
    return finish(fig, title, alt, 440, legend={"y": -0.26})
