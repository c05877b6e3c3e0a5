"""A list of a run's pictures with filters and orders, for explorers that show one picture at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.workbench.explorers.shared import ANY, WRAP, choices, dropdown, recount, said

MOST_LISTED = 200
ERRORS = {"any": (0.0, np.inf), "up to 200 km": (0.0, 200.0), "200 to 750 km": (200.0, 750.0)}
ERRORS |= {"750 to 2,500 km": (750.0, 2500.0), "beyond 2,500 km": (2500.0, np.inf)}
"""Choices of error: above the first end, up to the second."""
ORDERS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "worst and surest first": lambda frame: -frame["km"] * frame["confidence"],
    "worst first": lambda frame: -frame["km"],
    "best first": lambda frame: frame["km"],
    "surest first": lambda frame: -frame["confidence"],
    "least sure first": lambda frame: frame["confidence"],
}


def filtered(
    frame: pd.DataFrame, country: str = ANY, concept: str = ANY, error: str = "any", order: str = ""
) -> pd.DataFrame:
    """The pictures that pass the filters of true country, labelled concept and error, in one of `ORDERS`.

    The frame has columns `country` and `concept`; for `error` and `order` also `km` and `confidence`.
    """
    for name, value, known in (("error", error, ERRORS), ("order", order or next(iter(ORDERS)), ORDERS)):
        if value not in known:
            raise ParameterError(f"{name}={value!r} is unknown; give one of {', '.join(map(repr, known))}")
    keep = np.ones(len(frame), dtype=bool)
    for column, value in (("country", country), ("concept", concept)):
        if value != ANY:
            keep &= (frame[column] == value).to_numpy()
    if error != "any":
        low, high = ERRORS[error]
        keep &= ((frame["km"] > low) & (frame["km"] <= high)).to_numpy()
    found = frame[keep]
    return found.loc[ORDERS[order](found).sort_values(kind="stable").index] if order else found


class PictureList:
    """A list of pictures with filters, `width` pixels wide; `choose` is called when another `row` was chosen.

    The frame has a row per picture, by its row in the table; columns `country`, `concept`, `label` (what the list says)
    and, to filter by error and to sort, `km` and `confidence`.
    """

    def __init__(self, frame: pd.DataFrame, choose: Callable[[], None], lines: int = 12, width: int = 900) -> None:
        if not len(frame):
            raise ParameterError("frame has no rows; give at least one picture to choose from")
        self.frame, self._choose, self._still = frame, choose, False
        self.country = dropdown("country", choices(frame["country"]))
        self.concept = dropdown("concept", choices(frame["concept"]))
        filters = [self.country, self.concept]
        if "km" in frame:
            self.error = dropdown("error", list(ERRORS))
            self.order = dropdown("order", list(ORDERS))
            filters = [self.order, self.error, *filters]
        self.pictures = ipywidgets.Select(
            rows=lines, description="picture", style={"description_width": "70px"}, layout={"width": f"{width}px"}
        )
        self.count = ipywidgets.HTML()
        self.filters = filters
        self.box = ipywidgets.VBox([ipywidgets.HBox(filters, layout=WRAP), self.pictures, self.count])
        self._list()
        self.row = int(self.pictures.value)
        for control in (*filters, self.pictures):
            control.observe(self._on_change, "value")

    def _list(self) -> None:
        own = {"error": self.error.value, "order": self.order.value} if "km" in self.frame else {}
        chosen = {"country": self.country.value, "concept": self.concept.value} | own
        found = filtered(self.frame, **chosen)
        listed = found.head(MOST_LISTED)
        self._still = True  # options and value change one after the other
        for name, control in (("country", self.country), ("concept", self.concept)):
            recount(control, filtered(self.frame, **chosen | {name: ANY})[name])
        with self.pictures.hold_sync():
            self.pictures.options = list(zip(listed["label"], listed.index.tolist(), strict=True))
            self.pictures.index = 0 if len(found) else None
        self._still = False
        more = f", the first {MOST_LISTED} are listed" if len(found) > MOST_LISTED else ""
        self.count.value = said(f"{len(found):,} of {len(self.frame):,} pictures{more}")

    def _on_change(self, change: Any) -> None:
        """Hand the chosen picture on; where no picture passes the filters the last one stays."""
        if self._still:
            return
        if change["owner"] is not self.pictures:
            self._list()
        if self.pictures.value not in (None, self.row):
            self.row = self.pictures.value
            self._choose()
