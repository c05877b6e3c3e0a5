"""Every figure of an assessment with its interval, measured once: tables and records read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from geocbm.evaluation.uncertainty.assessment import Assessment
from geocbm.evaluation.uncertainty.selective_prediction import FAR_KM, risk_areas
from geocbm.metrics import (
    Resamples,
    calibration_error_by_chance,
    expected_calibration_error,
    geoscore,
    negative_log_likelihood,
    recordable,
)

Figure = dict[str, float]
CITY_KM = 25.0
POINT_KEYS = {"mode": "mode", "expected_centers": "expected_centre", "expected_places": "expected"}
"""Points by the names that their records have; the argmax is called so, whichever point it is."""


@dataclass(frozen=True)
class SureFigures:
    """What was measured on the test split; an interval is `value`, `low` and `high`. Without test images all is empty.

    Attributes:
        found: the assessment.
        calibration: `nll` (nats), `ece`, `chance` (that error of a perfectly calibrated model) and `confidence` (mean
            probability of the named cell), `as trained` and `with the temperature`.
        coverage: for each wanted coverage and kind of truth, the share of regions that hold it.
        points: for each possible answer `median_km`, `geoscore`, `change` (of the GeoScore against the run's answer,
            paired), and without an interval the shares `within_25km` and `within_750km`.
        named: for `country` and `region` the share named right, `single`, `summed` (see `Assessment.named`) and their
            `change`.
        risk: of `risk_areas`, a row for each way to be sure, then `random` and `oracle`.
    """

    found: Assessment
    calibration: dict[str, dict[str, float]]
    coverage: dict[float, dict[str, Figure]]
    points: dict[str, dict[str, Figure]]
    named: dict[str, dict[str, Figure]]
    risk: pd.DataFrame


def measure(found: Assessment, n: int = 1000, seed: int = 0) -> SureFigures:
    """Measure an assessment; all intervals share their draws of spatial blocks.

    Args:
        found: of `assess`.
        n: resamples behind each interval.
        seed: of the resamples.
    """
    if not len(found.right):
        return SureFigures(found, {}, {}, {}, {}, pd.DataFrame(columns=["name", "area", "gain"]))
    draws = Resamples(found.blocks, n, seed)
    coverage = {one.coverage: {name: draws.figure(held) for name, held in one.holds.items()} for one in found.regions}
    named = {
        level: {
            "single": draws.figure(right["single"]),
            "summed": draws.figure(right["summed"]),
            "change": draws.difference(right["summed"], right["single"]),
        }
        for level, right in found.named.items()
    }
    risk = risk_areas(found.sureness, found.km())
    risk["name"] = [*found.sureness, "random", "oracle"]
    return SureFigures(found, calibration_figures(found), coverage, _points(found, draws), named, risk)


def calibration_figures(found: Assessment) -> dict[str, dict[str, float]]:
    """Likelihood and calibration error of the test split, as trained and calibrated (see `SureFigures.calibration`)."""
    return {
        name: {
            "nll": negative_log_likelihood(belief.logits, found.true_cell, belief.temperature),
            "ece": expected_calibration_error(confidence, found.right),
            "chance": calibration_error_by_chance(confidence),
            "confidence": float(confidence.mean()),
        }
        for name, belief, confidence in (
            ("as trained", found.raw, found.confidence(False)),
            ("with the temperature", found.calibrated, found.confidence(True)),
        )
    }


def _points(found: Assessment, draws: Resamples) -> dict[str, dict[str, Figure]]:
    own = geoscore(found.km())
    figures = {}
    for name in found.points:
        km = found.km(name)
        score = geoscore(km)
        figures[name] = {
            "median_km": draws.figure(km, "median"),
            "geoscore": draws.figure(score),
            "change": draws.difference(score, own),
            "within_25km": _alone(km <= CITY_KM),
            "within_750km": _alone(km <= FAR_KM),
        }
    return figures


def _alone(hits: np.ndarray) -> Figure:
    return {"value": float(hits.mean()), "low": float("nan"), "high": float("nan")}


def records(figures: SureFigures) -> dict[str, float | Figure]:
    """Figures to keep, each under `sure.<name>`.

    A figure without an interval is a number; what was not measured or is infinite is left out.
    """
    found = figures.found
    kept: dict[str, float | Figure | None] = {}
    if figures.calibration:
        before, after = figures.calibration.values()
        kept |= {"ece": before["ece"], "nll": before["nll"]}
        if found.n_val:
            kept |= {"ece_calibrated": after["ece"], "nll_calibrated": after["nll"]}
    if found.n_val:
        kept["temperature"] = found.temperature
    for one in found.regions if figures.coverage else []:
        name = f"{100 * one.coverage:.0f}"
        kept[f"coverage_{name}"] = recordable(figures.coverage[one.coverage]["label"])
        kept[f"area_{name}_km2"] = float(np.median(one.area_km2))
    for name, key in (POINT_KEYS | {found.argmax: "argmax"}).items():
        if name in figures.points:
            kept[f"point_{key}.geoscore"] = recordable(figures.points[name]["geoscore"])
            kept[f"point_{key}.median_km"] = recordable(figures.points[name]["median_km"])
    kept |= {f"risk_{name}": float(area) for name, area in zip(figures.risk["name"], figures.risk["area"], strict=True)}
    for level, own in figures.named.items():
        kept |= {f"{level}_{name}": recordable(own[name]) for name in ("single", "summed")}
    return {name: value for name, value in kept.items() if value is not None}
