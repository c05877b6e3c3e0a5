"""What the words know before any picture is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.plots.style import finish, plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from geocbm.data.concepts import ConceptVocabulary


def prototype_similarity(
    prototypes: Any, concepts: ConceptVocabulary, title: str = "How alike are the words of two concepts?"
) -> go.Figure:
    """Cosine between the text prototypes of all pairs of metas, grouped by parent, as a heat map.

    Args:
        prototypes: `[k_m, t]` base prototypes.
        concepts: names and hierarchy.
        title: headline.
    """
    import plotly.graph_objects as go

    unit = np.asarray(prototypes, dtype=float)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    order = np.argsort(concepts.parent_index, kind="stable")
    similarity = (unit @ unit.T)[np.ix_(order, order)]
    names = [concepts.metas[i] for i in order]
    same = concepts.parent_index[order][:, None] == concepts.parent_index[order][None, :]
    off = ~np.eye(len(names), dtype=bool)
    within, across = similarity[same & off], similarity[~same]
    parts = [f"Cosine between the words of {plural(len(names), 'meta')}, grouped by parent."]
    if len(within) and len(across):
        parts.append(f"Mean within a parent {within.mean():.2f}, across parents {across.mean():.2f}.")
    if len(names) > 1:
        first, second = np.unravel_index(np.where(off, similarity, -2).argmax(), similarity.shape)
        parts.append(f"Most alike: {names[first]} and {names[second]} ({similarity[first, second]:.2f}).")
    fig = go.Figure(
        go.Heatmap(
            z=np.round(similarity, 3).tolist(),
            x=names,
            y=names,
            colorscale="Cividis",
            colorbar={"title": {"text": "cosine"}, "thickness": 12},
            hovertemplate="%{x}<br>%{y}<br>cosine %{z}<extra></extra>",
        )
    )
    edges = np.flatnonzero(np.diff(concepts.parent_index[order])) + 0.5
    for edge in edges:
        fig.add_vline(x=edge, line_width=0.6, line_color="white")
        fig.add_hline(y=edge, line_width=0.6, line_color="white")
    fig.update_xaxes(showticklabels=len(names) <= 40, tickangle=-60)
    fig.update_yaxes(autorange="reversed", showticklabels=len(names) <= 80, tickfont={"size": 8})
    return finish(fig, title, " ".join(parts), height=max(420, 9 * len(names) + 120))
