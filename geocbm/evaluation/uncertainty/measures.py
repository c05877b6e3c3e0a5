"""Metrics of uncertainty: calibration, coverage, points, larger places and selective prediction, with intervals."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from geocbm import metrics
from geocbm.errors import ParameterError
from geocbm.evaluation.novelty import NoveltyDetector
from geocbm.evaluation.uncertainty.assessment import Assessment
from geocbm.evaluation.uncertainty.conformal import Regions
from geocbm.metrics.table import Metric

CONFIDENCE_LABELS = {
    "probability": "probability of the named cell",
    "entropy": "entropy of the distribution",
    "area": "area of the 90 % region",
    "expected_km": "expected distance",
}
"""Ways to order images from the most to the least certain."""

_SHARE = metrics.metric("stage2.cell_top1").relabelled
LABELS: dict[str, str | Metric] = {
    "ece_by_chance": _SHARE("the same by chance"),
    "confidence": _SHARE("mean confidence"),
    "accuracy": metrics.metric("stage2.cell_top1"),
    "coverage": _SHARE("wanted"),
    "label": _SHARE("holds the true cell"),
    "nearest": _SHARE("holds the nearest cell"),
    "spread": _SHARE("spread over calibration images"),
    "area_km2": metrics.metric("sure.area_90_km2").relabelled("median area"),
    "area_10_km2": metrics.metric("sure.area_90_km2").relabelled("area, 10 %"),
    "area_90_km2": metrics.metric("sure.area_90_km2").relabelled("area, 90 %"),
    "name": "order",
    "area": _SHARE("mean share beyond 750 km"),
    "gain": _SHARE("of the way from random to best"),
    "part": "quarter",
    "expected_km": metrics.metric("stage2.mean_km").relabelled("expected distance"),
    "val_geoscore": metrics.metric("stage2.geoscore").relabelled("GeoScore on validation"),
    "single": _SHARE("by the likeliest cell or the answer"),
    "summed": _SHARE("by sums over cells"),
    "change": metrics.metric("truth.scores_beyond_x").relabelled("change"),
}
"""What the columns of these tables are called and how they are written, for `metrics.readable`."""

P_VALUES = (0.5, 0.25, 0.1, 0.05)
"""Ends of bins by novelty: shares of validation images that are at least as far from the training pictures."""

POINT_KEYS = {"mode": "mode", "expected_centers": "expected_centre", "expected_places": "expected"}
"""Points by the names that their keys have; the argmax is called so, whichever point it is."""

CITY_KM, FAR_KM = 25.0, 750.0
PARTS = 4
"""Parts of the test split from most to least localizable."""

STEPS = 100
"""Evenly spaced shares of images that are kept, from the surest on."""


@dataclass(frozen=True)
class UncertaintyMetrics:
    """What was measured on the test split. An interval is `<name>`, `<name>_low`, `<name>_high`. Empty without images.

    Attributes:
        found: the assessment.
        calibration: rows `raw` and `calibrated`: `nll` (nats), `ece`, `ece_by_chance` (that error of a perfectly
            calibrated model), `confidence` (mean probability of the named cell) and `accuracy`.
        coverage: a row per wanted `coverage`: shares of regions that hold the cell of the `label` and the `nearest`
            one, with intervals, `spread` (standard deviation of the coverage over draws of the calibration images:
            Vovk 2012), median `cells`, and the 10, 50 and 90 % quantiles of the area, km².
        points: a row per possible `point`: `val_geoscore`, `median_km`, `geoscore` and `geoscore_change` (against the
            run's answer, paired) with intervals, and the shares `acc_25km` and `acc_750km`.
        named: rows `country` and `region`: `single` and `summed` (see `Assessment.named`) and their paired `change`.
        risk: of `risk_areas`, a row for each order, then `random` and `oracle`.
    """

    found: Assessment
    calibration: pd.DataFrame  # rows `raw`, `calibrated`: `nll`, `ece`, `ece_by_chance`, mean `confidence`, `accuracy`
    coverage: pd.DataFrame  # per wanted `coverage`: regions that hold `label` and `nearest` cell, `spread`, sizes
    points: pd.DataFrame  # per possible `point`: its metrics, and the paired `geoscore_change` against the run's answer
    named: pd.DataFrame  # `country`, `region`: `single` and `summed` of `Assessment.named`, and their paired `change`
    risk: pd.DataFrame  # of `risk_areas`, a row for each order, then `random` and `oracle`


def measure(found: Assessment) -> UncertaintyMetrics:
    """Measure an assessment."""
    if not len(found.right):
        nothing = pd.DataFrame()
        return UncertaintyMetrics(
            found, nothing, nothing, nothing, nothing, pd.DataFrame(columns=["name", "area", "gain"])
        )
    named: list[dict[str, Any]] = [
        {"level": level}
        | metrics.estimate_columns(found.drawn, right)
        | metrics.columns_of("change", found.drawn.difference(right["summed"], right["single"]))
        for level, right in found.named.items()
    ]
    return UncertaintyMetrics(
        found,
        _calibration(found),
        pd.DataFrame([_coverage(found, one) for one in found.regions]),
        pd.DataFrame([_point(found, name) for name in found.points]),
        pd.DataFrame(named),
        risk_areas(found.confidence, found.km()),
    )


def _calibration(found: Assessment) -> pd.DataFrame:
    rows = {}
    for name, belief in (("raw", found.raw), ("calibrated", found.calibrated)):
        probability = found.named_probability[name]
        rows[name] = {
            "nll": metrics.negative_log_likelihood(belief.logits, found.true_cell, belief.temperature),
            "ece": metrics.expected_calibration_error(probability, found.right),
            "ece_by_chance": metrics.calibration_error_by_chance(probability),
            "confidence": float(probability.mean()),
            "accuracy": float(found.right.mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _coverage(found: Assessment, one: Regions) -> dict[str, float]:
    low, median, high = np.quantile(one.area_km2, (0.1, 0.5, 0.9))
    return (
        {"coverage": one.coverage}
        | metrics.columns_of("label", found.drawn.estimate(one.holds["label"]))
        | {"spread": float(np.sqrt(one.coverage * (1 - one.coverage) / (found.n_val + 2)))}
        | metrics.columns_of("nearest", found.drawn.estimate(one.holds["nearest"]))
        | {"cells": float(np.median(one.cells)), "area_km2": median, "area_10_km2": low, "area_90_km2": high}
    )


def _point(found: Assessment, name: str) -> dict[str, Any]:
    km = found.km(name)
    score, of_run = metrics.geoscore(km), metrics.geoscore(found.km())
    return (
        {"point": name, "val_geoscore": found.choice.val_metrics.get(name, {}).get("geoscore", np.nan)}
        | metrics.estimate_columns(found.drawn, {"median_km": km, "geoscore": score})
        | metrics.columns_of("geoscore_change", found.drawn.difference(score, of_run))
        | {"acc_25km": float((km <= CITY_KM).mean()), "acc_750km": float((km <= FAR_KM).mean())}
    )


def records(measured: UncertaintyMetrics) -> dict[str, float | metrics.Estimate]:
    """Metrics to keep, each under `sure.<name>`; what was not measured or is infinite is left out."""
    found = measured.found
    kept: dict[str, float | metrics.Estimate] = {}
    if len(measured.calibration):
        raw, calibrated = measured.calibration.to_dict("records")
        kept |= {"ece": raw["ece"], "nll": raw["nll"]}
        if found.n_val:
            kept |= {"ece_calibrated": calibrated["ece"], "nll_calibrated": calibrated["nll"]}
    if found.n_val:
        kept["temperature"] = found.temperature
    for row in measured.coverage.to_dict("records"):
        name = f"{100 * row['coverage']:.0f}"
        kept |= {f"coverage_{name}": metrics.entry_of(row, "label"), f"area_{name}_km2": float(row["area_km2"])}
    keys = POINT_KEYS | {found.argmax: "argmax"}
    for row in measured.points.to_dict("records"):
        if row["point"] in keys:
            own = f"point_{keys[row['point']]}"
            kept |= {f"{own}.{name}": metrics.entry_of(row, name) for name in ("geoscore", "median_km")}
    kept |= {f"risk_{row['name']}": float(row["area"]) for row in measured.risk.to_dict("records")}
    for row in measured.named.to_dict("records"):
        kept |= {f"{row['level']}_{name}": metrics.entry_of(row, name) for name in ("single", "summed")}
    return metrics.recordables(kept)


def risk_coverage(confidence: np.ndarray, km: np.ndarray) -> pd.DataFrame:
    """Error among the photographs that are kept when the least sure ones are left out (El-Yaniv & Wiener 2010).

    Minus the error as `confidence` `[n]` gives the best possible order; `km` `[n]` is infinite where there is no
    answer. Columns are `kept` (share of the photographs), `n`, `median_km` and `beyond_750km` (share of the kept).
    """
    ordered, counts, far = _kept(confidence, km)
    medians = [float(np.median(ordered[:count])) for count in counts]
    kept = np.arange(1, STEPS + 1) / STEPS
    return pd.DataFrame({"kept": kept, "n": counts, "median_km": medians, "beyond_750km": far})


def _kept(confidence: np.ndarray, km: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors from the surest on, how many are kept at each share, and the share of far ones among them.

    NaN stands last; ties stand in random order, so that they gain nothing.
    """
    if not len(km) or len(km) != len(confidence):
        raise ParameterError(
            f"confidence has {len(confidence)} and km has {len(km)} entries; give one for each photograph"
        )
    sure, lot = np.asarray(confidence, dtype=float), np.random.default_rng(0).random(len(km))
    ordered = np.asarray(km, dtype=float)[np.lexsort((lot, np.where(np.isnan(sure), np.inf, -sure)))]
    counts = np.maximum(1, np.ceil(np.arange(1, STEPS + 1) / STEPS * len(km) - 1e-9)).astype(int)
    return ordered, counts, np.cumsum(~(ordered <= FAR_KM))[counts - 1] / counts


def risk_areas(orders: dict[str, np.ndarray], km: np.ndarray) -> pd.DataFrame:
    """Area under the curve of the share beyond 750 km, for several `orders` by confidence `[n]`, by name.

    Columns are `name`, `area` (mean share beyond 750 km over all shares kept) and `gain`: how much of the way from a
    random order (0) to the order by the true error (1) it goes; NaN where both are the same. The last two rows are
    these two, `random` and `oracle`.
    """
    random, oracle = float((~(km <= FAR_KM)).mean()), float(_kept(-km, km)[2].mean())
    rows = [(name, float(_kept(sure, km)[2].mean())) for name, sure in orders.items()]
    table = pd.DataFrame([*rows, ("random", random), ("oracle", oracle)], columns=["name", "area"])
    return table.assign(gain=(random - table["area"]) / (random - oracle if random > oracle else np.nan))


def risk_curves(found: Assessment) -> dict[str, pd.DataFrame]:
    """Risk-coverage curves of all orders, and of the order by the true error, by label."""
    km = found.km()
    curves = {CONFIDENCE_LABELS[name]: risk_coverage(values, km) for name, values in found.confidence.items()}
    return curves | {"true error (best possible)": risk_coverage(-km, km)}


def localizability(found: Assessment) -> pd.DataFrame:
    """Expected against measured distance, for `PARTS` of the test split from most to least localizable.

    A row per part: `part` from 1, `n`, `expected_km` (mean), `mean_km` and `median_km`. An image without an answer has
    no expected distance: it stands in the last part, whose means are then infinite or unknown.
    """
    km, rows = found.km(), []
    for part, own in enumerate(np.array_split(np.argsort(found.expected_km, kind="stable"), PARTS), start=1):
        if len(own):
            measured = {"mean_km": float(km[own].mean()), "median_km": float(np.median(km[own]))}
            rows.append({"part": part, "n": len(own), "expected_km": float(found.expected_km[own].mean())} | measured)
    return pd.DataFrame(rows)


def coverage_by_novelty(found: Assessment, detector: NoveltyDetector, distance: np.ndarray) -> pd.DataFrame:
    """How often regions hold the true cell, among test images ever farther from the training pictures.

    `distance` `[m]` is that of the test images (`NoveltyDetector.distances`). A row per bin that has images, the
    nearest first, and per wanted coverage: `bin` (range of p-values), `n`, `distance` (median), `right` (share of right
    cells), `coverage` (wanted), `value`, `low` and `high` of the measured one.
    """
    p_value = detector.p_values(distance)
    edges = [1.0, *(p for p in P_VALUES if p > detector.level), detector.level, 0.0]
    bins = {}
    for high, low in pairwise(edges):
        label = f"p {100 * low:g} to {100 * high:g} %" if low else f"p up to {100 * high:.2g} %: unlike"
        bins[label] = (p_value <= high) & (p_value > low)
    columns = ["bin", "n", "distance", "right", "coverage", "value", "low", "high"]
    held = {str(one.coverage): one.holds["label"] for one in found.regions}
    measured = {"median_distance": distance, "right": found.right, **held}
    wide = metrics.estimates_by_group(found.drawn, bins, measured)
    wide = wide.rename(columns={"group": "bin", "median_distance": "distance"})
    rows = [
        {**row, "coverage": one.coverage, **metrics.entry_of(row, str(one.coverage))}
        for row in wide.to_dict("records")
        for one in found.regions
    ]
    return pd.DataFrame(rows, columns=columns)
