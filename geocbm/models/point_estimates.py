"""One point from a distribution over cells: the best answer depends on what a wrong one costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from geocbm.errors import ParameterError
from geocbm.geocells.distribution import NUMBERS_AT_ONCE, CellDistribution
from geocbm.geodesy import EARTH_RADIUS_KM, cartesian_to_latlng, haversine_km
from geocbm.metrics import error_km, geoscore

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
    """Highest point of the distribution after it was smoothed over the sphere.

    Every cell spreads its probability as a bell of width `bandwidth_km` round its centre (von Mises and Fisher's
    distribution), so that three likely neighbours beat one slightly likelier cell far away. From the highest centre,
    mean shift (Comaniciu & Meer 2002) climbs to the top between the centres.

    Args:
        belief: of `n` photographs.
        centers: `[N, 3]` unit vectors of the cells' centres.
        bandwidth_km: width of the bell, km.
        steps: steps of the climb.

    Returns:
        `[n]` latitudes and `[n]` longitudes, degrees.
    """
    return cartesian_to_latlng(belief.gather(ModeSearch(centers, bandwidth_km, steps).climb))


def choose_bandwidth(
    belief: CellDistribution,
    centers: np.ndarray,
    lat: np.ndarray,
    lng: np.ndarray,
    choices: Sequence[float] = BANDWIDTHS_KM,
) -> float:
    """Bandwidth whose mode points have the best mean GeoScore on photographs with known places.

    Args:
        belief: of `n` photographs, those of the validation split; of more than `BANDWIDTH_PHOTOGRAPHS`, so many spread
            evenly over the table are taken.
        centers: `[N, 3]` unit vectors of the cells' centres.
        lat: `[n]` true latitudes, degrees.
        lng: `[n]` true longitudes, degrees.
        choices: widths to try, km; of equally good ones the first is taken, and without photographs the middle one.
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

    Args:
        belief: of `n` photographs, calibrated.
        among: of `candidates`.

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
        `[n]` km; the smaller, the more localizable.
    """
    center_lat, center_lng = cartesian_to_latlng(centers)
    found = np.empty(len(belief))
    for rows in belief.chunks():
        km = haversine_km(lat[rows, None], lng[rows, None], center_lat, center_lng)  # (m, N)
        found[rows] = (belief.probabilities(rows) * np.hypot(km, scale_km)).sum(axis=1)
    return found
