"""The data of a run: pictures chosen on a map, by filters, or by what is odd about them."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from threading import Thread
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geocbm.data import quality
from geocbm.errors import first_line
from geocbm.files.progress import is_live
from geocbm.geodesy import haversine_km
from geocbm.plots.maps import add_menu, base_map, finish_map, map_points
from geocbm.plots.theme import PALETTE
from geocbm.plots.values import escape, plural, thin
from geocbm.run import Run
from geocbm.workbench import html
from geocbm.workbench.explorers.shared import (
    ANY,
    WIDE,
    WRAP,
    LiveMap,
    PictureStrip,
    choices,
    dropdown,
    recount,
    said,
    show,
)

SPLITS = ("train", "val", "test")
COLOURS = dict(zip((*SPLITS, ""), (PALETTE[5], PALETTE[4], PALETTE[1], PALETTE[7]), strict=True))
DUPLICATES = ("identical images", "repeated pano_id", "repeated rows", "places less than 50 m apart")
"""Checks of `data.quality` that find pictures which are there more than once."""
AROUND = 24  # pictures shown for a click: the one clicked and the nearest to it


def data(run: Run) -> None:
    """Look at the pictures of a run by place, country, concept, split and oddity; a page shows a map with a menu."""
    if is_live():
        show(DataExplorer(run).box)
    else:
        html.put_figure(map_by_finding(run, look_up(run)), preview=True)


def look_up(run: Run) -> pd.DataFrame:
    """A row per row of the table: `concept`, `country`, `split` (empty for a row of none)."""
    frame = pd.DataFrame({"concept": run.table["meta_name"], "country": run.country, "split": ""}).astype(str)
    for split in SPLITS:
        frame.loc[run.rows[split], "split"] = split
    return frame


def map_by_finding(run: Run, frame: pd.DataFrame) -> go.Figure:
    """The pictures on a map, coloured by split, with a menu of what is duplicate or odd among them."""
    found = {f"{each['check']} ({each['rows']:,})": each["found"] for each in quality.findings(run.table, False)}
    fig = base_map()
    groups = [(split, run.pictures[split]) for split in SPLITS]
    groups += [(name, rows) for name, rows in found.items() if len(rows)]
    for number, (name, rows) in enumerate(groups):
        shown = rows[thin(len(rows))]
        texts = [escape(text) for text in frame["concept"].iloc[shown] + ", " + frame["country"].iloc[shown]]
        marker = {"size": 5, "opacity": 0.7, "color": COLOURS.get(name, PALETTE[1])}
        points = map_points(run.lat[shown], run.lng[shown], texts, marker, name)
        fig.add_trace(points.update(visible=number < len(SPLITS)))
    entries = {"all, by split": SPLITS} | {name: (name,) for name, _ in groups}
    add_menu(fig, {label: [name in names for name, _ in groups] for label, names in entries.items()})
    sizes = {f"{len(rows):,} {name}": len(rows) for name, rows in groups[: len(SPLITS)]}
    odd = "; ".join(name for name, _ in groups[len(SPLITS) :]) or "none"
    many = plural(sum(sizes.values()), run.noun)
    alt = f"World map of {many}, coloured by split: {', '.join(sizes)}. Duplicate or odd: {odd}."
    return finish_map(fig, f"The {run.noun}s by split, and what is odd", alt)


class DataExplorer:
    """Map, filters and pictures of a table.

    A place is chosen by a lasso or a box on the map, or by the two ranges of degrees; a click shows a picture and those
    nearest to it, which `around` does from the keyboard.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.frame = run, look_up(run)
        self.strip, self.status = PictureStrip(run, self.caption), ipywidgets.HTML()
        self._still, self._others = False, np.full(len(self.frame), True)
        self.split, self.country, self.concept = (
            dropdown(name, choices(self.frame[name])) for name in ("split", "country", "concept")
        )
        self.check = dropdown("oddity", [("all pictures", ANY)])
        self._list(quality.findings(run.table, images=False))
        self.lat, self.lng = (
            ipywidgets.FloatRangeSlider(
                value=(-limit, limit),
                min=-limit,
                max=limit,
                step=1.0,
                description=name,
                readout_format=".0f",
                continuous_update=False,
                style={"description_width": "70px"},
                layout=ipywidgets.Layout(width="440px"),
            )
            for name, limit in (("latitude", 90.0), ("longitude", 180.0))
        )
        duplicates, odd, self.read_all, clear = (
            ipywidgets.Button(description=text, layout=ipywidgets.Layout(width="auto"))
            for text in ("duplicates", "odd rows", "look for odd pictures too", "reset")
        )
        duplicates.on_click(lambda _: setattr(self.check, "value", "duplicates"))
        odd.on_click(lambda _: setattr(self.check, "value", "odd rows"))
        self.read_all.on_click(self._read_all)
        clear.on_click(self._clear)
        self.around = ipywidgets.Button(description="nearest to the first", layout=ipywidgets.Layout(width="auto"))
        self.around.on_click(lambda _: self.look_around(int(self.strip.rows[0])) if len(self.strip.rows) else None)
        self.map = LiveMap(run, f"Where the {run.noun}s lie", list(COLOURS.values()), self.look_around, self.select)
        for split in SPLITS:  # entries of the legend
            self.map.figure.add_scattergeo(
                lat=[None], lon=[None], mode="markers", marker_color=COLOURS[split], name=split
            )
        self._texts = (self.frame["concept"] + ", " + self.frame["country"]).map(escape).to_numpy(dtype=object)
        self._levels = self.frame["split"].map(list(COLOURS).index).to_numpy()
        self.filters = [self.split, self.country, self.concept, self.check, self.lat, self.lng]
        for control in self.filters:
            control.observe(self.filter, "value")
        self.filter()
        buttons = ipywidgets.HBox([duplicates, odd, self.read_all, self.around, clear], layout=WRAP)
        controls = [ipywidgets.HBox(self.filters[:4], layout=WRAP), ipywidgets.HBox(self.filters[4:], layout=WRAP)]
        self.box = ipywidgets.VBox([*controls, buttons, self.map.box, self.status, self.strip.box], layout=WIDE)

    def filter(self, _change: Any = None) -> None:
        """Show the pictures that pass all filters, on the map and side by side."""
        if self._still:  # options and value of a filter change one after the other
            return
        passed = {
            each.description: np.full(len(self.frame), True)
            if each.value == ANY
            else (self.frame[each.description] == each.value).to_numpy()
            for each in self.filters[:3]
        }
        passed["oddity"] = self._found.get(self.check.value, np.full(len(self.frame), True))
        for control, values in ((self.lat, self.run.lat), (self.lng, self.run.lng)):
            passed[control.description] = (values >= control.value[0]) & (values <= control.value[1])
        keep = np.logical_and.reduce(list(passed.values()))
        self._still = True
        for each in self.filters[:4]:  # counts of what the other filters let pass
            others = np.logical_and.reduce([mask for name, mask in passed.items() if name != each.description])
            if each is self.check:
                self._others = others
            else:
                recount(each, self.frame[each.description][others])
        self._offer()
        self._still = False
        rows = np.flatnonzero(keep)
        if self.check.value != ANY:  # what is there twice stands side by side
            rows = rows[np.lexsort((self.run.lng[rows], self.run.lat[rows]))]
        countries = plural(len(np.unique(self.run.country[rows])), "country", "countries")
        sentence = f"{plural(len(rows), self.run.noun)} in {countries}, coloured by split."
        self.map.show(rows, self._texts[rows], self._levels[rows], sentence)
        self._say("Draw a lasso around places, or click one.", rows)

    def select(self, rows: np.ndarray) -> None:
        """Show the pictures enclosed on the map; all that pass the filters where there is none."""
        self.map.mark(rows if len(rows) else None)
        self._say(f"{plural(len(rows), self.run.noun)} enclosed.", rows if len(rows) else self.map.rows)

    def look_around(self, row: int) -> None:
        """Show a picture and those nearest to it among the ones on the map, the nearest first."""
        lat, lng, others = self.run.lat, self.run.lng, self.map.rows
        km = haversine_km(lat[row], lng[row], lat[others], lng[others])
        km[others == row] = -1.0  # before another one at the very same place
        order = np.argsort(km, kind="stable")[:AROUND]
        self.map.mark(others[order])
        concept, country, _ = self.frame.iloc[row]
        far = f"{concept}, {country}, and the {len(order) - 1} nearest, up to {max(km[order[-1]], 0):,.0f} km away."
        self._say(far, others[order])

    def caption(self, row: int) -> str:
        """Labels, note and oddities of a picture."""
        concept, country, split = self.frame.iloc[row]
        odd = [check for check, found in self._checks.items() if found[row]]
        note = html.clean_text(self.run.table["note"].iloc[row])
        return ". ".join(text for text in (f"{concept}, {country} ({split or 'no split'})", note, *odd) if text)

    def _say(self, sentence: str, rows: np.ndarray) -> None:
        self.strip.show(rows)
        self.status.value = said(sentence)

    def _clear(self, _button: Any) -> None:
        self._still = True
        for control in self.filters[:4]:
            control.value = ANY
        self.lat.value, self.lng.value = (-90, 90), (-180, 180)
        self._still = False
        self.filter()

    def _read_all(self, _button: Any) -> None:
        """Read all picture files beside what a person does, since that takes longer than one waits for a click."""
        self.read_all.disabled = True
        self.status.value = said(f"Reading {plural(len(self.frame), self.run.noun)}; what is odd joins the oddities.")
        try:
            tell: Callable[..., Any] = asyncio.get_running_loop().call_soon_threadsafe
        except RuntimeError:  # there is no kernel that would have one
            tell = operator.call
        self.reading = Thread(target=self._read, args=(tell,), daemon=True)
        self.reading.start()

    def _read(self, tell: Callable[..., Any]) -> None:
        """Read in a thread and tell the one of the controls, which may be in the middle of a change."""
        try:
            tell(self._end_reading, quality.findings(self.run.table))
        except Exception as problem:  # whatever it is, nobody else would hear of it
            tell(self._end_reading, [], f"{type(problem).__name__}: {first_line(problem)}")

    def _end_reading(self, findings: list[dict[str, Any]], problem: str = "") -> None:
        self.read_all.disabled, nouns = not problem, f"{self.run.noun}s"
        if problem:
            self.status.value = said(f"Not all {nouns} could be read ({problem}).")
        else:
            self._list(findings)
            self.status.value = said(f"All {nouns} were read: {len(self._checks)} checks found something.")

    def _list(self, findings: list[dict[str, Any]]) -> None:
        """Offer the checks that found rows, and what they found together."""
        every = np.arange(len(self.frame))
        self._checks = {each["check"]: np.isin(every, each["found"]) for each in findings if each["rows"]}
        together = dict.fromkeys(("duplicates", "odd rows"), np.zeros(len(self.frame), dtype=bool))
        for check, found in self._checks.items():
            kind = "duplicates" if check in DUPLICATES else "odd rows"
            together[kind] = together[kind] | found
        self._found = together | self._checks
        self._still = True
        self._offer()
        self._still = False

    def _offer(self) -> None:
        """Offer the oddities with their counts among the rows that the other filters let pass."""
        options = [(f"{name} ({(found & self._others).sum():,})", name) for name, found in self._found.items()]
        with self.check.hold_sync():
            chosen = self.check.value
            self.check.options = [("all pictures", ANY), *options]
            self.check.value = chosen
