"""Runs as pictures: what a run has so far, and several runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.plots.style import INK, LAND, PALETTE, finish

if TYPE_CHECKING:
    import plotly.graph_objects as go

STATE_COLOURS = {
    "done": PALETTE[2],
    "partly": PALETTE[4],
    "changed by hand": PALETTE[1],
    "stale": PALETTE[3],
    "not yet": LAND,
}


def chain_status(status: pd.DataFrame, title: str = "The notebooks of this run") -> go.Figure:
    """The chain as a row of discs, coloured by whether a notebook has run.

    Args:
        status: a row per notebook with `number`, `notebook`, `question` and `state`.
        title: headline.
    """
    import plotly.graph_objects as go

    place = np.arange(len(status))
    size = min(46, 320 // max(len(status), 1))  # so that they stand apart in the small preview too
    names = [name[3:].replace("_", "<br>") for name in status["notebook"]]
    fig = go.Figure(
        go.Scatter(
            x=place,
            y=[0] * len(status),
            mode="lines",
            line={"color": LAND, "width": 2},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for state, colour in STATE_COLOURS.items():
        chosen = np.flatnonzero((status["state"] == state).to_numpy())
        if not len(chosen):
            continue
        fig.add_trace(
            go.Scatter(
                x=place[chosen],
                y=[0] * len(chosen),
                mode="markers+text",
                name=state,
                marker={"size": size, "color": colour, "line": {"color": "white", "width": 2}},
                text=[f"<b>{status['number'].iloc[i]}</b>" for i in chosen],
                textfont={"color": "white", "size": max(9, size // 3)},
                customdata=[status["question"].iloc[i] for i in chosen],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    for i, name in enumerate(names):
        fig.add_annotation(x=i, y=-0.55, text=name, showarrow=False, yanchor="top", font={"size": 11, "color": INK})
    counts = status["state"].value_counts()
    done = status.loc[status["state"] == "done", "number"].tolist()
    alt = f"{len(status)} notebooks in a row; {counts.get('done', 0)} have run" + (
        f": {', '.join(done)}." if done else "."
    )
    for state in ("changed by hand", "stale"):
        if wrong := status.loc[status["state"] == state, "number"].tolist():
            alt += f" {state.capitalize()}: {', '.join(wrong)}."
    fig.update_xaxes(visible=False, range=[-0.6, len(status) - 0.4])
    fig.update_yaxes(visible=False, range=[-2.2, 1])
    return finish(fig, title, alt, height=260, legend={"y": 0.02, "yanchor": "bottom", "x": 0})
