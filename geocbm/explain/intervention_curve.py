"""Intervention curve: the error of the model as it is told the truth about more and more of its concepts.

Koh et al. (2020, "Concept bottleneck models", section 5) correct concepts one after the other and follow the error of
the task. If the model reasons through its concepts, it falls. In which order concepts are corrected is an intervention
policy (Shin et al. 2023, "A closer look at the intervention procedure of concept bottleneck models"): a function of
the cases and the intervention values that gives every concept of every picture a priority.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from geocbm import metrics
from geocbm.errors import ParameterError
from geocbm.explain.concept_labels import ConceptLabels, InterventionValues
from geocbm.explain.interventions import MIN_SCORE, InterventionModel, correct_concepts
from geocbm.files.progress import track
from geocbm.geodesy import haversine_km
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
from geocbm.run import Run

UNITS = ("concepts", "families")
"""What is corrected in one step: a meta, or a parent with all its metas."""

STEPS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377)
PERCENTILES = (50.0, 60.0, 70.0, 80.0, 90.0, 95.0)
RANDOM_ORDERS = 5
"""Random orders that are averaged for each picture."""


@dataclass(frozen=True)
class Cases:
    """Pictures whose concepts are corrected."""

    scores: np.ndarray  # [B, k] of Stage 1
    labels: ConceptLabels
    parent_index: np.ndarray  # [k_m] parent of each meta
    lat: np.ndarray  # [B] true latitudes, degrees
    lng: np.ndarray  # [B] true longitudes, degrees
    locate: Callable[[Tensor], tuple[np.ndarray, np.ndarray]]  # from edited scores (B, k) to places [B], degrees
    contribution: np.ndarray | None = None  # [B, k] terms in the logit of the predicted cell, where it is their sum

    @classmethod
    def of_run(cls, run: Run, model: InterventionModel, labels: ConceptLabels, rows: np.ndarray) -> Cases:
        """Some pictures of a run; `labels` are those of all."""

        def locate(edited: Tensor) -> tuple[np.ndarray, np.ndarray]:
            places = model.predict(rows, edited, chunk=1024)
            return places.lat, places.lng

        scores = model.scores[rows].numpy()
        terms = predicted_cell_terms(model.head, scores) if model.head.config.reads_scores else None
        parents = run.concepts.parent_index
        return cls(scores, labels.at(rows), parents, run.lat[rows], run.lng[rows], locate, terms)

    def errors_km(self, corrected: np.ndarray, values: InterventionValues) -> np.ndarray:
        """`[B]` errors after the concepts of a mask `[B, k]` are corrected."""
        edited = correct_concepts(torch.from_numpy(self.scores), corrected, self.labels.present, values)
        return haversine_km(*self.locate(edited), self.lat, self.lng)


Policy = Callable[[Cases, InterventionValues, np.random.Generator], np.ndarray]
"""An intervention policy: priorities `[B, k]`, higher is corrected sooner."""


def random_order(cases: Cases, values: InterventionValues, generator: np.random.Generator) -> np.ndarray:
    """Concepts in random order."""
    return generator.random(cases.scores.shape)


def least_certain(cases: Cases, values: InterventionValues, generator: np.random.Generator) -> np.ndarray:
    """Nearness of the log score to the middle between its two values, in units of half their distance."""
    high, low = (_log(ends) for ends in (values.present, values.absent))
    return -np.abs(_log(cases.scores) - (high + low) / 2) / np.maximum(np.abs(high - low) / 2, 1e-9)


def largest_contribution(cases: Cases, values: InterventionValues, generator: np.random.Generator) -> np.ndarray:
    """Size of the concept's term in the logit of the predicted cell."""
    if cases.contribution is None:
        raise ParameterError("policy 'contribution' needs the contributions (B, k); give Cases.contribution")
    return np.abs(cases.contribution)


def largest_error(cases: Cases, values: InterventionValues, generator: np.random.Generator) -> np.ndarray:
    """How far a correction moves the log score; needs the truth, so it bounds what other policies can reach."""
    every = np.ones_like(cases.labels.present)
    right = correct_concepts(torch.from_numpy(cases.scores), every, cases.labels.present, values).numpy()
    return np.abs(_log(right) - _log(cases.scores))


POLICIES: dict[str, Policy] = {
    "random": random_order,
    "uncertain": least_certain,
    "contribution": largest_contribution,
    "error": largest_error,
}


def policy_priority(policy: Policy, cases: Cases, values: InterventionValues, seed: int = 0) -> np.ndarray:
    """Priorities `[B, k]` under a policy: -inf where nothing is known, lowest where the policy has none (NaN)."""
    priority = policy(cases, values, np.random.default_rng(seed))
    if priority.shape != cases.scores.shape:
        raise ParameterError(
            f"the policy gives shape {priority.shape}; give a priority each (B, k): {cases.scores.shape}"
        )
    return np.where(cases.labels.known, np.nan_to_num(priority, nan=-1e9), -np.inf)


def corrected_mask(priority: np.ndarray, n: int, unit: str, cases: Cases) -> np.ndarray:
    """Which concepts are corrected after `n` steps.

    With single concepts a parent follows from its metas: it is there once one of them is known to be, and it is not
    once all of them are known not to be. With families the highest priority among a family's metas and parent counts.
    `priority` `[B, k]` is of `policy_priority`, `unit` one of `UNITS`; the mask `[B, k]` holds at most the known ones.
    """
    labels, parent_index = cases.labels, cases.parent_index
    n_metas, n_parents = len(parent_index), int(parent_index.max()) + 1
    if unit == "families":
        owner = np.concatenate([parent_index, np.arange(n_parents)])
        highest = np.stack([priority[:, owner == p].max(axis=1) for p in range(n_parents)], axis=1)
        return _first(highest, n)[:, owner] & labels.known
    told, child = _first(priority[:, :n_metas], n), parent_index[:, None] == np.arange(n_parents)  # [k_m, k_p]
    found = (told & labels.present[:, :n_metas]) @ child
    empty = told.astype(int) @ child == child.sum(axis=0)
    return np.hstack([told, found | empty]) & labels.known


def _first(priority: np.ndarray, n: int) -> np.ndarray:
    rank = np.argsort(np.argsort(-priority, axis=1, kind="stable"), axis=1)
    return (rank < n) & np.isfinite(priority)


def _log(scores: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(scores, MIN_SCORE))


def steps_for(cases: Cases, unit: str) -> list[int]:
    """Numbers of corrected concepts at which the error is measured, the last one all that are known."""
    n_metas = len(cases.parent_index)
    known = cases.labels.known[:, n_metas:] if unit == "families" else cases.labels.known[:, :n_metas]
    most = int(known.sum(axis=1).max())
    if 3 < most <= 20:
        return [0, 1, *range(2, most, 2), most]
    return [*(n for n in STEPS if n < most), most]


def intervention_curve(
    cases: Cases,
    values: InterventionValues,
    policies: Mapping[str, Policy],
    unit: str = "concepts",
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Error against the number of corrected concepts.

    `values` are read from other pictures than the `cases`, `policies` are those by name ("random" is averaged over
    `RANDOM_ORDERS`), and `unit` is one of `UNITS`. Intervals are by blocks of 100 km.

    Returns:
        A row per policy and step: `unit`, `policy`, `n`, `median_km` and `geoscore` with `_low` and `_high`, and what
        the GeoScore gained on the best step before: `change` with `_low` and `_high` (NaN at step 0). These intervals
        are paired and hold for all steps of a curve together (Bonferroni).
    """
    blocks, steps = metrics.spatial_blocks(cases.lat, cases.lng), steps_for(cases, unit)
    jointly = 1 - 0.05 / max(1, len(steps) - 1)
    rows = []
    for name, policy in track(policies.items(), f"corrections by {unit}", unit="policy"):
        orders = RANDOM_ORDERS if name == "random" else 1
        priorities = [policy_priority(policy, cases, values, seed + order) for order in range(orders)]
        resamples = metrics.Resamples(np.tile(blocks, orders), n_resamples, seed)
        best: np.ndarray | None = None
        for n in steps:
            masks = [corrected_mask(priority, n, unit, cases) for priority in priorities]
            km = np.concatenate([cases.errors_km(mask, values) for mask in masks])
            points = metrics.geoscore(km)
            row: dict[str, object] = {"unit": unit, "policy": name, "n": n}
            row |= metrics.estimate_columns(resamples, {"median_km": km, "geoscore": points})
            change = metrics.NOT_MEASURED if best is None else resamples.difference(points, best, level=jointly)
            rows.append(row | metrics.columns_of("change", change))
            best = points if best is None or points.mean() > best.mean() else best
    return pd.DataFrame(rows)


def choose_values(cases: Cases, candidates: Sequence[InterventionValues]) -> tuple[InterventionValues, pd.DataFrame]:
    """Choose the intervention values by the mean GeoScore of the curves on validation pictures.

    Both units count, in random order: values that suit only a model that is told everything would be of little use.
    With the best values comes a row per candidate with its `percentile` and the mean `geoscore` of its curves.
    """
    tried = []
    for values in candidates:
        priority = policy_priority(random_order, cases, values)
        points = [
            float(metrics.geoscore(cases.errors_km(corrected_mask(priority, n, unit, cases), values)).mean())
            for unit in UNITS
            for n in steps_for(cases, unit)[1:]
        ]
        tried.append(float(np.mean(points)))
    best = candidates[int(np.argmax(tried))]
    return best, pd.DataFrame({"percentile": [one.percentile for one in candidates], "geoscore": tried})


def predicted_cell_terms(head: Stage2CrossAttentionGeoHead, scores: np.ndarray) -> np.ndarray:
    """Terms `[B, k]` of each concept in the logit of the predicted cell, for heads whose logits are sums."""
    found = []
    with torch.inference_mode():
        for some in torch.from_numpy(scores).split(64):
            terms, constants = head.concept_contributions(some.to(head.cell_head.weight.device))
            best = (terms.sum(-1) + constants).argmax(-1)
            found.append(terms[torch.arange(len(some)), best].cpu().numpy())
    return np.concatenate(found)


def curve_metrics(curve: pd.DataFrame) -> dict[str, float | metrics.Estimate]:
    """Metrics of curves, keys below `intervene`.

    Setbacks are steps at which the GeoScore lies below an earlier one by more than the interval: there should be none.
    """
    found: dict[str, float | metrics.Estimate] = {}
    for (unit, policy), points in curve.groupby(["unit", "policy"], sort=False):
        found[f"{unit}.{policy}.mean_geoscore"] = float(points["geoscore"].mean())
        found[f"{unit}.{policy}.setbacks"] = int((points["change_high"] < 0).sum())
    for step, end in (("none", 0), ("all", -1)):
        for name in ("median_km", "geoscore"):
            found[f"{step}.{name}"] = metrics.entry_of(curve.iloc[end].to_dict(), name)
    return metrics.recordables(found)
