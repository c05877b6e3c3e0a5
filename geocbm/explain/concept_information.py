"""Concept information: what goes through the concepts of a run, and what beside them, measured together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from geocbm.errors import ParameterError
from geocbm.explain.leakage import Leakage, measure_leakage
from geocbm.explain.probes import GAINS, ProbeResult, probe_country, probe_gains
from geocbm.explain.sparsity import (
    Carried,
    EffectiveConcepts,
    average_accuracy,
    carried,
    completeness_ratio,
    effective_concepts,
    kept_share,
)
from geocbm.metrics import Estimate, Resamples, columns_of, recordables, spatial_blocks

if TYPE_CHECKING:
    from geocbm.explain.concept_labels import ConceptLabels
    from geocbm.explain.interventions import InterventionModel
    from geocbm.run import Run

READ_AT_ONCE = 5
"""Contributions that a person reads: so many are asked to carry a decision."""


class Completeness(NamedTuple):
    """Accuracy from concepts as a part of the accuracy from everything (Yeh et al. 2020).

    Attributes:
        concepts: share of right answers from concepts alone.
        full: the same from everything that the picture tells.
        prior: the same by guessing.
        ratio: of `sparsity.completeness_ratio`.
    """

    concepts: float
    full: float
    prior: float
    ratio: Estimate


@dataclass(frozen=True)
class ConceptInformation:
    """What scores tell of the place on the test split.

    Attributes:
        drawn: resamples of the test split, shared by all figures.
        names: `k` concepts and families, in the order of the scores.
        leakage: information beyond the true concepts; None where these are not known.
        probes: what a classifier reads of the country, by the names of `probes.INPUTS`.
        gains: differences of probes, by the names of `probes.GAINS`.
        effective: decisions with few concepts.
        completeness: of the country by a linear classifier (`probe_country`), and of the country and the cell by the
            linear CBM against the main mode (`model_country`, `model_cell`).
        prior_right: `[m]` whether the most frequent cell of the training split is the right one.
    """

    drawn: Resamples
    names: tuple[str, ...]
    leakage: Leakage | None
    probes: dict[str, ProbeResult]
    gains: dict[str, Estimate]
    effective: EffectiveConcepts
    completeness: dict[str, Completeness]
    prior_right: np.ndarray

    @property
    def answerable(self) -> bool:
        """Whether a country of the test split is in the training split; a country that was left out is not."""
        return not bool(np.isnan(self.probes["prior"].log_likelihood).all())

    def probe_table(self) -> pd.DataFrame:
        """What each probe reads: `input` and `country_acc` with its interval."""
        shares = {name: self.drawn.estimate(own.right) for name, own in self.probes.items()}
        return pd.DataFrame([{"input": name} | columns_of("country_acc", own) for name, own in shares.items()])

    def gain_table(self) -> pd.DataFrame:
        """Differences of probes: `gain`, what it `reads` and `instead of` what, and `country_acc_change`."""
        rows = []
        for name, own in self.gains.items():
            line = {"gain": name, "reads": GAINS[name][0], "instead of": GAINS[name][1]}
            rows.append(line | columns_of("country_acc_change", own))
        return pd.DataFrame(rows)

    def completeness_table(self) -> pd.DataFrame:
        """Accuracies behind each completeness, shares, and `completeness` with its interval."""
        rows = [
            {"what": name, "from concepts": own.concepts, "from everything": own.full, "by guessing": own.prior}
            | columns_of("completeness", own.ratio)
            for name, own in self.completeness.items()
        ]
        return pd.DataFrame(rows)

    @property
    def kept(self) -> tuple[int, Estimate]:
        """How many contributions a person is taken to read, and the part of the accuracy that they keep."""
        count = max(count for count in self.effective.counts if count <= READ_AT_ONCE)
        return count, kept_share(self.effective, count, self.drawn)

    @property
    def carried(self) -> Carried:
        """What the contributions that a person reads carry, held against the prior and random concepts."""
        return carried(self.effective, self.kept[0], self.prior_right, self.drawn)


def measure_concept_information(
    run: Run,
    linear: InterventionModel,
    labels: ConceptLabels,
    pooled: np.ndarray,
    main_cells: np.ndarray,
    n_resamples: int = 1000,
    seed: int = 0,
) -> ConceptInformation:
    """Measure on the test split how much goes through the concepts, and how much beside them.

    Args:
        run: the run.
        linear: its linear CBM.
        labels: what is known of the true concepts.
        pooled: `[n, d]` adapted features of all pictures.
        main_cells: `[m]` cells that the run's main mode names for the test pictures.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of resamples, random orders and random directions.
    """
    test, scores = run.rows["test"], linear.scores.numpy()
    blocks = spatial_blocks(run.lat[test], run.lng[test])
    drawn = Resamples(blocks, n_resamples, seed)
    # Hundreds of small products: with several threads on a busy machine they take ten times as long.
    with threadpool_limits(limits=1):
        probes = probe_country(run, scores, labels, pooled, seed)
    effective = effective_concepts(linear.head, linear.scores[test], run.cell_label[test], seed=seed)
    rights = right_answers(run, {"main": main_cells, "concept_scores": effective.named})
    leakage = None
    if labels.complete and len(np.unique(run.country[test])) > 1:
        try:
            with threadpool_limits(limits=1):
                leakage = measure_leakage(scores[test], labels.present[test], run.country[test], blocks, seed=seed)
        except ParameterError:  # of a handful of pictures nothing can be said
            leakage = None
    return ConceptInformation(
        drawn,
        (*run.concepts.metas, *run.concepts.parents),
        leakage,
        probes,
        probe_gains(probes, drawn),
        effective,
        measure_completeness(probes, rights, drawn),
        rights["prior"]["cell"],
    )


def right_answers(run: Run, named: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Whether models name the right cell, and a cell in the right country, on the test split.

    Args:
        run: the run.
        named: `[m]` the cells that each model names.

    Returns:
        `name -> {"cell": [m], "country": [m]}`, and under `prior` what the most frequent cell and country get.
    """
    train, test = run.rows["train"], run.rows["test"]
    cell, country = run.cell_label, run.country
    found = {
        name: {"cell": own == cell[test], "country": run.cells.country[own] == country[test]}
        for name, own in named.items()
    }
    names, counts = np.unique(country[train], return_counts=True)
    found["prior"] = {
        "cell": cell[test] == np.bincount(cell[train]).argmax(),
        "country": country[test] == names[counts.argmax()],
    }
    return found


def measure_completeness(
    probes: Mapping[str, ProbeResult], rights: Mapping[str, Mapping[str, np.ndarray]], drawn: Resamples
) -> dict[str, Completeness]:
    """Completeness by the names of `ConceptInformation.completeness`; those that can be had.

    Args:
        probes: of `probes.probe_country`.
        rights: of `right_answers`, with the names `concept_scores`, `main` and `prior`; the first may be missing.
        drawn: resamples of the test split.
    """
    compared = {}
    if "scores" in probes:
        compared["probe_country"] = [probes[name].right for name in ("scores", "features", "prior")]
    if "concept_scores" in rights:
        for label in ("country", "cell"):
            compared[f"model_{label}"] = [rights[name][label] for name in ("concept_scores", "main", "prior")]
    return {
        name: Completeness(
            float(own.mean()), float(full.mean()), float(prior.mean()), completeness_ratio(own, full, prior, drawn)
        )
        for name, (own, full, prior) in compared.items()
    }


def concept_information_metrics(found: ConceptInformation) -> dict[str, float | Estimate]:
    """Metrics to keep, under `truth.`; those that could not be measured are left out."""
    figures: dict[str, float | Estimate] = {}
    if found.leakage is not None:
        figures |= {
            "leakage_concepts_task": found.leakage.concepts_task,
            "leakage_concepts_task_null": found.leakage.concepts_task_null,
            "leakage_interconcept": found.leakage.interconcept,
            "leakage_interconcept_null": found.leakage.interconcept_null,
            "leakage_beyond_own_concept": float(found.leakage.beyond.mean()),
        }
    names = {
        "beyond_truth": "leakage_beyond_truth",
        "soft_gain": "scores_beyond_yes_or_no",
        "by_name": "scores_beyond_random",
    }
    figures |= {name: found.gains[gain] for gain, name in names.items() if gain in found.gains}
    figures |= {f"completeness_{name}": own.ratio for name, own in found.completeness.items()}
    count, share = found.kept
    figures[f"top{count}_accuracy_kept"] = share
    figures[f"top{count}_kept_above_prior"] = found.carried.share
    figures["nec_average_accuracy"] = average_accuracy(found.effective, "weights", found.drawn)
    figures["effective_contributions"] = found.drawn.estimate(found.effective.number)
    figures["contribution_gap"] = found.effective.gap
    return recordables(figures)
