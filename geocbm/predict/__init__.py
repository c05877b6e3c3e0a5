"""Answers for one's own photographs: load a run, hand it pictures, get places with their reasons.

model = GeoCBM.load("demo")
answers = model.predict(["road.jpg"])
answers[0].lat, answers[0].lng, answers[0].concepts[:3]
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`GeoCBM`, imported when it is asked for: the command looks at its arguments before torch is imported."""
    if name == "GeoCBM":
        from geocbm.predict.model import GeoCBM

        return GeoCBM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
