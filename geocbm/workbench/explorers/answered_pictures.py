"""Predictions: test pictures by error and confidence; of each its cells, the attention of every head, its concepts."""

from __future__ import annotations

from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from geocbm import plots
from geocbm.evaluation.methods import main_predictions
from geocbm.explain import attribution, interventions, maps
from geocbm.files.progress import is_live
from geocbm.geodesy import haversine_km
from geocbm.metrics import country_of
from geocbm.run import Run, encoding, stages
from geocbm.workbench import html
from geocbm.workbench.explorers.picture_list import PictureList, filtered
from geocbm.workbench.explorers.shared import WRAP, figure_widget, said, show

MEAN = -1  # choice of the mean over all heads
NAMED = 3  # concepts that are named for a patch
LINE = ("km", "country", "answer", "confidence", "concept")  # what the list says of a picture
SHOWN = 6  # pictures from either end that a page shows


def predictions(run: Run) -> None:
    """Show the test pictures with what was answered and why; a page shows the worst and the surest of them."""
    if is_live():
        show(PredictionExplorer(run).box)
        return
    frame, encoder = answered(run), encoding.load_stage0(run)[1]
    for order in ("worst and surest first", "best first"):
        chosen = filtered(frame, order=order).head(SHOWN)
        pictures = [maps.seen_picture(run, encoder, row) for row in chosen.index]
        labels = chosen["label"].tolist()
        page = f"<p>{order.capitalize()}:</p>" + html.gallery_html(pictures, labels, labels, 150)
        html.put(page, "\n".join([f"{order}:", *labels]))


def answered(run: Run) -> pd.DataFrame:
    """The test pictures and their answers.

    Returns:
        By row of the table: `country` and `concept` as labelled, `answer` (country in which the answered point lies),
        `km`, `confidence` (of the likeliest cell), `lat` and `lng` answered in degrees, and `label`, a line of text.
    """
    places = main_predictions(run)
    frame = pd.DataFrame(
        {
            "country": places["country"].astype(str),
            "concept": places["meta_name"].astype(str),
            "answer": [name or "no country" for name in country_of(places["lat"], places["lng"])],
            "km": haversine_km(places["lat"], places["lng"], places["true_lat"], places["true_lng"]),
            "confidence": places["confidence"],
            "lat": places["lat"],
            "lng": places["lng"],
        }
    ).set_axis(pd.Index(places["row"], name="row"))
    frame["label"] = [
        f"{km:,.0f} km off: {country}, answered {answer} (likeliest cell {sure:.0%}) · {concept}"
        for km, country, answer, sure, concept in zip(*(frame[name].tolist() for name in LINE), strict=True)
    ]
    return frame


class PredictionExplorer:
    """A list of test pictures, and for the chosen one the distribution, attention by head and patch, and contributions.

    Args:
        run: a run with a trained Stage 2.
    """

    def __init__(self, run: Run) -> None:
        features, encoder = run.features("adapted"), encoding.load_stage0(run)[1]
        self.run, self.frame = run, answered(run)
        self.model = interventions.load_intervention_model(run, features, stages.predict_concepts(run, features))
        self.maps = maps.MapModel(run, encoder, features, stages.load_stage1(run))
        heads = self.model.head.config.heads
        choices = [(f"mean of {heads}", MEAN), *((f"{head + 1} of {heads}", head) for head in range(heads))]
        self.head = ipywidgets.Dropdown(options=choices, description="head")
        self.list = PictureList(self.frame, self._on_picture)
        self.status = ipywidgets.HTML()
        self._look()
        bars = plots.contribution_bars(
            self._reasons(), f"What each concept adds in mode {self.model.head.config.ablation_mode}"
        )
        bars.update_annotations(font_size=12, x=1, xanchor="right")  # a long one would be cut
        # Room for the longest names: if the room were measured, each picture would be drawn twice.
        bars.update_yaxes(automargin=False, tickfont_size=11).update_layout(margin_l=220)
        self.distribution = figure_widget(plots.distribution_map(*self._answer(), "Distribution over the cells"), 900)
        self.attention = figure_widget(plots.patch_heat(*self._attention()), 400)
        self.reasons = figure_widget(bars, 500)
        self.head.observe(lambda _change: self._on_head(), "value")
        below = ipywidgets.HBox([ipywidgets.VBox([self.head, self.attention]), self.reasons], layout=WRAP)
        self.box = ipywidgets.VBox([self.list.box, self.status, self.distribution, below])

    def _on_picture(self) -> None:
        self._look()
        # Only what changes: to make the figures anew takes as long as to answer.
        self.distribution.plotly_update(*plots.distribution_update(*self._answer()))
        self._on_head()
        self.reasons.plotly_update(*plots.contribution_update(self._reasons()))

    def _on_head(self) -> None:
        self.attention.plotly_update(*plots.patch_heat_update(*self._attention()))

    def _look(self) -> None:
        """Read the chosen picture and what the patches of it say, once for all heads."""
        self.row = self.list.row
        self.caption = f"{self.run.table['meta_name'].iloc[self.row]}, {self.run.country[self.row]}"
        self.picture = self.maps.picture(self.row)
        output = self.model.forward_one(self.row, self.model.scores[[self.row]])
        self.by_head = output.attention[0].float().cpu().numpy()  # (heads, P); 0 in modes that ask no patch
        self.named = patch_concepts(self.maps, self.row, self.model.scores[self.row].numpy())
        self.status.value = said(str(self.frame.at[self.row, "label"]))

    def _answer(self) -> tuple[Any, Any, tuple[float, float], Any, str]:
        run, row = self.run, self.row
        places = self.model.predict(np.array([row]))
        return places, run.cells, (float(run.lat[row]), float(run.lng[row])), self.picture, self.caption

    def _attention(self) -> tuple[Any, np.ndarray, list[str], str]:
        head, mode = self.head.value, self.model.head.config.ablation_mode
        if not self.model.head.config.reads_tokens:
            weights, title = np.zeros(self.maps.n_patches), f"Mode {mode} looks at no patch"
        else:
            weights = self.by_head.mean(0) if head == MEAN else self.by_head[head]
            title = "Attention, mean of the heads" if head == MEAN else f"Attention of head {head + 1}"
        return self.picture, weights.reshape(self.maps.encoder.grid), patch_texts(weights, self.named), title

    def _reasons(self) -> list[attribution.Explanation]:
        return [attribution.explain_country(self.model, self.row, self.run, self.caption)]


def patch_concepts(model: maps.MapModel, row: int, scores: np.ndarray) -> list[str]:
    """The concepts that speak most on each patch of a picture, as a line of text for each of the P patches.

    With maps of its own the bottleneck says which share each concept has on a patch. Without, the likeliest concepts
    of the picture have a map each (gradient x input), of which a patch has a part.
    """
    metas = np.arange(len(model.run.concepts.metas))
    if not model.stage1.has_maps:
        metas = np.argsort(-scores[: len(metas)], kind="stable")[:NAMED]
    found = maps.concept_maps(model, np.full(len(metas), row), metas)  # (k, P)
    if not model.stage1.has_maps:
        found = found / np.maximum(found.sum(axis=1, keepdims=True), 1e-30)
    words = "{name} {share:.0%}" if model.stage1.has_maps else "{share:.1%} of {name}"
    names = model.run.concepts.metas
    best = np.argsort(-found, axis=0, kind="stable")[:NAMED].T  # (P, NAMED)
    return [
        ", ".join(words.format(name=names[metas[i]], share=found[i, patch]) for i in own)
        for patch, own in enumerate(best)
    ]


def patch_texts(weights: np.ndarray, named: list[str]) -> list[str]:
    """What stands under the pointer of each patch: its weight `[P]` and its concepts."""
    mean = max(float(weights.mean()), 1e-30)
    return [f"{own:.1%}, {own / mean:.1f} times the mean\n{words}" for own, words in zip(weights, named, strict=True)]
