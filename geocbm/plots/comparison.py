"""Several runs in one figure: differences with their intervals, where one is better, and how they learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.plots.maps import _colour_bar, base_map, finish_map
from geocbm.plots.style import INK, LAND, MUTED, PALETTE, degrees, escape, finish, labels, numbers, plural, whiskers

if TYPE_CHECKING:
    import plotly.graph_objects as go

BETTER, WORSE = PALETTE[0], PALETTE[1]
GAIN_SCALE = ((0.0, WORSE), (0.5, "#F4F1EC"), (1.0, BETTER))
"""From worse to better: told apart with every common kind of colour blindness."""

_DASHES = ("solid", "dash", "dot")


def compare_differences(table: pd.DataFrame, reference: str, title: str = "By more than noise?") -> go.Figure:
    """Differences of runs to one run, a panel per figure, a row per run, with a line at no difference.

    Args:
        table: columns `run, panel, value, low, high` and `better` (1, -1, or 0 for no difference beyond noise).
        reference: the run they are held against.
        title: headline.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels, runs = list(dict.fromkeys(table["panel"])), list(dict.fromkeys(table["run"]))
    across = min(3, max(1, len(panels)))
    down = max(1, -(-len(panels) // across))
    fig = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=[escape(panel) for panel in panels] or None,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=min(0.5, 90 / (down * (26 * max(1, len(runs)) + 90))),
    )
    short = dict(zip(runs, labels(runs, 26), strict=True))
    kinds = {1: ("better", BETTER), -1: ("worse", WORSE), 0: ("no difference beyond noise", MUTED)}
    seen: set[str] = set()
    for number, panel in enumerate(panels):
        row, column = number // across + 1, number % across + 1
        for sign, (word, colour) in kinds.items():
            own = table[(table["panel"] == panel) & (table["better"] == sign)]
            if own.empty:
                continue
            ends = (own[name].to_numpy(float) for name in ("value", "low", "high"))
            fig.add_trace(
                go.Scatter(
                    x=numbers(own["value"]),
                    y=[short[run] for run in own["run"]],
                    mode="markers",
                    name=word,
                    legendgroup=word,
                    showlegend=word not in seen,
                    marker={"size": 10, "color": colour},
                    error_x=whiskers(*ends) | {"color": colour, "thickness": 1.8, "width": 5},
                    hovertemplate="%{y}: %{x:+.3~f}<extra>%{fullData.name}</extra>",
                ),
                row=row,
                col=column,
            )
            seen.add(word)
        fig.add_vline(x=0, line={"color": LAND, "dash": "dot", "width": 1}, row=row, col=column)
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=[short[run] for run in reversed(runs)], ticks=""
    )
    fig.update_yaxes(range=[-0.6, max(1, len(runs)) - 0.4])
    fig.update_annotations(font={"size": 13, "color": INK})
    listed = []
    for entry in table.to_dict("records"):
        interval = f" [{entry['low']:+.3g}, {entry['high']:+.3g}]" if np.isfinite(entry["low"]) else ""
        listed.append(f"{entry['run']} {entry['panel']} {entry['value']:+.3g}{interval}")
    alt = f"Differences of {plural(len(runs), 'run')} to {reference}, intervals in brackets: {'; '.join(listed)}."
    if not listed:
        alt = f"No other run can be held against {reference}."
    height = 110 + down * (26 * max(1, len(runs)) + 90)
    legend = {"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    return finish(fig, title, alt, height, legend=legend, margin={"l": 56, "r": 24, "t": 84, "b": 76})


def gain_map(gains: Mapping[str, pd.DataFrame], reference: str, title: str = "Where is it better?") -> go.Figure:
    """Regions of the world, coloured by how much better a run is there than another, with a menu of the runs.

    Args:
        gains: by name of the run, a row per region with `lat, lng, images, country, gain` (in GeoScore).
        reference: the run they are held against.
        title: headline.
    """
    import plotly.graph_objects as go

    fig = base_map()
    scenery = len(fig.data)
    parts = []
    for number, (run, table) in enumerate(gains.items()):
        gain = table["gain"].to_numpy(float)
        # Regions of one or two images would stretch the colours beyond use.
        limit = max(1.0, float(np.quantile(np.abs(gain), 0.9))) if len(gain) else 1.0
        fig.add_trace(
            go.Scattergeo(
                lat=degrees(table["lat"]),
                lon=degrees(table["lng"]),
                mode="markers",
                name=escape(run),
                visible=number == 0,
                showlegend=False,
                marker={
                    "size": numbers(5 + 3.2 * np.sqrt(table["images"].to_numpy(float))),
                    "color": numbers(gain, 3),
                    "colorscale": [list(stop) for stop in GAIN_SCALE],
                    "cmin": -limit,
                    "cmax": limit,
                    "line": {"width": 0.6, "color": MUTED},
                    "opacity": 0.9,
                    "colorbar": _colour_bar("gain in GeoScore"),
                },
                text=[
                    f"{escape(country)}, {plural(int(images), 'image')}"
                    for country, images in zip(table["country"], table["images"], strict=True)
                ],
                hovertemplate="%{text}<br>GeoScore %{marker.color:+,.0f}<extra></extra>",
            )
        )
        better, worse = int((gain > 0).sum()), int((gain < 0).sum())
        parts.append(f"{run} gains in {better} of {plural(len(gain), 'region')} and loses in {worse}")
    if len(gains) > 1:
        buttons = [
            {
                "label": escape(run),
                "method": "restyle",
                "args": [{"visible": [True] * scenery + [other == run for other in gains]}],
            }
            for run in gains
        ]
        fig.update_layout(
            updatemenus=[
                # Inside the frame, in the corner that the projection leaves empty.
                {"buttons": buttons, "x": 0.01, "xanchor": "left", "y": 0.99, "yanchor": "top", "showactive": True}
            ]
        )
    alt = f"World map of mean gain in GeoScore over {reference}, by region: {'; '.join(parts)}."
    if not parts:
        alt = f"World map without regions: no run has its test images in common with {reference}."
    return finish_map(fig, title, alt, height=500)


def compare_histories(curves: pd.DataFrame, title: str = "On validation, by epoch") -> go.Figure:
    """Learning curves of several runs: a column of panels per stage, a row per quantity, a colour per run.

    Args:
        curves: columns `run, stage, quantity, epoch, value`.
        title: headline.
    """
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    runs = list(dict.fromkeys(curves["run"]))
    stages = sorted(set(curves["stage"]))
    quantities = {stage: list(dict.fromkeys(curves.loc[curves["stage"] == stage, "quantity"])) for stage in stages}
    down = max([1, *(len(own) for own in quantities.values())])
    titles = [
        f"{stage}: {escape(quantities[stage][row])}" if row < len(quantities[stage]) else ""
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
    lasts, seen = [], set()
    for column, stage in enumerate(stages, 1):
        for row, quantity in enumerate(quantities[stage], 1):
            for number, run in enumerate(runs):
                chosen = (curves["stage"] == stage) & (curves["quantity"] == quantity) & (curves["run"] == run)
                part = curves[chosen]
                if part.empty:
                    continue
                lasts.append(f"{run} {stage} {quantity} {part['value'].iloc[-1]:.3g}")
                fig.add_trace(
                    go.Scatter(
                        x=part["epoch"].tolist(),
                        y=numbers(part["value"]),
                        mode="lines+markers" if len(part) <= 30 else "lines",
                        name=escape(run),
                        legendgroup=run,
                        showlegend=run not in seen,
                        marker={"size": 4},
                        line={
                            "color": PALETTE[number % len(PALETTE)],
                            "dash": _DASHES[number // len(PALETTE) % len(_DASHES)],
                            "width": 1.8,
                        },
                        hovertemplate="epoch %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
                    ),
                    row=row,
                    col=column,
                )
                seen.add(run)
    fig.update_annotations(font={"size": 13, "color": INK})
    for column, stage in enumerate(stages, 1):
        longest = int(curves.loc[curves["stage"] == stage, "epoch"].max())
        fig.update_xaxes(dtick=max(1, -(-longest // 6)), col=column)  # whole epochs only
    fig.update_xaxes(title_text="epoch", row=down)
    alt = f"Learning curves of {plural(len(runs), 'run')}; at the end: {'; '.join(lasts)}."
    if not lasts:
        alt = "No run has a history yet."
    legend = {"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    return finish(fig, title, alt, 170 + 200 * down, legend=legend, margin={"l": 56, "r": 24, "t": 84, "b": 96})
