"""Coverage of regions by the distance to the training pictures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from geocbm import plots
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation import novelty
from geocbm.evaluation.novelty import NoveltyDetector
from geocbm.evaluation.uncertainty import assessment, conformal, measures
from geocbm.evaluation.uncertainty.conformal import Regions
from geocbm.metrics import Resamples


@pytest.fixture
def detector():
    """Validation distances 1 to 99: a distance d has the p-value (100 - d) / 100 for whole d."""
    one = np.zeros((1, 1))
    return NoveltyDetector(np.zeros(1), np.eye(1), one, one, np.array([[0.0, 1.0]] * 2), np.arange(1.0, 100.0), 1)


def test_bins_by_hand(detector):
    distance = np.array([1.5, 30.5, 60.5, 80.5, 92.5, 200.0])  # p 0.99, 0.7, 0.4, 0.2, 0.08, 0.01
    holds = np.array([True, False, True, True, True, False])
    region = Regions(0.9, 0.5, np.ones(6, int), np.ones(6), {"label": holds})
    found = SimpleNamespace(
        regions=[region], drawn=Resamples(np.arange(6), 50), right=np.array([True, True, False, True, True, False])
    )
    table = measures.coverage_by_novelty(found, detector, distance)
    assert table["bin"].tolist() == [
        "p 50 to 100 %",
        "p 25 to 50 %",
        "p 10 to 25 %",
        "p 5 to 10 %",
        "p up to 5 %: unlike",
    ]
    assert table["n"].tolist() == [2, 1, 1, 1, 1]
    assert table["value"].tolist() == [0.5, 1, 1, 1, 0]
    assert table["right"].tolist() == [1, 0, 1, 1, 0]
    assert table["distance"].tolist() == [16, 60.5, 80.5, 92.5, 200]
    alt = plots.coverage_by_novelty(table).layout.meta["alt"]
    assert "5 bins" in alt and "p up to 5 %: unlike" in alt


def test_a_bin_that_misses_none_is_not_certain(detector):
    region = Regions(0.9, 0.5, np.ones(20, int), np.ones(20), {"label": np.ones(20, bool)})
    found = SimpleNamespace(regions=[region], drawn=Resamples(np.arange(20), 100), right=np.ones(20, bool))
    row = measures.coverage_by_novelty(found, detector, np.full(20, 1.5)).iloc[0]
    # Clopper and Pearson: of 20 blocks without a miss the lower end is the 20th root of 0.025.
    assert (row["value"], row["high"]) == (1, 1) and row["low"] == pytest.approx(0.025 ** (1 / 20))


def test_nothing_without_images(detector):
    found = SimpleNamespace(regions=[], drawn=Resamples([0]), right=np.zeros(0, bool))
    table = measures.coverage_by_novelty(found, detector, np.zeros(0))
    assert not len(table)
    with pytest.raises(ValueError, match="at least one bin"):
        plots.coverage_by_novelty(table)


def test_every_test_image_of_a_run_is_in_one_bin(trained_run):
    files = trained_run.files
    places = evaluation.main_predictions(files)
    found = assessment.assess(files, places["lat"].to_numpy(), places["lng"].to_numpy(), n_resamples=20)
    detector, _ = novelty.read_novelty(files)
    assert detector is not None
    pooled = files.features("adapted").read("pooled", files.rows["test"]).numpy()
    table = measures.coverage_by_novelty(found, detector, detector.distances(pooled))
    assert set(table["coverage"]) == set(conformal.COVERAGES)
    for coverage, own in table.groupby("coverage"):
        assert own["n"].sum() == len(files.rows["test"])
        region = next(one for one in found.regions if one.coverage == coverage)
        assert (own["value"] * own["n"]).sum() == pytest.approx(region.holds["label"].sum())
