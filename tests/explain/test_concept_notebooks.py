"""Notebooks 08 and 09 on a tiny run, with the policy and the statistic of one's own."""

from __future__ import annotations

import numpy as np
import pytest
from notebook_cells import run_notebook


@pytest.fixture
def run_name(trained_run, tmp_path, monkeypatch):
    copy = trained_run.copy(tmp_path / "data" / "runs")
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GEOCBM_REPORTS", str(tmp_path / "reports"))
    return copy.folder.name


def test_an_own_policy_stands_beside_random_order(run_name):
    names = run_notebook("08_interventions", run=run_name, own_policy=True, examples=1, exchanges=1, bootstrap=10)
    assert set(names["mine"]["policy"]) == {"random", "mine"}
    assert names["mine"]["median_km"].iloc[0] == names["curve"]["median_km"].iloc[0]


def test_an_own_statistic_stands_beside_the_log_odds(run_name):
    names = run_notebook("09_field_guide", run=run_name, own_statistic=True, min_samples=2, countries=2, concepts=2)
    counts, own = names["guide"].counts, names["my_statistic"]
    assert own(counts).shape == counts.shape and np.isfinite(own(counts)).all()
    independent = np.outer([1.0, 3.0], [2.0, 5.0])
    np.testing.assert_allclose(own(independent), 0, atol=1e-12)
