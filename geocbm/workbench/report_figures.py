"""Plotly figures of an executed notebook as accessible parts of a page that needs no network."""

import copy
from html import escape
from typing import Any

PLOTLY_MIME = "application/vnd.plotly.v1+json"
_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "scrollZoom": False,  # the wheel scrolls the page
    "showLink": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "topojsonURL": "",
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "sendChartToCloud"],
}


def figure_meta(bundle: dict[str, Any]) -> tuple[str, bool]:
    """What `Notebook.show` put into the ``layout.meta`` of a figure (as JSON): alt text, and if it is a preview."""
    meta = (bundle.get("layout") or {}).get("meta")
    meta = meta if isinstance(meta, dict) else {}
    return str(meta.get("alt") or "").strip(), bool(meta.get("preview"))


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
        lines_first = trace["type"] == "scattergeo" and "lines" in str(trace.get("mode", ""))
        if visible is not False or (subplot not in seen and not lines_first):
            return (
                f"its map ({subplot}) needs a base map from the network and would stay empty; begin it with a "
                "coastline lines trace and set visible=False on it, as geocbm.plots does"
            )
        seen.add(subplot)
    return None


def figure_html(bundle: dict[str, Any], identifier: str, alt: str) -> str:
    """Turn a figure (as JSON) into a `figure` element, the plot and its description, followed by the figure's data.

    `identifier` is unique in the page, `alt` one sentence that says what the figure shows.
    """
    figure: dict[str, Any] = copy.deepcopy({key: bundle[key] for key in ("data", "layout", "frames") if key in bundle})
    layout = figure.setdefault("layout", {})
    width = layout.pop("width", None)
    layout["autosize"] = True
    figure["config"] = {**(bundle.get("config") or {}), **_CONFIG}
    style = f"height:{int(layout.setdefault('height', 450))}px" + (f";max-width:{int(width)}px" if width else "")
    place, data = _drawn(figure, identifier, alt, style)
    return (
        f'<figure class="plot">{place}<figcaption><details><summary>Description</summary>'
        f"<p>{escape(alt)}</p></details></figcaption></figure>{data}"
    )


def preview_html(bundle: dict[str, Any], identifier: str, alt: str) -> str:
    """The same as a small still picture without titles, legends or axis labels."""
    figure: dict[str, Any] = copy.deepcopy({key: bundle[key] for key in ("data", "layout") if key in bundle})
    layout = figure.setdefault("layout", {})
    for key in ("title", "annotations", "updatemenus", "sliders", "width", "legend"):
        layout.pop(key, None)
    margin = {"l": 8, "r": 8, "t": 8, "b": 8}
    layout.update(height=190, autosize=True, showlegend=False, margin=margin, hovermode=False, dragmode=False)
    for name, part in layout.items():
        if isinstance(part, dict) and name.startswith("coloraxis"):
            part["showscale"] = False
        elif isinstance(part, dict) and name.startswith(("xaxis", "yaxis")):
            part.pop("title", None)
            part.update(showticklabels=False, ticks="", automargin=False)
    for axis in ("xaxis", "yaxis"):
        layout.setdefault(axis, {"showticklabels": False, "ticks": ""})
    for trace in figure.get("data", []):
        _bare(trace)
    figure["config"] = {**_CONFIG, "staticPlot": True}
    return "".join(_drawn(figure, identifier, alt, "height:190px"))


def _drawn(figure: dict[str, Any], identifier: str, alt: str, style: str) -> tuple[str, str]:
    """An empty element, and the figure as data, which the page's script draws into every element that names it.

    Nothing in a figure can close the script element, for jinja2 writes JSON without angle brackets.
    """
    from jinja2.utils import htmlsafe_json_dumps

    role = "img" if figure["config"].get("staticPlot") else "figure"  # the buttons of a live figure can be reached
    return (
        f'<div data-figure="{identifier}" class="plotly-graph-div" style="{style}" role="{role}" '
        f'aria-label="{escape(alt)}"></div>',
        f'<script type="application/json" data-of="{identifier}">'
        f"{htmlsafe_json_dumps(figure, separators=(',', ':'))}</script>",
    )


def _bare(trace: dict[str, Any]) -> None:
    """Take colour bars from a trace, and let the dots of a map fit a third of the width."""
    if "showscale" in trace or trace.get("type") in ("heatmap", "choropleth", "contour"):
        trace["showscale"] = False
    marker = trace.get("marker")
    if isinstance(marker, dict):
        marker["showscale"] = False
        if trace.get("type") == "scattergeo" and isinstance(marker.get("size"), int | float):
            marker["size"] = max(2, marker["size"] / 2)
