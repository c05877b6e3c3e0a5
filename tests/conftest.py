"""What many tests share: tiny models, and one tiny run that went through all stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_run import TinyRun


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the saved tiny model of a family; tests must not change what lies in it."""
    from tiny_models import save_model

    root = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_model(root / family, family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, folders: Callable[[str], Path]) -> TinyRun:
    """A run with all stages trained for one epoch; tests must not change its files."""
    from tiny_run import train_tiny_run

    return train_tiny_run(tmp_path_factory.mktemp("tiny"), folders("clip"))


@pytest.fixture
def copied_run(trained_run: TinyRun, tmp_path: Path) -> TinyRun:
    """A copy of the trained run that a test may damage; the feature stores are copied too."""
    return trained_run.copy(tmp_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the chain begin first: with two workers its minutes are not added to those of the other tests."""
    items.sort(key=lambda item: item.get_closest_marker("chain") is None)
