"""Concept flows: how much goes from metas through parents to countries, over many pictures (a Sankey diagram)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from geocbm.errors import ParameterError
from geocbm.explain.attribution import country_terms, place_of_cells
from geocbm.geocells.distribution import sum_by_place

if TYPE_CHECKING:
    from geocbm.data.concepts import ConceptVocabulary
    from geocbm.explain.interventions import InterventionModel
    from geocbm.geocells import Geocells


@dataclass(frozen=True)
class Flows:
    """How much goes from metas through parents to countries."""

    meta_to_parent: pd.DataFrame  # columns meta, parent, value
    parent_to_country: pd.DataFrame  # columns parent, country, value
    what: str  # what the value is


def concept_flows(
    amount: np.ndarray, country: np.ndarray, concepts: ConceptVocabulary, what: str, most: int = 26, countries: int = 12
) -> Flows:
    """Sum what concepts give to countries over pictures.

    Args:
        amount: `[n, k]` what each concept of each picture gives, at least 0: positive terms of an explanation, or
            probabilities; metas and then parents, or metas alone.
        country: `[n]` the country that it goes to.
        concepts: names and hierarchy.
        what: what the amount is.
        most: concepts with a node of their own; the others of a parent share one.
        countries: countries with a node of their own.

    Raises:
        ParameterError: a negative amount.
    """
    if (amount < 0).any():
        raise ParameterError(
            f"amount has the value {amount.min():.3g}; a flow cannot be negative, give the positive part"
        )
    k = amount.shape[1]
    parents = np.array(concepts.parents, dtype=object)
    owner = np.concatenate([concepts.parent_index, np.arange(len(parents))])[:k]
    node = np.array([*concepts.metas, *(f"{name} (as a family)" for name in parents)], dtype=object)[:k]
    large = np.zeros(k, dtype=bool)
    large[np.argsort(-amount.sum(axis=0), kind="stable")[:most]] = True
    node = np.where(large, node, [f"other concepts: {name}" for name in parents[owner]])
    first = pd.DataFrame({"meta": node, "parent": parents[owner], "value": amount.sum(axis=0)})
    totals = (
        pd.Series(amount.sum(axis=1)).groupby(np.asarray(country)).sum().sort_values(ascending=False, kind="stable")
    )
    shown = np.where(np.isin(country, totals.index[:countries]), country, "other countries")
    of_parent = np.stack([amount[:, owner == p].sum(axis=1) for p in range(len(parents))], axis=1)
    given = pd.DataFrame(of_parent, columns=list(parents)).assign(country=shown)
    second = given.groupby("country").sum().reset_index().melt("country", var_name="parent")
    first = first.groupby(["meta", "parent"], sort=False, as_index=False)[["value"]].sum()
    return Flows(first[first["value"] > 0], second[second["value"] > 0], what)


def flows_to_countries(
    model: InterventionModel, rows: np.ndarray, cells: Geocells, concepts: ConceptVocabulary
) -> Flows:
    """Which concepts speak for the predicted countries; each picture counts the same.

    Args:
        model: Stage 2 in mode `concept_scores` or `hybrid`: the positive terms of the log odds, scaled to sum to 1 in
            each picture. In other modes, without exact terms, the probabilities of the metas, scaled likewise.
        rows: pictures.
        cells: the cells.
        concepts: names and hierarchy.
    """
    places, place = model.predict(rows), place_of_cells(cells)
    if model.head.config.reads_scores:
        country, terms = country_terms(model.head, model.scores[rows], torch.from_numpy(places.logits), place)
        amount, what = np.maximum(terms, 0.0), "terms in favour of the predicted country"
    else:
        names, by_place = sum_by_place(places.probabilities, place)
        country, amount = names[by_place.argmax(axis=1)], model.scores[rows].numpy()[:, : model.n_metas]
        what = "probabilities of concepts by predicted country"
    share = amount / np.maximum(amount.sum(axis=1, keepdims=True), 1e-12)
    return concept_flows(share, country, concepts, what)
