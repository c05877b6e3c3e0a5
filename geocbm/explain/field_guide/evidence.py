"""Evidence for countries: counts of labels turned into lift and log odds, and what the model makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError

if TYPE_CHECKING:
    import torch

    from geocbm.geocells import Geocells
    from geocbm.geocells.distribution import CellDistribution
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead

MIN_Z = 1.64
"""Standard deviations above which a concept counts as a clue: 95 % on one side."""


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


def log_odds_z(counts: np.ndarray, others: np.ndarray | None = None, prior: float = 20.0) -> np.ndarray:
    """Log odds ratio of a concept in a country against elsewhere, in standard deviations, `[C, k_m]`.

    With an informative Dirichlet prior in the proportions of all data (Monroe, Colaresi & Quinn 2008, "Fightin'
    Words", eq. 16 to 22). Unlike the lift it does not make much of a concept that was seen twice.

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
    pseudo = prior * np.maximum(everywhere / everywhere.sum(), 1e-9)

    def log_odds(own: np.ndarray) -> np.ndarray:
        total = own.sum(axis=1, keepdims=True) + prior
        return np.log(own + pseudo) - np.log(total - own - pseudo)

    variance = 1 / (counts + pseudo) + 1 / (elsewhere + pseudo)
    return (log_odds(counts) - log_odds(elsewhere)) / np.sqrt(variance)


def effective_number(counts: np.ndarray) -> np.ndarray:
    """Over how many countries a concept is spread: the exponential of the entropy of its labels, `[k_m]`.

    1 means one country only, C that all countries have equally many; NaN without labels.
    """
    total = counts.sum(axis=0, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = counts / total
        terms = np.where(share > 0, share * np.log(share), 0.0)
    return np.where(total[0] > 0, np.exp(-terms.sum(axis=0)), np.nan)


def wilson_interval(right: int, n: int) -> tuple[float, float]:
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
        true_meta: `[n]` labelled metas of pictures the model was not trained on.
        named: `[n]` metas that the model names for them.

    Returns:
        A row per meta: `labels` (count in all data), `top_country` and `top_share` (the country with most of its
        labels), `effective_countries`, `n_test`, `recall` with `recall_low`, `recall_high` (share of its pictures that
        the model names so; NaN without any), `precision` (share of the pictures so named that carry the label), and
        `confused_with` (the meta that is named instead most often, -1 for none).
    """
    rows = []
    spread = effective_number(counts)
    for meta in range(counts.shape[1]):
        own, so_named, total = true_meta == meta, named == meta, counts[:, meta].sum()
        n, right = int(own.sum()), int((named[own] == meta).sum())
        low, high = wilson_interval(right, n)
        wrong = named[own & ~so_named]
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


class Agreement(NamedTuple):
    """How far labels and model agree on what speaks for a country.

    Attributes:
        correlation: rank correlation (Spearman) of log odds and contribution; NaN where the model is not heard.
        n: pairs of country and concept it rests on; those that are labelled there.
        unsupported: of the 20 largest contributions, how many belong to concepts that the labels do not show to be more
            frequent there.
    """

    correlation: float
    n: int
    unsupported: int


def agreement(evidence: pd.DataFrame) -> Agreement:
    """Compare labels and model.

    Args:
        evidence: of `FieldGuide.evidence`: columns `labels`, `log_odds_z`, `contribution`.
    """
    known = evidence[np.isfinite(evidence["contribution"])]
    labelled = known[known["labels"] > 0]
    if len(labelled) < 3:
        return Agreement(float("nan"), 0, 0)
    largest = known.nlargest(20, "contribution")
    correlation = float(labelled["log_odds_z"].corr(labelled["contribution"], method="spearman"))
    return Agreement(correlation, len(labelled), int((largest["log_odds_z"] < MIN_Z).sum()))


def country_contributions(
    head: Stage2CrossAttentionGeoHead, scores: torch.Tensor, country: np.ndarray, cells: Geocells, chunk: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """What each concept adds to the score of a country, on average over the pictures taken there.

    The score of a country is the mean logit of its cells minus the mean logit of all cells; in the modes
    `concept_scores` and `hybrid` both are exact sums over concepts
    (`Stage2CrossAttentionGeoHead.concept_contributions`).

    Args:
        head: a head of one of these modes.
        scores: `(n, k_m + k_p)` probabilities of metas and parents.
        country: `[n]` true countries of these pictures.
        cells: the cells of the head.
        chunk: pictures at once.

    Returns:
        `[C]` sorted names of the countries that have cells and pictures, and `[C, k_m + k_p]` mean contributions in
        logits.
    """
    import torch

    names = np.array(sorted(set(country) & set(cells.country)))
    means = np.zeros((len(names), scores.shape[1]))
    with torch.inference_mode():
        for number, name in enumerate(names):
            inside = torch.from_numpy(np.flatnonzero(cells.country == name))
            own = scores[np.flatnonzero(country == name)]
            for part in own.split(chunk):
                terms = head.concept_contributions(part)[0]  # (B, N, k)
                gap = terms[:, inside].mean(1) - terms.mean(1)  # (B, k)
                means[number] += gap.sum(0).cpu().numpy() / len(own)
    return names, means


def mean_country_belief(belief: CellDistribution, country: np.ndarray, cells: Geocells) -> pd.DataFrame:
    """Mean probability of each country over the pictures of each country.

    Args:
        belief: distributions over cells of `n` pictures.
        country: `[n]` their true countries.
        cells: the cells.

    Returns:
        `[C, C]` over the countries that have cells: row the true country (NaN where it has no picture), column the
        predicted one.
    """
    believed = pd.DataFrame(belief.gather(cells.by_country), columns=cells.countries)  # (n, C)
    return believed.groupby(np.asarray(country, dtype=str)).mean().reindex(cells.countries)


def look_alikes(table: pd.DataFrame, country: str, most: int = 3) -> list[tuple[str, float]]:
    """The countries that pictures of one country are believed to lie in instead, with their mean probability.

    Args:
        table: of `mean_country_belief`.
        country: the country.
        most: how many.

    Returns:
        Pairs, likeliest first; none for a country without cells or pictures.
    """
    if country not in table.index or table.loc[country].isna().any():
        return []
    others = [name for name in table.columns if name != country]
    row = table.loc[[country], others].to_numpy()[0]
    order = np.argsort(-row, kind="stable")[:most]
    return [(str(others[at]), float(row[at])) for at in order if row[at] > 0]


def best_rows(rows: np.ndarray, probability: np.ndarray, pano_id: np.ndarray, most: int) -> np.ndarray:
    """The rows with the highest probability of a concept, each panorama once.

    Args:
        rows: `[m]` candidates.
        probability: `[n]` probability of the concept for every row of the table.
        pano_id: `[n]` panoramas.
        most: how many.
    """
    order = rows[np.argsort(-probability[rows], kind="stable")]
    _, first = np.unique(pano_id[order], return_index=True)
    return order[np.sort(first)][:most]
