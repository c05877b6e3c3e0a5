"""Decodings: every method under every point of its distribution, and Stage 2 against the strongest baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geocbm.evaluation.baselines.base import Prediction
from geocbm.evaluation.methods import ORACLES, TruePlaces, in_order, label_of
from geocbm.metrics import Estimate, entry_of, estimate_columns, recordables

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


def measure_decodings(truth: TruePlaces, answers: Sequence[Prediction]) -> pd.DataFrame:
    """Every point of every method on the test split; methods without points are left out.

    A row per method and point, methods in the order of the page: `name`, `method` (its label), `point`, `chosen`
    (whether the method answers it), `val_geoscore` (NaN where unknown), and `geoscore`, `median_km` and `country_acc`
    (from 0 to 1), each with `_low` and `_high`. Empty without test images.
    """
    columns = ["name", "method", "point", "chosen", "val_geoscore"]
    columns += [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
    rows = []
    for answer in in_order(answers) if len(truth) else ():
        choice = answer.choice
        for point, place in answer.points.items():
            row: dict[str, Any] = {"name": answer.name, "method": label_of(answer.name, answer.detail), "point": point}
            row["chosen"] = choice is not None and choice.point == point
            row["val_geoscore"] = choice.val_metrics.get(point, {}).get("geoscore", np.nan) if choice else np.nan
            rows.append(row | estimate_columns(truth.draws, truth.values(*place)))
    return pd.DataFrame(rows, columns=columns)


def decoding_table(measured: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric of `METRICS` of every method that has several points: a row per method, a column per point."""
    several = measured[measured.groupby("name")["point"].transform("size") > 1]
    table = several.pivot(index="method", columns="point", values=metric)
    kept = [point for point in POINT_COLUMNS if point in table]
    return table.loc[list(dict.fromkeys(several["method"])), kept].rename(columns=POINT_COLUMNS)


def strongest_baseline(answers: Sequence[Prediction]) -> Prediction | None:
    """The baseline with the best GeoScore on the validation split, by its own best point; no oracle or stage is one.

    None without validation images: the test split must not choose what it is compared with.
    """
    scores = {}
    for answer in answers:
        seen = answer.choice.val_metrics.get(answer.choice.point) if answer.choice else None
        if seen and answer.name not in ORACLES and not answer.name.startswith(("stage", "variant_")):
            scores[answer.name] = (seen["geoscore"], answer)
    return max(scores.values(), key=lambda each: each[0])[1] if scores else None


def over_baseline(
    truth: TruePlaces, answers: Sequence[Prediction], baseline: Prediction | None
) -> dict[str, dict[str, Estimate]]:
    """What Stage 2 and each of its modes gain over a baseline on the same test images, paired, with intervals.

    By name of the head, `geoscore_change` and `median_km_change`, head minus baseline: above 0 is better for the
    GeoScore, below 0 for the median error. Nothing without test images.
    """
    if baseline is None or not len(truth):
        return {}
    theirs, gains = truth.values(baseline.lat, baseline.lng), {}
    for head in in_order(answers):
        if head.name.startswith(("stage2", "variant_")):
            ours = truth.values(head.lat, head.lng)
            gains[head.name] = {
                "geoscore_change": truth.draws.difference(ours["geoscore"], theirs["geoscore"]),
                "median_km_change": truth.draws.difference(ours["median_km"], theirs["median_km"], "median"),
            }
    return gains


def records(
    measured: pd.DataFrame, answers: Sequence[Prediction], gains: Mapping[str, Mapping[str, Estimate]]
) -> dict[str, float | Estimate]:
    """Metrics to keep by key: `decode.<method>.<point>.*`, `baseline.<name>.strongest` and `over_baseline.*`.

    The run's own head has the keys `over_baseline.<metric>_change`, another `over_baseline.<head>.<metric>_change`.
    """
    kept: dict[str, float | Estimate] = {}
    several = measured.groupby("name")["point"].transform("size") > 1
    for row in measured.assign(several=several).to_dict("records"):
        key = f"decode.{row['name']}.{row['point']}"
        # A single point stands among the baselines.
        kept |= {f"{key}.{metric}": entry_of(row, metric) for metric in METRICS if row["several"]}
        kept |= {f"{key}.val_geoscore": row["val_geoscore"], f"{key}.chosen": float(row["chosen"])}
    for answer in answers:
        if answer.name == "stage2" and answer.choice is not None and answer.choice.optimism is not None:
            kept["decode.stage2.optimism"] = answer.choice.optimism
    if strongest := strongest_baseline(answers):
        kept[f"baseline.{strongest.name}.strongest"] = 1.0
    for head, own in gains.items():
        prefix = "over_baseline" if head == "stage2" else f"over_baseline.{head}"
        kept |= {f"{prefix}.{name}": change for name, change in own.items()}
    return recordables(kept)
