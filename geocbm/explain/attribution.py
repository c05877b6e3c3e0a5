"""Attribution: what each concept adds to the logit of a cell, or to the odds of a country.

The logit of a cell is a sum of one term per concept in the modes `concept_scores` and `hybrid`. The score of a country
is not: its probability is a sum of exponentials over its cells. Its log odds can still be taken apart exactly.
With `pi` the model's own distribution over the cells inside the country and `rho` that over the cells outside,

    log(P / (1 - P)) = sum_in pi_i z_i - sum_out rho_i z_i + H(pi) - H(rho)

since `logsumexp(z) = sum pi_i z_i + H(pi)` with H the entropy in nats. The first two sums are linear in the logits z,
so each falls into one term per concept and a constant; the difference of entropies ("spread") says how many cells share
the belief on either side. The terms are also the slopes of the log odds times the standardised scores.

A picture may have several views. The pooled log probability of a cell is the mean over the views of what each gives it,
up to a constant of the picture: logits and odds are taken apart as for one view, with the mean logits in their place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from geocbm.data.concepts import ConceptVocabulary
from geocbm.errors import ParameterError
from geocbm.explain.interventions import InterventionModel
from geocbm.geocells import Geocells
from geocbm.geocells.distribution import sum_by_place
from geocbm.metrics.places import places_at
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead, Stage2Output
from geocbm.run import Run

EXACT, BY_ABLATION = "exact", "by ablation"
FLOW_CONCEPTS, FLOW_COUNTRIES = 26, 12
"""Concepts and countries with a node of their own in a picture of flows."""


@dataclass(frozen=True)
class Explanation:
    """How an answer for one picture came about.

    With `EXACT` terms and `others` add up to the total; with `BY_ABLATION` each term is what the total loses without
    the concept, and the terms need not add up.
    """

    target: str  # the place that is explained, in words
    quantity: str  # "logit" (of a cell) or "log odds" (of a country)
    method: str
    concepts: tuple[str, ...]  # k names, metas and then parents
    n_metas: int  # how many of them are metas
    terms: np.ndarray  # [k] what each concept adds; NaN where the mode does not read it
    total: float  # the logit or the log odds as the model gives them
    others: dict[str, float] = field(default_factory=dict)  # "constant", "spread" and, in mode `hybrid`, "patches"

    @property
    def gap(self) -> float:
        """What terms and others lack to the total: about 0 where the method is exact."""
        return self.total - float(np.nansum(self.terms)) - sum(self.others.values())

    def largest(self, most: int = 12) -> pd.DataFrame:
        """The largest terms, the sum of all remaining ones, and the further summands: `name`, `kind` and `term`.

        A `kind` is "meta", "parent", "rest" or "other".
        """
        present = np.flatnonzero(~np.isnan(self.terms))
        order = present[np.argsort(-np.abs(self.terms[present]), kind="stable")]
        rows = [
            (self.concepts[i], "meta" if i < self.n_metas else "parent", float(self.terms[i])) for i in order[:most]
        ]
        if len(order) > most:
            rows.append((f"{len(order) - most} further concepts", "rest", float(self.terms[order[most:]].sum())))
        rows += [(name, "other", value) for name, value in self.others.items()]
        return pd.DataFrame(rows, columns=["name", "kind", "term"])


@dataclass(frozen=True)
class Target:
    """What is to be explained."""

    place: str  # in words
    inside: np.ndarray  # [N] booleans: the cells of a country, or one cell
    odds: bool  # explain the log odds of the cells; otherwise the logit of the one cell
    metas: Sequence[str]  # names of the fine concepts
    parents: Sequence[str]  # names of the coarse ones


def country_weights(logits: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The log odds of a set of cells as a linear function of the logits `(B, N)`, at these logits.

    Weights `(B, N)` times logits, summed, plus the spread `(B,)` are the log odds `(B,)`. `inside` is `(N,)` or `(B,
    N)`; there must be cells inside and outside.
    """
    inside = inside.expand_as(logits)
    if not (inside.any(-1) & (~inside).any(-1)).all():
        raise ParameterError("inside names no cell or all of them; the odds of a country need cells on both sides")
    within, without = (logits.double().masked_fill(~mask, -torch.inf) for mask in (inside, ~inside))
    pi, rho = within.softmax(-1), without.softmax(-1)
    spread = torch.special.entr(pi).sum(-1) - torch.special.entr(rho).sum(-1)
    return pi - rho, spread, within.logsumexp(-1) - without.logsumexp(-1)


def weighted_terms(head: Stage2CrossAttentionGeoHead, scores: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Terms of concepts `(B, k)` in a sum of logits weighted by `(B, N)`, and constants `(B,)`, in double precision.

    The head is of mode `concept_scores` or `hybrid`.
    """
    terms, constants = [], []
    with torch.inference_mode():
        for some, weight in zip(scores.split(64), weights.double().split(64), strict=True):
            each, bias = head.concept_contributions(some)  # (B, N, k), (N,)
            terms.append(torch.einsum("bn,bnk->bk", weight, each.double()))
            constants.append(weight @ bias.double())
    return torch.cat(terms), torch.cat(constants)


def explain_scores(
    head: Stage2CrossAttentionGeoHead,
    scores: Tensor,
    target: Target,
    tokens: Tensor | None = None,
    answer: Callable[[Tensor], Stage2Output] | None = None,
    baseline: Tensor | None = None,
) -> Explanation:
    """Explain the answer for one picture, pooled over its views: `EXACT` for `concept_scores` and `hybrid`.

    Args:
        head: Stage 2 in any mode.
        scores: `(V, k)` probabilities of metas and then parents, a row for each view; usually one.
        target: the place whose log odds or logit is explained.
        tokens: `(V, P, w)` patch tokens, for mode `hybrid`.
        answer: what the model says of edited scores `(E * V, k)`, view by view within each edit, for modes whose logits
            are no sums and are explained `BY_ABLATION`; see `interventions.predict_with_scores`.
        baseline: `(k,)` scores at which a concept is ablated (`interventions.baseline_scores`), for the same modes.

    Raises:
        ParameterError: no single cell is named for a logit, or a mode lacks what it needs.
    """
    views = len(scores)
    mask, names = torch.as_tensor(np.asarray(target.inside), dtype=torch.bool), (*target.metas, *target.parents)
    if not target.odds and int(mask.sum()) != 1:
        raise ParameterError(f"inside names {int(mask.sum())} cells; a logit is that of one cell, else take the odds")
    quantity, n_metas = "log odds" if target.odds else "logit", len(target.metas)
    if not head.config.reads_scores:
        if answer is None or baseline is None:
            mode = head.config.ablation_mode
            raise ParameterError(f"ablation_mode={mode!r} is explained by ablation; give answer and baseline")
        terms, lost = _by_ablation(scores, target, mask, answer, baseline)
        return Explanation(target.place, quantity, BY_ABLATION, names, n_metas, terms, lost)
    with torch.inference_mode():
        output = head(scores, tokens)
    logits = output.cell_logits.double().cpu().mean(0, keepdim=True)  # (1, N)
    weights, total, spread = mask[None].double(), logits[0, mask].sum(), {}
    if target.odds:
        weights, entropies, total = country_weights(logits, mask)
        spread = {"spread": float(entropies)}
    exact, constants = weighted_terms(head, scores, weights.expand(views, -1).to(scores.device))
    others = {"constant": float(constants.mean())} | spread
    if output.residual_logits is not None:
        others["patches"] = float((weights * output.residual_logits.double().cpu().mean(0)).sum())
    terms = exact.mean(0).cpu().numpy()
    return Explanation(target.place, quantity, EXACT, names, n_metas, terms, float(total), others)


def _by_ablation(
    scores: Tensor, target: Target, mask: Tensor, answer: Callable[[Tensor], Stage2Output], baseline: Tensor
) -> tuple[np.ndarray, float]:
    """What the target loses when each meta in turn is ablated: terms `[k]`, and the total with all of them."""
    (views, k), n_metas = scores.shape, len(target.metas)
    edited = scores.repeat(n_metas + 1, 1, 1)  # (k_m + 1, V, k); the last edit changes nothing
    metas = torch.arange(n_metas)
    edited[metas, :, metas] = baseline.to(scores)[:n_metas, None]
    with torch.inference_mode():
        each = answer(edited.reshape(-1, k)).cell_logits.double().cpu()  # ((k_m + 1) * V, N)
    logits = each.reshape(n_metas + 1, views, -1).mean(1)
    values = country_weights(logits, mask)[2] if target.odds else logits[:, mask][:, 0]
    terms = np.full(k, np.nan)
    terms[:n_metas] = (values[-1] - values[:-1]).numpy()
    return terms, float(values[-1])


def country_terms(
    head: Stage2CrossAttentionGeoHead, scores: Tensor, logits: Tensor, cell_country: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For pictures the most probable country `[B]` and what each concept adds to its log odds `[B, k]`.

    `scores` are `(B, k)`, `logits` `(B, N)` of a head of mode `concept_scores` or `hybrid`, `cell_country` `[N]`, of
    which there must be two.
    """
    names, by_country = sum_by_place(logits.cpu().double().softmax(-1).numpy(), cell_country)
    if len(names) < 2:
        raise ParameterError(f"all cells lie in {names[0]}; the odds of a country need another one")
    named = names[by_country.argmax(1)]  # [B]
    inside = torch.from_numpy(named[:, None] == np.asarray(cell_country, dtype=str)[None])  # (B, N)
    weights = country_weights(logits.cpu(), inside)[0]
    terms, _ = weighted_terms(head, scores, weights.to(scores.device))
    return named, terms.cpu().numpy()


def place_of_cells(cells: Geocells) -> np.ndarray:
    """The place that each cell belongs to, `[N]`: its country, or the cell itself where all lie in one country."""
    country = np.asarray(cells.country).astype(str)
    if len(np.unique(country)) > 1:
        return country
    return np.array([f"cell {number}" for number in range(len(country))])


def named_countries(model: InterventionModel, rows: np.ndarray, run: Run) -> np.ndarray:
    """For each picture the country that is explained, `[m]`: the one that holds the answered point, as in `predict`.

    Where the point lies in no country of the run it is the one whose cells have the most probability together, and
    where all cells lie in one country it is the likeliest cell.
    """
    places, cells = model.predict(np.asarray(rows)), run.cells
    names, believed = sum_by_place(places.probabilities, place_of_cells(cells))
    likeliest = names[believed.argmax(axis=1)].astype(str)
    if len(np.unique(cells.country)) < 2:
        return likeliest
    nearest = cells.country[cells.assign(places.lat, places.lng)].astype(str)
    near = places_at(places.lat, places.lng)
    held = [run.country_names.country(place, own) for place, own in zip(near, nearest, strict=True)]
    return np.array([own if own in names else other for own, other in zip(held, likeliest, strict=True)])


def explain_country(model: InterventionModel, row: int, run: Run, caption: str) -> Explanation:
    """The country that the model names for a picture of the table, explained; `caption` is what it truly is."""
    country = str(named_countries(model, np.array([row]), run)[0])
    inside, concepts, tokens = place_of_cells(run.cells) == country, run.concepts, None
    if model.head.config.ablation_mode == "hybrid" and model.features is not None:
        tokens = model.features.read("tokens", np.array([row]), torch.float16)
    return explain_scores(
        model.head,
        model.scores[[row]],
        Target(f"{country} for a picture of {caption}", inside, True, concepts.metas, concepts.parents),
        tokens,
        lambda edited: model.forward_one(row, edited),
        model.baseline,
    )


@dataclass(frozen=True)
class Flows:
    """How much goes from metas through parents to countries (a Sankey diagram)."""

    meta_to_parent: pd.DataFrame  # columns meta, parent, value
    parent_to_country: pd.DataFrame  # columns parent, country, value
    what: str  # what the value is


def concept_flows(amount: np.ndarray, country: np.ndarray, concepts: ConceptVocabulary, what: str) -> Flows:
    """Sum over pictures what concepts give, `[n, k]` not negative, to the countries `[n]` that it goes to.

    The columns are metas and then parents, or metas alone. The `FLOW_CONCEPTS` largest concepts and `FLOW_COUNTRIES`
    largest countries stand alone; the other concepts of a parent share a node, and so do the other countries.
    """
    k, parents = amount.shape[1], np.array(concepts.parents, dtype=object)
    owner = np.concatenate([concepts.parent_index, np.arange(len(parents))])[:k]
    names = np.array([*concepts.metas, *(f"{name} (parent)" for name in parents)], dtype=object)[:k]
    large = np.isin(np.arange(k), np.argsort(-amount.sum(axis=0), kind="stable")[:FLOW_CONCEPTS])
    node = np.where(large, names, [f"other concepts: {name}" for name in parents[owner]])
    first = pd.DataFrame({"meta": node, "parent": parents[owner], "value": amount.sum(axis=0)})
    first = first.groupby(["meta", "parent"], sort=False, as_index=False)[["value"]].sum()
    totals = pd.Series(amount.sum(axis=1)).groupby(np.asarray(country)).sum()
    largest = totals.sort_values(ascending=False, kind="stable").index[:FLOW_COUNTRIES]
    of_parent = np.stack([amount[:, owner == p].sum(axis=1) for p in range(len(parents))], axis=1)
    given = pd.DataFrame(of_parent, columns=list(parents))
    given["country"] = np.where(np.isin(country, largest), country, "other countries")
    second = given.groupby("country").sum().reset_index().melt("country", var_name="parent")
    return Flows(first[first["value"] > 0], second[second["value"] > 0], what)


def flows_to_countries(
    model: InterventionModel, rows: np.ndarray, cells: Geocells, concepts: ConceptVocabulary
) -> Flows:
    """Which concepts speak for the predicted countries of some pictures; each picture counts the same.

    In the modes `concept_scores` and `hybrid` by the positive terms of the log odds, scaled to sum to 1 in each
    picture; in other modes, without exact terms, by the probabilities of the metas, scaled likewise.
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
