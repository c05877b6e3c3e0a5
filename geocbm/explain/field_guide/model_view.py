"""What the model makes of countries: which concepts move it there, and which countries it takes for one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geocbm.geocells.distribution import CellDistribution

if TYPE_CHECKING:
    import torch

    from geocbm.geocells import Geocells
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead


def country_contributions(
    model: Stage2CrossAttentionGeoHead, scores: torch.Tensor, country: np.ndarray, cells: Geocells, chunk: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """What each concept adds to the score of a country, on average over the photographs taken there.

    The score of a country is the mean logit of its cells minus the mean logit of all cells; in the modes
    `concept_scores` and `hybrid` both are exact sums over concepts
    (`Stage2CrossAttentionGeoHead.concept_contributions`).

    Args:
        model: a head of one of these modes.
        scores: `(n, k_m + k_p)` probabilities of metas and parents.
        country: `[n]` true countries of these photographs.
        cells: the cells of the head.
        chunk: photographs at once.

    Returns:
        `[C]` sorted names of the countries that have cells and photographs, and `[C, k_m + k_p]` mean contributions
        in logits.
    """
    import torch

    names = np.array(sorted(set(country) & set(cells.country)))
    means = np.zeros((len(names), scores.shape[1]))
    with torch.inference_mode():
        for number, name in enumerate(names):
            inside = torch.from_numpy(np.flatnonzero(cells.country == name))
            own = scores[np.flatnonzero(country == name)]
            for part in own.split(chunk):
                terms = model.concept_contributions(part)[0]  # (B, N, k)
                gap = terms[:, inside].mean(1) - terms.mean(1)  # (B, k)
                means[number] += gap.sum(0).cpu().numpy() / len(own)
    return names, means


def mean_country_belief(
    belief: CellDistribution, country: np.ndarray, cells: Geocells
) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability of each country over the photographs of each country.

    Args:
        belief: distributions over cells of `n` photographs.
        country: `[n]` their true countries.
        cells: the cells.

    Returns:
        `[C]` sorted names of countries that have cells, and `[C, C]`: row the true country (NaN where it has no
        photograph), column the believed one.
    """
    names, believed = cells.countries, belief.gather(cells.by_country)  # (n, C)
    table = np.full((len(names), len(names)), np.nan)
    for number, name in enumerate(names):
        own = country == name
        if own.any():
            table[number] = believed[own].mean(axis=0)
    return names, table


def look_alikes(names: np.ndarray, table: np.ndarray, country: str, most: int = 3) -> list[tuple[str, float]]:
    """The countries that photographs of one country are believed to lie in instead, with their mean probability.

    Args:
        names: of `mean_country_belief`.
        table: the same.
        country: the country.
        most: how many.

    Returns:
        Pairs, likeliest first; none for a country without cells or photographs.
    """
    at = np.flatnonzero(names == country)
    if not len(at) or np.isnan(table[at[0]]).any():
        return []
    row = table[at[0]].copy()
    row[at[0]] = -1.0
    order = np.argsort(-row, kind="stable")[:most]
    return [(str(names[other]), float(row[other])) for other in order if row[other] > 0]
