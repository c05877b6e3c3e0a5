"""The look of all figures, and what each must carry: a template, colours and a sentence of alt text."""

import re
from functools import cache
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito (2008): told apart with every common kind of colour blindness. Their yellow is too pale for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B4B8A", "#6B6B6B")
INK, MUTED, GRID, LAND = "#1F2933", "#6B7785", "#E5E9EE", "#9AA5B1"
ON_DARK = {INK: "#E6EDF3", MUTED: "#A8B3BF", GRID: "#2B333C", LAND: "#57606A", "#F7F9FB": "#161C23"}
ON_DARK |= {"#8290A0": "#6B7785", "#CBD2D9": "#3A434D", "#F4F1EC": "#2B333C", "#000000": "#E6EDF3"}
"""What is drawn for a white ground, and what stands for it on a dark one, in pages and in JupyterLab."""
_FOREIGN = re.compile(r"<(?!/?(?:br|b|i|sub|sup)>)")
"""What begins a tag that no title of this project has, such as a link in somebody's name."""
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


@cache
def template() -> go.layout.Template:
    """Return the template `geocbm`: white ground, dark text, thin grid, colour-blind safe colours."""
    axis = {
        "gridcolor": GRID,
        "linecolor": LAND,
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": LAND,
        "automargin": True,
        "exponentformat": "power",  # plotly's own would write a loss of 0.0005 as 500µ
        "title": {"standoff": 8, "font": {"size": 13, "color": MUTED}},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "title": {"font": {"size": 17}, "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 16, "t": 4}},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "colorway": list(PALETTE),
            "margin": {"l": 56, "r": 24, "t": 56, "b": 48},
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top", "title": {"text": ""}},
            "hoverlabel": {"font": {"family": FONT, "size": 12}, "bgcolor": "white", "bordercolor": LAND},
            "colorscale": {"sequential": "Cividis"},
        }
    )


def finish(fig: go.Figure, title: str, alt: str, height: int = 420, **layout: Any) -> go.Figure:
    """Give a figure its template, title, height in pixels and alt text, in place.

    `alt` is a sentence that tells someone who cannot see the figure what it shows, with its key numbers.
    """
    own = {"template": template(), "title_text": _FOREIGN.sub("&lt;", title), "meta": {"alt": " ".join(alt.split())}}
    return fig.update_layout({**own, "height": height, **layout})
