"""The look of all figures, and what each must carry: a template, colours and a sentence of alt text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito (2008): told apart with every common kind of colour blindness. Their yellow is too pale for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B4B8A", "#6B6B6B")
INK, MUTED, GRID, LAND = "#1F2933", "#6B7785", "#E5E9EE", "#9AA5B1"
MAX_POINTS = 5000
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


@cache
def template() -> go.layout.Template:
    """Return the template `geocbm`: white ground, dark text, thin grid, colour-blind safe colours."""
    import plotly.graph_objects as go

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
    """Give a figure its template, title, height and alt text.

    Args:
        fig: the figure, changed in place.
        title: a short headline.
        alt: one sentence that tells someone who cannot see the figure what it shows, with its key numbers.
        height: pixels.
        **layout: further entries of the layout.
    """
    fig.update_layout(template=template(), title_text=title, height=height, meta={"alt": " ".join(alt.split())})
    fig.update_layout(**layout)
    return fig


def band(x: Sequence[Any], low: Any, high: Any, colour: str, opacity: float) -> go.Scatter:
    """The area between two curves, pale, without a legend entry of its own.

    Args:
        x: `[n]` places.
        low: `[n]` lower ends.
        high: `[n]` upper ends.
        colour: `#RRGGBB`.
        opacity: from 0 to 1.
    """
    import plotly.graph_objects as go

    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=[*numbers(high), *numbers(low)[::-1]],
        mode="lines",
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},{opacity:.2f})",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def numbers(values: Any, digits: int = 4) -> list[float | None]:
    """Round to significant digits, as a list; values that are not finite become gaps (None)."""
    rounded: list[float | None] = []
    for value in np.asarray(values, dtype=float).ravel():
        rounded.append(float(f"{value:.{digits}g}") if np.isfinite(value) else None)
    return rounded


def degrees(values: Any) -> list[float | None]:
    """Round coordinates to three decimals (about 100 m), as a list; missing ones become gaps (None)."""
    return [round(float(value), 3) if np.isfinite(value) else None for value in np.asarray(values, dtype=float)]


def thin(count: int, limit: int = MAX_POINTS) -> np.ndarray:
    """Positions of at most `limit` of `count` rows, evenly random and the same at every call, in order."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, size=limit, replace=False))


def thin_curve(count: int, limit: int = 400) -> np.ndarray:
    """Positions of at most `limit` evenly spaced points of a curve, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


def columns_of(**columns: Any) -> tuple[np.ndarray, ...]:
    """Check that columns have one common length above zero; return them as arrays.

    Raises:
        ValueError: naming the columns and their lengths.
    """
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    lengths = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"a figure needs columns of one length with at least one row, but {listed}")
    return tuple(arrays.values())


def km_text(km: float) -> str:
    """Write a distance for a sentence: `850 m`, `12.3 km`, `1,480 km`; an infinite one is that of a missing answer."""
    if not np.isfinite(km):
        return "no answer" if km > 0 else "unknown"
    if km < 1:
        return f"{km * 1000:.0f} m"
    return f"{km:.1f} km" if km < 100 else f"{km:,.0f} km"


def percent(share: float) -> str:
    """Write a share as a percentage for a sentence."""
    return f"{100 * share:.1f} %" if np.isfinite(share) else "unknown"


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """Write a count with its noun: `1 image`, `1,200 images`."""
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def shorten(text: Any, limit: int = 34) -> str:
    """Cut a label at `limit` characters."""
    label = str(text)
    return label if len(label) <= limit else label[: limit - 1].rstrip() + "…"


def escape(text: Any) -> str:
    """Escape a text for plotly's labels, which understand a little HTML."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def labels(texts: Sequence[Any], limit: int = 34) -> list[str]:
    """Shorten and escape labels; those that would coincide stay whole."""
    short = [shorten(text, limit) for text in texts]
    return [escape(text if short.count(cut) > 1 else cut) for text, cut in zip(texts, short, strict=True)]


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks at whole powers of ten for a colour bar or axis whose values are log10 km."""
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    return {"tickvals": list(powers), "ticktext": [f"{10.0**power:,g}" for power in powers]}


def log_ticks_of(low: float, high: float) -> dict[str, Any]:
    """Ticks 1, 2, 5, 10, ... from below `low` to above `high` for an axis of type `log`."""
    powers = range(int(np.floor(np.log10(max(low, 1e-9)))), int(np.ceil(np.log10(max(high, 1e-9)))) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}


def whiskers(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Error bars from a value to its interval's ends; one that reaches to infinity ends at the largest finite end."""
    ends = np.concatenate([value, low, high])
    top = float(ends[np.isfinite(ends)].max(initial=0.0))
    with np.errstate(invalid="ignore"):
        up, down = np.minimum(high, top) - value, value - low
    parts = {name: numbers(np.nan_to_num(bar, posinf=0.0, neginf=0.0)) for name, bar in (("up", up), ("down", down))}
    return {"type": "data", "symmetric": False, "array": parts["up"], "arrayminus": parts["down"]}
