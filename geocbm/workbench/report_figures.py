"""Plotly figures of an executed notebook as accessible parts of a page that needs no network."""

from __future__ import annotations

import base64
import copy
import json
from html import escape
from typing import Any

import numpy as np

from geocbm.workbench.report_html import plain_text

PLOTLY_MIME = "application/vnd.plotly.v1+json"
TABLE_ROWS = 200
_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showLink": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "topojsonURL": "",
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "sendChartToCloud"],
}
# Trace attributes worth reading aloud, in the order a table shows them.
_COLUMNS = ("labels", "parents", "locations", "lat", "lon", "x", "y", "z", "r", "theta", "values", "text", "hovertext")
_NAMES = {"lat": "latitude", "lon": "longitude", "labels": "label", "parents": "within", "values": "value"}


def figure_alt(bundle: dict[str, Any]) -> str:
    """Read the sentence that describes a figure from ``layout.meta.alt`` (empty when there is none)."""
    meta = (bundle.get("layout") or {}).get("meta")
    alt = meta.get("alt") if isinstance(meta, dict) else None
    return alt.strip() if isinstance(alt, str) else ""


def is_preview(bundle: dict[str, Any]) -> bool:
    """Say whether the notebook chose this figure for its card (``layout.meta.preview``)."""
    meta = (bundle.get("layout") or {}).get("meta")
    return isinstance(meta, dict) and bool(meta.get("preview"))


def online_map_problem(bundle: dict[str, Any]) -> str | None:
    """Explain why a map of the figure would stay empty without a network, or return None.

    plotly.js fetches its base map for a ``geo`` subplot unless the subplot is invisible and begins with a lines
    trace; when the request fails, not even the points are drawn.
    """
    layout = bundle.get("layout") or {}
    template = ((layout.get("template") or {}).get("layout") or {}).get("geo") or {}
    seen: set[str] = set()
    for trace in bundle.get("data") or []:
        if trace.get("type") not in ("scattergeo", "choropleth"):
            continue
        subplot = trace.get("geo", "geo")
        visible = (layout.get(subplot) or {}).get("visible", template.get("visible", True))
        first = subplot not in seen
        seen.add(subplot)
        lines_first = trace["type"] == "scattergeo" and "lines" in str(trace.get("mode", ""))
        if visible is not False or (first and not lines_first):
            return (
                f"its map ({subplot}) needs a base map from the network and would stay empty; begin it with a "
                "coastline lines trace and set visible=False on it, as geocbm.plots does"
            )
    return None


def _sequence(value: Any) -> list[Any] | None:
    """Read a list or a base64-packed typed array; None for anything else."""
    if isinstance(value, dict) and "bdata" in value and "dtype" in value:
        array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
        if value.get("shape"):
            array = array.reshape([int(size) for size in str(value["shape"]).split(",")])
        return array.tolist()
    return value if isinstance(value, list) else None


def _title(part: Any) -> str:
    """Text of a title, written either as a string or as an object with ``text``."""
    title = (part or {}).get("title") if isinstance(part, dict) else None
    text = title.get("text") if isinstance(title, dict) else title
    return plain_text(text) if isinstance(text, str) else ""


def _column_name(key: str, trace: dict[str, Any], layout: dict[str, Any]) -> str:
    """Name a column by the title of its axis or colour bar, else by what the attribute means."""
    if key in ("x", "y"):
        axis = str(trace.get(f"{key}axis", key)).replace(key, f"{key}axis", 1)
        return _title(layout.get(axis)) or key
    if key == "z":
        return _title(trace.get("colorbar")) or _title((layout.get("coloraxis") or {}).get("colorbar")) or "value"
    return _NAMES.get(key, key)


def _is_outline(trace: dict[str, Any]) -> bool:
    """Say whether a trace is scenery: coastlines and borders that nobody can point at."""
    return trace.get("type") == "scattergeo" and trace.get("mode") == "lines" and trace.get("hoverinfo") == "skip"


def _trace_columns(trace: dict[str, Any], layout: dict[str, Any]) -> dict[str, list[Any]]:
    """Columns of equal length that hold the data of one trace (a photograph's pixels are no data)."""
    if trace.get("type") == "image":
        return {}
    arrays = {key: values for key in _COLUMNS if (values := _sequence(trace.get(key))) is not None}
    grid = arrays.get("z")
    if grid and isinstance(grid[0], list):
        across = arrays.get("x") or list(range(len(grid[0])))
        down = arrays.get("y") or list(range(len(grid)))
        cells = [(a, d, v) for d, row in zip(down, grid, strict=False) for a, v in zip(across, row, strict=False)]
        arrays = {key: [cell[i] for cell in cells] for i, key in enumerate(("x", "y", "z"))}
    for key in ("error_x", "error_y"):
        bars = trace.get(key) or {}
        for part, name in (("array", "above"), ("arrayminus", "below")):
            if (values := _sequence(bars.get(part))) is not None:
                arrays[f"{name} by"] = values
    marker = trace.get("marker") or {}
    if (colors := _sequence(marker.get("color"))) and all(isinstance(c, int | float) for c in colors):
        title = _title(marker.get("colorbar")) or _title((layout.get("coloraxis") or {}).get("colorbar"))
        arrays[title or "colour value"] = colors
    if not arrays:
        return {}
    length = max(len(values) for values in arrays.values())
    return {_column_name(key, trace, layout): values for key, values in arrays.items() if len(values) == length}


def data_table(bundle: dict[str, Any]) -> tuple[list[str], list[list[str]], int]:
    """Lay the traces of a figure out as one table.

    Args:
        bundle: a figure as JSON (``data``, ``layout``).

    Returns:
        Column names, at most `TABLE_ROWS` rows of formatted cells, and the number of rows before the cut.
    """
    layout = bundle.get("layout") or {}
    traces = [trace for trace in bundle.get("data") or [] if not _is_outline(trace)]
    named = len(traces) > 1 and any(trace.get("name") for trace in traces)
    tables = [(plain_text(str(t.get("name") or "")), _trace_columns(t, layout)) for t in traces]
    columns = list(dict.fromkeys(name for _, table in tables for name in table))
    rows: list[list[str]] = []
    total = 0
    for series, table in tables:
        for values in zip(*table.values(), strict=True):
            if all(value is None for value in values):
                continue  # a gap between drawn lines is no datum
            total += 1
            if len(rows) < TABLE_ROWS:
                cells = dict(zip(table, values, strict=True))
                rows.append([series] * named + [format_cell(cells.get(name)) for name in columns])
    return ["series"] * named + columns, rows, total


def format_cell(value: Any) -> str:
    """Format one datum for reading: four significant digits, thousands separated, tags removed."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain_text(str(value))
    if value != value:
        return ""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _table_html(bundle: dict[str, Any]) -> str:
    """The data table of a figure, or nothing when its traces hold no series."""
    columns, rows, total = data_table(bundle)
    if not rows:
        return ""
    cut = f"<p>The first {len(rows)} of {total:,} rows.</p>" if total > len(rows) else ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{cut}<div class="scroll" tabindex="0">{table}</div>'


def _script(identifier: str, figure: dict[str, Any]) -> str:
    """Queue a figure for drawing; the page's own script draws the queue once plotly.js is there."""
    text = json.dumps(figure, separators=(",", ":"), ensure_ascii=True)
    for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, code)  # nothing in a figure can close the script element
    return (
        "<script>(window.geocbmPlots=window.geocbmPlots||[]).push("
        f'["{identifier}",function(place){{return Plotly.newPlot(place,{text});}}]);</script>'
    )


def figure_html(bundle: dict[str, Any], identifier: str, alt: str) -> str:
    """Turn a figure into a `figure` element: the plot, its description and its data.

    Args:
        bundle: the figure as JSON, as a notebook stores it.
        identifier: the id of the plot's element, unique in the page.
        alt: one sentence that says what the figure shows.

    Returns:
        HTML that draws once the page's scripts have been loaded.
    """
    figure: dict[str, Any] = copy.deepcopy({key: bundle[key] for key in ("data", "layout", "frames") if key in bundle})
    layout = figure.setdefault("layout", {})
    width = layout.pop("width", None)
    layout["autosize"] = True
    figure["config"] = {**(bundle.get("config") or {}), **_CONFIG}
    height = int(layout.setdefault("height", 450))
    style = f"height:{height}px" + (f";max-width:{int(width)}px" if width else "")
    return (
        f'<figure class="plot"><div id="{identifier}" class="plotly-graph-div" style="{style}" role="img" '
        f'aria-label="{escape(alt)}"></div><figcaption><details><summary>Description and data</summary>'
        f"<p>{escape(alt)}</p>{_table_html(bundle)}</details></figcaption></figure>{_script(identifier, figure)}"
    )


def preview_html(bundle: dict[str, Any], identifier: str, alt: str, height: int = 190) -> str:
    """Draw a figure as a small still picture without titles, legends or axis labels.

    Args:
        bundle: the figure as JSON, as a notebook stores it.
        identifier: the id of the plot's element, unique in the page.
        alt: the figure's description.
        height: height of the picture in pixels.

    Returns:
        HTML that draws once the page's scripts have been loaded.
    """
    figure: dict[str, Any] = copy.deepcopy({key: bundle[key] for key in ("data", "layout") if key in bundle})
    layout = figure.setdefault("layout", {})
    for key in ("title", "annotations", "updatemenus", "sliders", "width", "legend"):
        layout.pop(key, None)
    margin = {"l": 8, "r": 8, "t": 8, "b": 8}
    layout.update(height=height, autosize=True, showlegend=False, margin=margin, hovermode=False, dragmode=False)
    for name, part in layout.items():
        if not isinstance(part, dict):
            continue
        if name.startswith("coloraxis"):
            part["showscale"] = False
        if name.startswith(("xaxis", "yaxis")):
            part.pop("title", None)
            part.update(showticklabels=False, ticks="", automargin=False)
    for axis in ("xaxis", "yaxis"):
        layout.setdefault(axis, {"showticklabels": False, "ticks": ""})
    for trace in figure.get("data", []):
        if "showscale" in trace or trace.get("type") in ("heatmap", "choropleth", "contour"):
            trace["showscale"] = False
        marker = trace.get("marker")
        if isinstance(marker, dict):
            marker["showscale"] = False
            if trace.get("type") == "scattergeo" and isinstance(marker.get("size"), int | float):
                marker["size"] = max(2, marker["size"] / 2)  # the same map on a third of the width
    figure["config"] = {**_CONFIG, "staticPlot": True}
    return (
        f'<div id="{identifier}" class="plotly-graph-div" style="height:{height}px" role="img" '
        f'aria-label="{escape(alt)}"></div>{_script(identifier, figure)}'
    )
