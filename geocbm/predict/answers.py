"""What the model says of a photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.errors import printable
from geocbm.geodesy import haversine_km
from geocbm.metrics.places import NOWHERE, Place

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.evaluation.novelty import Novelty
    from geocbm.models.geocbm import GeoCBMOutput
    from geocbm.predict.clues import Clue

DIGITS = 6
"""Decimals of probabilities and maps in a file."""


@dataclass(frozen=True)
class CellProbability:
    """One of the most probable cells."""

    cell: int  # its index
    country: str  # as the run's table spells it
    lat: float  # of its centre, degrees
    lng: float
    probability: float  # as the model was trained to give it
    calibrated: float | None = None  # with the temperature fitted on the validation split, if there is one
    place: Place = NOWHERE  # town nearest to the training photograph in the middle of the cell

    @property
    def best(self) -> float:
        """The calibrated probability where there is one, else the model's own."""
        return self.probability if self.calibrated is None else self.calibrated


@dataclass(frozen=True)
class Region:
    """Cells that hold the true one with a probability that was chosen beforehand (`uncertainty.conformal`)."""

    coverage: float  # that probability, for photographs like those of the run
    cells: tuple[int, ...]  # their indices, the most probable first
    area_km2: float  # land in them


@dataclass(frozen=True)
class Answer:
    """What the model says of one picture; names come with probabilities, the most probable first.

    `attention` is the heads' mean on the picture as the model saw it (its views side by side): `(rows, columns)` that
    sum to one, or zero where the head was trained without the picture (`concept_only`). So are the `concept_maps` of
    the named concepts, of which there is none where the bottleneck does not look at patches.
    """

    lat: float  # degrees
    lng: float
    cells: tuple[CellProbability, ...]
    concepts: tuple[tuple[str, float], ...]
    parents: tuple[tuple[str, float], ...]
    attention: np.ndarray
    place: Place = NOWHERE  # what lies nearest to the coordinates; its country as the run's table spells it
    countries: tuple[tuple[str, float], ...] = ()  # sums over their cells, calibrated where that is possible
    temperature: float | None = None  # divisor of the logits behind the calibrated figures, if the run has one
    regions: tuple[Region, ...] = ()  # by rising coverage, if the run has a calibration
    concept_maps: tuple[tuple[str, np.ndarray], ...] = ()
    notes: tuple[str, ...] = ()  # sentences on how the file was read and what the run lacks
    own_place: tuple[float, float] | None = None  # degrees that the file itself carries; never used for the answer
    own_place_km: float | None = None  # how far the answer lies from them; None also where they are 0, 0
    unlike: Novelty | None = None  # how unlike the training pictures it is; None where the run cannot tell
    country: str = ""  # that holds the coordinates, as the run's table spells it; empty in none
    countries_differ: str = ""  # why that is not the most probable country; empty where it is
    views: int = 1  # that were answered as one; more than 1 for a panorama
    seen_share: float = 1.0  # part of the picture that lies in what the model saw
    clues: tuple[Clue, ...] = ()  # what a person said of its concepts; concepts and places are those that follow
    without_clues: tuple[float, float] | None = None  # degrees that are answered without the clues
    moved_km: float | None = None  # by which the clues moved the answer

    def __repr__(self) -> str:
        """The answer in a line; `as_json` gives all of it."""
        named = "".join(f", {name} {share:.0%}" for name, share in self.countries[:1])
        return f"Answer({self.lat:.3f}, {self.lng:.3f}{named})"

    @property
    def promise_holds(self) -> bool | None:
        """Whether the regions' coverage is promised for this photograph: one view, like the training pictures, no clue.

        None where there are no regions, or nothing tells how unlike it is.
        """
        if not self.regions:
            return None
        if self.views > 1 or self.clues:
            return False
        return None if self.unlike is None else not self.unlike.unlike

    def with_own_place(self, place: tuple[float, float] | None) -> Answer:
        """The same answer with the coordinates the file carries, and a sentence on them."""
        if place is None:
            return self
        said = f"the file carries its own coordinates ({in_degrees(*place)}), which were not used"
        if place == (0.0, 0.0):  # a missing position, as a note on the file says
            return replace(self, own_place=place, notes=(*self.notes, said))
        km = float(haversine_km(self.lat, self.lng, *place))
        distance = f"{km:,.0f} km" if km >= 1 else "less than 1 km"
        note = f"{said}; the answer lies {distance} from them"
        return replace(self, own_place=place, own_place_km=km, notes=(*self.notes, note))

    def clue_sentence(self) -> str:
        """Which clues were given and how far they moved the answer; empty where there are none."""
        if self.without_clues is None:
            return ""
        listed, before = ", ".join(map(str, self.clues)), in_degrees(*self.without_clues)
        moved = f"{self.moved_km:,.0f} km" if self.moved_km and self.moved_km >= 1 else "less than 1 km"
        return f"answered {listed}, as a person says; that moved the answer {moved}, from {before}"

    def as_json(self) -> dict[str, Any]:
        """All of it in lists, numbers and texts that JSON knows."""
        content = asdict(self)
        content["attention"] = _grid(self.attention)
        content["concept_maps"] = {name: _grid(grid) for name, grid in self.concept_maps}
        content["place"] = self.place._asdict()
        content["promise_holds"] = self.promise_holds
        if self.unlike is not None:
            content["unlike"] |= {"is_unlike": self.unlike.unlike}
        content["cells"] = [asdict(cell) | {"place": cell.place._asdict()} for cell in self.cells]
        return content


@dataclass(frozen=True)
class Reply:
    """What became of one of many photographs."""

    source: Any  # the photograph as it was given
    answer: Answer | None = None
    problem: Exception | None = None  # why there is no answer
    seen: Image | None = None  # the picture as the model saw it, if it was asked to be kept
    output: GeoCBMOutput | None = None  # what the network says of its views, the same; `GeoCBM.explain` starts there


def answer_text(name: str, answer: Answer) -> str:
    """An answer as a few lines for a terminal."""

    def shares(named: tuple[tuple[str, float], ...]) -> str:
        return "; ".join(f"{name} {share:.0%}" for name, share in named)

    near = answer.place.label()
    places = []
    for cell in answer.cells:
        around = cell.place.label(False)
        places.append(f"{cell.country} {cell.best:.0%} ({f'around {around}, ' if around else ''}cell {cell.cell})")
    lines = [
        f"{printable(name)}: {in_degrees(answer.lat, answer.lng)}{f', near {near}' if near else ''}",
        f"  places: {'; '.join(places)}",
        f"  countries: {shares(answer.countries)}",
    ]
    if answer.countries_differ:
        lines.append(f"    {answer.countries_differ}")
    if answer.regions:
        sizes = "; ".join(
            f"{region.coverage:.0%} in {len(region.cells)} cell{'s'[: len(region.cells) != 1]}, "
            f"{region.area_km2:,.0f} km²"
            for region in answer.regions
        )
        lines.append(f"  region{' (not promised)' if answer.promise_holds is False else ''}: {sizes}")
    lines.append(f"  concepts: {shares(answer.concepts)}")
    if answer.clues:
        lines.append(f"  clues: {answer.clue_sentence()}")
    return "\n".join(lines + [f"  note: {note}" for note in answer.notes])


def why_countries_differ(country: str, shares: Mapping[str, float], cell_country: str) -> str:
    """The sentence that says why the point does not lie in the likeliest country; empty where it does.

    Both come from one distribution over cells, `shares` by country, and need not agree: the likeliest single cell may
    lie in another country, and a point that keeps the expected error small lies between the likely places.
    """
    likeliest = max(shares, key=lambda name: shares[name])
    if country == likeliest:
        return ""
    better = f"by country alone {likeliest} is likelier, {shares[likeliest]:.0%}"
    if not country:
        return f"the point lies in no country; {better}"
    if country not in shares:
        return f"the point lies in {country}, where the run has no cell; {better}"
    here = f"the point lies in {country}, {shares[country]:.0%}"
    if country == cell_country:
        return f"{here}, which has the most probable single cell; {better} when all its cells are counted"
    if cell_country == likeliest:
        return f"{here}, beyond the border of the most probable cell or between several likely ones; {better}"
    return f"{here}, between several likely cells, of which the most probable lies in {cell_country}; {better}"


def in_degrees(lat: float, lng: float) -> str:
    """Coordinates for people, with four decimals (11 m) and never a minus before zero."""
    return f"{lat:z.4f}, {lng:z.4f}"


def _grid(values: np.ndarray) -> list[list[float]]:
    return [[round(float(value), DIGITS) for value in row] for row in values]


def best_names(names: Sequence[str], probabilities: np.ndarray, top_k: int) -> tuple[tuple[str, float], ...]:
    """The most probable names and their probabilities, the first `top_k` of them."""
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple((names[index], float(probabilities[index])) for index in order)
