"""What if: every concept of a picture as a slider, and the answer before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import traitlets

from geocbm import plots
from geocbm.errors import ParameterError
from geocbm.explain import counterfactuals, interventions, maps
from geocbm.files.progress import is_live
from geocbm.geodesy import haversine_km
from geocbm.run import Run, encoding, stages
from geocbm.workbench import html
from geocbm.workbench.explorers.picture_list import PictureList
from geocbm.workbench.explorers.pictures_by_place import look_up
from geocbm.workbench.explorers.shared import WRAP, figure_widget, page, redraw, said, show

if TYPE_CHECKING:
    from geocbm.explain.counterfactuals import Counterfactual
    from geocbm.explain.interventions import InterventionModel, PlacePredictions

LEAST, STEP = -5, 0.01
"""The sliders go down to ten to this power, in such steps of its logarithm."""


def what_if(run: Run, found: Sequence[Counterfactual] = ()) -> None:
    """Show all concepts of a picture as sliders; in a page, which has no Python, a list of edits and one slider.

    Args:
        run: a run with a trained Stage 2.
        found: the edits of the page, of `counterfactuals.find_counterfactuals`.
    """
    if is_live():
        try:
            show(WhatIfExplorer(run).box)
        except ParameterError as problem:  # no reason to stop the notebook
            html.put(f"<p>{escape(str(problem))}</p>", str(problem))
    elif not found:
        print("In JupyterLab this cell has a slider for every concept of any picture.")
    else:
        encoder = encoding.load_stage0(run)[1]
        places = [(run.lat[one.row], run.lng[one.row]) for one in found]
        pictures = [maps.seen_picture(run, encoder, one.row) for one in found]
        html.put_figure(plots.what_if(found, counterfactuals.STRENGTHS, run.cells, places, pictures), preview=True)


class ConceptSliders(anywidget.AnyWidget):
    """A slider for each concept, in one message: of widgets of their own each would be told of a new picture by itself.

    Attributes:
        names: of all concepts.
        values: of all concepts, between ten to the power of `LEAST` and 1; what a person moves is found here.
        order: concepts that are shown, by number.
    """

    _esm = html.TEMPLATES / "concept_sliders.js"
    least, step = (traitlets.Float(value).tag(sync=True) for value in (LEAST, STEP))
    names: Any = traitlets.List().tag(sync=True)
    order: Any = traitlets.List().tag(sync=True)
    values: Any = traitlets.List().tag(sync=True, echo_update=False)


class WhatIfExplorer:
    """Sliders for the scores of all concepts of any picture, in every trained mode that an edit reaches.

    Args:
        run: a run with a trained Stage 2.

    Attributes:
        edited: new scores, by column, of the concepts that are not as the model sees them.
        places: the answer before and after, of the present picture, mode and edit.

    Raises:
        ParameterError: no trained mode of the run reads concepts.
    """

    places: PlacePredictions

    def __init__(self, run: Run) -> None:
        self.run, self.encoder = run, encoding.load_stage0(run)[1]
        features = run.features("adapted")
        self.models = interventions.trained_modes(run, features, stages.predict_concepts(run, features))
        self.models.pop("image_only", None)  # reads no concepts
        if not self.models:
            command = f"{run.remedy('stage2.safetensors')} --set '05.variants=[concept_scores]'"
            raise ParameterError(f"run={run.name!r} has no mode that reads concepts; train one with: {command}")
        self.edited: dict[int, float] = {}
        self._still = False
        names = [*run.concepts.metas, *(f"{parent} (parent)" for parent in run.concepts.parents)]
        self.sliders = ConceptSliders(names=names)
        self.sliders.observe(self._on_values, "values")
        self.mode = ipywidgets.Dropdown(options=list(self.models), description="mode")
        self.search = ipywidgets.Text(description="find", placeholder="part of a concept's name")
        self.reset = ipywidgets.Button(description="Reset", tooltip="all concepts as the model sees them")
        self.ablate = ipywidgets.Button(description="No concepts", tooltip="each as in an average training picture")
        self.list = PictureList(_all_pictures(run), self._on_picture, lines=7, width=620)
        self.picture, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        self._show_picture()
        self.map = figure_widget(self._answer(), 560)
        for control, react in ((self.mode, self._on_mode), (self.search, self._on_search)):
            control.observe(react, "value")
        self.reset.on_click(lambda _button: self._edit_all({}))
        self.ablate.on_click(lambda _button: self._edit_all(dict(enumerate(self.model.baseline.tolist()))))
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HBox([self.list.box, self.picture], layout=WRAP),
                ipywidgets.HBox([self.mode, self.search, self.reset, self.ablate], layout=WRAP),
                self.status,
                ipywidgets.HBox([self.sliders, self.map], layout=WRAP),
            ]
        )

    @property
    def model(self) -> InterventionModel:
        """Stage 2 in the chosen mode."""
        return self.models[self.mode.value]

    def answer(self, edited: dict[int, float]) -> PlacePredictions:
        """The answers for the picture as the model sees it and with other scores of some concepts, in this order."""
        scores = self.model.scores[[self.row]]
        after = interventions.set_scores(scores, list(edited), torch.tensor([list(edited.values())]))
        return self.model.predict_one(self.row, torch.cat([scores, after]))

    def _answer(self) -> go.Figure:
        """The map of the present state, whose sentence is shown too."""
        run, places = self.run, self.answer(self.edited)
        self.places, true = places, (run.lat[self.row], run.lng[self.row])
        names, chance = run.cells.countries, run.cells.by_country(places.probabilities)  # (2, C)
        best = [f"{names[own.argmax()]} ({own.max():.0%})" for own in chance]
        moved = float(haversine_km(*(side[i] for i in (0, 1) for side in (places.lat, places.lng))))
        off = haversine_km(places.lat, places.lng, *true)
        self.status.value = said(
            f"Likeliest country: {best[0]} before, {best[1]} now. The answer moved {moved:,.0f} km; it was "
            f"{off[0]:,.0f} km off and is {off[1]:,.0f} km off. Concepts edited: {len(self.edited)}."
        )
        return plots.before_after_map(places, run.cells, true, f"Mode {self.mode.value}: before and now")

    def _redraw(self) -> None:
        redraw(self.map, self._answer())

    def _show_picture(self) -> None:
        """Picture and sliders of the chosen picture, the likeliest concepts first."""
        run, row = self.run, self.list.row
        self.row = row
        caption = f"{run.table['meta_name'].iloc[row]}, {run.country[row]}"
        self.picture.value = page(
            html.gallery_html([maps.seen_picture(run, self.encoder, row)], [caption], [caption], 200)
        )
        self.edited = {}
        self._set_sliders()
        self._on_search(None)

    def _set_sliders(self) -> None:
        """Let every slider stand where its concept stands, without a reaction."""
        scores = self.model.scores[self.row].tolist()
        self._still = True
        self.sliders.values = [on_scale(self.edited.get(column, score)) for column, score in enumerate(scores)]
        self._still = False

    def _edit_all(self, edited: dict[int, float]) -> None:
        self.edited = edited
        self._set_sliders()
        self._redraw()

    def _on_picture(self) -> None:
        self._show_picture()
        self._redraw()

    def _on_mode(self, _change: Any) -> None:
        self._on_search(None)
        self._redraw()

    def _on_values(self, change: Mapping[str, Any]) -> None:
        if self._still:
            return
        scores = self.model.scores[self.row].tolist()
        for column, value in enumerate(change["new"]):
            if value == change["old"][column]:
                continue
            if on_scale(value) == on_scale(scores[column]):
                self.edited.pop(column, None)
            else:
                self.edited[column] = value
        self._redraw()

    def _on_search(self, _change: Any) -> None:
        """Show the sliders whose name has the text, the likeliest first; parents where the mode reads them."""
        text, n_metas = self.search.value.strip().lower(), self.model.n_metas
        names = self.sliders.names if self.model.head.config.reads_scores else self.sliders.names[:n_metas]
        order = np.argsort(-self.model.scores[self.row, : len(names)].numpy(), kind="stable").tolist()
        self.sliders.order = [column for column in order if text in names[column].lower()]


def on_scale(score: float) -> float:
    """The value nearest to a score at which a slider can stand."""
    return float(10 ** (STEP * round(max(math.log10(max(score, 1e-30)), LEAST) / STEP)))


def _all_pictures(run: Run) -> pd.DataFrame:
    """All pictures for a list, those of the test split first."""
    frame = look_up(run).iloc[np.concatenate([run.rows[split] for split in ("test", "val", "train")])]
    text = frame["concept"] + ", " + frame["country"] + " (" + frame["split"] + " split, row "
    return frame.assign(label=text + frame.index.astype(str) + ")")
