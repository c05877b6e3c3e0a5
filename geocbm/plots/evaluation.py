"""Figures of evaluation: methods side by side with their intervals, and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.metrics.calibration import expected_calibration_error, reliability_bins
from geocbm.plots.style import INK, LAND, PALETTE, escape, finish, labels, log_ticks_of, numbers, percent, plural

if TYPE_CHECKING:
    import plotly.graph_objects as go


def forest(
    table: pd.DataFrame,
    label: str,
    title: str = "Against what a user would pick instead",
    highlight: str | None = None,
    log: bool = False,
    share: bool = False,
) -> go.Figure:
    """Forest plot: a dot with its interval for each method, in the order given.

    Args:
        table: a row per method with `name`, `value` and, where there is an interval, `low` and `high` (NaN: none).
        label: what is measured, with the unit.
        title: headline.
        highlight: name of the method to draw in another colour, with a line at its value.
        log: logarithmic axis.
        share: the values are shares, written as percentages.

    Raises:
        ValueError: no rows, or a missing column.
    """
    import plotly.graph_objects as go

    missing = {"name", "value"} - set(table.columns)
    if missing or not len(table):
        raise ValueError(f"a forest plot needs rows with name and value; missing: {sorted(missing) or 'rows'}")
    value = table["value"].to_numpy(float)
    low = table["low"].to_numpy(float) if "low" in table else np.full(len(table), np.nan)
    high = table["high"].to_numpy(float) if "high" in table else np.full(len(table), np.nan)

    def write(number: float) -> str:
        return percent(number) if share else f"{number:,.4g}"

    names = table["name"].astype(str).tolist()
    spans = [
        f" ({write(lower)} to {write(upper)})" if np.isfinite(lower) and np.isfinite(upper) else ""
        for lower, upper in zip(low, high, strict=True)
    ]
    texts = [write(number) + span for number, span in zip(value, spans, strict=True)]
    fig = go.Figure(
        go.Scatter(
            x=numbers(value),
            y=labels(names),
            mode="markers",
            marker={
                "size": 11,
                "color": [PALETTE[1] if name == highlight else PALETTE[0] for name in names],
                "line": {"width": 1, "color": "white"},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": numbers(np.nan_to_num(high - value)),
                "arrayminus": numbers(np.nan_to_num(value - low)),
                "thickness": 1.8,
                "width": 5,
                "color": INK,
            },
            customdata=texts,
            hovertemplate="%{y}: %{customdata}<extra></extra>",
            showlegend=False,
        )
    )
    for name, text in zip(labels(names), texts, strict=True):
        fig.add_annotation(
            x=1.01, xref="paper", y=name, text=text, showarrow=False, xanchor="left", font={"size": 12, "color": INK}
        )
    if highlight in names:
        reference = float(value[names.index(highlight)])
        if np.isfinite(reference):
            fig.add_vline(x=reference, line={"color": LAND, "dash": "dot", "width": 1})
    fig.update_xaxes(title_text=escape(label), type="log" if log else "linear", tickformat=".0%" if share else None)
    ends = np.concatenate([value, low, high])
    if log and (ends > 0).any():
        fig.update_xaxes(**log_ticks_of(np.nanmin(ends[ends > 0]), np.nanmax(ends[np.isfinite(ends)])))
    fig.update_yaxes(autorange="reversed", ticks="", type="category")
    listed = "; ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
    alt = f"{label} of {plural(len(names), 'method')}, intervals in brackets: {listed}."
    margin = {"l": 56, "r": 190, "t": 56, "b": 48}
    return finish(fig, title, alt, 150 + 34 * len(names), margin=margin)


def reliability(
    confidence: Any, correct: Any, bins: int = 10, title: str = "Does a probability mean what it says?"
) -> go.Figure:
    """Reliability diagram: accuracy against confidence in bins, beside the line of perfect calibration.

    Args:
        confidence: `[n]` probability given to the named class.
        correct: `[n]` whether the named class was the true one.
        bins: number of bins of equal width.
        title: headline.
    """
    import plotly.graph_objects as go

    table = reliability_bins(confidence, correct, bins)
    error = expected_calibration_error(confidence, correct)
    fig = go.Figure()
    fig.add_trace(
        go.Scatter(
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            line={"color": LAND, "dash": "dot"},
            hoverinfo="skip",
            name="perfect calibration",
        )
    )
    fig.add_trace(
        go.Bar(
            x=numbers((table["low"] + table["high"]) / 2),
            y=numbers(table["n"] / table["n"].sum()),
            width=1 / bins,
            marker_color="#DCE3EA",
            marker_line={"width": 1, "color": "white"},
            name="share of photographs",
            hovertemplate="%{y:.1%} of the photographs<extra></extra>",
        )
    )
    fig.add_trace(
        go.Scatter(
            x=numbers(table["confidence"]),
            y=numbers(table["accuracy"]),
            mode="lines+markers",
            marker={"size": numbers(6 + 10 * np.sqrt(table["n"] / table["n"].max())), "color": PALETTE[0]},
            line={"color": PALETTE[0], "width": 2},
            customdata=[int(count) for count in table["n"]],
            hovertemplate="confidence %{x:.0%}, right %{y:.0%} of %{customdata}<extra></extra>",
            name="accuracy",
        )
    )
    fig.update_xaxes(title_text="confidence", range=[0, 1], tickformat=".0%")
    fig.update_yaxes(title_text="accuracy", range=[0, 1.02], tickformat=".0%")
    sure, right = (float((table["n"] * table[name]).sum() / table["n"].sum()) for name in ("confidence", "accuracy"))
    alt = (
        f"Reliability diagram of {plural(int(table['n'].sum()), 'photograph')}: mean confidence {percent(sure)}, "
        f"accuracy {percent(right)}, expected calibration error {error:.3f}; the model is "
        f"{'overconfident' if sure > right else 'underconfident'} on the whole."
    )
    return finish(fig, f"{title}  (ECE {error:.3f})", alt, 440)
