"""The cells of a run: cut anew for another number of samples, and one cell with its pictures and its error."""

from __future__ import annotations

from threading import Thread
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from geocbm.files.progress import is_live
from geocbm.geocells import Geocells, build_geocells
from geocbm.geodesy import haversine_km
from geocbm.plots.cells import CELL_COLOURS, border_lines, cell_colours, cell_slider, centre_stars
from geocbm.plots.values import escape, km_text, plural
from geocbm.run import Run
from geocbm.workbench import html
from geocbm.workbench.explorers.shared import WIDE, WRAP, LiveMap, PictureStrip, dropdown, said, show

SIZES = (5, 10, 20, 30, 40, 60, 80, 120, 200, 300, 500, 1000, 2000, 5000)
"""Values of `min_samples_per_cell` to choose from, beside that of the run."""
MOST_CELLS = 500  # of one value: more could neither be drawn nor told apart
ON_A_PAGE = 5  # values that a page has
SPLITS = ("train", "val", "test")


def cells(run: Run) -> None:
    """Cut the world of a run into more or fewer cells and look into each; a page shows a map with a slider."""
    if is_live():
        show(CellExplorer(run).box)
        return
    own = run.cells.settings["min_samples_per_cell"]
    sizes = sizes_of(run)
    first = max(0, min(sizes.index(own) - ON_A_PAGE // 2, len(sizes) - ON_A_PAGE))
    by_size = {size: cut(run, size) for size in sizes[first : first + ON_A_PAGE]}
    html.put_figure(cell_slider(by_size, run.table.iloc[run.pictures["train"]], own))


def sizes_of(run: Run) -> list[int]:
    """Values of `min_samples_per_cell` that make sense for a run, the run's own among them."""
    train = run.pictures["train"]
    largest = pd.Series(run.country[train]).value_counts().iloc[0]
    fitting = [size for size in SIZES if len(train) / MOST_CELLS <= size <= largest]
    return sorted({*fitting, run.cells.settings["min_samples_per_cell"]})


def cut(run: Run, size: int) -> Geocells:
    """The cells of a run for another value of `min_samples_per_cell`; its own for its own."""
    if size == run.cells.settings["min_samples_per_cell"]:
        return run.cells
    train, others = run.pictures["train"], {name: run.cells.settings[name] for name in ("seed", "merge_below")}
    return build_geocells(run.lat[train], run.lng[train], run.country[train], size, **others)


class CellExplorer:
    """A slider over `min_samples_per_cell`, the map of its cells, and the pictures of one of them.

    Cells of other values are cut while a person looks at the first ones, and kept.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._kept: dict[int, tuple[Any, ...]] = {}
        own, sizes = run.cells.settings["min_samples_per_cell"], sizes_of(run)
        self.size = ipywidgets.SelectionSlider(
            options=[(f"{size:,}", size) for size in sizes],
            value=own,
            description="min_samples_per_cell",
            continuous_update=False,
            style={"description_width": "150px"},
            layout=ipywidgets.Layout(width="560px"),
        )
        self.cell = dropdown("cell", [])
        self.cell.layout.width = "420px"
        self.summary, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        self.strip = PictureStrip(run, self.caption)
        self._prepare(own)
        lines, stars = self._kept[own][2:4]
        self.map = LiveMap(run, "Cells of the world", CELL_COLOURS, self._pick_row, more=(lines, stars))
        self.map.figure.data[-1].on_click(self._pick_star)
        self.size.observe(self.cut, "value")
        self.cell.observe(self.look, "value")
        controls = ipywidgets.HBox([self.size, self.cell], layout=WRAP)
        self.box = ipywidgets.VBox([controls, self.map.box, self.summary, self.status, self.strip.box], layout=WIDE)
        self.cut()
        self.ahead = Thread(target=lambda: [self._prepare(size) for size in sizes], daemon=True)
        self.ahead.start()

    def cut(self, _change: Any = None) -> None:
        """Draw the cells of the chosen value, and look into the largest one."""
        cells, member, lines, stars, km = self._prepare(self.size.value)
        self.cells, self.member, self.km = cells, member, km
        train = self.run.pictures["train"]
        colour = cell_colours(cells.centers)[member]
        texts = np.array([f"cell {each}, {escape(cells.country[each])}" for each in member], dtype=object)
        middle = {split: float(np.median(km[own])) for split in SPLITS if len(own := self.run.pictures[split])}
        errors = ", ".join(f"{km_text(error)} ({split})" for split, error in middle.items())
        sentence = f"{plural(len(cells), 'cell')}; median oracle error {errors}. Click a picture or a star."
        with self.map.figure.batch_update():
            self.map.show(train, texts[train], colour[train], sentence)
            self.map.figure.data[-2].update(lat=lines.lat, lon=lines.lon)
            self.map.figure.data[-1].update(
                lat=stars.lat,
                lon=stars.lon,
                text=stars.text,
                customdata=stars.customdata,
                marker_size=stars.marker.size,
            )
        order = np.argsort(-cells.counts, kind="stable")
        listed = [(f"cell {each}, {cells.country[each]}: {cells.counts[each]:,} pictures", int(each)) for each in order]
        self.cell.unobserve(self.look, "value")
        with self.cell.hold_sync():
            self.cell.options, self.cell.value = listed, listed[0][1]
        self.cell.observe(self.look, "value")
        self.look(mark=False)

    def caption(self, row: int) -> str:
        """Label, place and distance to the centre of a picture."""
        labels = f"{self.run.table['meta_name'].iloc[row]}, {self.run.country[row]}"
        return f"{km_text(float(self.km[row]))} from the centre: {labels}"

    def errors(self) -> pd.DataFrame:
        """Oracle error of the cell and of all cells in km, by split: pictures, median, 90th percentile and largest."""
        rows = []
        for name, inside in (("this cell", self.member == self.cell.value), ("all cells", self.member >= 0)):
            for split in SPLITS:
                km = self.km[self.run.pictures[split]][inside[self.run.pictures[split]]]
                if len(km):
                    rows.append((name, split, len(km), np.median(km), np.percentile(km, 90), km.max()))
        return pd.DataFrame(rows, columns=["", "split", "pictures", "median", "90th percentile", "largest"]).round(1)

    def look(self, _change: Any = None, mark: bool = True) -> None:
        """Show the pictures of the chosen cell, those nearest to its centre first, and how far they lie from it."""
        cell = self.cell.value
        rows = self.run.pictures["train"][self.cells.sample_to_cell == cell]
        rows = rows[np.argsort(self.km[rows], kind="stable")]
        self.map.mark(rows if mark else None)
        self.status.value = said(
            f"Cell {cell} in {self.cells.country[cell]}: {plural(len(rows), 'training picture')}, root mean square "
            f"distance to the centre {km_text(float(self.cells.scale_km[cell]))}."
        )
        caption = "Oracle error, km: what remains if every cell is named right and its centre answered"
        self.summary.value = html.table_html(self.errors(), caption)
        self.strip.show(rows)

    def _pick_row(self, row: int) -> None:
        self.cell.value = int(self.member[row])

    def _pick_star(self, _trace: Any, points: Any, _state: Any) -> None:
        if points.point_inds:
            self.cell.value = int(self.map.figure.data[-1].customdata[points.point_inds[0]])

    def _prepare(self, size: int) -> tuple[Any, ...]:
        """Cells, the cell of each row `[n]`, their borders and centres as traces, and oracle errors `[n]` in km."""
        if size not in self._kept:
            run, cells = self.run, cut(self.run, size)
            member = cells.assign(run.lat, run.lng, run.country)
            lat, lng = cells.latlng
            km = haversine_km(run.lat, run.lng, lat[member], lng[member])
            self._kept[size] = (cells, member, border_lines(cells), centre_stars(cells), km)
        return self._kept[size]
