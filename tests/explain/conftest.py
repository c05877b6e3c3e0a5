"""What explanations of the tiny run start from; tests must not change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from geocbm.explain.interventions import InterventionModel, linear_cbm
from geocbm.explain.maps import MapModel
from geocbm.run import encoding, stages

if TYPE_CHECKING:
    from tiny_run import TinyRun
    from torch import Tensor

    from geocbm.encoders.features import FeatureStore


@pytest.fixture(scope="session")
def features(trained_run: TinyRun) -> FeatureStore:
    return trained_run.files.features("adapted")


@pytest.fixture(scope="session")
def concepts(trained_run: TinyRun, features: FeatureStore) -> dict[str, Tensor]:
    """What Stage 1 says of all pictures."""
    return stages.predict_concepts(trained_run.files, features)


@pytest.fixture(scope="session")
def linear(trained_run: TinyRun, features: FeatureStore, concepts: dict[str, Tensor]) -> InterventionModel:
    """The linear CBM, which the run has not trained."""
    return linear_cbm(trained_run.files, features, concepts)


@pytest.fixture(scope="session")
def map_model(trained_run: TinyRun, features: FeatureStore) -> MapModel:
    files = trained_run.files
    return MapModel(files, encoding.load_stage0(files)[1], features, stages.load_stage1(files))
