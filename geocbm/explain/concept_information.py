"""What goes through the concepts of a run: leakage, readings, effective concepts and completeness together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.explain.completeness import COMPLETENESS_WORDS, completeness_figures, model_rights
from geocbm.explain.leakage import Leakage, measure_leakage
from geocbm.explain.probes import Reading, country_readings, reading_gains
from geocbm.explain.sparsity import Carried, Effective, average_accuracy, carried, effective_concepts, kept_share
from geocbm.metrics import Resamples, figure_text, recordable, spatial_blocks

if TYPE_CHECKING:
    from geocbm.explain.concept_labels import ConceptLabels
    from geocbm.explain.interventions import InterventionModel
    from geocbm.run import Run

Figure = dict[str, float]
READ_AT_ONCE = 5
"""Contributions that a person reads: so many are asked to carry a decision."""


@dataclass(frozen=True)
class Told:
    """What scores tell of the place on the test split.

    Attributes:
        drawn: resamples of the test split, shared by all figures.
        names: `k` concepts and families, in the order of the scores.
        leakage: information beyond the true concepts; None where these are not known.
        readings: what a classifier reads of the country, by the names of `probes.READING_WORDS`.
        gains: differences of readings, by the names of `probes.GAIN_WORDS`.
        effective: decisions with few concepts.
        completeness: by the names of `completeness.COMPLETENESS_WORDS`.
        prior_right: `[m]` whether the most frequent cell of the training split is the right one.
    """

    drawn: Resamples
    names: tuple[str, ...]
    leakage: Leakage | None
    readings: dict[str, Reading]
    gains: dict[str, Figure]
    effective: Effective
    completeness: dict[str, tuple[float, float, float, Figure]]
    prior_right: np.ndarray

    @property
    def answerable(self) -> bool:
        """Whether a country of the test split is in the training split; a country that was left out is not."""
        return not bool(np.isnan(self.readings["prior"].log_likelihood).all())

    @property
    def kept(self) -> tuple[int, Figure]:
        """How many contributions a person is taken to read, and the part of the accuracy that they keep."""
        count = max(count for count in self.effective.counts if count <= READ_AT_ONCE)
        return count, kept_share(self.effective, count, self.drawn)

    @property
    def carried(self) -> Carried:
        """What the contributions that a person reads carry, held against the prior and random concepts."""
        return carried(self.effective, self.kept[0], self.prior_right, self.drawn)


def measure_told(
    files: Run,
    model: InterventionModel,
    presence: ConceptLabels,
    pooled: np.ndarray,
    main_cells: np.ndarray,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Told:
    """Measure on the test split how much goes through the concepts, and how much beside them.

    Args:
        files: the run.
        model: its strict bottleneck (`linear_cbm`).
        presence: what is known of the true concepts.
        pooled: `[n, d]` adapted features of all pictures.
        main_cells: `[m]` cells that the run's main mode names for the test pictures.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of resamples, random orders and random directions.
    """
    from threadpoolctl import threadpool_limits

    test, scores = files.rows["test"], model.scores.numpy()
    blocks = spatial_blocks(files.lat[test], files.lng[test])
    drawn = Resamples(blocks, n_resamples, seed)
    # Hundreds of small products: with several threads on a busy machine they take ten times as long.
    with threadpool_limits(limits=1):
        readings = country_readings(files, scores, presence, pooled, seed)
    effective = effective_concepts(model.head, model.scores[test], files.cell_label[test], seed=seed)
    rights = model_rights(files, {"main": main_cells, "concept_scores": effective.named})
    leakage = None
    if presence.complete and len(np.unique(files.country[test])) > 1:
        try:
            with threadpool_limits(limits=1):
                leakage = measure_leakage(scores[test], presence.present[test], files.country[test], blocks, seed=seed)
        except ParameterError:  # of a handful of pictures nothing can be said, and the page says so
            leakage = None
    return Told(
        drawn,
        (*files.concepts.metas, *files.concepts.parents),
        leakage,
        readings,
        reading_gains(readings, drawn),
        effective,
        completeness_figures(readings, rights, drawn),
        rights["prior"]["cell"],
    )


def leakage_in_words(told: Told) -> str:
    """What can be said of leakage, in a few sentences."""
    found = told.leakage
    if found is None:
        soft = told.gains.get("soft_gain")
        gain = "" if soft is None else f"{100 * soft['value']:+z.1f} points"
        said = gain and f" What scores tell beyond the concepts named is {gain}."
        return (
            "Which concepts can truly be seen is not known for enough pictures, so that leakage cannot be measured: a "
            f"score may tell of the country because of its concept or for other reasons.{said}"
        )
    over = int((found.predicted > found.truth).sum())
    return (
        f"Of {len(found.kept)} concepts and families, {over} have a score that tells more of the country than the "
        f"concept itself. On average a score tells {found.predicted.mean():.1%} of the entropy of the country and its "
        f"concept {found.truth.mean():.1%}; {found.beyond.mean():.1%} is told by the score when its own concept is "
        "known already, through the other concepts of the picture or past all of them."
    )


def leakage_table(told: Told) -> pd.DataFrame:
    """Concepts-task and interconcept leakage in words; no rows where there is no truth."""
    found = told.leakage
    if found is None:
        return pd.DataFrame()
    rows = (
        ("concepts-task leakage (CTL)", found.concepts_task, found.concepts_task_null),
        ("interconcept leakage (ICL)", found.interconcept, found.interconcept_null),
    )
    return pd.DataFrame(
        [
            {
                "figure": name,
                "value": figure_text(figure, "{:.4f}"),
                "where nothing leaks": f"{null:.4f}",
            }
            for name, figure, null in rows
        ]
    )


def told_records(told: Told) -> dict[str, float | Figure]:
    """Figures to keep, under `truth.`; those that could not be measured are left out."""
    figures: dict[str, float | Figure] = {}
    if told.leakage is not None:
        figures |= {
            "leakage_concepts_task": told.leakage.concepts_task,
            "leakage_concepts_task_null": told.leakage.concepts_task_null,
            "leakage_interconcept": told.leakage.interconcept,
            "leakage_interconcept_null": told.leakage.interconcept_null,
            "leakage_beyond_own_concept": float(told.leakage.beyond.mean()),
        }
    names = {
        "beyond_truth": "leakage_beyond_truth",
        "soft_gain": "scores_beyond_yes_or_no",
        "by_name": "scores_beyond_random",
    }
    figures |= {name: told.gains[gain] for gain, name in names.items() if gain in told.gains}
    figures |= {
        f"completeness_{name}": told.completeness[name][3] for name in COMPLETENESS_WORDS if name in told.completeness
    }
    count, share = told.kept
    figures[f"top{count}_accuracy_kept"] = share
    figures[f"top{count}_kept_above_prior"] = told.carried.share
    figures["nec_average_accuracy"] = average_accuracy(told.effective, "weights", told.drawn)
    figures["effective_contributions"] = told.drawn.figure(told.effective.number)
    figures["contribution_gap"] = told.effective.gap
    kept = {name: recordable(figure) if isinstance(figure, dict) else figure for name, figure in figures.items()}
    return {name: figure for name, figure in kept.items() if figure is not None and np.all(np.isfinite(_ends(figure)))}


def _ends(figure: float | Figure) -> list[float]:
    return list(figure.values()) if isinstance(figure, dict) else [figure]
