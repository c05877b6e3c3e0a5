"""Ablation of all concepts: what the model still knows when every concept gets its baseline score.

A model that reasons through its concepts then knows no more than the prior. The answer that is left is one place for
all pictures; in mode `concept_scores` it comes from the biases of the linear layer alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geocbm import metrics
from geocbm.explain.concept_labels import ConceptLabels, InterventionValues
from geocbm.explain.interventions import InterventionModel, correct_concepts
from geocbm.geocells.building import medoid
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.run import Run

AS_SEEN, REMOVED = "with its concepts", "all concepts ablated"
FREQUENT, CENTRAL = "prior: the most frequent cell", "prior: the place in the middle"
CELL_METRICS = ("cell_acc", "log_loss")
AT, BETTER, WORSE = "at the prior", "better than the prior", "below the prior"
MARGIN_NATS = 0.1
"""By so much may the log loss lie above the prior's before "below" is said: a tenth of the true cell's probability."""


def interval_of(ablated: pd.DataFrame, method: str, name: str) -> dict[str, float]:
    """A metric of one method of `ablate_all_concepts` with its interval."""
    return metrics.entry_of(ablated.set_index("method").to_dict("index")[method], name)


def ablate_all_concepts(
    run: Run, model: InterventionModel, rows: np.ndarray, n_resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare the model without concepts with two priors.

    `FREQUENT` answers with the centre of the most frequent cell and believes in each cell as often as training
    pictures lie in it. `CENTRAL` is the training place with the smallest median distance to the others; it names no
    cell. Intervals are by blocks of 100 km.

    Returns:
        A row per method: `method`, `median_km`, `geoscore`, `cell_acc` (share of right cells) and `log_loss` (mean of
        `-log p` of the true cell, nats), each with `_low` and `_high`; `cell_acc_change` and `log_loss_change` are
        paired differences from the most frequent cell.
    """
    lat, lng, cell = run.lat[rows], run.lng[rows], run.cell_label[rows]
    train, cells = run.pictures["train"], run.cells
    resamples = metrics.Resamples(metrics.spatial_blocks(lat, lng), n_resamples, seed)
    counts = np.bincount(run.cell_label[train], minlength=len(cells))
    centre = [float(values[0]) for values in cartesian_to_latlng(cells.centers[[counts.argmax()]])]
    middle = train[medoid(run.lat[train], run.lng[train], seed)]

    def of_cells(probabilities: np.ndarray) -> dict[str, np.ndarray]:
        """`CELL_METRICS` `[m]` of probabilities `[m, N]`."""
        of_truth = np.maximum(probabilities[np.arange(len(cell)), cell], 1e-12)
        return {"cell_acc": (probabilities.argmax(1) == cell).astype(float), "log_loss": -np.log(of_truth)}

    prior = of_cells(np.tile(counts / counts.sum(), (len(rows), 1)))
    seen, without = model.predict(rows), model.predict(rows, model.baseline.expand(len(rows), -1))
    answers: list[tuple[str, Any, Any, dict[str, np.ndarray]]] = [
        (AS_SEEN, seen.lat, seen.lng, of_cells(seen.probabilities)),
        (REMOVED, without.lat, without.lng, of_cells(without.probabilities)),
        (FREQUENT, centre[0], centre[1], prior),
        (CENTRAL, run.lat[middle], run.lng[middle], {}),
    ]
    table = []
    for method, answer_lat, answer_lng, measured in answers:
        km = haversine_km(answer_lat, answer_lng, lat, lng)
        row: dict[str, object] = {"method": method}
        row |= metrics.estimate_columns(resamples, {"median_km": km, "geoscore": metrics.geoscore(km)})
        for name in CELL_METRICS:
            row |= metrics.estimate_columns(resamples, {name: measured.get(name)})
            change = resamples.difference(measured[name], prior[name]) if name in measured else metrics.NOT_MEASURED
            row |= metrics.columns_of(f"{name}_change", change)
        table.append(row)
    return pd.DataFrame(table)


def against_prior(ablated: pd.DataFrame) -> str:
    """Where the model without concepts stands: `AT`, `BETTER` or `WORSE` than how often each cell occurs.

    It is better where it names the true cell more often than the most frequent cell does, or believes more in it than
    its frequency says, and worse where it believes less in it by more than `MARGIN_NATS`: each beyond the interval of
    the paired difference. `ablated` is of `ablate_all_concepts`.
    """
    by_method = ablated.set_index("method")
    without, prior = by_method.loc[REMOVED], by_method.loc[FREQUENT]
    if without["cell_acc_change_low"] > 0 or without["log_loss_change_high"] < 0:
        return BETTER
    return WORSE if without["log_loss_change_low"] > 0 and without["log_loss"] - prior["log_loss"] > MARGIN_NATS else AT


def intervention_effect_by_mode(
    run: Run,
    models: Mapping[str, InterventionModel],
    labels: ConceptLabels,
    values: InterventionValues,
    rows: np.ndarray,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How far an edit of all concepts reaches in each mode (`models`): what bypasses the concepts no edit can change.

    `labels` are those of all pictures; intervals are by blocks of 100 km. A row per mode: `mode`, and `seen_km`,
    `told_km` (all that is known is corrected) and `removed_km`, median errors with `_low` and `_high`.
    """
    lat, lng = run.lat[rows], run.lng[rows]
    resamples, known = metrics.Resamples(metrics.spatial_blocks(lat, lng), n_resamples, seed), labels.at(rows)
    table = []
    for mode, model in models.items():
        corrected = correct_concepts(model.scores[rows], known.known, known.present, values)
        row: dict[str, object] = {"mode": mode}
        for name, edited in (("seen", None), ("told", corrected), ("removed", model.baseline.expand(len(rows), -1))):
            places = model.predict(rows, edited)
            km = haversine_km(places.lat, places.lng, lat, lng)
            row |= metrics.columns_of(f"{name}_km", resamples.estimate(km, "median"))
        table.append(row)
    return pd.DataFrame(table)


def ablation_metrics(ablated: pd.DataFrame, effect: pd.DataFrame) -> dict[str, float | dict[str, float]]:
    """Metrics of `ablate_all_concepts` and `intervention_effect_by_mode`, keys below `intervene`."""
    found: dict[str, float | dict[str, float]] = {}
    for method, key in ((REMOVED, "removed_all"), (FREQUENT, "prior")):
        for name in CELL_METRICS:
            found[f"{key}.{name}"] = interval_of(ablated, method, name)
    found["prior.median_km"] = interval_of(ablated, FREQUENT, "median_km")
    for row in effect.to_dict("records"):
        for name in ("told", "removed"):
            found[f"{row['mode']}.{name}_median_km"] = metrics.entry_of(row, f"{name}_km")
    return metrics.recordables(found | {"removed_all.falls_to_prior": float(against_prior(ablated) == AT)})
