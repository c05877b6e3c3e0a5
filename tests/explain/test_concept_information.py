"""Concept information: completeness and everything that goes through the concepts of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geocbm.explain import probes
from geocbm.explain.concept_information import (
    concept_information_metrics,
    measure_completeness,
    measure_concept_information,
    right_answers,
)
from geocbm.explain.concept_labels import ConceptLabels, read_concept_labels
from geocbm.metrics import Resamples

if TYPE_CHECKING:
    from tiny_run import TinyRun


def test_completeness_of_a_run(trained_run: TinyRun) -> None:
    files = trained_run.files
    test = files.rows["test"]
    rights = right_answers(files, {"main": files.cell_label[test], "concept_scores": np.zeros(len(test), int)})
    assert rights["main"]["cell"].all() and rights["main"]["country"].all()
    right = probes.ProbeResult(rights["main"]["country"], np.zeros(len(test)))
    prior = probes.ProbeResult(rights["prior"]["country"], np.zeros(len(test)))
    drawn = Resamples(np.arange(len(test)), 20)
    figures = measure_completeness({"scores": right, "features": right, "prior": prior}, rights, drawn)
    assert list(figures) == ["probe_country", "model_country", "model_cell"]
    assert figures["probe_country"]["completeness"] == 1


def test_what_a_run_without_ground_truth_tells(trained_run: TinyRun, features, linear) -> None:
    files = trained_run.files
    cells = np.zeros(len(files.rows["test"]), dtype=int)
    pooled = features.read_all("pooled").numpy()
    found = measure_concept_information(files, linear, read_concept_labels(files), pooled, cells, n_resamples=20)
    assert found.leakage is None and len(found.names) == linear.scores.shape[1]
    assert found.effective.gap < 1e-4
    records = concept_information_metrics(found)
    assert "leakage_concepts_task" not in records and records["contribution_gap"] < 1e-4
    assert all(
        np.isfinite(list(figure.values()) if isinstance(figure, dict) else [figure]).all()
        for figure in records.values()
    )


def test_what_a_run_with_ground_truth_tells(trained_run: TinyRun, features, linear) -> None:
    files = trained_run.files
    generator = np.random.default_rng(0)
    shown = generator.random(linear.scores.shape) < 0.5
    presence = ConceptLabels(shown, np.ones_like(shown))
    cells = np.zeros(len(files.rows["test"]), dtype=int)
    found = measure_concept_information(
        files, linear, presence, features.read_all("pooled").numpy(), cells, n_resamples=20
    )
    assert {"hard", "true", "true_and_scores", "true_and_features"} <= set(found.probes)
    assert {"beyond_truth", "hidden", "over_truth"} <= set(found.gains)
