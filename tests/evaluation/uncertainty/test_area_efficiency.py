"""Searched ground and its summary, worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from geocbm import plots
from geocbm.evaluation.uncertainty import area_efficiency
from geocbm.evaluation.uncertainty.area_efficiency import BY_FREQUENCY, OWN
from geocbm.geocells.distribution import CellDistribution
from geocbm.geodesy import latlng_to_cartesian
from geocbm.metrics import Resamples, metric

KM2 = np.array([1e4, 2e4, 4e4])


def test_ground_up_to_the_true_cell():
    scores = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.2, 0.4], [0.2, 0.4, 0.4]])
    # found first; found last; the first of two equal cells; the second of two equal ones
    found = area_efficiency.searched_km2(scores, np.array([0, 0, 0, 2]), KM2)
    assert found.tolist() == [1e4, 7e4, 1e4, 6e4]
    assert area_efficiency.searched_km2(np.array([1, 3, 2]), np.array([0, 1, 2]), KM2).tolist() == [7e4, 2e4, 6e4]


def test_efficiency_is_the_area_under_the_curve():
    km2 = np.array([1e3, 1.5e8, np.sqrt(1e3 * 1.5e8), 10.0, 1e12])
    shares = area_efficiency.area_efficiency(km2)
    assert shares == pytest.approx([1, 0, 0.5, 1, 0])
    curve = area_efficiency.recall_curves({OWN: km2}, steps=20_001)
    assert np.trapezoid(curve["by probability"], dx=1 / 20_000) == pytest.approx(shares.mean(), abs=1e-4)


def test_orders_by_hand():
    """Three cells on the equator, two images: one believed in the right cell, one in the wrong, answered far away."""
    lng = np.array([0.0, 10.0, 50.0])
    files = SimpleNamespace(
        cells=type("Cells", (), {"centers": latlng_to_cartesian(np.zeros(3), lng), "__len__": lambda self: 3})(),
        cell_label=np.array([0, 2, 2, 1, 1, 1]),
        pictures={"train": np.arange(6)},
    )
    found = SimpleNamespace(
        calibrated=CellDistribution(np.log(np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]))),
        choice=SimpleNamespace(point="offset"),
        points={"offset": (np.zeros(2), np.array([9.0, np.nan]))},
        right=np.array([True, False]),
        true_cell=np.array([0, 1]),
        cell_km2=KM2,
        drawn=Resamples(np.arange(2), 20),
    )
    areas, table = area_efficiency.measure_areas(files, found)
    assert areas[OWN].tolist() == [1e4, 3e4]
    assert areas["distance"].tolist() == [3e4, 3e4]  # cell 1 is nearer to 9 degrees; no answer: the order of the cells
    assert areas[BY_FREQUENCY].tolist() == [7e4, 2e4]  # 3, 2 and 1 training pictures in the cells 1, 2 and 0
    assert table["median_km2"].tolist() == [2e4, 3e4, 4.5e4] and table["recall_10000"].tolist() == [0.5, 0, 0]
    worse = area_efficiency.area_efficiency(np.array([3e4])) - area_efficiency.area_efficiency(np.array([1e4]))
    assert table["over_probability"][1] == pytest.approx(worse[0] / 2)
    kept = area_efficiency.records(table)
    assert set(kept) == {
        "area_efficiency",
        "searched_km2",
        "area_efficiency_by_distance",
        "area_efficiency_by_frequency",
    }
    assert metric("sure.area_efficiency_by_distance").label == "area efficiency by distance"
    regions = table.assign(coverage=0.9, label=0.9, area_km2=5e4)[:1]
    alt = plots.recall_against_area(area_efficiency.recall_curves(areas), regions).layout.meta["alt"]
    assert "by training frequency half of the images within" in alt
