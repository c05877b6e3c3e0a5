"""Decoding: one place from a distribution over cells; the best answer depends on what a wrong one costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from geocbm.errors import ParameterError
from geocbm.geocells.distribution import NUMBERS_AT_ONCE, CellDistribution, in_half_precision
from geocbm.geodesy import EARTH_RADIUS_KM, cartesian_to_latlng, haversine_km
from geocbm.metrics import Resamples, error_km, fit_temperature, geoscore, spatial_blocks

BANDWIDTHS_KM = (100.0, 200.0, 400.0, 800.0, 1600.0)
MOST_CANDIDATES = 4000  # training places that are tried as answers; more of them cost time and change little
BANDWIDTH_PHOTOGRAPHS = 5000  # on which bandwidths are tried, at most
OPTIMISM_RESAMPLES = 200

_LOWEST_EXPONENT = -80.0

Points = tuple[np.ndarray, np.ndarray]
"""`[n]` latitudes and longitudes, degrees."""

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


@dataclass(frozen=True)
class ModeSearch:
    """Mean shift on the sphere (Comaniciu & Meer 2002): the highest point of a smoothed distribution over cells.

    Every cell spreads its probability as a kernel round its centre (von Mises and Fisher's distribution), so that three
    likely neighbours beat one slightly likelier cell far away. The climb starts at the highest centre.
    """

    centers: np.ndarray  # (N, 3) unit vectors of the cells' centres
    bandwidth_km: float  # width of the kernel
    steps: int = 15  # of the climb

    def _bells(self, points: np.ndarray) -> np.ndarray:
        """Height of the kernel of every cell at points `(m, 3)`, `(m, N)`."""
        height = points @ self.centers.T
        height -= 1
        height *= (EARTH_RADIUS_KM / self.bandwidth_km) ** 2
        # Far away it is nothing beside the rounding of what is near, and numbers below 1e-308 are slow to reckon with.
        np.maximum(height, _LOWEST_EXPONENT, out=height)
        return np.exp(height, out=height)

    @cached_property
    def _kernel(self) -> np.ndarray:
        return self._bells(self.centers)  # (N, N)

    def _climb(self, probabilities: np.ndarray) -> np.ndarray:
        """Tops `(m, 3)` of distributions `(m, N)`."""
        top = self.centers[(probabilities @ self._kernel).argmax(axis=1)]  # (m, 3)
        for _ in range(self.steps):
            pull = (probabilities * self._bells(top)) @ self.centers
            length = np.linalg.norm(pull, axis=1, keepdims=True)
            # A pull of length 0 comes from cells that balance one another round the globe: stay.
            top = np.where(length > 0, pull / np.where(length > 0, length, 1.0), top)
        return top

    def points(self, belief: CellDistribution) -> Points:
        """The mode of every photograph."""
        return cartesian_to_latlng(belief.gather(self._climb))


def choose_bandwidth(belief: CellDistribution, centers: np.ndarray, lat: np.ndarray, lng: np.ndarray) -> float:
    """The one of `BANDWIDTHS_KM` whose modes have the best mean GeoScore on photographs at known places `[n]`, degrees.

    Of more than `BANDWIDTH_PHOTOGRAPHS`, so many spread evenly over the table are taken. Of equally good bandwidths
    the first is chosen, and without photographs the middle one.
    """
    if not len(belief):
        return BANDWIDTHS_KM[len(BANDWIDTHS_KM) // 2]
    rows = np.unique(np.linspace(0, len(belief) - 1, min(len(belief), BANDWIDTH_PHOTOGRAPHS)).astype(int))
    some = CellDistribution(belief.logits[rows], belief.temperature)
    modes = [ModeSearch(centers, width).points(some) for width in BANDWIDTHS_KM]
    return BANDWIDTHS_KM[int(np.argmax([geoscore(error_km(*mode, lat[rows], lng[rows])).mean() for mode in modes]))]


@dataclass(frozen=True)
class Candidates:
    """Points that may be answered, and what each is worth if the truth lies in a given cell."""

    xyz: np.ndarray  # (C, 3) unit vectors
    worth: np.ndarray  # (C, N) mean GeoScore of the point over the training places of the cell

    @cached_property
    def _by_cell(self) -> np.ndarray:
        """`(N, C)` the same in single precision: to a thousandth of a point, and twice as fast."""
        return np.ascontiguousarray(self.worth.T, dtype=np.float32)

    def best(self, belief: CellDistribution) -> np.ndarray:
        """`[n]` the candidate with the highest expected GeoScore for every photograph (the Bayes estimate)."""
        return belief.gather(lambda p: (p.astype(np.float32) @ self._by_cell).argmax(axis=1), width=len(self.xyz))

    def points(self, belief: CellDistribution) -> Points:
        """The places of the best candidates."""
        return cartesian_to_latlng(self.xyz[self.best(belief)])


@dataclass(frozen=True)
class Places:
    """The places a decoder may answer, and the cells they lie in."""

    centers: np.ndarray  # (N, 3) unit vectors of the cells' centres
    training: np.ndarray  # (n, 3) unit vectors of the training places
    training_cell: np.ndarray  # (n,) their cells

    @cached_property
    def among(self) -> Candidates:
        """What each centre is worth, and at most `MOST_CANDIDATES` training places, evenly spaced through the table."""
        count = min(MOST_CANDIDATES, len(self.training))
        chosen = np.unique(np.linspace(0, max(len(self.training) - 1, 0), count).astype(int))
        return self._candidates(np.concatenate([self.centers, self.training[chosen]]))

    @cached_property
    def centers_only(self) -> Candidates:
        """The same for the centres alone."""
        return self._candidates(self.centers)

    def _candidates(self, xyz: np.ndarray) -> Candidates:
        """What points `(C, 3)` are worth; a cell without training places is taken to lie at its centre."""
        n_cells = len(self.centers)
        empty = np.flatnonzero(np.bincount(self.training_cell, minlength=n_cells) == 0)
        owner = np.concatenate([self.training_cell, empty])
        order = np.argsort(owner, kind="stable")
        ground = np.concatenate([self.training, self.centers[empty]])[order]  # cell by cell
        starts, counts = np.searchsorted(owner[order], np.arange(n_cells)), np.bincount(owner, minlength=n_cells)
        worth = np.empty((len(xyz), n_cells))
        at_once = max(1, NUMBERS_AT_ONCE // len(ground))
        for start in range(0, len(xyz), at_once):
            cosine = xyz[start : start + at_once] @ ground.T  # (c, n)
            score = geoscore(EARTH_RADIUS_KM * np.arccos(np.clip(cosine, -1, 1)))
            worth[start : start + at_once] = np.add.reduceat(score, starts, axis=1) / counts
        return Candidates(xyz, worth)


def expected_km(
    belief: CellDistribution, centers: np.ndarray, scale_km: np.ndarray, lat: np.ndarray, lng: np.ndarray
) -> np.ndarray:
    """How far off an answer lies if the distribution is right: our measure of how localizable a photograph is.

    The distance to a cell is that to its centre `(N, 3)` and the cell's own extent `scale_km (N,)`, joined like the
    legs of a right triangle. Of a calibrated distribution and answers `(n,)` in degrees; `(n,)` km.
    """
    center_lat, center_lng = cartesian_to_latlng(centers)
    found = np.empty(len(belief))
    for rows in belief.chunks():
        km = haversine_km(lat[rows, None], lng[rows, None], center_lat, center_lng)  # (m, N)
        found[rows] = (belief.probabilities(rows) * np.hypot(km, scale_km)).sum(axis=1)
    return found


@dataclass(frozen=True)
class PointChoice:
    """Which point a method answers, and what that rests on.

    Attributes:
        point: one of `POINT_WORDS`.
        setting: what was asked for: a point, "argmax", or "validation" for the best one on the validation split.
        n: validation photographs.
        val_metrics: `geoscore` and `median_km` of each possible point on them; empty without photographs.
        optimism: how many points of GeoScore the chosen one's validation metric is too high, because the best of
            several was taken: the mean over resamples of spatial blocks of what the best point of the resample has
            there beyond what it has on all (Efron 1983, "Estimating the error rate of a prediction rule"), less the
            same of the chosen point; None where it cannot be told.
    """

    point: str
    setting: str
    n: int
    val_metrics: dict[str, dict[str, float]]
    optimism: float | None = None

    def record(self) -> dict[str, Any]:
        """The choice as files keep it."""
        content = asdict(self)
        content["figures"] = content.pop("val_metrics")
        return content

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> PointChoice:
        """The choice of a `record`; a KeyError, TypeError or ValueError where it is none."""
        content = dict(record)
        if content["point"] not in POINT_WORDS:
            raise ValueError(f"an unknown point {content['point']!r}")
        metrics = content.pop("figures")
        # JSON is written with its keys sorted; the order of the page is another.
        return cls(**content, val_metrics={name: metrics[name] for name in POINT_WORDS if name in metrics})

    @property
    def remark(self) -> str:
        """The choice in a sentence or two."""
        words = POINT_WORDS[self.point]
        if self.setting != "validation":
            return f"The answer is set (answer_point={self.setting}): {words}."
        if not self.n:
            return f"The validation split is empty, so that no point was chosen on it. The argmax is answered: {words}."
        text = (
            f"Of {len(self.val_metrics)} points the one with the best GeoScore on {self.n:,} validation images is "
            f"answered: {words}."
        )
        if self.optimism is None:
            return text
        return (
            f"{text} Taking the best of several makes its validation score about {self.optimism:,.0f} points too high; "
            "the test split took no part in the choice."
        )


def choose_point(
    points: Mapping[str, Points], lat: np.ndarray, lng: np.ndarray, setting: str = "validation"
) -> PointChoice:
    """The point with the highest mean GeoScore on photographs with known places; of equals the smallest median error.

    `points` are by the names of `POINT_WORDS`, `lat` and `lng` `[n]` the true places of the validation split in
    degrees; the setting is "validation", "argmax", or the name of a point among them.
    """
    names = [name for name in POINT_WORDS if name in points]
    argmax = next(name for name in ARGMAX if name in points)
    if setting not in (*names, "validation", "argmax"):
        raise ParameterError(
            f"answer_point={setting!r} is not to be had here; choose 'validation', 'argmax', or of {', '.join(names)}"
        )
    set_point = argmax if setting in ("argmax", "validation") else setting
    if not len(lat):
        return PointChoice(set_point, setting, 0, {})
    km = np.stack([error_km(*points[name], lat, lng) for name in names])  # (p, n)
    scores = geoscore(km)
    metrics = {
        name: {"geoscore": float(score.mean()), "median_km": float(np.median(far))}
        for name, score, far in zip(names, scores, km, strict=True)
    }
    if setting != "validation":
        return PointChoice(set_point, setting, len(lat), metrics)
    # What differs by rounding is equal.
    best = min(names, key=lambda name: (-round(metrics[name]["geoscore"], 6), round(metrics[name]["median_km"], 6)))
    draws, optimism = Resamples(spatial_blocks(lat, lng), OPTIMISM_RESAMPLES), None
    if draws.n_blocks > 1:
        own = names.index(best)
        # Against the same difference of the chosen point, whose mean over resamples is 0: less noise, never below 0.
        apart = np.stack([draws.means(score) for score in scores]) - scores[own].mean()  # (p, resamples)
        full = scores.mean(axis=1) - scores[own].mean()
        optimism = float((apart.max(axis=0) - apart[own] - full[apart.argmax(axis=0)]).mean())
    return PointChoice(best, setting, len(lat), metrics, optimism)


@dataclass(frozen=True)
class Decoder:
    """Places from logits of cells, with temperature, bandwidth and choice from the validation split."""

    choice: PointChoice  # which point is answered, and why
    temperature: float  # divisor of the logits; 1 without validation photographs
    bandwidth_km: float  # width of the kernels behind the point `mode`
    places: Places  # what may be answered

    @cached_property
    def _search(self) -> ModeSearch:
        return ModeSearch(self.places.centers, self.bandwidth_km)

    def points(
        self, logits: np.ndarray, own: Mapping[str, Points], names: Sequence[str] = tuple(POINT_WORDS)
    ) -> dict[str, Points]:
        """Points of photographs by name, from logits `(n, N)` of all cells.

        `own` are those that do not come from the distribution: `offset`, `neighbours` or `own`. Of the names that are
        wanted those that cannot be had are left out.
        """
        belief = CellDistribution(in_half_precision(logits), self.temperature)
        found = {name: own[name] for name in names if name in own}
        if "center" in names:
            found["center"] = cartesian_to_latlng(self.places.centers[belief.logits.argmax(axis=1)])
        if "mode" in names:
            found["mode"] = self._search.points(belief)
        if "expected_centers" in names:
            found["expected_centers"] = self.places.centers_only.points(belief)
        if "expected_places" in names:
            found["expected_places"] = self.places.among.points(belief)
        return {name: found[name] for name in POINT_WORDS if name in found}

    def answer(self, logits: np.ndarray, own: Mapping[str, Points]) -> Points:
        """The chosen point of photographs (arguments as in `points`)."""
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

    Logits `(n, N)` are of the validation photographs, perhaps none, whose true cells and places `[n]` are given; `own`
    is as in `Decoder.points`, `setting` as in `choose_point`.
    """
    half = in_half_precision(logits)
    temperature = fit_temperature(half, cell) if len(half) else 1.0
    bandwidth = choose_bandwidth(CellDistribution(half, temperature), places.centers, lat, lng)
    nobody = PointChoice("center", "argmax", 0, {})
    points = Decoder(nobody, temperature, bandwidth, places).points(half, own)
    return Decoder(choose_point(points, lat, lng, setting), temperature, bandwidth, places)
