"""Parts that explorers are made of: who looks at a cell, a live map, pictures side by side, filters, spoken sentences.

An explorer is a function of a run that shows a class's `box` where `is_live()`, and else leaves a figure:

    def places(run):
        if not is_live():
            return html.put_figure(plots.cell_map(...))
        show(PlaceExplorer(run).box)

    class PlaceExplorer:
        def __init__(self, run):
            self.country = dropdown("country", choices(run.country))  # filters; ANY lets all pass
            self.strip = PictureStrip(run, caption=lambda row: run.country[row])  # with buttons to turn pages
            self.map = LiveMap(run, "Where it is", ["blue"], on_pick=self.look)  # its points are rows of the table
            self.country.observe(self.filter, "value")

        def filter(self, _change): ...

`LiveMap.show(rows, ...)` draws rows, `on_pick(row)` is told of a click and `on_region(rows)` of a lasso or a box. A map
cannot be used from the keyboard: whatever is picked on it can be picked from a control beside it. `said(text)` is a
sentence that a screen reader speaks when it changes; controls take their labels from `description`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from html import escape
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import plotly.graph_objects as go
from plotly.basedatatypes import BasePlotlyType

from geocbm.data import image_files, open_picture
from geocbm.plots.maps import base_map, finish_map, map_points
from geocbm.run import Run
from geocbm.workbench import html

ANY = ""  # choice of a filter that lets all pass
WIDE = ipywidgets.Layout(width="100%")
WRAP = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
SIDE = 150  # pixels of a picture in a strip
POINTS = 2  # number of the trace of a live map that holds its points; those before are the coast and the borders
REPORTS = ("_sendTraceDeltas", "_sendLayoutDelta")  # methods of plotly's FigureView
MOST_SHOWN, SPOT = 800, 1.2  # points of a live map: a browser takes 40 ms for 1,000; degrees of half a point


class OwnKeys(anywidget.AnyWidget):
    """Lets the controls beside it have their keys, of which JupyterLab takes arrows and letters for its own shortcuts.

    It brings the looks of tables too, which a widget does not take from JupyterLab.
    """

    _esm = html.TEMPLATES / "own_keys.js"
    _css = html.explorers_css()


def show(box: ipywidgets.Box) -> None:
    """Display an explorer, its figures whole: what they are told before the browser has read plotly is lost."""
    from IPython.display import display

    inside: list[Any] = [box]
    for part in inside:
        inside += getattr(part, "children", ())
        if isinstance(part, WholeFigure):
            part._widget_data, part._widget_layout = deepcopy(part._data), deepcopy(part._layout)
    display(ipywidgets.VBox([box, OwnKeys(layout=ipywidgets.Layout(display="none"))]))


def page(content: str, attributes: str = "") -> str:
    """HTML for a widget, whose lines would else stand as far apart as controls."""
    return f'<div style="line-height:1.4" {attributes}>{content}</div>'


def said(*texts: str) -> str:
    """Lines that a screen reader speaks when they change."""
    return page("".join(f"<div>{escape(text)}</div>" for text in texts), 'role="status" aria-live="polite"')


def _without_reports(module: str) -> str:
    """Plotly's part in the browser, told not to send all that differs from defaults to the kernel after each change.

    That takes longer than to draw, and nothing here asks for it.
    """
    view = re.search(r"(\w+) as FigureView\b", module)
    reports = "" if view is None else "".join(f"{view[1]}.prototype.{name} = () => {{}};\n" for name in REPORTS)
    return f"{module}\n{reports}"


class WholeFigure(go.FigureWidget):
    """A live figure of which the browser hears when it is whole; of plotly's own it hears first that it is empty."""

    _esm = _without_reports(str(go.FigureWidget._esm))
    _last_layout_edit_id = _last_trace_edit_id = 0  # of reports; plotly's traits would be a message each

    def __init__(self, figure: go.Figure) -> None:
        self._is_whole = False
        super().__init__(figure)
        self._is_whole = True
        self.open()

    def open(self) -> None:
        """Tell the browser."""
        if self._is_whole:
            super().open()


def figure_widget(figure: go.Figure, width: int) -> go.FigureWidget:
    """A live figure; its width in pixels is fixed, since it is drawn before it has a place to measure."""
    shown = WholeFigure(figure.update_layout(width=width))
    shown._config = {"displaylogo": False, "scrollZoom": False}  # the wheel scrolls the notebook
    return shown


def redraw(shown: go.FigureWidget, figure: go.Figure) -> None:
    """Bring a shown figure to the state of another one with the same traces, in one message of what differs."""
    with shown.batch_update():
        for old, new in zip((*shown.data, shown.layout), (*figure.data, figure.layout), strict=True):
            before, same = old._props or {}, ("type", "template")  # slow to compare
            own = new.to_plotly_json().items()
            old.update({k: v for k, v in own if k not in same and not BasePlotlyType._vals_equal(v, before.get(k))})


def choices(values: Any, all_named: str = "all") -> list[tuple[str, str]]:
    """Options of a filter: each value with its count, in alphabetical order, after the one that lets all pass."""
    names, counts = np.unique(np.asarray(values, dtype=str), return_counts=True)
    found = zip(names.tolist(), counts.tolist(), strict=True)
    return [(all_named, ANY), *((f"{name} ({n:,})", name) for name, n in found if name != ANY)]


def recount(control: ipywidgets.Dropdown, values: Any) -> None:
    """Let a filter offer `choices` of other values, in one message; what is chosen stays, with 0 where none is left."""
    options, chosen = choices(values), control.value
    if chosen not in [value for _, value in options]:
        options.append((f"{chosen} (0)", chosen))
    if list(control.options) != options:
        with control.hold_sync():
            control.options, control.value = options, chosen


def dropdown(description: str, options: Sequence[Any], **more: Any) -> ipywidgets.Dropdown:
    """A labelled choice of the width that filters have."""
    style, layout = {"description_width": "70px"}, ipywidgets.Layout(width="290px")
    return ipywidgets.Dropdown(options=options, description=description, style=style, layout=layout, **more)


class PictureStrip:
    """Pictures of a run side by side, a page of them at a time, with buttons to turn pages.

    A caption is the picture's alternative text too; `pictures` are by default the files of the table.
    """

    def __init__(
        self,
        run: Run,
        caption: Callable[[int], str],
        pictures: Callable[[list[int]], list[Any]] | None = None,
        at_once: int = 12,
    ) -> None:
        self.caption, self.at_once = caption, at_once
        self._files, self._open = image_files(run.table), pictures or self.thumbnails
        self._made: dict[int, Any] = {}
        self.rows: np.ndarray = np.zeros(0, dtype=np.int64)
        self.pictures, self.position = ipywidgets.HTML(layout=WIDE), ipywidgets.HTML()
        self.back = ipywidgets.Button(description="previous page", icon="arrow-left")
        self.forward = ipywidgets.Button(description="next page", icon="arrow-right")
        self.back.on_click(lambda _: self.turn(self.first - self.at_once))
        self.forward.on_click(lambda _: self.turn(self.first + self.at_once))
        pages = ipywidgets.HBox([self.back, self.forward, self.position], layout=WRAP)
        self.box = ipywidgets.VBox([pages, self.pictures])
        self.show(self.rows)

    def show(self, rows: Sequence[int] | np.ndarray) -> None:
        """Show the pictures of some rows, the first page of them."""
        self.rows = np.asarray(rows, dtype=np.int64)
        self.turn(0)

    def turn(self, first: int) -> None:
        """Show the page that begins with the picture at a position among the rows."""
        self.first = first
        shown = self.rows[first : first + self.at_once].tolist()
        texts = [self.caption(row) for row in shown]
        gallery = html.gallery_html(self._open(shown) if shown else [], texts, texts, SIDE)
        self.pictures.value = page(gallery)
        self.back.disabled, self.forward.disabled = first <= 0, first + self.at_once >= len(self.rows)
        which = f"{first + 1:,} to {first + len(shown):,} of {len(self.rows):,} pictures" if shown else "no picture"
        self.position.value = said(which)

    def thumbnails(self, rows: list[int]) -> list[Any]:
        """The files of some pictures, each made small once."""
        for row in rows:
            if row not in self._made:
                self._made[row] = open_picture(self._files[row], SIDE).copy()
                self._made[row].thumbnail((2 * SIDE, 2 * SIDE))
        return [self._made[row] for row in rows]


class LiveMap:
    """A world map of pictures, of which one is picked by a click, or many by a lasso or a box.

    Colours are of the levels 0, 1, ... of points; levels between have a colour between. `on_pick` is told the row of a
    point that was clicked, `on_region` the rows that were enclosed (else nothing can be); `more` traces lie above.
    """

    def __init__(
        self,
        run: Run,
        title: str,
        colours: Sequence[str],
        on_pick: Callable[[int], None],
        on_region: Callable[[np.ndarray], None] | None = None,
        more: Sequence[go.Scattergeo] = (),
    ) -> None:
        self.run, self.rows = run, np.zeros(0, dtype=np.int64)
        self._drawn = self._point = self.rows  # positions of those drawn; of each row the point that stands for it
        top = max(len(colours) - 1, 1)
        scale = [[level / top, colour] for level, colour in enumerate(colours)]
        marker = {"size": 5, "opacity": 0.8, "colorscale": scale, "cmin": 0, "cmax": top}
        points = map_points([], [], [], marker, "pictures").update(hovertemplate="%{customdata}<extra></extra>")
        points.update(selected_marker_opacity=1, unselected_marker_opacity=0.15, showlegend=False)
        drawn = finish_map(base_map().add_traces([points, *more]), title, title, 430)
        self.figure = WholeFigure(drawn)
        self.figure.update_layout(width=900, dragmode="lasso" if on_region else "pan", clickmode="event")
        self.says = ipywidgets.HTML()
        self.box = ipywidgets.VBox([self.figure, self.says], layout=WIDE)
        trace = self.figure.data[POINTS]

        def clicked(_trace: Any, points: Any, _state: Any) -> None:
            if points.point_inds:
                on_pick(int(self.rows[self._drawn[points.point_inds[0]]]))

        trace.on_click(clicked)
        if on_region:
            trace.on_selection(lambda _, points, __: on_region(self.rows[np.isin(self._point, points.point_inds)]))
            trace.on_deselect(lambda _, __: on_region(self.rows[:0]))

    def show(self, rows: np.ndarray, texts: np.ndarray, levels: np.ndarray, sentence: str) -> None:
        """Draw rows `[m]` of the table; of many that hide one another the last is drawn and stands for all of them.

        Texts under the pointer, escaped, and levels of the colours are `[m]`; the sentence is for those who do not see.
        """
        self.rows = np.asarray(rows)
        lat, lng = self.run.lat[self.rows], self.run.lng[self.rows]
        kept = self._point = np.arange(len(self.rows))
        side = SPOT
        while len(kept) > MOST_SHOWN:
            squares = (np.round(lat / side) * 1000 + np.round(lng / side))[::-1]
            _, last, square = np.unique(squares, return_index=True, return_inverse=True)
            order = np.argsort(-last)  # as they came
            kept, self._point, side = len(lat) - 1 - last[order], np.argsort(order)[square[::-1]], 1.5 * side
        self._drawn = kept
        more = f" One point stands for those at a place: {len(kept):,} are drawn." if len(kept) < len(lat) else ""
        with self.figure.batch_update():  # arrays: lists would be looked at one by one
            self.figure.data[POINTS].update(
                lat=np.round(lat[kept], 3).astype(np.float32),
                lon=np.round(lng[kept], 3).astype(np.float32),
                customdata=texts[kept],
                marker_color=levels[kept].astype(np.float32),
                selectedpoints=None,
            )
        self.says.value = said(sentence + more)

    def mark(self, rows: np.ndarray | None) -> None:
        """Let all points fade but those of some rows; None lets none fade."""
        points = None if rows is None else np.unique(self._point[np.isin(self.rows, rows)])
        self.figure.data[POINTS].selectedpoints = points
