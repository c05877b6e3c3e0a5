"""Decoding: one place from a distribution over cells, by the point that is best on the validation split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from geocbm.errors import ParameterError
from geocbm.geocells.distribution import CellDistribution, in_half_precision
from geocbm.geodesy import cartesian_to_latlng
from geocbm.metrics import Resamples, error_km, fit_temperature, geoscore, spatial_blocks
from geocbm.models.point_estimates import Candidates, ModeSearch, Points, best_points, candidates, choose_bandwidth

POINT_WORDS = {
    "own": "the method's own place",
    "center": "centre of the likeliest cell",
    "offset": "likeliest cell and offset",
    "neighbours": "likeliest cell, nearest training pictures inside it",
    "mode": "mode of the distribution",
    "expected_centers": "expected GeoScore, cell centres",
    "expected_places": "expected GeoScore, training places",
}
"""Points that may be answered, in the order of the page: of equally good ones the first is taken."""

ARGMAX = ("neighbours", "offset", "own", "center")
"""What a method answers without looking at the whole distribution: the first of these that it has."""

OPTIMISM_RESAMPLES = 200


@dataclass(frozen=True)
class PointChoice:
    """Which point a method answers, and what that rests on.

    Attributes:
        point: one of `POINT_WORDS`.
        setting: what was asked for: a point, "argmax", or "validation" for the best one on the validation split.
        n: validation photographs.
        figures: for each possible point `geoscore` and `median_km` on the validation split; empty without photographs.
        optimism: how many points of GeoScore the chosen one's validation figure is too high, because the best of
            several was taken: the mean over resamples of spatial blocks of what the best point of the resample has
            there beyond what it has on all (Efron 1983, "Estimating the error rate of a prediction rule"), less the
            same of the chosen point; None where it cannot be told.
    """

    point: str
    setting: str
    n: int
    figures: dict[str, dict[str, float]]
    optimism: float | None = None

    @property
    def remark(self) -> str:
        """The choice in a sentence or two."""
        words = POINT_WORDS[self.point]
        if self.setting != "validation":
            return f"The answer is set (answer_point={self.setting}): {words}."
        if not self.n:
            return f"The validation split is empty, so that no point was chosen on it. The argmax is answered: {words}."
        text = (
            f"Of {len(self.figures)} points the one with the best GeoScore on {self.n:,} validation images is "
            f"answered: {words}."
        )
        if self.optimism is not None:
            text += (
                f" Taking the best of several makes its validation figure about {self.optimism:,.0f} points "
                "too high; the test split took no part in the choice."
            )
        return text


def choose_point(
    points: Mapping[str, Points], lat: np.ndarray, lng: np.ndarray, setting: str = "validation"
) -> PointChoice:
    """The point with the highest mean GeoScore on photographs with known places; of equals the smallest median error.

    Args:
        points: `[n]` latitudes and longitudes in degrees of each possible point, by the names of `POINT_WORDS`.
        lat: `[n]` true latitudes of the validation split, degrees.
        lng: `[n]` true longitudes, degrees.
        setting: "validation", "argmax", or the name of a point.

    Raises:
        ParameterError: `setting` names a point that is not among them.
    """
    names = [name for name in POINT_WORDS if name in points]
    argmax = next(name for name in ARGMAX if name in points)
    if setting not in (*names, "validation", "argmax"):
        raise ParameterError(
            f"answer_point={setting!r} is not to be had here; choose 'validation', 'argmax', or of {', '.join(names)}"
        )
    set_point = argmax if setting == "argmax" else setting
    if not len(lat):
        return PointChoice(argmax if setting == "validation" else set_point, setting, 0, {})
    km = np.stack([error_km(*points[name], lat, lng) for name in names])  # (p, n)
    scores = geoscore(km)
    figures = {
        name: {"geoscore": float(score.mean()), "median_km": float(np.median(far))}
        for name, score, far in zip(names, scores, km, strict=True)
    }
    if setting != "validation":
        return PointChoice(set_point, setting, len(lat), figures)
    # Figures that differ by rounding are equal.
    best = min(names, key=lambda name: (-round(figures[name]["geoscore"], 6), round(figures[name]["median_km"], 6)))
    draws, optimism = Resamples(spatial_blocks(lat, lng), OPTIMISM_RESAMPLES), None
    if draws.n_blocks > 1:
        # Against the same difference of the chosen point, whose mean over resamples is 0: less noise, never below 0.
        apart = np.stack([draws.means(score) for score in scores]) - scores[names.index(best)].mean()  # (p, resamples)
        full = scores.mean(axis=1) - scores[names.index(best)].mean()
        optimism = float((apart.max(axis=0) - apart[names.index(best)] - full[apart.argmax(axis=0)]).mean())
    return PointChoice(best, setting, len(lat), figures, optimism)


@dataclass(frozen=True)
class Places:
    """The places a decoder may answer, and the cells they lie in.

    Attributes:
        centers: `[N, 3]` unit vectors of the cells' centres.
        training: `[n, 3]` unit vectors of the training places.
        training_cell: `[n]` their cells.
    """

    centers: np.ndarray
    training: np.ndarray
    training_cell: np.ndarray

    @cached_property
    def among(self) -> Candidates:
        """What each centre and training place is worth (`points.candidates`); it takes a moment, so once."""
        return candidates(self.centers, self.training, self.training_cell)

    @cached_property
    def centers_only(self) -> Candidates:
        """The same for the centres alone."""
        return candidates(self.centers, self.training, self.training_cell, with_places=False)


@dataclass(frozen=True)
class Decoder:
    """Places from logits of cells, with temperature, bandwidth and choice from the validation split.

    Attributes:
        choice: which point is answered, and why.
        temperature: divisor of the logits; 1 without validation photographs.
        bandwidth_km: width of the bells behind the point `mode`, km.
        places: what may be answered.
    """

    choice: PointChoice
    temperature: float
    bandwidth_km: float
    places: Places

    @cached_property
    def _search(self) -> ModeSearch:
        return ModeSearch(self.places.centers, self.bandwidth_km)

    def points(
        self, logits: np.ndarray, own: Mapping[str, Points], names: Sequence[str] = tuple(POINT_WORDS)
    ) -> dict[str, Points]:
        """Points of photographs.

        Args:
            logits: `[n, N]` of all cells.
            own: points that do not come from the distribution: `offset`, `neighbours` or `own`; `[n]` degrees each.
            names: which points are wanted.

        Returns:
            `[n]` latitudes and longitudes in degrees of the wanted points that can be had, by name.
        """
        belief = CellDistribution(in_half_precision(logits), self.temperature)
        centers = self.places.centers
        found: dict[str, Points] = {name: own[name] for name in names if name in own}
        if "center" in names:
            found["center"] = cartesian_to_latlng(centers[belief.logits.argmax(axis=1)])
        if "mode" in names:
            found["mode"] = cartesian_to_latlng(belief.gather(self._search.climb))
        if "expected_centers" in names:
            found["expected_centers"] = best_points(belief, self.places.centers_only)[:2]
        if "expected_places" in names:
            found["expected_places"] = best_points(belief, self.places.among)[:2]
        return {name: found[name] for name in POINT_WORDS if name in found}

    def answer(self, logits: np.ndarray, own: Mapping[str, Points]) -> Points:
        """The chosen point of photographs, `[n]` latitudes and longitudes in degrees (arguments as in `points`)."""
        return self.points(logits, own, (self.choice.point,))[self.choice.point]


def fit_decoder(
    logits: np.ndarray,
    own: Mapping[str, Points],
    places: Places,
    cell: np.ndarray,
    lat: np.ndarray,
    lng: np.ndarray,
    setting: str = "validation",
) -> Decoder:
    """Fit temperature and bandwidth on the validation split and choose the point that is answered.

    Args:
        logits: `[n, N]` of the validation photographs, perhaps none.
        own: as in `Decoder.points`.
        places: what may be answered.
        cell: `[n]` true cells.
        lat: `[n]` true latitudes, degrees.
        lng: `[n]` true longitudes, degrees.
        setting: as in `choose_point`.
    """
    half = in_half_precision(logits)
    temperature = fit_temperature(half, cell) if len(half) else 1.0
    bandwidth = choose_bandwidth(CellDistribution(half, temperature), places.centers, lat, lng)
    nobody = PointChoice("center", "argmax", 0, {})
    points = Decoder(nobody, temperature, bandwidth, places).points(half, own)
    return Decoder(choose_point(points, lat, lng, setting), temperature, bandwidth, places)
