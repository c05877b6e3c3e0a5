"""Figures of uncertainty: calibration before and after, sizes of regions, error against what is answered."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from geocbm.metrics.calibration import expected_calibration_error, reliability_bins
from geocbm.plots.primitives import dots_by_bin, line
from geocbm.plots.theme import LAND, PALETTE, finish
from geocbm.plots.values import km_text, numbers, percent, plural, refuse_empty


def reliability_before_after(before: Any, after: Any, correct: Any) -> go.Figure:
    """Reliability diagrams of the same answers with two sets of probabilities, beside the line of perfect calibration.

    All `[n]`: the probability of the named class as trained, the same after calibration, and whether it is the true
    one.
    """
    diagonal = {"line": {"color": LAND, "dash": "dot"}, "hoverinfo": "skip", "name": "perfect calibration"}
    fig = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", **diagonal))
    parts = []
    for name, confidence, colour in (("as trained", before, PALETTE[1]), ("calibrated", after, PALETTE[0])):
        table = reliability_bins(confidence, correct)
        error = expected_calibration_error(confidence, correct)
        fig.add_scatter(
            x=numbers(table["confidence"]),
            y=numbers(table["accuracy"]),
            mode="lines+markers",
            marker={"size": numbers(6 + 10 * np.sqrt(table["n"] / table["n"].max())), "color": colour},
            line={"color": colour, "width": 2},
            customdata=[int(count) for count in table["n"]],
            hovertemplate="confidence %{x:.0%}, right %{y:.0%} of %{customdata}<extra>%{fullData.name}</extra>",
            name=f"{name} (ECE {error:.3f})",
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
    return finish(fig, "Does a probability mean what it says?", alt, 440)


def recall_against_area(curves: pd.DataFrame, regions: pd.DataFrame) -> go.Figure:
    """Share of images found within a searched area, a line for each order, beside the conformal regions.

    `curves` are of `area_efficiency.recall_curves`; `regions` has a row per wanted `coverage`: `label`, the measured
    one, and `area_km2`, the median area.
    """
    refuse_empty("curves", curves, "area")
    fig, parts = go.Figure(), []
    for i, name in enumerate(curves.columns.drop("km2")):
        hover = "%{y:.0%} within %{x:,.0f} km²<extra>%{fullData.name}</extra>"
        fig.add_trace(line(curves["km2"], curves[name], i, name, hover))
        half = curves.loc[curves[name] >= 0.5, "km2"]
        parts.append(f"{name} half of the images " + (f"within {half.iloc[0]:,.0f} km²" if len(half) else "nowhere"))
    if len(regions):
        fig.add_scatter(
            x=numbers(regions["area_km2"]),
            y=numbers(regions["label"]),
            mode="markers+text",
            marker={"size": 11, "color": LAND, "symbol": "diamond", "line": {"width": 1, "color": "white"}},
            text=[f"{coverage:.0%}" for coverage in regions["coverage"]],
            textposition="top center",
            name="conformal regions, median area",
            hovertemplate="%{y:.0%} in regions of %{x:,.0f} km²<extra></extra>",
        )
    low, high = np.log10(curves["km2"].iloc[[0, -1]].to_numpy(float))
    powers = range(int(np.ceil(low)), int(high) + 1)
    ticks = {"tickvals": [10**power for power in powers], "ticktext": [f"{10**power:,}" for power in powers]}
    fig.update_xaxes(title_text="searched area, km²", type="log", range=[float(low), float(high)], **ticks)
    fig.update_yaxes(title_text="share of images found", tickformat=".0%", range=[0, 1.04])
    alt = f"Curves of the share of images found against the area searched; found are {'; '.join(parts)}."
    return finish(fig, "How much ground must be searched?", alt, 440, legend={"y": -0.22})


def risk_coverage(curves: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Median error and share of far misses among the answered images, a line for each order.

    `curves` are those of `uncertainty.measures.risk_coverage` by name of the order.
    """
    refuse_empty("curves", curves, "order with its curve")
    panels = {"median_km": "median error, km", "beyond_750km": "share beyond 750 km"}
    fig = make_subplots(cols=2, subplot_titles=list(panels.values()), horizontal_spacing=0.1)
    parts = []
    for i, (name, curve) in enumerate(curves.items()):
        for column, metric in enumerate(panels, start=1):
            hover = "%{x:.0%} answered: %{y}<extra>%{fullData.name}</extra>"
            drawn = line(curve["kept"], curve[metric], i, name, hover, showlegend=column == 1)
            fig.add_trace(drawn, row=1, col=column)
        half = curve.iloc[(curve["kept"] - 0.5).abs().argmin()]
        parts.append(f"{name} {km_text(half['median_km'])} and {percent(half['beyond_750km'])}")
    fig.update_traces(line_color=LAND, selector={"name": "true error (best possible)"})
    whole = next(iter(curves.values())).iloc[-1]
    fig.update_xaxes(title_text="share of images answered", tickformat=".0%", range=[0, 1.01])
    fig.update_yaxes(rangemode="tozero", hoverformat=",.0f")
    fig.update_yaxes(tickformat=".0%", hoverformat=".1%", col=2)
    fig.update_annotations(font_size=13)
    alt = (
        f"Curves of median error and of the share beyond 750 km against the share of images answered: all of them "
        f"{km_text(whole['median_km'])} and {percent(whole['beyond_750km'])}; the more "
        f"certain half by {'; by '.join(parts)}."
    )
    return finish(fig, "What if the least certain are not answered?", alt, 430, legend={"y": -0.22})


def coverage_by_novelty(table: pd.DataFrame) -> go.Figure:
    """Measured coverage of the regions by how far an image lies from the training pictures, beside the wanted one.

    Columns are `bin` (in order), `n`, `coverage` (wanted), `value`, `low` and `high`.
    """
    refuse_empty("table", table, "bin")
    names = table["coverage"].map("{:.0%} region".format)
    fig = dots_by_bin(table.assign(series=names), ("value", "low", "high"))
    fig.update_traces(hovertemplate="%{y:.0%}<extra>%{fullData.name}</extra>")
    bins = list(dict.fromkeys(table["bin"]))
    sentences = []
    for coverage, trace in zip(dict.fromkeys(table["coverage"]), fig.data, strict=True):
        line = {"color": trace.marker.color, "dash": "dot"}
        fig.add_shape(type="line", x0=-0.5, x1=len(bins) - 0.5, y0=coverage, y1=coverage, line=line)
        own = table[table["coverage"] == coverage].set_index("bin")["value"].reindex(bins)
        sentences.append(f"{trace.name}s hold the true cell in " + ", ".join(percent(share) for share in own))
    fig.update_yaxes(title_text="region holds the true cell", tickformat=".0%", range=[0, 1.04])
    fig.update_xaxes(title_text="share of validation images at least as far")
    alt = f"Coverage in {plural(len(bins), 'bin')} from near to far ({'; '.join(bins)}): {'; '.join(sentences)}."
    return finish(fig, "Does the promise hold far from the training pictures?", alt, 440, legend={"y": -0.26})
