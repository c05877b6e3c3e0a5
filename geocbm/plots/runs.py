"""Runs as pictures: what a run has so far, and by how much several runs differ."""

import pandas as pd
import plotly.graph_objects as go

from geocbm.metrics import estimate_text
from geocbm.plots.primitives import as_panels
from geocbm.plots.theme import INK, LAND, MUTED, PALETTE, finish
from geocbm.plots.values import escape, labels, plural

STATE_COLOURS = {
    "done": PALETTE[2],
    "partly": PALETTE[4],
    "changed by hand": PALETTE[1],
    "stale": PALETTE[3],
    "not yet": LAND,
}
_VERDICTS = {1: "better", -1: "worse", 0: "no difference beyond noise"}


def chain_status(status: pd.DataFrame) -> go.Figure:
    """The chain as a row of discs, coloured by the state of each notebook (see `workbench.overview.status`)."""
    import plotly.express as px

    count = len(status)
    size = min(46, 320 // max(count, 1))  # so that they stand apart in the small preview too
    shown = {"number": "<b>" + status["number"].map(escape) + "</b>", "state": status["state"].map(escape)}
    fig = px.scatter(
        status.assign(place=range(count), row=0, **shown),
        x="place",
        y="row",
        text="number",
        color="state",
        color_discrete_map=STATE_COLOURS,
        category_orders={"state": list(STATE_COLOURS)},
        custom_data=[status["question"].map(escape)],
    )
    fig.update_traces(
        marker={"size": size, "line": {"color": "white", "width": 2}},
        textfont={"color": "white", "size": max(9, size // 3)},
        hovertemplate="%{customdata[0]}<extra></extra>",
    )
    fig.add_hline(y=0, line={"color": LAND, "width": 2}, layer="below")
    for i, notebook in enumerate(status["notebook"]):
        name = escape(notebook[3:]).replace("_", "<br>")
        fig.add_annotation(x=i, y=-0.55, text=name, showarrow=False, yanchor="top", font={"size": 11, "color": INK})
    by_state = status.groupby("state")["number"].agg(list)
    done = by_state.get("done", [])
    alt = f"{count} notebooks in a row; {len(done)} have run" + (f": {', '.join(done)}." if done else ".")
    for state in ("changed by hand", "stale"):
        if state in by_state:
            alt += f" {state.capitalize()}: {', '.join(by_state[state])}."
    fig.update_xaxes(visible=False, range=[-0.6, count - 0.4]).update_yaxes(visible=False, range=[-2.2, 1])
    fig.update_layout(legend={"y": 0.02, "yanchor": "bottom", "x": 0, "title": {"text": ""}})
    return finish(fig, "The notebooks of this run", alt, 260)


def compare_differences(table: pd.DataFrame, reference: str, title: str = "By more than noise?") -> go.Figure:
    """Differences of runs to one run, a panel per metric, a row per run, with a line at no difference.

    Columns are `run, panel, value, low, high` and `better` (1, -1, or 0 for no difference beyond noise).
    """
    import plotly.express as px

    if table.empty:
        return finish(go.Figure(), title, f"No other run can be compared with {reference}.")
    panels, runs = list(dict.fromkeys(table["panel"])), list(dict.fromkeys(table["run"]))
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    high = 26 * len(runs) + 90  # pixels of a panel
    short = dict(zip(runs, labels(runs, 26), strict=True))
    drawn = table.assign(run=table["run"].map(short), panel=table["panel"].map(escape))
    fig = px.scatter(
        drawn.assign(verdict=table["better"].map(_VERDICTS)),
        x="value",
        y="run",
        error_x=table["high"] - table["value"],
        error_x_minus=table["value"] - table["low"],
        color="verdict",
        color_discrete_map={"better": PALETTE[0], "worse": PALETTE[1], _VERDICTS[0]: MUTED},
        facet_col="panel",
        facet_col_wrap=across,
        facet_col_spacing=0.05,
        facet_row_spacing=min(0.5, 90 / (down * high)),
        category_orders={"run": [short[run] for run in runs]},
        labels={"value": "", "run": ""},
        render_mode="svg",
    )
    hover = "%{y}: %{x:+.3~f}<extra>%{fullData.name}</extra>"
    as_panels(fig).update_traces(marker_size=10, error_x={"thickness": 1.8, "width": 5}, hovertemplate=hover)
    fig.add_vline(x=0, line={"color": LAND, "dash": "dot", "width": 1})
    fig.update_yaxes(range=[-0.6, len(runs) - 0.4], ticks="")
    listed = [f"{row['run']} {row['panel']} {estimate_text(row, '{:+z.3g}')}" for row in table.to_dict("records")]
    alt = f"Differences of {plural(len(runs), 'run')} to {reference}, intervals in brackets: {'; '.join(listed)}."
    legend = {"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    return finish(fig, title, alt, 110 + down * high, legend=legend, margin={"l": 56, "r": 24, "t": 84, "b": 76})
