"""Explorers: one call in a notebook's cell to look closely at one part of a run.

In JupyterLab each is a set of controls with figures that follow; in a page, which has no Python, the same call leaves
what can be shown without. Each takes an opened run (`geocbm.open_run`).
"""

from importlib import import_module
from typing import Any

_FILES = {
    "data": "pictures_by_place",
    "cells": "cells_by_size",
    "concepts": "concepts_by_score",
    "batch": "training_step",
    "predictions": "answered_pictures",
    "what_if": "concept_sliders",
    "photograph": "own_photograph",
    "guess": "guessing_game",
}


def __getattr__(name: str) -> Any:
    """An explorer, imported when it is asked for: a page that shows none need not wait for torch."""
    if name in _FILES:
        return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers."""
    return list(_FILES)
