"""Nearest neighbours: the answer of the training photographs that look most alike, as a place or as votes for cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geocbm.evaluation.baselines.base import Labels, Prediction, matrix
from geocbm.geocells import Geocells
from geocbm.geodesy import haversine_km
from geocbm.metrics import error_km, fit_temperature, geoscore, negative_log_likelihood

CANDIDATES = (5, 10, 20, 50)
"""Numbers of neighbours among which the place in the middle is sought."""

VOTERS = (10, 20, 50, 100, 200)
"""Numbers of neighbours that may vote for cells."""

WIDTHS = (0.1, 0.2, 0.5, 1.0)
"""Widths of the kernel that are tried, in units of the mean fall of the similarity from the first to the k-th."""

PRIOR_SHARE = 0.05
"""Part of the distribution that is the training split's own, so that no cell is impossible."""

_QUERIES_AT_ONCE = 1024
_PAIRS_AT_ONCE = 4_000_000  # bounds the memory of distances between neighbours


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows brought to length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def nearest(queries: np.ndarray, base: np.ndarray, k: int = 1, metric: str = "cosine") -> tuple[np.ndarray, np.ndarray]:
    """Rows `[n, k]` of `base` `[m, d]` most like each query `[n, d]`, the most similar first, and likenesses `[n, k]`.

    The likeness is the cosine, or for `"euclidean"` minus half the squared distance, up to a constant per query; of
    equals the earlier row comes first.
    """
    base, queries = matrix(base, "base"), matrix(queries, "queries")
    if metric == "cosine":
        queries, base = unit_rows(queries), unit_rows(base)
    half_norm = (base**2).sum(axis=1) / 2 if metric == "euclidean" else np.zeros(len(base), dtype=np.float32)
    found, likeness = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        alike = queries[rows] @ base.T - half_norm  # (b, m), monotone in the distance
        if k == 1:
            best = alike.argmax(axis=1)[:, None]
        else:
            some = np.sort(np.argpartition(-alike, k - 1, axis=1)[:, :k], axis=1)  # (b, k)
            order = np.argsort(-np.take_along_axis(alike, some, axis=1), axis=1, kind="stable")
            best = np.take_along_axis(some, order, axis=1)
        found[rows], likeness[rows] = best, np.take_along_axis(alike, best, axis=1)
    return found, likeness


def _majority(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Most frequent label `[n]` among neighbours `[n, k]`, of equals that of the nearer; -1 where none has one."""
    named = labels[found]
    votes = (named[:, :, None] == named[:, None, :]).sum(axis=2) * (named != -1)
    return named[np.arange(len(named)), votes.argmax(axis=1)]


def _middle(lat: np.ndarray, lng: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of places `[n, k]` in each row the one with the smallest summed distance to the others, `[n]` each."""
    n, k = lat.shape
    best = np.zeros(n, dtype=np.int64)
    step = max(1, _PAIRS_AT_ONCE // (k * k))
    for start in range(0, n if k > 1 else 0, step):
        near_lat, near_lng = lat[start : start + step], lng[start : start + step]
        apart = haversine_km(near_lat[:, :, None], near_lng[:, :, None], near_lat[:, None, :], near_lng[:, None, :])
        best[start : start + step] = np.round(apart.sum(axis=2), 6).argmin(axis=1)
    rows = np.arange(n)
    return lat[rows, best], lng[rows, best]


class NearestNeighbour:
    """The answer of the most similar training photograph, by `metric` (`"cosine"` or `"euclidean"`)."""

    def __init__(self, name: str = "nearest_neighbour", metric: str = "cosine") -> None:
        self.name, self.metric = name, metric

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> NearestNeighbour:
        """Keep the training photographs."""
        self.features_, self.labels_ = matrix(features, "features"), labels
        return self

    def predict(self, features: np.ndarray) -> Prediction:
        """Copy place, country and meta."""
        own = self.labels_[nearest(features, self.features_, 1, self.metric)[0][:, 0]]
        return Prediction(self.name, own.lat, own.lng, own.country, own.meta)


@dataclass(frozen=True)
class Votes:
    """How `k` neighbours vote for cells: by the kernel `exp(similarity / width)`, mixed with the prior `[N]`."""

    k: int
    width: float
    prior: np.ndarray

    def logits(self, similarity: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Log probabilities `[n, N]` of cells from `[n, K]` similarities, highest first, and `[n, K]` cells; K >= k."""
        near = similarity[:, : self.k].astype(np.float64)
        weight = np.exp((near - near[:, :1]) / self.width)
        votes = np.zeros((len(near), len(self.prior)))
        np.add.at(votes, (np.arange(len(near))[:, None], cell[:, : self.k]), weight)
        votes /= weight.sum(axis=1, keepdims=True)
        return np.log(np.maximum((1 - PRIOR_SHARE) * votes + PRIOR_SHARE * self.prior, 1e-12))


def choose_votes(similarity: np.ndarray, cell: np.ndarray, true_cell: np.ndarray, prior: np.ndarray) -> Votes:
    """Number of neighbours and kernel with the highest calibrated log likelihood of the validation photographs.

    Of the neighbours of the validation photographs, the most similar first, `similarity` and `cell` are `[v, K]`;
    `true_cell` is `[v]` and `prior` `[N]`. There are at most `K` voters; without validation photographs it is the
    middle ones.
    """
    numbers = [k for k in VOTERS if k <= similarity.shape[1]] or [similarity.shape[1]]
    if not len(true_cell):
        return Votes(numbers[len(numbers) // 2], WIDTHS[len(WIDTHS) // 2] * 0.1, prior)
    falls = {k: float((similarity[:, 0] - similarity[:, k - 1]).mean()) for k in numbers}
    tried = [Votes(k, max(share * fall, 1e-6), prior) for k, fall in falls.items() for share in WIDTHS]

    def loss(votes: Votes) -> float:
        logits = votes.logits(similarity, cell)
        return negative_log_likelihood(logits, true_cell, fit_temperature(logits, true_cell))

    return min(tried, key=loss)


def cell_prior(labels: Labels, cells: Geocells) -> np.ndarray:
    """Share of the training photographs in each cell, `[N]`."""
    return np.bincount(labels.cell, minlength=len(cells)) / len(labels)


class KNearest(NearestNeighbour):
    """Several nearest neighbours: the place in their middle, their majority, and their votes for cells.

    `tune` chooses the number whose middle has the best GeoScore on validation, of equals the smaller, and how many vote
    for cells with which kernel. Of the `candidates` those above the number of training photographs are left out.
    """

    def __init__(self, name: str = "knn", candidates: Sequence[int] = CANDIDATES) -> None:
        super().__init__(name)
        self.candidates = candidates

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> KNearest:
        """Keep the training photographs."""
        super().fit(features, labels, cells)
        possible = sorted({int(k) for k in self.candidates if 1 <= k <= len(labels)}) or [len(labels)]
        self.possible_, self.k_, self.prior_ = possible, possible[0], cell_prior(labels, cells)
        self.most_ = min(max(VOTERS[-1], possible[-1]), len(labels))
        nobody = np.zeros((0, min(VOTERS[-1], len(labels))))
        self.votes_ = choose_votes(nobody, nobody.astype(int), np.zeros(0, int), self.prior_)
        return self

    def tune(self, features: np.ndarray, labels: Labels) -> None:
        """Choose the numbers of neighbours and the kernel; without validation photographs they stay as they are."""
        if not len(labels):
            return
        found, similarity = nearest(features, self.features_, self.most_)
        self.votes_ = choose_votes(similarity, self.labels_.cell[found], labels.cell, self.prior_)
        if len(self.possible_) > 1:
            places = [_middle(self.labels_.lat[found[:, :k]], self.labels_.lng[found[:, :k]]) for k in self.possible_]
            scores = [geoscore(error_km(*place, labels.lat, labels.lng)).mean() for place in places]
            self.k_ = self.possible_[int(np.argmax(scores))]

    def predict(self, features: np.ndarray) -> Prediction:
        """Place in the middle, votes for countries, metas and cells."""
        found, similarity = nearest(features, self.features_, self.most_)
        near, known = found[:, : self.k_], self.labels_
        lat, lng = _middle(known.lat[near], known.lng[near])
        logits = self.votes_.logits(similarity, known.cell[found])
        country, meta = _majority(known.country, near), _majority(known.meta, near)
        return Prediction(self.name, lat, lng, country, meta, logits, detail=f"k = {self.k_}")
