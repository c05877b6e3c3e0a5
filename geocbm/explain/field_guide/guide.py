"""Sheets of the field guide: for each country its clues, for each concept where it leads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from PIL.Image import Image, Resampling

from geocbm.errors import ParameterError
from geocbm.evaluation.uncertainty.assessment import read_cell_scores
from geocbm.explain.examples import each_panorama_once
from geocbm.explain.field_guide import evidence
from geocbm.explain.maps import SCORE, MapModel, concept_maps
from geocbm.geocells.distribution import CellDistribution
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
from geocbm.run import Run, predictions

MIN_LABELS = 3
"""A concept labelled less often than this in a country is no clue, however rare it is elsewhere."""

CUT_SHARE = 0.45
"""Sides of an example, as a share of the picture's, where it is cut to the place that the map points at."""

EXAMPLE_SIDE = 112  # pixels


@dataclass(frozen=True)
class Clue:
    """A concept that speaks for a country."""

    meta: int
    labels: int  # images of the country that carry it as their label
    lift: float  # how many times more frequent than in all data
    log_odds_z: float  # log odds ratio against elsewhere, in standard deviations
    contribution: float  # to the country's score in the model, logits; NaN where the run has no exact sums
    of_labels: bool  # one of the surest clues of the labels, else one of the model's
    rows: tuple[int, ...]  # of the table, to show

    @property
    def shown_by_labels(self) -> bool:
        """Whether the labels show the concept to be more frequent here than elsewhere; the page asks."""
        return self.labels >= MIN_LABELS and self.log_odds_z >= evidence.MIN_Z


@dataclass(frozen=True)
class LookAlike:
    """A country that images are believed to lie in instead, and what tells the two apart."""

    country: str
    probability: float  # mean over the images
    here: tuple[int, ...]  # metas that speak for the sheet's own country against it
    there: tuple[int, ...]  # metas that speak for it


@dataclass(frozen=True)
class CountrySheet:
    """What gives a country away."""

    country: str
    n: int  # images of it in all data
    lat: np.ndarray  # [n] where they were taken, degrees
    lng: np.ndarray  # [n] degrees
    clues: tuple[Clue, ...]  # the surest first
    look_alikes: tuple[LookAlike, ...]  # the likeliest first
    named: int  # of how many images of validation and test split the model names the country
    n_held_out: int  # how many there are


@dataclass(frozen=True)
class ConceptSheet:
    """Where a concept leads, and how well the model sees it."""

    meta: int
    lat: np.ndarray  # where its labels lie, degrees
    lng: np.ndarray  # degrees
    countries: tuple[tuple[str, float], ...]  # those with most of its labels and their shares
    reliability: pd.Series  # its row of `concept_reliability`
    rows: tuple[int, ...]  # of the table, to show
    note: str  # what the data says of it, HTML from strangers; empty where it says nothing


class FieldGuide:
    """All that the sheets are made of, from the files of a run with Stages 1 and 2 done.

    `head` is one whose logits are sums over concepts, for contributions; None leaves them out. A sheet has so many
    `clues` and `pictures` beside each at most, and a country needs `min_samples` images for a sheet. `countries` `[C]`
    are the sorted names of the countries in the data, `counts` `[C, k_m]` of `count_table`; `lift` and `log_odds_z`
    have the same shape; `images` `[C]` are their pictures, with or without a known concept.
    """

    def __init__(
        self,
        run: Run,
        head: Stage2CrossAttentionGeoHead | None = None,
        clues: int = 5,
        pictures: int = 2,
        min_samples: int = 15,
    ) -> None:
        for name, value in (("clues", clues), ("pictures", pictures), ("min_samples", min_samples)):
            if value < 1:
                raise ParameterError(f"{name} is {value}; give at least 1")
        self.run, self.head = run, head
        self.most_clues, self.most_pictures, self.min_samples = clues, pictures, min_samples
        self.countries = np.unique(run.country)
        self.meta = run.meta_and_parent[0]
        self.counts = evidence.count_table(run.country, self.meta, self.countries, len(run.concepts.metas))
        self.lift, self.log_odds_z = evidence.lift(self.counts), evidence.log_odds_z(self.counts)
        self._pictures = np.concatenate([run.pictures[split] for split in ("train", "val", "test")])
        self.images = (run.country[self._pictures] == self.countries[:, None]).sum(axis=1)
        self.held_out = np.concatenate([run.pictures["val"], run.pictures["test"]])
        self.held_out_country = run.country[self.held_out]

    @cached_property
    def belief(self) -> CellDistribution:
        """Distributions over cells of the held-out rows, by the run's own head."""
        logits = read_cell_scores(self.run)
        return CellDistribution(np.concatenate([logits["val"], logits["test"]]))

    @cached_property
    def named(self) -> np.ndarray:
        """The country with the highest sum over cells, for each held-out row."""
        return self.run.cells.argmax_country(self.belief)

    @cached_property
    def believed(self) -> pd.DataFrame:
        """Mean probability of each country over the held-out images of each, of `mean_country_belief`."""
        return evidence.mean_country_belief(self.belief, self.held_out_country, self.run.cells)

    @cached_property
    def scores(self) -> np.ndarray:
        """Probabilities of metas and then parents of every row, `[n, k_m + k_p]`."""
        return np.concatenate(list(predictions.read_concept_scores(self.run).values()), axis=1)

    @cached_property
    def contributions(self) -> dict[str, np.ndarray]:
        """What each meta adds to the score of each country on its held-out images, `[k_m]` by country."""
        if self.head is None:
            return {}
        scores = torch.from_numpy(self.scores[self.held_out])
        names, means = evidence.country_contributions(self.head, scores, self.held_out_country, self.run.cells)
        return dict(zip(names.tolist(), means[:, : self.counts.shape[1]], strict=True))

    def agreement_of_heads(self) -> tuple[str, str, float] | None:
        """Modes of the head with contributions and of the run's own, and how often both name one country.

        None where they are one head, or nothing was held out: what concepts add is known of the head whose logits are
        sums over concepts; what a country is taken for is the answer of the run's own head.
        """
        main = self.run.read("stage2.json")["config"]["ablation_mode"]
        if self.head is None or self.head.config.ablation_mode == main or not len(self.held_out):
            return None
        with torch.inference_mode():
            scores = torch.from_numpy(self.scores[self.held_out]).to(self.head.cell_head.weight)
            belief = CellDistribution(self.head(scores).cell_logits.float().cpu().numpy())
        return self.head.config.ablation_mode, main, float((self.run.cells.argmax_country(belief) == self.named).mean())

    @property
    def too_few(self) -> dict[str, int]:
        """Countries without a sheet, and how many images they have."""
        found = zip(self.countries.tolist(), self.images.tolist(), strict=True)
        return {name: n for name, n in found if n < self.min_samples}

    def country_sheets(self, most: int | None = None) -> list[CountrySheet]:
        """Sheets in alphabetical order, of the `most` countries with the most images."""
        order = [at for at in np.argsort(-self.images, kind="stable") if self.images[at] >= self.min_samples][:most]
        return [self._country_sheet(int(at)) for at in sorted(order)]

    def _country_sheet(self, at: int) -> CountrySheet:
        name = str(self.countries[at])
        own, here = np.sort(self._pictures[self.run.country[self._pictures] == name]), self.held_out_country == name
        alike = evidence.look_alikes(self.believed, name)
        return CountrySheet(
            country=name,
            n=len(own),
            lat=self.run.lat[own],
            lng=self.run.lng[own],
            clues=self._clues(at, own),
            look_alikes=tuple(LookAlike(other, share, *self._telling_apart(at, other)) for other, share in alike),
            named=int((self.named[here] == name).sum()),
            n_held_out=int(here.sum()),
        )

    def _clues(self, at: int, own: np.ndarray) -> tuple[Clue, ...]:
        """The surest clues of the labels, then up to two that the model relies on most among the others."""
        z, name = self.log_odds_z[at], str(self.countries[at])
        labelled = np.flatnonzero(self.run.country == name)  # of a picture a row for each label
        shown = (z >= evidence.MIN_Z) & (self.counts[at] >= MIN_LABELS)
        by_labels = [int(meta) for meta in np.argsort(-z, kind="stable") if shown[meta]][: self.most_clues]
        adds = self.contributions.get(name)
        by_model: list[int] = []
        if adds is not None:
            # A concept can also speak for a country by being absent; a sheet shows what is there to be seen.
            scores = self.scores[self.held_out]
            seen = scores[self.held_out_country == name].mean(axis=0) > scores.mean(axis=0)
            rest = [int(meta) for meta in np.argsort(-adds, kind="stable") if meta not in by_labels]
            by_model = [meta for meta in rest if adds[meta] > 0 and seen[meta]][:2]
        return tuple(
            Clue(
                meta=meta,
                labels=int(self.counts[at, meta]),
                lift=float(self.lift[at, meta]),
                log_odds_z=float(z[meta]),
                contribution=float("nan") if adds is None else float(adds[meta]),
                of_labels=meta in by_labels,
                rows=self._examples(labelled[self.meta[labelled] == meta] if meta in by_labels else own, meta),
            )
            for meta in by_labels + by_model
        )

    def _examples(self, rows: np.ndarray, meta: int) -> tuple[int, ...]:
        panoramas = self.run.table["pano_id"].to_numpy()
        best = rows[np.argsort(-self.scores[rows, meta], kind="stable")]
        return tuple(each_panorama_once(best, panoramas)[: self.most_pictures].tolist())

    def _telling_apart(self, at: int, other: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Metas that are surely more frequent in one of two countries than in the other, up to three a side."""
        if other not in self.countries:
            return (), ()
        pair = self.counts[[at, int(np.searchsorted(self.countries, other))]]
        # The prior is that of all data, so that a concept of neither country does not count.
        gap = evidence.log_odds_z(np.vstack([pair, self.counts]), np.vstack([pair[::-1], self.counts]))[0]
        here = [int(meta) for meta in np.argsort(-gap, kind="stable")[:3] if gap[meta] >= evidence.MIN_Z]
        there = [int(meta) for meta in np.argsort(gap, kind="stable")[:3] if gap[meta] <= -evidence.MIN_Z]
        return tuple(here), tuple(there)

    def concept_sheets(self, most: int | None = None) -> list[ConceptSheet]:
        """Sheets by parent and name, of the `most` concepts with the most labels."""
        test, n_metas = self.run.pictures["test"], self.counts.shape[1]
        named = self.scores[test][:, :n_metas].argmax(axis=1)
        table = evidence.concept_reliability(self.counts, self.countries, self.run.labels_at(test), named)
        chosen = np.argsort(-self.counts.sum(axis=0), kind="stable")[:most]
        parents = self.run.concepts.parent_index
        return [
            self._concept_sheet(int(meta), table.iloc[meta]) for meta in sorted(chosen, key=lambda m: (parents[m], m))
        ]

    def _concept_sheet(self, meta: int, reliability: pd.Series) -> ConceptSheet:
        own = np.flatnonzero(self.meta == meta)
        share = self.counts[:, meta] / max(self.counts[:, meta].sum(), 1)
        order = [at for at in np.argsort(-share, kind="stable")[:3] if share[at] > 0]
        notes = [str(note) for note in self.run.table["note"].iloc[own] if isinstance(note, str) and note.strip()]
        return ConceptSheet(
            meta=meta,
            lat=self.run.lat[own],
            lng=self.run.lng[own],
            countries=tuple((str(self.countries[at]), float(share[at])) for at in order),
            reliability=reliability,
            rows=self._examples(own, meta),
            note=notes[0] if notes else "",
        )

    def evidence(self) -> pd.DataFrame:
        """What the sheets choose from: a row for each country and concept with labels there or a contribution.

        Columns are `country`, `meta_name`, `labels`, `lift`, `log_odds_z` and `contribution` (NaN where unknown).
        """
        n_metas = self.counts.shape[1]
        unknown = np.full(n_metas, np.nan)
        adds = np.stack([self.contributions.get(str(name), unknown) for name in self.countries])  # [C, k_m]
        table = pd.DataFrame(
            {
                "country": np.repeat(self.countries.astype(str), n_metas),
                "meta_name": np.tile(np.array(self.run.concepts.metas, dtype=object), len(self.countries)),
                "labels": self.counts.astype(int).ravel(),
                "lift": self.lift.ravel(),
                "log_odds_z": self.log_odds_z.ravel(),
                "contribution": adds.ravel(),
            }
        )
        return table[(table["labels"] > 0) | table["contribution"].notna()].reset_index(drop=True)


def cut_around_peak(picture: Image, grid: np.ndarray) -> Image:
    """The part of a picture, `CUT_SHARE` of its sides, around the highest place of a map `(rows, columns)`."""
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    width, height = CUT_SHARE * picture.width, CUT_SHARE * picture.height
    left = (column + 0.5) / grid.shape[1] * picture.width - width / 2
    top = (row + 0.5) / grid.shape[0] * picture.height - height / 2
    left, top = min(max(left, 0), picture.width - width), min(max(top, 0), picture.height - height)
    return picture.crop((round(left), round(top), round(left + width), round(top + height)))


def example_pairs(sheets: Iterable[CountrySheet | ConceptSheet]) -> list[tuple[int, int]]:
    """All examples that sheets ask for: row of the table and index of the concept, each pair once."""
    owners = (owner for sheet in sheets for owner in (sheet.clues if isinstance(sheet, CountrySheet) else (sheet,)))
    return list(dict.fromkeys((row, owner.meta) for owner in owners for row in owner.rows))


def example_pictures(model: MapModel, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Image]:
    """A small square picture for each of `example_pairs`: the place its map points at, or all that the model saw."""
    rows, metas = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    # Only the "patch" bottleneck has maps of its own; with another the whole picture is shown.
    maps = concept_maps(model, rows, metas, SCORE) if SCORE in model.kinds else None
    found = {}
    for number, (row, meta) in enumerate(pairs):
        picture = model.picture(row)
        if maps is not None:
            picture = cut_around_peak(picture, maps[number].reshape(model.encoder.grid))
        found[row, meta] = picture.resize((EXAMPLE_SIDE, EXAMPLE_SIDE), Resampling.LANCZOS)
    return found
