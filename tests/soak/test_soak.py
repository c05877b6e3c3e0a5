"""The campaigns of reliability in short; in full: make soak."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.__main__ import FULL

SHORT = {"kills": 4, "work": 2, "disks": 4}
"""How many trials of each campaign; of the others a handful."""
HANDFUL = 8
THERE = [name for name in FULL if (Path(__file__).parent / f"{name}.py").is_file()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Campaigns share the chain in it that nobody disturbs."""
    return tmp_path_factory.mktemp("soak")


@pytest.mark.parametrize("name", THERE)
def test_a_few_trials_of_a_campaign_hold(name: str, folder: Path) -> None:
    count = SHORT.get(name, HANDFUL)
    trials: Iterator = importlib.import_module(f"tests.soak.{name}").campaign(count, 1, folder / name)
    seen = list(trials)
    assert len(seen) >= count
    assert not [(trial.what, trial.seen) for trial in seen if not trial.held]
