"""Decoding: one place from a distribution over cells; the best answer depends on what a wrong one costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from geocbm.errors import ParameterError
from geocbm.geocells.distribution import NUMBERS_AT_ONCE, CellDistribution, in_half_precision
from geocbm.geodesy import EARTH_RADIUS_KM, cartesian_to_latlng, haversine_km
from geocbm.metrics import Resamples, error_km, fit_temperature, geoscore, spatial_blocks

BANDWIDTHS_KM = (100.0, 200.0, 400.0, 800.0, 1600.0)
MOST_CANDIDATES = 4000
"""Training places that are tried as answers, at most; more of them cost time and change little."""

BANDWIDTH_PHOTOGRAPHS = 5000
"""Photographs on which bandwidths are tried, at most."""

_LOWEST_EXPONENT = -80.0

Points = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ModeSearch:
    """Mean shift on the sphere, with what is the same for every photograph computed once.

    Attributes:
        centers: `[N, 3]` unit vectors of the cells' centres.
        bandwidth_km: width of the bell that every cell spreads round its centre, km.
        steps: steps of the climb.
    """

    centers: np.ndarray
    bandwidth_km: float
    steps: int = 15

    def __post_init__(self) -> None:
        if not self.bandwidth_km > 0:
            raise ParameterError(f"bandwidth_km is {self.bandwidth_km}; give a width in km above 0, such as 400.0")

    def _bells(self, points: np.ndarray) -> np.ndarray:
        """Height of the bell of every cell at some points, `[m, N]`."""
        height = points @ self.centers.T
        height -= 1
        height *= (EARTH_RADIUS_KM / self.bandwidth_km) ** 2
        # Far away it is nothing beside the rounding of what is near, and numbers below 1e-308 are slow to reckon with.
        np.maximum(height, _LOWEST_EXPONENT, out=height)
        return np.exp(height, out=height)

    @cached_property
    def _kernel(self) -> np.ndarray:
        return self._bells(self.centers)  # (N, N)

    def climb(self, probabilities: np.ndarray) -> np.ndarray:
        """Tops `[m, 3]` of distributions `[m, N]`."""
        top = self.centers[(probabilities @ self._kernel).argmax(axis=1)]  # (m, 3)
        for _ in range(self.steps):
            pull = (probabilities * self._bells(top)) @ self.centers
            length = np.linalg.norm(pull, axis=1, keepdims=True)
            # A pull of length 0 comes from cells that balance one another round the globe: stay.
            top = np.where(length > 0, pull / np.where(length > 0, length, 1.0), top)
        return top


def mode_points(belief: CellDistribution, centers: np.ndarray, bandwidth_km: float, steps: int = 15) -> Points:
    """Highest point of the distribution after it was smoothed over the sphere, `[n]` degrees.

    Every cell spreads its probability as a bell of width `bandwidth_km` round its centre (von Mises and Fisher's
    distribution), so that three likely neighbours beat one slightly likelier cell far away. From the highest centre,
    mean shift (Comaniciu & Meer 2002) climbs to the top between the centres.
    """
    return cartesian_to_latlng(belief.gather(ModeSearch(centers, bandwidth_km, steps).climb))


def choose_bandwidth(
    belief: CellDistribution,
    centers: np.ndarray,
    lat: np.ndarray,
    lng: np.ndarray,
    choices: Sequence[float] = BANDWIDTHS_KM,
) -> float:
    """Bandwidth in km whose mode points have the best mean GeoScore on photographs with known places `[n]`, degrees.

    Of more than `BANDWIDTH_PHOTOGRAPHS`, so many spread evenly over the table are taken. Of equally good bandwidths
    the first is chosen, and without photographs the middle one.
    """
    if not len(belief):
        return choices[len(choices) // 2]
    rows = np.unique(np.linspace(0, len(belief) - 1, min(len(belief), BANDWIDTH_PHOTOGRAPHS)).astype(int))
    some = CellDistribution(belief.logits[rows], belief.temperature)
    scores = [geoscore(error_km(*mode_points(some, centers, width), lat[rows], lng[rows])).mean() for width in choices]
    return choices[int(np.argmax(scores))]


@dataclass(frozen=True)
class Candidates:
    """Points that may be answered, and what each is worth if the truth lies in a given cell.

    Attributes:
        xyz: `[C, 3]` unit vectors.
        worth: `[C, N]` mean GeoScore of the point over the training places of the cell.
    """

    xyz: np.ndarray
    worth: np.ndarray

    @cached_property
    def by_cell(self) -> np.ndarray:
        """`[N, C]` the same in single precision: to a thousandth of a point, and twice as fast."""
        return np.ascontiguousarray(self.worth.T, dtype=np.float32)

    def first(self, count: int) -> Candidates:
        """The first of them only; `candidates` puts the centres of cells first."""
        return Candidates(self.xyz[:count], self.worth[:count])


def candidates(
    centers: np.ndarray,
    places: np.ndarray,
    place_cell: np.ndarray,
    with_places: bool = True,
    most: int = MOST_CANDIDATES,
) -> Candidates:
    """Cell centres and, if wanted, training places as possible answers.

    Args:
        centers: `[N, 3]` unit vectors of the cells' centres.
        places: `[n, 3]` unit vectors of the training places.
        place_cell: `[n]` their cells.
        with_places: whether training places may be answered; centres always may.
        most: training places at most, evenly spaced through the table.

    Returns:
        The candidates; a cell without training places is taken to lie at its centre.
    """
    count = min(most, len(places)) if with_places else 0
    chosen = np.unique(np.linspace(0, max(len(places) - 1, 0), count).astype(int))
    xyz = np.concatenate([centers, places[chosen]])
    empty = np.flatnonzero(np.bincount(place_cell, minlength=len(centers)) == 0)
    ground = np.concatenate([places, centers[empty]])
    owner = np.concatenate([place_cell, empty])
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(centers)))
    ground, counts = ground[order], np.bincount(owner, minlength=len(centers))
    worth = np.empty((len(xyz), len(centers)))
    at_once = max(1, NUMBERS_AT_ONCE // len(ground))
    for start in range(0, len(xyz), at_once):
        cosine = xyz[start : start + at_once] @ ground.T  # (c, n)
        score = geoscore(EARTH_RADIUS_KM * np.arccos(np.clip(cosine, -1, 1)))
        worth[start : start + at_once] = np.add.reduceat(score, starts, axis=1) / counts
    return Candidates(xyz, worth)


def best_points(belief: CellDistribution, among: Candidates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The candidate with the highest expected GeoScore for every photograph.

    Returns:
        `[n]` latitudes and `[n]` longitudes in degrees, and the `[n]` expected scores, from 0 to 5000.
    """

    def best(probabilities: np.ndarray) -> np.ndarray:
        first = (probabilities.astype(np.float32) @ among.by_cell).argmax(axis=1)
        return np.column_stack([first, np.einsum("mn,mn->m", probabilities, among.worth[first])])

    found = belief.gather(best, width=len(among.xyz))
    lat, lng = cartesian_to_latlng(among.xyz[found[:, 0].astype(int)])
    return lat, lng, found[:, 1]


def expected_km(
    belief: CellDistribution, centers: np.ndarray, scale_km: np.ndarray, lat: np.ndarray, lng: np.ndarray
) -> np.ndarray:
    """How far off an answer lies if the distribution is right: our measure of how localizable a photograph is.

    The distance to a cell is that to its centre and the cell's own extent, joined like the legs of a right triangle.

    Args:
        belief: of `n` photographs, calibrated.
        centers: `[N, 3]` unit vectors of the cells' centres.
        scale_km: `[N]` root mean square distance of a cell's places to its centre, km.
        lat: `[n]` answered latitudes, degrees.
        lng: `[n]` answered longitudes, degrees.

    Returns:
        `[n]` km.
    """
    center_lat, center_lng = cartesian_to_latlng(centers)
    found = np.empty(len(belief))
    for rows in belief.chunks():
        km = haversine_km(lat[rows, None], lng[rows, None], center_lat, center_lng)  # (m, N)
        found[rows] = (belief.probabilities(rows) * np.hypot(km, scale_km)).sum(axis=1)
    return found


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
        """Points of photographs, `[n]` latitudes and longitudes in degrees by name.

        Args:
            logits: `[n, N]` of all cells.
            own: points that do not come from the distribution: `offset`, `neighbours` or `own`.
            names: which points are wanted; those that cannot be had are left out.
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
