"""Concept information: what goes through the concepts of a run, and what beside them, measured together."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from geocbm.errors import ParameterError
from geocbm.explain.concept_labels import ConceptLabels
from geocbm.explain.interventions import InterventionModel
from geocbm.explain.leakage import Leakage, measure_leakage
from geocbm.explain.probes import GAINS, ProbeResult, probe_country, probe_gains
from geocbm.explain.sparsity import Carried, EffectiveConcepts, carried, completeness_ratio, effective_concepts
from geocbm.metrics import Estimate, Resamples, columns_of, entry_of, interval_frame, recordables, spatial_blocks
from geocbm.run import Run

READ_AT_ONCE = 5
"""Contributions that a person reads: so many are asked to carry a decision."""


@dataclass(frozen=True)
class ConceptInformation:
    """What scores tell of the place on the test split."""

    drawn: Resamples  # of the test split, shared by all metrics
    names: tuple[str, ...]  # k concepts and families, in the order of the scores
    leakage: Leakage | None  # information beyond the true concepts; None where these are not known
    probes: dict[str, ProbeResult]  # what a classifier reads of the country, by the names of `probes.INPUTS`
    gains: dict[str, Estimate]  # differences of probes, by the names of `probes.GAINS`
    effective: EffectiveConcepts  # decisions with few concepts
    completeness: dict[str, dict[str, float]]  # rows of `measure_completeness`
    read_count: int  # how many contributions a person is taken to read
    carried: Carried  # what these carry, held against the prior and random concepts

    @property
    def answerable(self) -> bool:
        """Whether a country of the test split is in the training split; a country that was left out is not."""
        return not bool(np.isnan(self.probes["prior"].log_likelihood).all())

    def probe_table(self) -> pd.DataFrame:
        """What each probe reads: `input` and `country_acc` with its interval."""
        shares = {name: {"country_acc": self.drawn.estimate(own.right)} for name, own in self.probes.items()}
        return interval_frame(shares, "input")

    def gain_table(self) -> pd.DataFrame:
        """Differences of probes: `gain`, what it `reads` and `instead of` what, and `country_acc_change`."""
        return pd.DataFrame(
            {"gain": name, "reads": GAINS[name][0], "instead of": GAINS[name][1]}
            | columns_of("country_acc_change", own)
            for name, own in self.gains.items()
        )

    def completeness_table(self) -> pd.DataFrame:
        """Accuracies behind each completeness, shares, and `completeness` with its interval."""
        said = {
            "probe_country": "country, by probes",
            "model_country": "country, by the heads",
            "model_cell": "cell, by the heads",
        }
        return pd.DataFrame([{"what": said[name]} | own for name, own in self.completeness.items()])


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

    `linear` is the run's linear CBM, `pooled` `[n, d]` are the adapted features of all pictures, and `main_cells` `[m]`
    the cells that the main mode names for the test pictures. Intervals are by blocks of 100 km.
    """
    test, scores = run.pictures["test"], linear.scores.numpy()
    blocks = spatial_blocks(run.lat[test], run.lng[test])
    drawn = Resamples(blocks, n_resamples, seed)
    effective = effective_concepts(linear.head, linear.scores[test], run.cell_label[test], seed)
    rights = right_answers(run, {"main": main_cells, "concept_scores": effective.named})
    leakage = None
    # Hundreds of small products: with several threads on a busy machine they take ten times as long.
    with threadpool_limits(limits=1):
        probes = probe_country(run, scores, labels, pooled, seed)
        if labels.complete and len(np.unique(run.country[test])) > 1:
            with suppress(ParameterError):  # of a handful of pictures nothing can be said
                leakage = measure_leakage(scores[test], labels.present[test], run.country[test], blocks, seed=seed)
    read_count = max(count for count in effective.counts if count <= READ_AT_ONCE)
    return ConceptInformation(
        drawn=drawn,
        names=(*run.concepts.metas, *run.concepts.parents),
        leakage=leakage,
        probes=probes,
        gains=probe_gains(probes, drawn),
        effective=effective,
        completeness=measure_completeness(probes, rights, drawn),
        read_count=read_count,
        carried=carried(effective, read_count, rights["prior"]["cell"], drawn),
    )


def right_answers(run: Run, named: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Whether models that name cells `[m]` are right on the test split: `name -> {"cell": [m], "country": [m]}`.

    Under `prior` stands what the most frequent cell and country get.
    """
    train, test = run.pictures["train"], run.pictures["test"]
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
) -> dict[str, dict[str, float]]:
    """Accuracy from concepts as a part of the accuracy from everything (Yeh et al. 2020), of the test split.

    Of `probes` those that can be had: of the country by a linear classifier (`probe_country`); and of `rights`
    (`right_answers` with `concept_scores` and `main`): of country and cell by the linear CBM against the main mode
    (`model_country`, `model_cell`). Each has the shares `from concepts`, `from everything` and `by guessing`, and
    `completeness` with `_low` and `_high`.
    """
    compared = {}
    if "scores" in probes:
        compared["probe_country"] = [probes[name].right for name in ("scores", "features", "prior")]
    for label in ("country", "cell"):
        compared[f"model_{label}"] = [rights[name][label] for name in ("concept_scores", "main", "prior")]
    return {
        name: {
            "from concepts": float(own.mean()),
            "from everything": float(full.mean()),
            "by guessing": float(prior.mean()),
        }
        | columns_of("completeness", completeness_ratio(own, full, prior, drawn))
        for name, (own, full, prior) in compared.items()
    }


def concept_information_metrics(found: ConceptInformation) -> dict[str, float | Estimate]:
    """Metrics to keep, under `truth.`; those that could not be measured are left out."""
    kept: dict[str, float | Estimate] = {}
    if found.leakage is not None:
        names = ("concepts_task", "concepts_task_null", "interconcept", "interconcept_null")
        kept |= {f"leakage_{name}": getattr(found.leakage, name) for name in names}
        kept["leakage_beyond_own_concept"] = float(found.leakage.beyond.mean())
    gains = {
        "beyond_truth": "leakage_beyond_truth",
        "soft_gain": "scores_beyond_yes_or_no",
        "by_name": "scores_beyond_random",
    }
    kept |= {name: found.gains[gain] for gain, name in gains.items() if gain in found.gains}
    kept |= {f"completeness_{name}": entry_of(own, "completeness") for name, own in found.completeness.items()}
    effective, drawn, count = found.effective, found.drawn, found.read_count
    kept |= {
        f"top{count}_accuracy_kept": effective.kept_share(count, drawn),
        f"top{count}_kept_above_prior": found.carried.share,
        "nec_average_accuracy": effective.average_accuracy(drawn),
        "effective_contributions": drawn.estimate(effective.number),
        "contribution_gap": effective.gap,
    }
    return recordables(kept)
