"""Controls for a running notebook: edit the concepts of a picture and see the answer move.

In a page without Python the same is done by `plots.what_if`. Nothing here captures output in a widget: the map is a
displayed figure that is replaced by its display id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm import plots
from geocbm.errors import ParameterError
from geocbm.explain.counterfactuals import Edit, ablate, exchange

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from geocbm.explain.concept_labels import InterventionValues
    from geocbm.explain.intervention_model import InterventionModel
    from geocbm.run import Run

NOTHING = -1
"""Choice of no concept."""


def is_live() -> bool:
    """Whether someone sits before the notebook: a kernel whose front end can be asked for input.

    Executions without a front end (papermill, nbclient, nbval) declare that they cannot; controls would be dead there.
    """
    import sys

    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    kernel = getattr(shell, "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


class WhatIfExplorer:
    """Live controls: a picture, a concept to take away, one to put in its place, and how strongly.

    Args:
        files: the run.
        model: Stage 2, to be asked with other concepts.
        levels: scores that stand for "there" and "not there".
        rows: pictures to choose from.
        picture_of: gives the picture of a row as the model sees it.

    Raises:
        ParameterError: there is no picture.
    """

    def __init__(
        self,
        files: Run,
        model: InterventionModel,
        levels: InterventionValues,
        rows: Sequence[int] | np.ndarray,
        picture_of: Callable[[int], Any],
    ) -> None:
        import ipywidgets

        if not len(rows):
            raise ParameterError("rows is empty; give at least one picture to explore")
        self.files, self.model, self.levels, self.picture_of = files, model, levels, picture_of
        metas = files.concepts.metas
        wide = {"style": {"description_width": "110px"}, "layout": {"width": "430px"}}
        pictures = [(self._caption(int(row)), int(row)) for row in rows]
        self.picture = ipywidgets.Dropdown(options=pictures, description="picture", **wide)
        self.take = ipywidgets.Dropdown(options=[], description="take away", **wide)
        choices = [("nothing", NOTHING), *((name, number) for number, name in enumerate(metas))]
        self.put = ipywidgets.Dropdown(options=choices, value=NOTHING, description="put in its place", **wide)
        self.strength = ipywidgets.FloatSlider(
            value=0.0, min=0.0, max=1.0, step=0.05, description="strength", continuous_update=False, **wide
        )
        self.box = ipywidgets.VBox([self.picture, self.take, self.put, self.strength])
        self._shown: Any = None
        self._still = False
        self._offer_concepts()
        self.picture.observe(self._on_picture, "value")
        for control in (self.take, self.put, self.strength):
            control.observe(self._on_change, "value")

    @property
    def edit(self) -> Edit:
        """The edit that the controls describe."""
        take, put, concepts = self.take.value, self.put.value, self.files.concepts
        scores = self.model.scores[self.picture.value].numpy()
        if take != NOTHING and put != NOTHING and take != put:
            return exchange(scores, take, put, self.levels, concepts)
        if take != NOTHING and put == NOTHING:
            return ablate([take], self.model.baseline.numpy(), f"without {concepts.metas[take]}")
        if put != NOTHING:
            target = np.full(len(scores), np.nan)
            for concept in (put, len(concepts.metas) + concepts.parent_index[put]):
                target[concept] = np.fmax(scores[concept], self.levels.present[concept])
            return Edit(f"with {concepts.metas[put]}", target)
        return Edit("as the model sees it", np.full(len(scores), np.nan))

    def figure(self) -> go.Figure:
        """The map for the present state of the controls."""
        row, strength, edit = int(self.picture.value), float(self.strength.value), self.edit
        places = self.model.predict_one(row, edit.at(self.model.scores[row].numpy(), (strength,)))
        title = edit.words if strength else "as the model sees it"
        place = float(self.files.lat[row]), float(self.files.lng[row])
        shown = f"{title}, strength {strength:.0%}" if strength else title
        return plots.edit_map(places, self.files.cells, place, self.picture_of(row), self._caption(row), shown)

    def show(self) -> None:
        """Show controls and map where someone can move them; else say in one line how to get there."""
        if not is_live():
            print("In JupyterLab this cell shows live controls; the figure above works here.")
            return
        from IPython.display import display

        display(self.box)
        self._shown = display(self._bundle(), raw=True, display_id=True)

    def _caption(self, row: int) -> str:
        return f"{self.files.table['meta_name'].iloc[row]}, {self.files.country[row]} (row {row})"

    def _offer_concepts(self) -> None:
        """List the metas of the picture, the likeliest first."""
        metas = self.files.concepts.metas
        scores = self.model.scores[self.picture.value].numpy()[: len(metas)]
        order = np.argsort(-scores, kind="stable")
        self.take.options = [("nothing", NOTHING), *((f"{metas[i]} ({scores[i]:.0%})", int(i)) for i in order)]
        self.take.value = int(order[0])

    def _on_picture(self, _change: Any) -> None:
        self._still = True  # one drawing for all that changes with the picture
        try:
            self._offer_concepts()
        finally:
            self._still = False
        self._on_change(_change)

    def _on_change(self, _change: Any) -> None:
        if self._shown is not None and not self._still:
            bundle = self._bundle()
            # JupyterLab's drawer of figures keeps the one it has; another kind of output in between makes a new one.
            self._shown.update({"text/plain": ""}, raw=True)
            self._shown.update(bundle, raw=True)

    def _bundle(self) -> dict[str, Any]:
        """The map as a front end draws it: a figure that displays itself would not carry its display id."""
        import json

        figure = self.figure()
        return {"application/vnd.plotly.v1+json": json.loads(figure.to_json()), "text/plain": figure.layout.meta["alt"]}
