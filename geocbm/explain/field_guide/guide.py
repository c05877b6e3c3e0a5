"""The sheets of the field guide: for each country its clues, for each concept where it leads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.evaluation.uncertainty import read_cell_scores
from geocbm.explain.field_guide.evidence import Agreement, concept_reliability, count_table, distinctiveness, lift
from geocbm.explain.field_guide.examples import best_rows
from geocbm.explain.field_guide.model_view import country_contributions, look_alikes, mean_country_belief
from geocbm.geocells.distribution import CellDistribution
from geocbm.run import Run

if TYPE_CHECKING:
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead

SURE_ENOUGH = 1.64
"""Standard deviations above which a concept counts as a clue: 95 % on one side."""

FEWEST_LABELS = 3
"""A concept labelled less often than this in a country is no clue, however rare it is elsewhere."""


@dataclass(frozen=True)
class Clue:
    """A concept that speaks for a country.

    Attributes:
        meta: index of the concept.
        labels: images of the country that carry it as their label.
        lift: how many times more frequent than in all data.
        sureness: how surely it is more frequent than elsewhere, in standard deviations.
        contribution: what it adds to the country's score in the model, in logits; NaN where the run has no exact sums.
        of_labels: True for one of the surest clues of the labels, False for one of the model's.
        rows: rows of the table to show.
    """

    meta: int
    labels: int
    lift: float
    sureness: float
    contribution: float
    of_labels: bool
    rows: tuple[int, ...]

    @property
    def shown_by_labels(self) -> bool:
        """Whether the labels surely show the concept to be more frequent here than elsewhere."""
        return self.labels >= FEWEST_LABELS and self.sureness >= SURE_ENOUGH


@dataclass(frozen=True)
class LookAlike:
    """A country that images are believed to lie in instead, and what tells the two apart.

    Attributes:
        country: its name.
        probability: mean probability that the model gives it.
        here: metas that speak for the sheet's own country against it.
        there: metas that speak for it.
    """

    country: str
    probability: float
    here: tuple[int, ...]
    there: tuple[int, ...]


@dataclass(frozen=True)
class CountrySheet:
    """What gives a country away.

    Attributes:
        country: its name.
        n: images of it in all data.
        lat: `[n]` where they were taken, degrees.
        lng: `[n]` degrees.
        clues: the surest first.
        look_alikes: the likeliest first.
        named: of how many images of validation and test split the model names the country.
        n_held_out: how many there are.
    """

    country: str
    n: int
    lat: np.ndarray
    lng: np.ndarray
    clues: tuple[Clue, ...]
    look_alikes: tuple[LookAlike, ...]
    named: int
    n_held_out: int


@dataclass(frozen=True)
class ConceptSheet:
    """Where a concept leads, and how well the model sees it.

    Attributes:
        meta: its index.
        lat: where its labels lie, degrees.
        lng: degrees.
        countries: the countries with most of its labels and their shares.
        figures: its row of `concept_reliability`.
        rows: rows of the table to show.
        note: what the data says of it, in plain text; empty where it says nothing.
    """

    meta: int
    lat: np.ndarray
    lng: np.ndarray
    countries: tuple[tuple[str, float], ...]
    figures: pd.Series
    rows: tuple[int, ...]
    note: str


class FieldGuide:
    """All that the sheets are made of, from the files of a run.

    Args:
        files: the run, with Stages 1 and 2 done.
        head: a head whose logits are sums over concepts, for contributions; None leaves them out.
        clues: most clues of a sheet.
        pictures: most pictures beside a clue or on a sheet of a concept.
        min_samples: images that a country needs for a sheet.

    Raises:
        ParameterError: a number is below 1.
    """

    def __init__(
        self,
        files: Run,
        head: Stage2CrossAttentionGeoHead | None = None,
        clues: int = 5,
        pictures: int = 2,
        min_samples: int = 15,
    ) -> None:
        for name, value in (("clues", clues), ("pictures", pictures), ("min_samples", min_samples)):
            if value < 1:
                raise ParameterError(f"{name} is {value}; give at least 1")
        self.files, self.head = files, head
        self.most_clues, self.most_pictures, self.min_samples = clues, pictures, min_samples
        self.countries = np.unique(files.country)
        self.meta = files.meta_and_parent[0]
        self.counts = count_table(files.country, self.meta, self.countries, len(files.concepts.metas))
        self.lift, self.sureness = lift(self.counts), distinctiveness(self.counts)

    @cached_property
    def held_out(self) -> np.ndarray:
        """Rows of the validation and the test split, in this order."""
        return np.concatenate([self.files.rows["val"], self.files.rows["test"]])

    @cached_property
    def belief(self) -> CellDistribution:
        """Distributions over cells of the held-out rows."""
        logits = read_cell_scores(self.files)
        return CellDistribution(np.concatenate([logits["val"], logits["test"]]))

    @cached_property
    def _believed(self) -> tuple[np.ndarray, np.ndarray]:
        return mean_country_belief(self.belief, self.files.country[self.held_out], self.files.cells)

    @cached_property
    def scores(self) -> np.ndarray:
        """Probabilities of metas and then parents of every row, `[n, k_m + k_p]`."""
        with np.load(self.files.need("concept_scores.npz"), allow_pickle=False) as stored:
            return np.concatenate([stored["meta"], stored["parent"]], axis=1)

    @cached_property
    def _usual(self) -> np.ndarray:
        """Mean probability of every concept over the held-out rows."""
        return self.scores[self.held_out].mean(axis=0)

    @cached_property
    def contributions(self) -> dict[str, np.ndarray]:
        """What each meta adds to the score of each country on its held-out images, `[k_m]` by country."""
        if self.head is None:
            return {}
        import torch

        names, means = country_contributions(
            self.head,
            torch.from_numpy(self.scores[self.held_out]),
            self.files.country[self.held_out],
            self.files.cells,
        )
        return dict(zip(names.tolist(), means[:, : self.counts.shape[1]], strict=True))

    @property
    def too_few(self) -> list[tuple[str, int]]:
        """Countries without a sheet, and how many images they have."""
        found = zip(self.countries.tolist(), self.counts.sum(axis=1).astype(int).tolist(), strict=True)
        return [(name, n) for name, n in found if n < self.min_samples]

    def country_sheets(self, most: int | None = None) -> list[CountrySheet]:
        """Sheets in alphabetical order, of the `most` countries with the most images."""
        totals = self.counts.sum(axis=1)
        order = [at for at in np.argsort(-totals, kind="stable") if totals[at] >= self.min_samples][:most]
        return [self._country_sheet(int(at)) for at in sorted(order)]

    def _country_sheet(self, at: int) -> CountrySheet:
        name, files = str(self.countries[at]), self.files
        own = np.flatnonzero(files.country == name)
        names, table = self._believed
        here = files.country[self.held_out] == name
        return CountrySheet(
            country=name,
            n=len(own),
            lat=files.lat[own],
            lng=files.lng[own],
            clues=self._clues(at),
            look_alikes=tuple(
                LookAlike(other, probability, *self._telling_apart(at, other))
                for other, probability in look_alikes(names, table, name)
            ),
            named=int((self._named[here] == name).sum()),
            n_held_out=int(here.sum()),
        )

    @cached_property
    def _named(self) -> np.ndarray:
        """The country with the highest sum over cells, for each held-out row."""
        cells = self.files.cells
        return cells.argmax_country(self.belief)

    @property
    def heads_sentence(self) -> str:
        """Which head says what on a sheet, and how often the two agree; empty where the sums are of the run's own head.

        What concepts add is known of the head whose logits are sums over concepts; what a country is taken for is the
        answer of the run's own head.
        """
        import torch

        from geocbm.files import read_json

        mode = read_json(self.files.need("stage2.json"))["config"]["ablation_mode"]
        if self.head is None or self.head.config.ablation_mode == mode or not len(self.held_out):
            return ""
        cells = self.files.cells
        with torch.inference_mode():
            scores = torch.from_numpy(self.scores[self.held_out]).to(self.head.cell_head.weight)
            belief = CellDistribution(self.head(scores).cell_logits.float().cpu().numpy())
        other = cells.argmax_country(belief)
        return (
            f"Two heads speak on a sheet: what a concept adds in the model is of {self.head.config.ablation_mode}, "
            f"whose logits are sums over concepts; what a country is taken for is the answer of {mode}. They name the "
            f"same country for {(other == self._named).mean():.0%} of {len(other):,} images the model was not "
            "trained on."
        )

    def _clues(self, at: int) -> tuple[Clue, ...]:
        sure, name = self.sureness[at], str(self.countries[at])
        by_labels = [
            int(meta)
            for meta in np.argsort(-sure, kind="stable")
            if sure[meta] >= SURE_ENOUGH and self.counts[at, meta] >= FEWEST_LABELS
        ][: self.most_clues]
        adds = self.contributions.get(name)
        by_model: list[int] = []
        if adds is not None:
            # A concept can also speak for a country by being absent; a sheet shows what is there to be seen.
            seen = self.scores[self.held_out[self.files.country[self.held_out] == name]].mean(axis=0)
            rest = [int(meta) for meta in np.argsort(-adds, kind="stable") if meta not in by_labels]
            by_model = [meta for meta in rest if adds[meta] > 0 and seen[meta] > self._usual[meta]][:2]
        own = np.flatnonzero(self.files.country == name)
        return tuple(
            Clue(
                meta=meta,
                labels=int(self.counts[at, meta]),
                lift=float(self.lift[at, meta]),
                sureness=float(sure[meta]),
                contribution=float("nan") if adds is None else float(adds[meta]),
                of_labels=meta in by_labels,
                rows=self._pictures(own[self.meta[own] == meta] if meta in by_labels else own, meta),
            )
            for meta in by_labels + by_model
        )

    def _pictures(self, rows: np.ndarray, meta: int) -> tuple[int, ...]:
        panoramas = self.files.table["pano_id"].to_numpy()
        return tuple(int(row) for row in best_rows(rows, self.scores[:, meta], panoramas, self.most_pictures))

    def _telling_apart(self, at: int, other: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Metas that are surely more frequent in one of two countries than in the other, up to three a side."""
        found = np.flatnonzero(self.countries == other)
        if not len(found):
            return (), ()
        there = int(found[0])
        pair = self.counts[[at, there]]
        # The prior is that of all data, so that a concept of neither country does not count.
        gap = distinctiveness(np.vstack([pair, self.counts]), np.vstack([pair[::-1], self.counts]))[0]
        best = [int(meta) for meta in np.argsort(-gap, kind="stable")[:3] if gap[meta] >= SURE_ENOUGH]
        worst = [int(meta) for meta in np.argsort(gap, kind="stable")[:3] if gap[meta] <= -SURE_ENOUGH]
        return tuple(best), tuple(worst)

    def concept_sheets(self, most: int | None = None) -> list[ConceptSheet]:
        """Sheets by parent and name, of the `most` concepts with the most labels."""
        test = self.files.rows["test"]
        table = concept_reliability(
            self.counts, self.countries, self.meta[test], self.scores[test][:, : self.counts.shape[1]].argmax(axis=1)
        )
        chosen = np.argsort(-self.counts.sum(axis=0), kind="stable")[:most]
        parents = self.files.concepts.parent_index
        return [
            self._concept_sheet(int(meta), table.iloc[meta]) for meta in sorted(chosen, key=lambda m: (parents[m], m))
        ]

    def _concept_sheet(self, meta: int, figures: pd.Series) -> ConceptSheet:
        own = np.flatnonzero(self.meta == meta)
        share = self.counts[:, meta] / max(self.counts[:, meta].sum(), 1)
        order = [at for at in np.argsort(-share, kind="stable")[:3] if share[at] > 0]
        notes = [str(note) for note in self.files.table["note"].iloc[own] if isinstance(note, str) and note.strip()]
        return ConceptSheet(
            meta=meta,
            lat=self.files.lat[own],
            lng=self.files.lng[own],
            countries=tuple((str(self.countries[at]), float(share[at])) for at in order),
            figures=figures,
            rows=self._pictures(own, meta),
            note=notes[0] if notes else "",
        )

    def evidence(self) -> pd.DataFrame:
        """One row for each country and concept with labels there or a contribution: what the sheets choose from."""
        metas = self.files.concepts.metas
        rows = []
        for at, country in enumerate(self.countries):
            adds = self.contributions.get(str(country))
            for meta in range(len(metas)):
                if not self.counts[at, meta] and adds is None:
                    continue
                rows.append(
                    {
                        "country": str(country),
                        "meta_name": metas[meta],
                        "labels": int(self.counts[at, meta]),
                        "lift": float(self.lift[at, meta]),
                        "sureness": float(self.sureness[at, meta]),
                        "contribution": float("nan") if adds is None else float(adds[meta]),
                    }
                )
        return pd.DataFrame(rows)

    def remark(self, most: int | None = None) -> str:
        """Which countries have no sheet, and why."""
        few = self.too_few
        parts = []
        if few:
            listed = ", ".join(f"{name} ({n})" for name, n in few)
            parts.append(f"Fewer than {self.min_samples} images, too few for a sheet: {listed}.")
        left = len(self.countries) - len(few) - (most or len(self.countries))
        if left > 0:
            parts.append(f"{left} more countries have enough images; raise `countries` to see them.")
        return " ".join(parts) or "Every country of the data has a sheet."

    def records(self, agreement: Agreement) -> dict[str, float]:
        """Figures to keep, each under `guide.<name>`."""
        figures: dict[str, float] = {"countries": len(self.countries), "countries_too_few": len(self.too_few)}
        if agreement.n:
            figures["agreement"] = agreement.correlation
        return figures
