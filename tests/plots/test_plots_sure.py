"""Figures of how sure the model is: what they draw and what they tell someone who cannot see them."""

from __future__ import annotations

import numpy as np
import pytest

from geocbm import plots
from geocbm.evaluation.uncertainty.measures import risk_coverage


def test_reliability_before_and_after():
    fig = plots.reliability_before_after([0.9, 0.9, 0.9, 0.9], [0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0])
    assert [trace.name for trace in fig.data] == [
        "perfect calibration",
        "as trained (ECE 0.400)",
        "calibrated (ECE 0.000)",
    ]
    alt = fig.layout.meta["alt"]
    assert "4 images, of which 50.0 % have the right cell" in alt
    assert "calibrated the mean confidence is 50.0 %" in alt


def test_curves_of_risk():
    km = np.array([100.0, 2000.0, 300.0, 900.0])
    curves = {"probability": risk_coverage(-km, km), "true error (best possible)": risk_coverage(-km, km)}
    fig = plots.risk_coverage(curves)
    assert len(fig.data) == 4
    alt = fig.layout.meta["alt"]
    assert "all of them 600 km and 50.0 %" in alt
    assert "the more certain half by probability 200 km and 0.0 %" in alt
    with pytest.raises(ValueError, match="curves is empty"):
        plots.risk_coverage({})
