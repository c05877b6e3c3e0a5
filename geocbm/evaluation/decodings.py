"""Decodings: every method under every point of its distribution, and Stage 2 against the strongest baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geocbm.evaluation.baselines.base import Prediction
from geocbm.evaluation.methods import in_order, is_baseline, label_of
from geocbm.metrics import Resamples, columns_of, country_of, entry_of, error_km, geoscore, recordable, spatial_blocks
from geocbm.run import Run

Interval = dict[str, float]

POINT_COLUMNS = {
    "own": "own place",
    "center": "cell centre",
    "offset": "cell and offset",
    "neighbours": "cell and neighbours",
    "mode": "mode",
    "expected_centers": "expected score, cell centres",
    "expected_places": "expected score, training places",
}
"""Points as the heads of columns."""

METRICS = ("geoscore", "median_km", "country_acc")
"""What every point of every method is measured by; the country is that of the place."""


def measure_decodings(run: Run, answers: Sequence[Prediction], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Every point of every method on the test split; methods without points are left out.

    Returns:
        A row per method and point, methods in the order of the page: `name`, `method` (its label), `point`, `chosen`
        (whether the method answers it), `val_geoscore` (NaN where unknown), and `geoscore`, `median_km` and
        `country_acc` (from 0 to 1), each with `_low` and `_high`. Empty without test images.
    """
    test = run.rows["test"]
    columns = ["name", "method", "point", "chosen", "val_geoscore"]
    columns += [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
    if not len(test):
        return pd.DataFrame(columns=columns)
    draws = Resamples(spatial_blocks(run.lat[test], run.lng[test]), n, seed)
    truth = country_of(run.lat[test], run.lng[test])
    by_name, rows = {answer.name: answer for answer in answers if answer.points}, []
    for name in in_order(list(by_name)):
        answer, choice = by_name[name], by_name[name].choice
        for point, (lat, lng) in answer.points.items():
            km, country = error_km(lat, lng, run.lat[test], run.lng[test]), country_of(lat, lng)
            seen = choice.val_metrics.get(point, {}) if choice else {}
            row: dict[str, Any] = {"name": name, "method": label_of(name, answer.detail), "point": point}
            row |= {"chosen": choice is not None and choice.point == point}
            row |= {"val_geoscore": seen.get("geoscore", np.nan)}
            row |= columns_of("geoscore", draws.estimate(geoscore(km)))
            row |= columns_of("median_km", draws.estimate(km, "median"))
            rows.append(row | columns_of("country_acc", draws.estimate((country == truth) & (country != ""))))
    return pd.DataFrame(rows, columns=columns)


def decoding_table(measured: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric of `METRICS` of every method that has several points: a row per method, a column per point."""
    several = measured[measured.groupby("name")["point"].transform("size") > 1]
    table = several.pivot(index="method", columns="point", values=metric)
    kept = [point for point in POINT_COLUMNS if point in table]
    return table.loc[list(dict.fromkeys(several["method"])), kept].rename(columns=POINT_COLUMNS)


def strongest_baseline(answers: Sequence[Prediction]) -> Prediction | None:
    """The baseline with the best GeoScore on the validation split, by its own best point; no oracle is one.

    None without validation images: the test split must not choose what it is compared with.
    """
    scores = {
        answer.name: (answer.choice.val_metrics[answer.choice.point]["geoscore"], answer)
        for answer in answers
        if is_baseline(answer.name) and answer.choice is not None and answer.choice.point in answer.choice.val_metrics
    }
    return max(scores.values(), key=lambda each: each[0])[1] if scores else None


def over_baseline(
    run: Run, answers: Sequence[Prediction], baseline: Prediction | None, n: int = 1000, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """What Stage 2 and each of its modes gain over a baseline on the same test images, paired, with intervals.

    Returns:
        By name of the head, `geoscore_change` and `median_km_change`, head minus baseline: above 0 is better for the
        GeoScore, below 0 for the median error. Nothing without test images.
    """
    test = run.rows["test"]
    if baseline is None or not len(test):
        return {}
    draws = Resamples(spatial_blocks(run.lat[test], run.lng[test]), n, seed)
    theirs = error_km(baseline.lat, baseline.lng, run.lat[test], run.lng[test])
    gains = {}
    for head in answers:
        if head.name.startswith(("stage2", "variant_")):
            ours = error_km(head.lat, head.lng, run.lat[test], run.lng[test])
            gains[head.name] = {
                "geoscore_change": draws.difference(geoscore(ours), geoscore(theirs)),
                "median_km_change": draws.difference(ours, theirs, "median"),
            }
    return {name: gains[name] for name in in_order(list(gains))}


def records(
    measured: pd.DataFrame, answers: Sequence[Prediction], gains: Mapping[str, Mapping[str, Interval]]
) -> dict[str, float | Interval]:
    """Metrics to keep by key: `decode.<method>.<point>.*`, `baseline.<name>.strongest` and `over_baseline.*`.

    The run's own head has the keys `over_baseline.<metric>_change`, another `over_baseline.<head>.<metric>_change`.
    """
    kept: dict[str, float | Interval | None] = {}
    several = measured.groupby("name")["point"].transform("size") > 1
    for row in measured.assign(several=several).to_dict("records"):
        key = f"decode.{row['name']}.{row['point']}"
        # A single point stands among the baselines.
        kept |= {f"{key}.{metric}": recordable(entry_of(row, metric)) for metric in METRICS if row["several"]}
        kept[f"{key}.val_geoscore"] = recordable(row["val_geoscore"])
        kept[f"{key}.chosen"] = float(row["chosen"])
    for answer in answers:
        if answer.name == "stage2" and answer.choice is not None and answer.choice.optimism is not None:
            kept["decode.stage2.optimism"] = answer.choice.optimism
    strongest = strongest_baseline(answers)
    if strongest is not None:
        kept[f"baseline.{strongest.name}.strongest"] = 1.0
    for head, own in gains.items():
        prefix = "over_baseline" if head == "stage2" else f"over_baseline.{head}"
        kept |= {f"{prefix}.{name}": recordable(change) for name, change in own.items()}
    return {key: value for key, value in kept.items() if value is not None}
