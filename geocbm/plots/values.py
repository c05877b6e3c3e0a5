"""What figures are given: numbers and coordinates rounded, texts shortened and escaped, rows thinned out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_POINTS = 5000


def numbers(values: Any, digits: int = 4) -> list[float | None]:
    """Round to significant digits, as a list; values that are not finite become gaps (None)."""
    flat = np.asarray(values, dtype=float).ravel()
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in flat]


def degrees(values: Any) -> list[float | None]:
    """Round coordinates to three decimals (about 100 m), as a list; missing ones become gaps (None)."""
    return [round(float(value), 3) if np.isfinite(value) else None for value in np.asarray(values, dtype=float)]


def thin(count: int, limit: int = MAX_POINTS) -> np.ndarray:
    """Positions of at most `limit` of `count` rows, evenly random and the same at every call, in order."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, size=limit, replace=False))


def columns_of(**columns: Any) -> tuple[np.ndarray, ...]:
    """Columns as arrays, refused where they have no rows or different lengths."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    lengths = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"a figure needs columns of one length with at least one row, but {listed}")
    return tuple(arrays.values())


def refuse_empty(name: str, rows: Any, what: str) -> None:
    """Refuse a table or mapping without rows: `name` is empty, pass at least one `what`."""
    if not len(rows):
        raise ValueError(f"{name} is empty: pass at least one {what}")


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
