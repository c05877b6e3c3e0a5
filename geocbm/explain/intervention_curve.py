"""The test-time intervention curve: how far off the model is when it is told the truth about some of its concepts.

Koh et al. (2020, "Concept bottleneck models", section 5) correct concepts one after the other and follow the error of
the task. If the model reasons through its concepts, it falls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from geocbm.errors import ParameterError
from geocbm.explain.concept_labels import ConceptLabels, InterventionValues, intervention_values
from geocbm.explain.interventions import LEAST_SCORE, correct_concepts
from geocbm.geodesy import haversine_km
from geocbm.metrics import Resamples, geoscore, spatial_blocks

if TYPE_CHECKING:
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead

POLICIES = {
    "random": "in random order",
    "uncertain": "the least certain first",
    "contribution": "the largest contribution first",
    "error": "the largest error first (needs the truth)",
}
"""Orders in which concepts are corrected, and what they are called."""

UNITS = {"concepts": "concepts", "families": "families of concepts"}
"""What is corrected in one step: a meta, or a parent with all its metas."""

STEPS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377)
PERCENTILES = (50.0, 60.0, 70.0, 80.0, 90.0, 95.0)
DRAWS = 5
"""Random orders that are tried for each picture."""

Locate = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]
"""From edited scores `(B, k)` to latitudes and longitudes `[B]`, degrees."""


def policy_priority(
    policy: str,
    scores: np.ndarray,
    presence: ConceptLabels,
    levels: InterventionValues,
    contribution: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """How soon each concept is corrected under a policy.

    Args:
        policy: a key of `POLICIES`. "uncertain": the nearer the logarithm of a score is to the middle between its two
            levels, in units of half their distance. "error": the further a correction moves it.
        scores: `[B, k]`.
        presence: what is known of these pictures.
        levels: scores that stand for "there" and "not there".
        contribution: `[B, k]` terms in the logit of the cell that is named, for the policy "contribution".
        seed: of the random order.

    Returns:
        `[B, k]`, higher is sooner; -inf where nothing is known.

    Raises:
        ParameterError: an unknown policy, or no contributions for the one that needs them.
    """
    if policy not in POLICIES:
        raise ParameterError(f"policy={policy!r} is unknown; known: {', '.join(POLICIES)}")
    if policy == "random":
        value = np.random.default_rng(seed).random(scores.shape)
    elif policy == "contribution":
        if contribution is None:
            raise ParameterError("policy='contribution' needs the contributions (B, k); give contribution")
        value = np.abs(contribution)
    elif policy == "uncertain":
        high, low = (np.log(np.maximum(ends, LEAST_SCORE)) for ends in (levels.present, levels.absent))
        half = np.maximum(np.abs(high - low) / 2, 1e-9)
        value = -np.abs(_log(scores) - (high + low) / 2) / half
    else:
        every = np.ones_like(presence.present)
        right = correct_concepts(torch.from_numpy(scores), every, presence.present, levels).numpy()
        value = np.abs(_log(right) - _log(scores))
    return np.where(presence.known, np.nan_to_num(value, nan=-1e9), -np.inf)


def corrected_mask(
    urgent: np.ndarray, n: int, unit: str, presence: ConceptLabels, parent_index: np.ndarray
) -> np.ndarray:
    """Which concepts are corrected after `n` steps.

    With single concepts a parent follows from its metas: it is there once one of them is known to be, and it is not
    once all of them are known not to be. With families the largest priority among a family's metas and parent counts.

    Args:
        urgent: `[B, k]` of `policy_priority`.
        n: steps.
        unit: a key of `UNITS`.
        presence: what is known of these pictures.
        parent_index: `[k_m]`.

    Returns:
        `[B, k]` booleans; at most the known ones.
    """
    if unit not in UNITS:
        raise ParameterError(f"unit={unit!r} is unknown; known: {', '.join(UNITS)}")
    n_metas, n_parents = len(parent_index), int(parent_index.max()) + 1
    told = np.zeros_like(presence.known)
    if unit == "families":
        owner = np.concatenate([parent_index, np.arange(n_parents)])
        largest = np.stack([urgent[:, owner == p].max(axis=1) for p in range(n_parents)], axis=1)
        return _soonest(largest, n)[:, owner] & presence.known
    told[:, :n_metas] = _soonest(urgent[:, :n_metas], n)
    for p in range(n_parents):
        children = np.flatnonzero(parent_index == p)
        found = (told[:, children] & presence.present[:, children]).any(axis=1)
        told[:, n_metas + p] = found | told[:, children].all(axis=1)
    return told & presence.known


def _soonest(urgent: np.ndarray, n: int) -> np.ndarray:
    rank = np.argsort(np.argsort(-urgent, axis=1, kind="stable"), axis=1)
    return (rank < n) & np.isfinite(urgent)


def _log(scores: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(scores, LEAST_SCORE))


def steps_for(presence: ConceptLabels, unit: str, parent_index: np.ndarray) -> list[int]:
    """Numbers of corrected concepts at which the error is measured, the last one all that are known."""
    n_metas = len(parent_index)
    known = presence.known[:, n_metas:] if unit == "families" else presence.known[:, :n_metas]
    most = int(known.sum(axis=1).max())
    if 3 < most <= 20:
        return [0, 1, *range(2, most, 2), most]
    return [*(n for n in STEPS if n < most), most]


def intervention_curve(
    locate: Locate,
    scores: np.ndarray,
    presence: ConceptLabels,
    levels: InterventionValues,
    parent_index: np.ndarray,
    lat: np.ndarray,
    lng: np.ndarray,
    policies: Sequence[str] = tuple(POLICIES),
    unit: str = "concepts",
    contribution: np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Error against the number of corrected concepts.

    Args:
        locate: what the model answers to edited scores of these pictures.
        scores: `[B, k]` of Stage 1.
        presence: what is known of them.
        levels: scores that stand for "there" and "not there", measured on other pictures.
        parent_index: `[k_m]`.
        lat: `[B]` true latitudes, degrees.
        lng: `[B]` true longitudes, degrees.
        policies: orders to try.
        unit: a key of `UNITS`.
        contribution: `[B, k]`, for the policy "contribution".
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of the random orders and the resamples.

    Returns:
        A row per policy and step: `unit`, `policy`, `n`, `median_km` and `geoscore` with `_low` and `_high`, and what
        the GeoScore gained on the best step before: `change` with `_low` and `_high` (NaN at step 0). These intervals
        are paired and hold for all steps of a curve together (Bonferroni).
    """
    blocks = spatial_blocks(lat, lng)
    given, steps = torch.from_numpy(scores), steps_for(presence, unit, parent_index)
    jointly = 1 - 0.05 / max(1, len(steps) - 1)
    rows = []
    for policy in policies:
        draws = DRAWS if policy == "random" else 1
        ranked = [policy_priority(policy, scores, presence, levels, contribution, seed + draw) for draw in range(draws)]
        resamples = Resamples(np.tile(blocks, draws), n_resamples, seed)
        best: np.ndarray | None = None
        for n in steps:
            km = []
            for urgent in ranked:
                told = corrected_mask(urgent, n, unit, presence, parent_index)
                place = locate(correct_concepts(given, told, presence.present, levels))
                km.append(haversine_km(*place, lat, lng))
            errors = np.concatenate(km)
            points = geoscore(errors)
            row = {"unit": unit, "policy": policy, "n": n}
            row |= _figure("median_km", resamples.figure(errors, "median"))
            row |= _figure("geoscore", resamples.figure(points))
            change = dict.fromkeys(("value", "low", "high"), float("nan"))
            if best is not None:
                change = resamples.difference(points, best, level=jointly)
            rows.append(row | _figure("change", change))
            best = points if best is None or points.mean() > best.mean() else best
    return pd.DataFrame(rows)


def _figure(name: str, interval: dict[str, float]) -> dict[str, float]:
    return {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}


def non_monotone_steps(curve: pd.DataFrame) -> pd.DataFrame:
    """Steps at which the GeoScore lies below an earlier one by more than the interval: a curve should have none."""
    return curve[curve["change_high"] < 0]


def choose_levels(
    locate: Locate,
    scores: np.ndarray,
    presence: ConceptLabels,
    rows: np.ndarray,
    more_rows: np.ndarray,
    parent_index: np.ndarray,
    lat: np.ndarray,
    lng: np.ndarray,
    percentiles: Sequence[float] = PERCENTILES,
    seed: int = 0,
) -> tuple[InterventionValues, pd.DataFrame]:
    """Choose the percentile of the levels by the mean GeoScore of the curves on the validation split.

    Both units count, in random order: a level that suits only a model that is told everything would be of little use.

    Args:
        locate: what the model answers to edited scores of the validation pictures.
        scores: `[n, k]` of all pictures.
        presence: what is known of all pictures.
        rows: validation pictures.
        more_rows: pictures to add for concepts with too few of them (`intervention_values`).
        parent_index: `[k_m]`.
        lat: `[n]` degrees.
        lng: `[n]` degrees.
        percentiles: to try.
        seed: of the random orders.

    Returns:
        The levels, and a row per percentile with the mean `geoscore` of its curves.
    """
    known, given = presence.at(rows), scores[rows]
    tried = []
    for percentile in percentiles:
        levels = intervention_values(scores, presence, rows, more_rows, percentile)
        points = []
        for unit in UNITS:
            urgent = policy_priority("random", given, known, levels, seed=seed)
            for n in steps_for(known, unit, parent_index)[1:]:
                told = corrected_mask(urgent, n, unit, known, parent_index)
                place = locate(correct_concepts(torch.from_numpy(given), told, known.present, levels))
                points.append(float(geoscore(haversine_km(*place, lat[rows], lng[rows])).mean()))
        tried.append((levels, float(np.mean(points))))
    best = max(tried, key=lambda pair: pair[1])[0]
    return best, pd.DataFrame({"percentile": list(percentiles), "geoscore": [points for _, points in tried]})


def named_cell_terms(head: Stage2CrossAttentionGeoHead, scores: np.ndarray, chunk: int = 64) -> np.ndarray:
    """Terms `[B, k]` of each concept in the logit of the cell that is named, for heads whose logits are sums."""
    found = []
    with torch.inference_mode():
        for some in torch.from_numpy(scores).split(chunk):
            terms, constants = head.concept_contributions(some.to(head.cell_head.weight.device))
            best = (terms.sum(-1) + constants).argmax(-1)
            found.append(terms[torch.arange(len(some)), best].cpu().numpy())
    return np.concatenate(found)
