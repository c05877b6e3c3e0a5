"""Evidence for countries: counts of labels turned into lift and log odds, and what the model makes of them."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import entr

from geocbm.explain.attribution import weighted_terms
from geocbm.geocells import Geocells
from geocbm.geocells.distribution import CellDistribution
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead

MIN_Z = 1.64
"""Standard deviations above which a concept counts as a clue: 95 % on one side."""

PRIOR = 20.0
"""Weight of the prior of the log odds, in labels."""


def count_table(country: np.ndarray, meta: np.ndarray, countries: np.ndarray, n_metas: int) -> np.ndarray:
    """How often each meta `[n]` is the label in each country `[n]`, `[C, k_m]`; `countries` are sorted names `[C]`."""
    counts = np.zeros((len(countries), n_metas))
    np.add.at(counts, (np.searchsorted(countries, country)[meta >= 0], meta[meta >= 0]), 1.0)
    return counts


def lift(counts: np.ndarray) -> np.ndarray:
    """How many times more frequent a concept is in a country than in all data, `[C, k_m]`; NaN without labels."""
    with np.errstate(invalid="ignore", divide="ignore"):
        of_country = counts / counts.sum(axis=1, keepdims=True)
        of_all = counts.sum(axis=0, keepdims=True) / counts.sum()
        return of_country / of_all


def log_odds_z(counts: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Log odds ratio of a concept in a country against elsewhere, in standard deviations, `[C, k_m]`.

    With an informative Dirichlet prior in the proportions of all data (Monroe, Colaresi & Quinn 2008, "Fightin'
    Words", eq. 16 to 22). Unlike the lift it does not make much of a concept that was seen twice. `others` are the
    counts to compare with, `[C, k_m]`; by default those of all other countries together.
    """
    everywhere = counts.sum(axis=0, keepdims=True)
    elsewhere = everywhere - counts if others is None else others
    # A concept without any label gets a little, so that its odds are defined.
    pseudo = PRIOR * np.maximum(everywhere / everywhere.sum(), 1e-9)

    def log_odds(own: np.ndarray) -> np.ndarray:
        total = own.sum(axis=1, keepdims=True) + PRIOR
        return np.log(own + pseudo) - np.log(total - own - pseudo)

    variance = 1 / (counts + pseudo) + 1 / (elsewhere + pseudo)
    return (log_odds(counts) - log_odds(elsewhere)) / np.sqrt(variance)


def concept_reliability(
    counts: np.ndarray, countries: np.ndarray, labels: np.ndarray, named: np.ndarray
) -> pd.DataFrame:
    """How reliable each concept is as a clue, and how well the model sees it.

    `counts` `[C, k_m]` are of `count_table`; `labels` `[n, k_m]` say which metas are labelled in pictures the model was
    not trained on (in none of them: unknown), and `named` `[n]` the metas that it names for them. A row per meta:
    `labels` in all data, the `top_country` and its `top_share` of them, `effective_countries` (the exponential of their
    entropy), `n_test`, `recall` with the interval of Wilson (1927), `precision` where labels are known, and
    `confused_with` (the meta that is named instead most often, -1 for none).
    """
    from scipy.stats import binomtest

    total, metas, known = counts.sum(axis=0), np.arange(counts.shape[1]), labels.any(axis=1)
    labels, first = labels[known], named[known, None] == metas  # [m, k_m] each
    n, right = labels.sum(axis=0), (labels & first).sum(axis=0)
    wrong = labels.T.astype(float) @ (first & ~labels)  # [k_m, k_m] label, and what is named instead
    wilson = [binomtest(right[i], n[i]).proportion_ci(method="wilson") if n[i] else (np.nan, np.nan) for i in metas]
    recall_low, recall_high = np.array(wilson).T
    with np.errstate(invalid="ignore"):
        columns = {
            "labels": total.astype(int),
            "top_country": np.where(total > 0, countries[counts.argmax(axis=0)], ""),
            "top_share": counts.max(axis=0) / total,
            "effective_countries": np.exp(entr(counts / total).sum(axis=0)),
            "n_test": n,
            "recall": right / n,
            "recall_low": recall_low,
            "recall_high": recall_high,
            "precision": right / first.sum(axis=0),
            "confused_with": np.where(wrong.any(axis=1), wrong.argmax(axis=1), -1),
        }
    return pd.DataFrame(columns)


class Agreement(NamedTuple):
    """How far labels and model agree on what speaks for a country."""

    correlation: float  # Spearman's, of log odds and contribution; NaN where the model is not heard
    n: int  # pairs of country and concept it rests on: those that are labelled there
    unsupported: int  # of the 20 largest contributions, those the labels do not show to be more frequent there


def agreement(evidence: pd.DataFrame) -> Agreement:
    """Compare labels and model in the columns `labels`, `log_odds_z` and `contribution` of `FieldGuide.evidence`."""
    known = evidence[np.isfinite(evidence["contribution"])]
    labelled = known[known["labels"] > 0]
    if len(labelled) < 3:
        return Agreement(float("nan"), 0, 0)
    largest = known.nlargest(20, "contribution")
    correlation = float(labelled["log_odds_z"].corr(labelled["contribution"], method="spearman"))
    return Agreement(correlation, len(labelled), int((largest["log_odds_z"] < MIN_Z).sum()))


def country_contributions(
    head: Stage2CrossAttentionGeoHead, scores: torch.Tensor, country: np.ndarray, cells: Geocells
) -> tuple[np.ndarray, np.ndarray]:
    """What each concept adds to the score of a country, on average over the pictures taken there, in logits.

    The score of a country is the mean logit of its cells minus the mean logit of all cells; in the modes
    `concept_scores` and `hybrid` both are exact sums over concepts
    (`Stage2CrossAttentionGeoHead.concept_contributions`). `scores` `(n, k)` are those of pictures of a true `country`
    `[n]`. With the `[C, k]` means come the `[C]` sorted names of the countries that have cells and pictures.
    """
    names = np.array(sorted(set(country) & set(cells.country)))
    means = np.zeros((len(names), scores.shape[1]))
    for number, name in enumerate(names):
        inside, own = torch.from_numpy(cells.country == name), scores[np.flatnonzero(country == name)]
        weights = (inside / inside.sum() - 1 / len(cells)).expand(len(own), -1)  # (B, N)
        means[number] = weighted_terms(head, own, weights.to(own.device))[0].mean(0).cpu().numpy()
    return names, means


def mean_country_belief(belief: CellDistribution, country: np.ndarray, cells: Geocells) -> pd.DataFrame:
    """Mean probability of each country (column) over the pictures of each country (row; NaN without any), `[C, C]`."""
    believed = pd.DataFrame(belief.gather(cells.by_country), columns=cells.countries)  # (n, C)
    return believed.groupby(np.asarray(country, dtype=str)).mean().reindex(cells.countries)


def look_alikes(table: pd.DataFrame, country: str) -> list[tuple[str, float]]:
    """The three countries that pictures of one are believed to lie in instead, with their mean probability.

    `table` is of `mean_country_belief`. None is believed in instead of a country without cells or pictures.
    """
    if country not in table.index or table.loc[country].isna().any():
        return []
    others = table.T[country].drop(country).sort_values(ascending=False, kind="stable")[:3]
    return [(str(name), float(share)) for name, share in others.items() if share > 0]
