"""The concepts of a run: of one its pictures by score, maps, reliability, nearest prototypes, and where it is seen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geocbm.explain import concept_labels
from geocbm.explain.maps import MapModel, concept_maps
from geocbm.files.progress import is_live
from geocbm.metrics.calibration import expected_calibration_error
from geocbm.plots.maps import add_menu, base_map, finish_map, map_points
from geocbm.plots.pictures import blend_heat
from geocbm.plots.theme import PALETTE
from geocbm.plots.values import escape, percent, plural
from geocbm.run import Run, encoding, predictions, stages
from geocbm.workbench import html
from geocbm.workbench.explorers.shared import SIDE, WIDE, WRAP, LiveMap, PictureStrip, dropdown, said, show

SHADES = ("#DDE3EA", PALETTE[5], PALETTE[0], "#00243F")
"""Colours of scores from nothing to the highest score of the concept."""
ORDERS = {
    "highest scores": "",
    "labelled, lowest scores": "what it misses",
    "another label, highest scores": "what it takes for the concept",
}
ALIKE = 8  # prototypes listed
ON_A_PAGE = 4  # pictures of a concept
MOST_DRAWN = 100  # places of a concept on the map of a page


def concepts(run: Run, examples: int = 6) -> None:
    """Look into the concepts of a run one by one; a page shows all in a table, and some with map and pictures.

    Args:
        run: with a trained Stage 1.
        examples: concepts that a page shows, spread over those that pictures are labelled with.
    """
    if is_live():
        show(ConceptExplorer(run).box)
        return
    seen = SeenConcepts(run)
    rows = next(own for split in ("test", "val", "train") if len(own := run.pictures[split]) or split == "train")
    table = seen.reliability(rows, range(len(run.concepts.metas)))
    html.put(html.table_html(table, "How reliable each concept is"), table.to_string())
    labelled = np.flatnonzero(table["images"]) if table["images"].any() else np.arange(len(table))
    metas = labelled[np.unique(np.linspace(0, len(labelled) - 1, examples).round().astype(int))].tolist()
    html.put_figure(map_by_concept(seen, rows, metas))
    for meta in metas:
        best = seen.ranked(rows, meta, next(iter(ORDERS)))[:ON_A_PAGE]
        texts = [seen.caption(row, meta) for row in best]
        pictures = html.gallery_html(seen.pictures(best.tolist(), meta), texts, texts, SIDE)
        html.put(f"<p>{escape(run.concepts.metas[meta])}:</p>{pictures}", "\n".join(texts))


class SeenConcepts:
    """What Stage 1 sees in the pictures of a run."""

    def __init__(self, run: Run) -> None:
        self.run, self.labelled = run, run.labels_at(np.arange(len(run.table)))  # [n, k_m]
        self.scores = predictions.read_concept_scores(run)["meta"]  # (n, k_m)
        self.labels = concept_labels.read_concept_labels(run)
        self.stage1 = stages.load_stage1(run)
        self._seen: dict[int, Any] = {}

    @cached_property
    def model(self) -> MapModel | None:
        """What maps are made by; None where the bottleneck has none."""
        if not self.stage1.has_maps:
            return None
        return MapModel(self.run, encoding.load_stage0(self.run)[1], self.run.features("adapted"), self.stage1)

    @cached_property
    def cosines(self) -> tuple[np.ndarray, np.ndarray]:
        """Cosines `[k_m, k_m]` of the prototypes of metas, as learned and as their words have them."""
        learned = self.stage1.prototypes()[0].detach().cpu().numpy()
        words = encoding.read_prototypes(self.run)["meta"].numpy()
        words = words / np.linalg.norm(words, axis=1, keepdims=True)
        return learned @ learned.T, words @ words.T

    def ranked(self, rows: np.ndarray, meta: int, order: str) -> np.ndarray:
        """Rows in one of `ORDERS`."""
        names = list(ORDERS)
        if order != names[0]:
            rows = rows[self.labelled[rows, meta] == (order == names[1])]
        score = self.scores[rows, meta]
        return rows[np.argsort(score if order == names[1] else -score, kind="stable")]

    def caption(self, row: int, meta: int) -> str:
        """Score of a concept in a picture, whether it can be seen there if that is known, and the label."""
        there = ""
        if self.labels.known[row, meta]:
            there = ", is there" if self.labels.present[row, meta] else ", is not there"
        return f"{self.scores[row, meta]:.1%}{there}: {self.run.table['meta_name'].iloc[row]}, {self.run.country[row]}"

    def pictures(self, rows: list[int], meta: int) -> list[Any]:
        """Pictures with the map of a concept laid over them, where the bottleneck has maps."""
        from geocbm.data import image_files, open_picture

        if self.model is None:
            return [open_picture(path, SIDE) for path in image_files(self.run.table.iloc[rows])]
        maps = concept_maps(self.model, np.array(rows, dtype=np.int64), np.full(len(rows), meta))
        shape = (len(rows), *self.model.encoder.grid)
        return [blend_heat(self.seen(row), grid, SIDE) for row, grid in zip(rows, maps.reshape(shape), strict=True)]

    def seen(self, row: int) -> Any:
        """A picture as the model sees it, read once."""
        if row not in self._seen and self.model is not None:
            self._seen[row] = self.model.picture(row)
        return self._seen[row]

    def reliability(self, rows: np.ndarray, metas: Sequence[int]) -> pd.DataFrame:
        """How well concepts are recognised in some pictures.

        Returns:
            A row per meta, by its name: `images` with the label, `recall` and `precision` of the concept named first
            with the ends of the 95 % interval of the recall, `average precision` of its score and what chance gets
            (`by chance`), both by what can be seen if that is known for all pictures, else by the label, and `ECE`, the
            calibration error of the score as the probability of the label.
        """
        from scipy.stats import binomtest
        from sklearn.metrics import average_precision_score

        named, lines = self.scores[rows].argmax(axis=1), []
        for meta in metas:
            labelled, score = self.labelled[rows, meta], self.scores[rows, meta]
            there = self.labels.present[rows, meta] if self.labels.complete else labelled
            right = int((labelled & (named == meta)).sum())
            n = int(labelled.sum())
            low, high = binomtest(right, n).proportion_ci(method="wilson") if n else (np.nan, np.nan)
            shares = {"images": n, "recall": right / n if n else np.nan}
            shares |= {"recall low": low, "recall high": high}
            shares["precision"] = right / (named == meta).sum() if (named == meta).any() else np.nan
            shares["average precision"] = average_precision_score(there, score) if there.any() else np.nan
            shares |= {"by chance": there.mean(), "ECE": expected_calibration_error(score, labelled)}
            lines.append(shares)
        names = [self.run.concepts.metas[meta] for meta in metas]
        return pd.DataFrame(lines, index=pd.Index(names, name="concept")).round(3)

    def alike(self, meta: int) -> list[tuple[str, int]]:
        """The metas whose learned prototypes are nearest, with their cosines."""
        learned, words = self.cosines
        order = [other for other in np.argsort(-learned[meta], kind="stable").tolist() if other != meta][:ALIKE]
        names = self.run.concepts.metas
        return [(f"{learned[meta, i]:.2f} {names[i]} (words {words[meta, i]:.2f})", i) for i in order]

    def countries(self, rows: np.ndarray, meta: int) -> pd.Series:
        """Mean score of a concept by country, the highest first."""
        return pd.Series(self.scores[rows, meta]).groupby(self.run.country[rows]).mean().sort_values(ascending=False)


def map_by_concept(seen: SeenConcepts, rows: np.ndarray, metas: list[int]) -> go.Figure:
    """Where some concepts have their highest scores, with a menu of the concepts."""
    run, fig = seen.run, base_map()
    for meta in metas:
        best = seen.ranked(rows, meta, next(iter(ORDERS)))[:MOST_DRAWN]
        score = seen.scores[best, meta]
        marker = {"size": np.round(4 + 12 * np.sqrt(score), 1).tolist(), "color": PALETTE[0], "opacity": 0.6}
        texts = [escape(seen.caption(row, meta)) for row in best]
        points = map_points(run.lat[best], run.lng[best], texts, marker, escape(run.concepts.metas[meta]))
        fig.add_trace(points.update(visible=meta == metas[0], showlegend=False))
    add_menu(fig, {run.concepts.metas[meta]: [other == meta for other in metas] for meta in metas})
    tops = [seen.countries(rows, meta) for meta in metas]
    parts = [f"{run.concepts.metas[meta]} in {top.index[0]}" for meta, top in zip(metas, tops, strict=True)]
    alt = f"World map of the highest scores of a concept, with a menu. Highest mean score: {', '.join(parts)}."
    return finish_map(fig, "Where a concept scores high (larger: higher)", alt)


class ConceptExplorer:
    """A list of concepts, and of the chosen one map, reliability, nearest prototypes and pictures."""

    def __init__(self, run: Run) -> None:
        self.run, self.seen = run, SeenConcepts(run)
        names = run.concepts.metas
        options = sorted((f"{run.concepts.meta_to_parent[name]}: {name}", meta) for meta, name in enumerate(names))
        splits = [split for split in ("test", "val", "train") if len(run.pictures[split])]
        self.concept = dropdown("concept", options)
        self.concept.layout.width = "420px"
        self.split = dropdown("split", splits)
        self.order = dropdown("pictures", list(ORDERS))
        self.maps = ipywidgets.Checkbox(
            value=self.seen.model is not None, disabled=self.seen.model is None, description="maps", indent=False
        )
        self.alike = ipywidgets.Select(
            rows=ALIKE, description="nearest", style={"description_width": "70px"}, layout={"width": "420px"}
        )
        self.table, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        # Eight at once: their maps are made anew for each concept.
        self.strip = PictureStrip(run, lambda row: self.seen.caption(row, self.concept.value), self.pictures, 8)
        self.map = LiveMap(run, "Where it scores high", SHADES, self._pick)
        self.concept.observe(self.look, "value")
        self.split.observe(self.look, "value")
        self.order.observe(self.sort, "value")
        self.maps.observe(self.sort, "value")
        self.alike.observe(self._go, "value")
        controls = ipywidgets.HBox([self.concept, self.split, self.order, self.maps], layout=WRAP)
        numbers = ipywidgets.HBox([self.alike, self.table], layout=WRAP)
        self.box = ipywidgets.VBox([controls, numbers, self.status, self.strip.box, self.map.box], layout=WIDE)
        self.look()

    def look(self, _change: Any = None) -> None:
        """Show the chosen concept."""
        meta, seen, rows = self.concept.value, self.seen, self.run.pictures[self.split.value]
        name = self.run.concepts.metas[meta]
        table = seen.reliability(rows, [meta]).T.rename(columns={name: f"on {self.split.value}"})
        self.table.value = html.table_html(table, f"Reliability of {name}", index=True)
        self.alike.unobserve(self._go, "value")
        self.alike.options = seen.alike(meta)
        self.alike.index = None
        self.alike.observe(self._go, "value")
        score = seen.scores[rows, meta]
        order = np.argsort(score, kind="stable")  # the highest are drawn last, on top
        texts = np.array(
            [escape(f"{seen.scores[row, meta]:.1%}, {self.run.country[row]}") for row in rows], dtype=object
        )
        levels = (len(SHADES) - 1) * np.sqrt(score / max(score.max(), 1e-12))
        means = ", ".join(f"{country} {percent(mean)}" for country, mean in seen.countries(rows, meta).head(3).items())
        sentence = f"Scores of {name} in {plural(len(rows), 'picture')}, darker is higher. Highest mean: {means}."
        self.map.show(rows[order], texts[order], levels[order], sentence)
        self.sort()

    def pictures(self, rows: list[int]) -> list[Any]:
        """Pictures, with the map of the concept if they are wanted."""
        return self.seen.pictures(rows, self.concept.value) if self.maps.value else self.strip.thumbnails(rows)

    def sort(self, _change: Any = None) -> None:
        """Show its pictures in the chosen order, with or without maps."""
        order = self.order.value
        shown = self.seen.ranked(self.run.pictures[self.split.value], self.concept.value, order)
        self.strip.show(shown)
        self.status.value = said(": ".join(text for text in (f"{len(shown):,} pictures", order, ORDERS[order]) if text))

    def _go(self, _change: Any) -> None:
        if self.alike.value is not None:
            self.concept.value = self.alike.value

    def _pick(self, row: int) -> None:
        """Show one picture of the map, and what is seen in it."""
        scores, names = self.seen.scores[row], self.run.concepts.metas
        best = ", ".join(f"{names[meta]} {scores[meta]:.0%}" for meta in np.argsort(-scores, kind="stable")[:5])
        self.strip.show([row])
        self.status.value = said(f"{self.seen.caption(row, self.concept.value)}. Seen most: {best}.")
