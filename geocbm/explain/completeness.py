"""Do the concepts suffice: what they tell as a part of what the whole picture tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.explain.probes import Reading
from geocbm.metrics import figure_text

if TYPE_CHECKING:
    from geocbm.metrics import Resamples
    from geocbm.run import Run

Figure = dict[str, float]

COMPLETENESS_WORDS = {
    "probe_country": "country, linear classifier on scores against one on the adapted features",
    "model_country": "country of the named cell, concepts alone against the whole model",
    "model_cell": "cell, concepts alone against the whole model",
}
"""What is compared, in the order of the page."""


def completeness_ratio(concepts: np.ndarray, full: np.ndarray, prior: np.ndarray, drawn: Resamples) -> Figure:
    """Accuracy of the concepts above that of guessing, as a part of the full model's (Yeh et al. 2020, definition 3.1).

    Args:
        concepts: `[m]` whether each picture is answered right from concepts alone.
        full: `[m]` the same with everything that the picture tells.
        prior: `[m]` the same without any picture: the most frequent label of the training split.
        drawn: resamples of the pictures' blocks.

    Returns:
        `value`, `low` and `high`; 1 where concepts are as good, more where they are better. All are NaN where the
        full model is no better than guessing beyond noise: a ratio with such a denominator says nothing.
    """
    if not drawn.difference(full, prior)["low"] > 0:
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    parts = [np.asarray(one, dtype=np.float64) for one in (concepts, full, prior)]

    def ratio(own: np.ndarray, whole: np.ndarray, guess: np.ndarray) -> np.ndarray:
        gap = whole - guess
        return np.where(gap > 0, (own - guess) / np.where(gap > 0, gap, 1.0), np.nan)

    value = float(ratio(*(one.mean(keepdims=True) for one in parts))[0])
    low, high = drawn.interval(ratio(*(drawn.means(one) for one in parts)))
    return {"value": value, "low": low, "high": high}


def model_rights(files: Run, named: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Whether models name the right cell, and a cell in the right country, on the test split.

    Args:
        files: the run.
        named: `[m]` the cells that each model names.

    Returns:
        `name -> {"cell": [m], "country": [m]}`, and under `prior` what the most frequent cell and country get.
    """
    train, test = files.rows["train"], files.rows["test"]
    cell, country = files.cell_label, files.country
    found = {
        name: {"cell": own == cell[test], "country": files.cells.country[own] == country[test]}
        for name, own in named.items()
    }
    names, counts = np.unique(country[train], return_counts=True)
    found["prior"] = {
        "cell": cell[test] == np.bincount(cell[train]).argmax(),
        "country": country[test] == names[counts.argmax()],
    }
    return found


def completeness_figures(
    readings: Mapping[str, Reading], rights: Mapping[str, Mapping[str, np.ndarray]], drawn: Resamples
) -> dict[str, tuple[float, float, float, Figure]]:
    """Accuracy from concepts, in full and by guessing, and the completeness, by the names of `COMPLETENESS_WORDS`.

    Args:
        readings: of `probes.country_readings`.
        rights: of `model_rights`, with the names `concept_scores`, `main` and `prior`; the first may be missing.
        drawn: resamples of the test split.
    """
    compared = {}
    if "scores" in readings:
        compared["probe_country"] = [readings[name].right for name in ("scores", "features", "prior")]
    if "concept_scores" in rights:
        for label in ("country", "cell"):
            compared[f"model_{label}"] = [rights[name][label] for name in ("concept_scores", "main", "prior")]
    return {
        name: (float(own.mean()), float(full.mean()), float(prior.mean()), completeness_ratio(own, full, prior, drawn))
        for name, (own, full, prior) in compared.items()
    }


def completeness_table(figures: Mapping[str, tuple[float, float, float, Figure]]) -> pd.DataFrame:
    """The figures in words."""
    lines = []
    for name, words in COMPLETENESS_WORDS.items():
        if name in figures:
            own, full, prior, ratio = figures[name]
            lines.append(
                {
                    "what is told": words,
                    "from concepts, %": f"{100 * own:.1f}",
                    "in full, %": f"{100 * full:.1f}",
                    "by guessing, %": f"{100 * prior:.1f}",
                    "completeness": figure_text(ratio, "{:.2f}") or "in full no better than guessing",
                }
            )
    return pd.DataFrame(lines)
