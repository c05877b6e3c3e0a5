"""Does Stage 1 name anything: its accuracy on the validation split against the most frequent concept and a probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geocbm.errors import DamagedError
from geocbm.evaluation.baselines.linear import fit_quietly
from geocbm.files import SEAL, lineage, write_json
from geocbm.metrics import NOT_MEASURED, Estimate, Resamples, estimate_text, spatial_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from geocbm.encoders.features import FeatureStore
    from geocbm.run import Run

FILE = "stage1_floor.json"
PROBE_STRENGTH = 0.1
"""Inverse penalty (scikit-learn's C) of the probe: fixed, so that the validation split chooses nothing for it."""
MOST_ROWS = 10_000
"""Training pictures that the probe is fitted to; of more, as many drawn at random."""


@dataclass(frozen=True)
class ConceptFloor:
    """Shares of validation pictures whose labelled concept is named first, and paired differences."""

    n: int  # validation pictures
    bottleneck: str
    named: float  # share that Stage 1 names
    frequent: float  # share of the concept that is most frequent in training
    probe: float  # share of a logistic regression on the same features; NaN where none can be fitted
    over_frequent: Estimate  # `named` less `frequent`
    over_probe: Estimate  # `named` less `probe`

    @property
    def names_nothing(self) -> bool:
        """Whether Stage 1 is no better than always naming the most frequent concept, beyond noise."""
        return bool(self.n) and not self.over_frequent["low"] > 0

    @property
    def below_probe(self) -> bool:
        """Whether a plain classifier names more, beyond noise."""
        return self.over_probe["high"] < 0

    def sentence(self) -> str:
        """What a user must know and set; empty where Stage 1 is better than the floor and no worse than the probe."""
        if self.names_nothing:
            by = estimate_text(self.over_frequent, "{:+z.1f}", 100)
            unknown = np.isnan(self.over_frequent["low"])  # too few places for an interval
            said = "it cannot be said that Stage 1 names anything" if unknown else "Stage 1 names nothing"
            said += f" beyond the most frequent concept ({by} points)"
        elif self.below_probe:
            by = estimate_text(self.over_probe, "{:+z.1f}", 100)
            said = f"Stage 1 names fewer concepts than a linear classifier does ({by} points)"
        else:
            return ""
        probe = f", a linear classifier on the same features in {self.probe:.1%}" if np.isfinite(self.probe) else ""
        if self.bottleneck != "mlp":
            advice = (
                f"The {self.bottleneck!r} bottleneck needs more pictures of each concept, or concepts that stand at "
                "one place of the picture; try --set 04.bottleneck=mlp"
            )
        elif self.below_probe:
            advice = "Train longer or with less dropout, such as --set 04.epochs=100 --set 04.dropout=0.1"
        else:
            advice = "Give more pictures of each concept, or another encoder (--set image_encoder=NAME)"
        return (
            f"{said}: on {self.n:,} validation pictures the labelled concept is named in {self.named:.1%}, the most "
            f"frequent concept is right in {self.frequent:.1%}{probe}. {advice}"
        )


def measure_floor(
    files: Run,
    bottleneck: str,
    meta_probabilities: np.ndarray,
    features: FeatureStore,
    n_resamples: int = 1000,
    seed: int = 0,
) -> ConceptFloor:
    """Hold Stage 1 against the most frequent concept and a probe, on the validation split.

    `meta_probabilities` `[n, k_m]` are those of all rows, `features` the adapted ones.
    """
    meta = files.meta_and_parent[0]
    train, val = files.labelled(files.rows["train"]), files.labelled(files.pictures["val"])
    if not len(val):
        unknown = float("nan")
        return ConceptFloor(0, bottleneck, unknown, unknown, unknown, NOT_MEASURED, NOT_MEASURED)
    labels = files.labels_at(val)  # (v, k_m)
    named = labels[np.arange(len(val)), meta_probabilities[val].argmax(axis=1)]
    frequent = labels[:, np.bincount(meta[train]).argmax()]
    draws = Resamples(spatial_blocks(files.lat[val], files.lng[val]), n_resamples, seed)
    probe = _probe(files, features, seed)
    return ConceptFloor(
        n=len(val),
        bottleneck=bottleneck,
        named=float(named.mean()),
        frequent=float(frequent.mean()),
        probe=float("nan") if probe is None else float(probe.mean()),
        over_frequent=draws.difference(named, frequent),
        over_probe=NOT_MEASURED if probe is None else draws.difference(named, probe),
    )


def _probe(files: Run, features: FeatureStore, seed: int) -> np.ndarray | None:
    """Whether a logistic regression on the pooled features names the concept of each validation picture, `[v]`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    meta = files.meta_and_parent[0]
    train, val = files.labelled(files.rows["train"]), files.labelled(files.pictures["val"])
    if len(train) > MOST_ROWS:
        train = np.sort(np.random.default_rng(seed).choice(train, MOST_ROWS, replace=False))
    if len(np.unique(meta[train])) < 2:
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_STRENGTH, max_iter=100, tol=1e-3))
    fit_quietly(model, features.read("pooled", train).numpy(), meta[train])
    said = model.predict(features.read("pooled", val).numpy())
    return files.labels_at(val)[np.arange(len(val)), said]


def save_floor(path: str | Path, files: Run, found: ConceptFloor) -> None:
    """Write the sentence and what it is about; prediction says it again."""
    said = {"sentence": found.sentence(), "names_nothing": found.names_nothing}
    write_json(path, said | {SEAL: "", lineage.KEY: files.made_from(FILE)})


def read_floor(files: Run) -> str:
    """The sentence on the Stage 1 that the run has now; empty where there is none, or it is about another one."""
    if not files.belongs(FILE):
        return ""
    try:
        with files.opened(FILE) as content:
            return str(content["sentence"]) if content["names_nothing"] else ""
    except DamagedError:
        return ""
