"""Notebooks 01 and 02 on a small world: a table too small to measure on, and an own partition."""

from __future__ import annotations

import pandas as pd
import pytest
from notebook_cells import run_notebook

from geocbm.errors import ParameterError
from geocbm_atlas.dataset import write_atlas


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GEOCBM_REPORTS", str(tmp_path / "reports"))
    return tmp_path


def test_a_table_too_small_to_measure_on_is_refused_unless_the_run_only_trains(folder):
    csv = str(write_atlas(folder / "world", 3, seed=0, size=48))
    with pytest.raises(ParameterError, match="training_only=True"):
        run_notebook("01_data_exploration", run="small", csv=csv)
    assert run_notebook("01_data_exploration", run="small", csv=csv, training_only=True)["splits"]["test"] == []


def test_a_table_of_one_place_is_refused_before_anything_is_trained(folder):
    csv = write_atlas(folder / "world", 40, seed=0, size=48)
    pd.read_csv(csv).assign(lat=48.2, lng=16.4, country="Austria").to_csv(csv, index=False)
    run_notebook("01_data_exploration", run="one", csv=str(csv))
    with pytest.raises(ParameterError, match=r"min_samples_per_cell=\d+ puts all \d+ training images into one cell"):
        run_notebook("02_geocells", run="one")


def test_an_own_partition_stands_beside_the_packages(folder):
    csv = str(write_atlas(folder / "world", 120, seed=0, size=48))
    run_notebook("01_data_exploration", run="own", csv=csv)
    names = run_notebook("02_geocells", run="own", min_samples_per_cell=3, own_partition=True)
    assert len(names["compared"]["mine"]) == len(names["errors"]["test"])
    assert names["cells"].digest != names["mine"].digest
