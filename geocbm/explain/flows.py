"""How much goes from metas through parents to countries, over many pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from geocbm.errors import ParameterError
from geocbm.explain.contributions import country_terms, country_weights, weighted_terms
from geocbm.geocells.distribution import sum_by_place

if TYPE_CHECKING:
    from geocbm.explain.intervention_model import InterventionModel
    from geocbm.geocells import Geocells


@dataclass(frozen=True)
class Flows:
    """How much goes from metas through parents to countries.

    Attributes:
        meta_to_parent: columns `meta`, `parent`, `value`.
        parent_to_country: columns `parent`, `country`, `value`.
        what: the value in words.
    """

    meta_to_parent: pd.DataFrame
    parent_to_country: pd.DataFrame
    what: str


AS_A_WHOLE = " (as a family)"
REMAINING = "other concepts"


def concept_flows(
    amount: np.ndarray,
    country: np.ndarray,
    metas: Sequence[str],
    parents: Sequence[str],
    parent_index: np.ndarray,
    what: str,
    most: int = 24,
    most_countries: int = 12,
) -> Flows:
    """Sum what concepts give to countries over pictures, for a Sankey diagram.

    Args:
        amount: `[n, k]` what each concept of each picture gives, at least 0: positive terms of an explanation, or
            probabilities; metas and then parents, or metas alone.
        country: `[n]` the country that it goes to.
        metas: names.
        parents: names.
        parent_index: `[k_m]`.
        what: the amount in words.
        most: concepts with a node of their own; the others of a parent share one.
        most_countries: countries with a node of their own.

    Raises:
        ParameterError: a negative amount.
    """
    if (amount < 0).any():
        raise ParameterError(
            f"amount has the value {amount.min():.3g}; a flow cannot be negative, give the positive part"
        )
    n = len(metas)
    owner = np.concatenate([parent_index, np.arange(len(parents))])[: amount.shape[1]]
    per_concept = amount.sum(axis=0)
    large = set(np.argsort(-per_concept, kind="stable")[:most].tolist())
    first: dict[tuple[str, str], float] = {}
    for concept, value in enumerate(per_concept):
        parent = parents[owner[concept]]
        own = metas[concept] if concept < n else parent + AS_A_WHOLE
        node = own if concept in large else f"{REMAINING}: {parent}"
        first[node, parent] = first.get((node, parent), 0.0) + float(value)
    totals = (
        pd.Series(amount.sum(axis=1)).groupby(np.asarray(country)).sum().sort_values(ascending=False, kind="stable")
    )
    named = set(totals.index[:most_countries])
    shown = np.array([name if name in named else "other countries" for name in country])
    second: dict[tuple[str, str], float] = {}
    for parent in range(len(parents)):
        given = amount[:, owner == parent].sum(axis=1)
        for name, value in pd.Series(given).groupby(shown).sum().items():
            second[parents[parent], str(name)] = float(value)
    return Flows(
        pd.DataFrame([(*key, value) for key, value in first.items() if value > 0], columns=["meta", "parent", "value"]),
        pd.DataFrame(
            [(*key, value) for key, value in second.items() if value > 0], columns=["parent", "country", "value"]
        ),
        what,
    )


def place_of_cells(cells: Geocells) -> np.ndarray:
    """The place that each cell belongs to, `[N]`: its country, or the cell itself where all lie in one country."""
    country = np.asarray(cells.country).astype(str)
    if len(np.unique(country)) > 1:
        return country
    return np.array([f"cell {number}" for number in range(len(country))])


def flow_amounts(model: InterventionModel, rows: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What speaks for the named country in each picture, for `concept_flows`.

    Args:
        model: Stage 2 in mode `concept_scores` or `hybrid`: the positive terms of the log odds, scaled to sum to 1 in
            each picture. In other modes the probabilities of the metas, scaled likewise: there no exact terms exist.
        rows: pictures.
        place: `[N]` of `place_of_cells`.

    Returns:
        `[m, k]` or `[m, k_m]` amounts and `[m]` countries.
    """
    places = model.predict(rows)
    if model.head.config.reads_scores:
        logits = torch.from_numpy(places.logits)
        country, terms = country_terms(model.head, model.scores[rows], logits, place)
        amount = np.maximum(terms, 0.0)
    else:
        names, by_country = sum_by_place(places.probabilities, place)
        country = names[by_country.argmax(axis=1)]
        amount = model.scores[rows].numpy()[:, : model.n_metas]
    return amount / np.maximum(amount.sum(axis=1, keepdims=True), 1e-12), country


def picture_amounts(
    model: InterventionModel, row: int, place: np.ndarray, most: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """What speaks for each of the likeliest countries of one picture, for `concept_flows`.

    Args:
        model: Stage 2 in mode `concept_scores` or `hybrid`.
        row: the picture.
        place: `[N]` of `place_of_cells`.
        most: countries.

    Returns:
        `[C, k]` amounts, the positive terms of the log odds of each country, scaled to sum to its probability,
        and `[C]` countries.
    """
    places = model.predict(np.array([row]))
    logits, chance = torch.from_numpy(places.logits), places.probabilities[0]
    names, by_country = sum_by_place(chance, place)
    best = np.argsort(-by_country, kind="stable")[:most]
    inside = torch.from_numpy(np.asarray(place, dtype=str)[None] == names[best, None])  # (C, N)
    weights = country_weights(logits.expand(len(best), -1), inside)[0]
    terms, _ = weighted_terms(model.head, model.scores[[row]].expand(len(best), -1), weights)
    amount = np.maximum(terms.cpu().numpy(), 0.0)
    scaled = amount / np.maximum(amount.sum(axis=1, keepdims=True), 1e-12) * by_country[best, None]
    return scaled, names[best]
