"""Baseline: the interface of a method to be held against, and the one way in which all are fitted and decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from sklearn.utils import check_array

from geocbm.geocells import Geocells
from geocbm.geodesy import latlng_to_cartesian
from geocbm.models.decoder import Places, PointChoice, Points, choose_point, fit_decoder
from geocbm.run import Run


@dataclass(frozen=True)
class Prediction:
    """What a method says about `[n]` photographs; None for what it does not predict."""

    name: str  # used in keys such as `baseline.<name>.median_km`
    lat: np.ndarray | None = None  # degrees
    lng: np.ndarray | None = None
    country: np.ndarray | None = None
    meta: np.ndarray | None = None
    cell_logits: np.ndarray | None = None  # [n, N] log probabilities of the cells, up to a constant per row
    detail: str = ""  # what was chosen for the method, such as `k = 10`, for its name on a page
    points: Mapping[str, Points] = field(default_factory=dict)  # other possible answers, names of `POINT_WORDS`
    choice: PointChoice | None = None  # which of them `lat` and `lng` are, and why


@dataclass(frozen=True)
class Labels:
    """What is known of `[n]` photographs: places in degrees, countries, indices of metas and of cells."""

    lat: np.ndarray
    lng: np.ndarray
    country: np.ndarray
    meta: np.ndarray
    cell: np.ndarray

    def __len__(self) -> int:
        return len(self.lat)

    def __getitem__(self, rows: np.ndarray) -> Labels:
        return Labels(self.lat[rows], self.lng[rows], self.country[rows], self.meta[rows], self.cell[rows])


class Baseline(Protocol):
    """A method that learns from features and labels of the training split.

    One that chooses something on the validation split has `tune(features, labels)` besides, called after `fit`.
    """

    name: str

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> Any:
        """Learn from `[m, d]` features of the training photographs and their labels."""

    def predict(self, features: np.ndarray) -> Prediction:
        """Answer for `[n, d]` features with places, a distribution over cells (`cell_logits`), countries or metas."""


@dataclass(frozen=True)
class Task:
    """What baselines learn from and are asked: the splits of a table with their labels."""

    cells: Geocells
    rows: Mapping[str, np.ndarray]  # of the pictures of `train`, `val` and `test`
    labels: Labels  # of all rows of the table

    @classmethod
    def of(cls, run: Run) -> Task:
        """That of a run's own splits and cells; of several labels of a picture the first is learned from."""
        labels = Labels(run.lat, run.lng, run.country, run.meta_and_parent[0], run.cell_label)
        return cls(run.cells, run.pictures, labels)

    def split(self, name: str) -> Labels:
        """Labels of `train`, `val` or `test`."""
        return self.labels[self.rows[name]]

    @property
    def places(self) -> Places:
        """Cell centres and training places, which a decoder may answer."""
        train = self.split("train")
        return Places(self.cells.centers, latlng_to_cartesian(train.lat, train.lng), self.cells.sample_to_cell)

    def answer(self, baseline: Baseline, features: np.ndarray) -> Prediction:
        """Fit a baseline on the training split and answer for the test split by the point that is best on validation.

        `features` `[n, ...]` are what it reads, of all rows of the table.
        """
        train, val, test = (self.rows[split] for split in ("train", "val", "test"))
        baseline.fit(features[train], self.split("train"), self.cells)
        if hasattr(baseline, "tune"):
            baseline.tune(features[val], self.split("val"))
        seen = baseline.predict(features[val]) if len(val) else None
        return self.decode(seen, baseline.predict(features[test]))

    def decode(self, val: Prediction | None, test: Prediction) -> Prediction:
        """Answer with the point that has the best GeoScore on validation.

        A method that names a place and nothing else has that point alone. One with a distribution over cells has others
        besides (`Decoder.points`), with its own temperature from the validation split; `val` is None without images.
        """
        known, own = self.split("val"), _own_points(test)
        if test.cell_logits is None:
            if val is None or not own:
                return test
            return replace(test, points=own, choice=choose_point(_own_points(val), known.lat, known.lng))
        if val is None:
            points_of_val = dict.fromkeys(own, (np.zeros(0), np.zeros(0)))
            val = Prediction(test.name, points=points_of_val, cell_logits=test.cell_logits[:0])
        assert val.cell_logits is not None
        decoder = fit_decoder(val.cell_logits, _own_points(val), self.places, known.cell, known.lat, known.lng)
        points = decoder.points(test.cell_logits, own)
        lat, lng = points[decoder.choice.point]
        return replace(test, lat=lat, lng=lng, points=points, choice=decoder.choice, cell_logits=None)


def _own_points(answer: Prediction) -> dict[str, Points]:
    """Points that do not come from a distribution over cells: the place that is named, and those given besides."""
    named = {} if answer.lat is None or answer.lng is None else {"own": (answer.lat, answer.lng)}
    return named | dict(answer.points)


def matrix(values: Any, name: str) -> np.ndarray:
    """Features as a finite table `[n, d]` of float32, at least one number; a ValueError of scikit-learn else."""
    return check_array(values, dtype=np.float32, input_name=name)
