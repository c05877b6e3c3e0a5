"""Figures of the field guide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geocbm.plots.style import PALETTE, escape, finish, numbers, plural, thin

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def clue_agreement(
    evidence: pd.DataFrame, title: str = "What the labels say, and what the model makes of it"
) -> go.Figure:
    """A dot for each concept in each country: log odds by the labels against contribution in the model.

    Args:
        evidence: columns `country, meta_name, labels, log_odds_z, contribution`; pairs without labels or contribution
            are left out.
        title: headline.

    Raises:
        ValueError: nothing is left.
    """
    import plotly.graph_objects as go

    shown = evidence[(evidence["labels"] > 0) & np.isfinite(evidence["contribution"])]
    if shown.empty:
        raise ValueError("clue_agreement needs pairs with labels and contributions, there are none")
    part = shown.iloc[thin(len(shown), 3000)]
    texts = [
        f"{escape(meta)} in {escape(country)}: {labels} labels"
        for meta, country, labels in zip(part["meta_name"], part["country"], part["labels"], strict=True)
    ]
    fig = go.Figure(
        go.Scatter(
            x=numbers(part["log_odds_z"], 3),
            y=numbers(part["contribution"], 3),
            mode="markers",
            marker={
                "size": numbers(np.clip(3 + 1.5 * np.sqrt(part["labels"]), 4, 14), 3),
                "color": PALETTE[0],
                "opacity": 0.45,
            },
            text=texts,
            hovertemplate="%{text}<br>%{x:.1f} standard deviations, %{y:+.2f} logits<extra></extra>",
            showlegend=False,
        )
    )
    fig.add_hline(y=0, line={"width": 1, "color": PALETTE[-1]})
    fig.add_vline(x=0, line={"width": 1, "color": PALETTE[-1]})
    fig.update_xaxes(title_text="by the labels: more frequent here than elsewhere, in standard deviations")
    fig.update_yaxes(title_text="by the model: contribution, logits")
    rank = float(shown["log_odds_z"].corr(shown["contribution"], method="spearman"))
    alt = (
        f"Scatter of {plural(len(shown), 'pair')} of country and concept: log odds by the labels across, "
        f"contribution in the model upwards; rank correlation {rank:.2f}."
    )
    return finish(fig, title, alt, 460)
