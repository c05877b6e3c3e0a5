"""Out-of-distribution detection: nearest-neighbour distances of the features with a conformal p-value.

The distance of a photograph is the mean distance of its pooled features to the nearest training pictures (Sun et al.
2022, "Out-of-distribution detection with deep nearest neighbors"), by two metrics: that of the training pictures'
covariance (Mahalanobis; Lee et al. 2018), in which a direction where training pictures hardly differ betrays a picture
of another kind, and the cosine, which needs no covariance and is the better one where training pictures are few. Each
is standardised over the validation photographs, and the larger one counts. Its rank among the distances of the
validation photographs is a conformal p-value (Bates et al. 2023, "Testing for outliers with conformal p-values"): of
photographs like those of the run, a share of at most `level` falls at or below `level`, whatever the features are (but
for the standardisation, which sees the same v photographs and moves that by about 1 / v).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geocbm.errors import MismatchError, ParameterError, UserError
from geocbm.files import lineage, run_command
from geocbm.files.stored import opened, save_tensors

if TYPE_CHECKING:
    from geocbm.encoders.features import FeatureStore
    from geocbm.run import Run

FILE = "novelty.safetensors"
TENSORS = ("mean", "whiten", "references", "directions", "scales", "val_distance", "n_train")
NEIGHBOURS = 10
MOST_REFERENCES = 20_000
"""Training pictures that are kept; of more, as many drawn at random."""
FLOOR = 1e-4
"""Part of the largest variance that is added to all: directions without any spread would be divided by 0."""
LEVEL, HIGHEST_LEVEL, FEWEST_BEYOND = 0.01, 0.05, 5
FEWEST_VALIDATION = 9
"""With fewer validation photographs even the most unlike one has a p-value above 10 %."""
_NUMBERS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Novelty:
    """How unlike the training pictures one photograph is."""

    distance: float  # of its features to the nearest training pictures, standardised (`NoveltyDetector.distances`)
    usual_distance: float  # median of the same over the validation photographs
    p_value: float  # share of validation photographs that are at least as far, the photograph counted among them
    level: float  # p-value from which downward it counts as unlike: the rate of false alarms on usual photographs

    @property
    def unlike(self) -> bool:
        """Whether the photograph is so far from the training pictures that promises for their like do not hold."""
        return self.p_value <= self.level

    def sentence(self) -> str:
        """What that means for the answer; empty where the photograph is not unlike."""
        if not self.unlike:
            return ""
        return (
            f"this photograph is unlike the training pictures: its features lie {self.distance:.1f} standard "
            f"deviations farther from them than is usual (validation photographs: {self.usual_distance:.1f}, median), "
            f"p = {self.p_value:.3f}; of photographs like those of the run at most {self.level:.1%} are called unlike. "
            "What is said of certainty, the regions and the probabilities, is not promised for it"
        )


@dataclass(frozen=True)
class NoveltyDetector:
    """Training pictures in the metric of their covariance, and the distances of the validation photographs."""

    mean: np.ndarray  # [d] of the training features
    whiten: np.ndarray  # [d, d] takes centred features to where the training pictures have the identity as covariance
    references: np.ndarray  # [n, d] training pictures there
    directions: np.ndarray  # [n, d] unit vectors of the training features
    scales: np.ndarray  # [2, 2] median and standard deviation of the validation distances: Mahalanobis, cosine
    val_distance: np.ndarray  # [v] distances of the validation photographs, rising
    n_train: int  # training pictures there were to choose from

    @classmethod
    def fit(cls, train: np.ndarray, val: np.ndarray, seed: int = 0) -> NoveltyDetector:
        """Learn the metric from training pictures `[n, d]`, the usual distances from validation photographs `[v, d]`.

        Each picture stands there once, and none in both; too few of either are refused. `seed` draws where there are
        more than `MOST_REFERENCES`.
        """
        if len(train) < 2 or len(val) < FEWEST_VALIDATION:
            raise ParameterError(
                f"there are {len(train)} training pictures and {len(val)} validation images; to tell what is "
                f"unlike them takes at least 2 and {FEWEST_VALIDATION}"
            )
        train = np.asarray(train, dtype=np.float64)
        mean = train.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov((train - mean).T).reshape(train.shape[1], -1))
        values = np.maximum(values, 0.0) + max(FLOOR * float(values.max()), 1e-12)
        whiten = vectors / np.sqrt(values)  # (d, d)
        kept = train
        if len(train) > MOST_REFERENCES:
            chosen = np.random.default_rng(seed).choice(len(train), MOST_REFERENCES, replace=False)
            kept = train[np.sort(chosen)]
        bare = cls(
            mean=mean.astype(np.float32),
            whiten=whiten.astype(np.float32),
            # What a file keeps in half precision is compared in half precision: stored and new distances agree.
            references=((kept - mean) @ whiten).astype(np.float16),
            directions=_units(kept).astype(np.float16),
            scales=np.zeros((2, 2)),
            val_distance=np.zeros(0),
            n_train=len(train),
        )
        both = bare.both_distances(val)
        scales = np.stack([np.median(both, axis=0), np.maximum(both.std(axis=0), 1e-9)], axis=1)  # (2, 2)
        return replace(bare, scales=scales, val_distance=np.sort(_standardised(both, scales)))

    @classmethod
    def load(cls, path: str | Path) -> NoveltyDetector:
        """Read what `save_novelty` wrote."""
        with opened(path, partial(run_command, Path(path).parent, "05")) as (tensors, _):
            held = {name: tensors[name] for name in TENSORS}
            return cls(**held | {"n_train": int(held["n_train"][0])})

    @property
    def level(self) -> float:
        """P-value from which downward a photograph counts as unlike.

        1 % where the validation split is large. A tail of fewer than five validation photographs is hardly known, so
        that with fewer of them the level rises, up to 5 % or, below 19 photographs, to the lowest p-value there is.
        """
        n = len(self.val_distance) + 1
        return max(LEVEL, min(HIGHEST_LEVEL, FEWEST_BEYOND / n), 1 / n)

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Distance `[m]` of photographs with pooled features `[m, d]`: the larger of the two standardised ones.

        It is about 0 for a usual validation photograph, in standard deviations over these.
        """
        return _standardised(self.both_distances(features), self.scales)

    def both_distances(self, features: np.ndarray) -> np.ndarray:
        """Mean Mahalanobis and mean cosine distance of each photograph to its nearest training pictures, `[m, 2]`."""
        near, units = self.references.astype(np.float32), self.directions.astype(np.float32)  # (n, d)
        lengths = (near**2).sum(axis=1)
        found = np.empty((len(features), 2))
        step = max(1, _NUMBERS_AT_ONCE // len(near))
        for start in range(0, len(features), step):
            # As stored features, so that the precision of a number makes no photograph unlike.
            stored = np.asarray(features[start : start + step], dtype=np.float16).astype(np.float32)
            own = (stored - self.mean) @ self.whiten  # (b, d)
            squares = (own**2).sum(axis=1)[:, None] + lengths - 2 * own @ near.T  # (b, n)
            found[start : start + step, 0] = np.sqrt(np.maximum(_nearest(squares), 0)).mean(axis=1)
            found[start : start + step, 1] = _nearest(1 - _units(stored) @ units.T).mean(axis=1)
        return found

    def p_values(self, distances: np.ndarray) -> np.ndarray:
        """Conformal p-values `[m]` of distances `[m]`: `(1 + how many of v are at least as far) / (v + 1)`."""
        as_far = len(self.val_distance) - np.searchsorted(self.val_distance, distances, side="left")
        return (1 + as_far) / (len(self.val_distance) + 1)

    def judge(self, features: np.ndarray) -> list[Novelty]:
        """How unlike the training pictures photographs with pooled features `[m, d]` are."""
        distances, usual = self.distances(features), float(np.median(self.val_distance))
        return [
            Novelty(float(distance), usual, float(p), self.level)
            for distance, p in zip(distances, self.p_values(distances), strict=True)
        ]


def _standardised(both: np.ndarray, scales: np.ndarray) -> np.ndarray:
    middle, spread = scales.T
    return np.asarray(((both - middle) / spread).max(axis=1))


def _units(features: np.ndarray) -> np.ndarray:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12))


def _nearest(values: np.ndarray) -> np.ndarray:
    """The smallest values of each row, as many as there are neighbours to ask."""
    k = min(NEIGHBOURS, values.shape[1])
    return np.partition(values, k - 1, axis=1)[:, :k]


def distinct_images(files: Run, rows: np.ndarray) -> np.ndarray:
    """Those of some rows whose picture none before has, byte for byte."""
    return rows[~files.table["image_sha256"].iloc[rows].duplicated().to_numpy()]


def save_novelty(files: Run, features: FeatureStore, seed: int = 0) -> str:
    """Fit the detector of a run on its adapted features and write it; says what it rests on, or why there is none."""
    # No picture counts twice, and none in two splits.
    own = [distinct_images(files, files.pictures[split]) for split in ("train", "val")]
    train, val = (features.read("pooled", rows).numpy() for rows in own)
    try:
        found = NoveltyDetector.fit(train, val, seed)
    except ParameterError as problem:
        save_tensors(files.path(FILE), {}, _made_from(files) | {"lacks": str(problem)})
        return f"What is unlike the training pictures cannot be judged: {problem}."
    tensors = {name: np.atleast_1d(getattr(found, name)) for name in TENSORS}
    save_tensors(files.path(FILE), tensors, _made_from(files))
    kept = f" ({len(found.references):,} of {found.n_train:,} kept)" if len(found.references) < found.n_train else ""
    return (
        f"An image counts as unlike the {found.n_train:,} training pictures{kept} when it is farther from them "
        f"than {1 - found.level:.1%} of {len(found.val_distance):,} validation images."
    )


def read_novelty(files: Run) -> tuple[NoveltyDetector | None, str]:
    """The detector of a run and an empty text, or None and the sentence that says why there is none."""
    lacks = "how unlike the training pictures an image is, is not measured: "
    try:
        with files.opened(FILE) as (_, noted):
            if noted.get("features_key") != _made_from(files)["features_key"]:
                raise MismatchError(
                    f"{FILE} of run {files.name!r} was made from other features than the run has now; make it again "
                    f"with: {files.remedy(FILE)}"
                )
            if too_few := noted.get("lacks", ""):
                return None, lacks + too_few
        return NoveltyDetector.load(files.need(FILE)), ""
    except UserError as problem:
        return None, lacks + str(problem)


def _made_from(files: Run) -> dict[str, str]:
    """What the file is made from, for its metadata."""
    features = str(files.read("features.json")["adapted"]["key"])
    return {lineage.KEY: lineage.as_text(files.made_from(FILE)), "features_key": features}
