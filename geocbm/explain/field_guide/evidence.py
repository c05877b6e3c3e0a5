"""What the labels say of countries and concepts: counts turned into lift, distinctiveness and reliability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError


def count_table(country: np.ndarray, meta: np.ndarray, countries: np.ndarray, n_metas: int) -> np.ndarray:
    """How often each concept is labelled in each country, `[C, k_m]`.

    Args:
        country: `[n]` names of countries, each one of `countries`.
        meta: `[n]` indices of the labelled metas.
        countries: `[C]` sorted names.
        n_metas: number of metas, `k_m`.
    """
    counts = np.zeros((len(countries), n_metas))
    np.add.at(counts, (np.searchsorted(countries, country), meta), 1.0)
    return counts


def lift(counts: np.ndarray) -> np.ndarray:
    """How many times more frequent a concept is in a country than in all data, `[C, k_m]`.

    The share of the country's labels divided by the share of all labels; 1 means that it tells nothing, NaN that the
    country or the concept has no labels.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        of_country = counts / counts.sum(axis=1, keepdims=True)
        of_all = counts.sum(axis=0, keepdims=True) / counts.sum()
        return of_country / of_all


def distinctiveness(counts: np.ndarray, others: np.ndarray | None = None, prior: float = 20.0) -> np.ndarray:
    """How surely a concept is more frequent in a country than elsewhere, in standard deviations, `[C, k_m]`.

    The log odds of the concept in the country minus those elsewhere, with a Dirichlet prior in the proportions of all
    data, divided by their standard deviation (Monroe, Colaresi & Quinn 2008, "Fightin' Words", eq. 16 to 22). Unlike
    the lift it does not make much of a concept that was seen twice.

    Args:
        counts: `[C, k_m]` of `count_table`.
        others: `[C, k_m]` counts to compare with; by default those of all other countries together.
        prior: weight of the prior in labels.

    Raises:
        ParameterError: the prior is not positive, or there are no labels.
    """
    if not prior > 0:
        raise ParameterError(f"prior is {prior}; give a number of labels above 0")
    if not counts.sum():
        raise ParameterError("counts are all 0: there are no labels to compare")
    everywhere = counts.sum(axis=0, keepdims=True)
    elsewhere = everywhere - counts if others is None else others
    # A concept without any label gets a little, so that its odds are defined.
    believed = prior * np.maximum(everywhere / everywhere.sum(), 1e-9)

    def odds(own: np.ndarray) -> np.ndarray:
        total = own.sum(axis=1, keepdims=True) + prior
        return np.log(own + believed) - np.log(total - own - believed)

    variance = 1 / (counts + believed) + 1 / (elsewhere + believed)
    return (odds(counts) - odds(elsewhere)) / np.sqrt(variance)


def effective_number(counts: np.ndarray) -> np.ndarray:
    """Over how many countries a concept is spread: the exponential of the entropy of its labels, `[k_m]`.

    1 means one country only, C that all countries have equally many; NaN without labels.
    """
    total = counts.sum(axis=0, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = counts / total
        terms = np.where(share > 0, share * np.log(share), 0.0)
    return np.where(total[0] > 0, np.exp(-terms.sum(axis=0)), np.nan)


def share_interval(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); NaN without trials."""
    from scipy.stats import binomtest

    if not n:
        return float("nan"), float("nan")
    found = binomtest(int(right), int(n)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def concept_reliability(
    counts: np.ndarray, countries: np.ndarray, true_meta: np.ndarray, named: np.ndarray
) -> pd.DataFrame:
    """How reliable each concept is as a clue, and how well the model sees it.

    Args:
        counts: `[C, k_m]` of `count_table`.
        countries: `[C]` names.
        true_meta: `[n]` labelled metas of photographs the model was not trained on.
        named: `[n]` metas that the model names for them.

    Returns:
        A row per meta: `labels` (count in all data), `top_country` and `top_share` (the country with most of its
        labels), `effective_countries`, `n_test`, `recall` with `recall_low`, `recall_high` (share of its photographs
        that the model names so; NaN without any), `precision` (share of the photographs so named that carry the
        label), and `confused_with` (the meta that is named instead most often, -1 for none).
    """
    rows = []
    spread = effective_number(counts)
    for meta in range(counts.shape[1]):
        own = true_meta == meta
        n, right = int(own.sum()), int((named[own] == meta).sum())
        low, high = share_interval(right, n)
        wrong = named[own & (named != meta)]
        so_named = named == meta
        total = counts[:, meta].sum()
        rows.append(
            {
                "labels": int(total),
                "top_country": str(countries[counts[:, meta].argmax()]) if total else "",
                "top_share": counts[:, meta].max() / total if total else np.nan,
                "effective_countries": spread[meta],
                "n_test": n,
                "recall": right / n if n else np.nan,
                "recall_low": low,
                "recall_high": high,
                "precision": float((true_meta[so_named] == meta).mean()) if so_named.any() else np.nan,
                "confused_with": int(np.bincount(wrong).argmax()) if len(wrong) else -1,
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Agreement:
    """How far labels and model agree on what speaks for a country.

    Attributes:
        correlation: rank correlation (Spearman) of distinctiveness and contribution.
        n: pairs of country and concept it rests on; those that are labelled there.
        unsupported: of the 20 largest contributions, how many belong to concepts that the labels do not show to be more
            frequent there.
    """

    correlation: float
    n: int
    unsupported: int

    @property
    def sentence(self) -> str:
        """The agreement in words."""
        if not self.n:
            return (
                "The run has no head whose logits are exact sums over concepts, so the model is not heard. Train one "
                "with 'concept_scores' among the variants of notebook 05."
            )
        return (
            f"Rank correlation of the two over {self.n:,} pairs of country and concept: {self.correlation:.2f} (1 is "
            f"full agreement, 0 none). Of the model's 20 largest contributions {self.unsupported} belong to concepts "
            f"that the labels do not surely show to be more frequent there."
        )


def agreement(evidence: pd.DataFrame, sure: float = 1.64) -> Agreement:
    """Hold labels against model.

    Args:
        evidence: of `FieldGuide.evidence`: `labels`, `sureness`, `contribution`.
        sure: standard deviations above which the labels count as showing it.
    """
    known = evidence[np.isfinite(evidence["contribution"])]
    labelled = known[known["labels"] > 0]
    if len(labelled) < 3:
        return Agreement(float("nan"), 0, 0)
    largest = known.nlargest(20, "contribution")
    return Agreement(
        float(labelled["sureness"].corr(labelled["contribution"], method="spearman")),
        len(labelled),
        int((largest["sureness"] < sure).sum()),
    )
