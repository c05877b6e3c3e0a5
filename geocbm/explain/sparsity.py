"""Sparsity: how many concepts a decision really uses. A sum over a hundred terms is exact, but nobody can read it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from geocbm.errors import ParameterError
from geocbm.metrics import NOT_MEASURED, Estimate, Resamples
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead

NEC_COUNTS = (5, 10, 15, 20, 25, 30)
"""Counts whose mean is the ANEC of Srivastava et al. 2024."""

COUNTS = (1, 2, 3, *NEC_COUNTS)
_NUMBERS_AT_ONCE = 8_000_000  # bounds the memory of the contributions


@dataclass(frozen=True)
class EffectiveConcepts:
    """What is left of the decisions of a head that sums concepts, when only some concepts count."""

    counts: tuple[int, ...]  # how many concepts are kept
    named: np.ndarray  # [m] cells named with all concepts
    right: dict[str, np.ndarray]  # by way of keeping, [counts, m] whether the right cell is named
    all_right: np.ndarray  # [m] the same with all concepts
    number: np.ndarray  # [m] effective number of contributions to the named cell
    gap: float  # largest difference between a logit of the head and the sum of its contributions

    def average_accuracy(self, drawn: Resamples) -> Estimate:
        """ANEC: the mean over those of `NEC_COUNTS` that were asked of the share of right cells, by "weights"."""
        chosen = [i for i, count in enumerate(self.counts) if count in NEC_COUNTS] or [len(self.counts) - 1]
        return drawn.estimate(self.right["weights"][chosen].mean(axis=0))

    def kept_share(self, count: int, drawn: Resamples) -> Estimate:
        """Accuracy with the largest contributions of each decision alone, as a part of that with all."""
        some = self.right["decision"][self.counts.index(count)]
        return _part_above(some, self.all_right, np.zeros(len(some)), drawn)

    def curves(self, drawn: Resamples) -> pd.DataFrame:
        """Shares of right cells with their intervals: columns `way, count, value, low, high`."""
        return pd.DataFrame(
            {"way": way, "count": count} | drawn.estimate(own)
            for way, right in self.right.items()
            for count, own in zip(self.counts, right, strict=True)
        )


def effective_concepts(
    head: Stage2CrossAttentionGeoHead, scores: Tensor, cell: np.ndarray, seed: int = 0
) -> EffectiveConcepts:
    """Ask a head in mode `concept_scores` for the true cells `[m]` with only some of its concepts, `COUNTS` of them.

    "weights" keeps in each cell's sum the concepts with the largest weights (on scores of spread 1) and asks every
    picture: the number of effective concepts of Srivastava et al. (2024, "VLG-CBM", arXiv 2408.01432), here without
    training the remaining weights anew, so that it is a lower bound. "decision" keeps for each picture the concepts
    that add or take most to the cell it names, in the sums of all cells; "random" as many random ones. A concept that
    does not count has the value of an average training picture. The effective number of contributions is the
    exponential of the entropy of their magnitudes: as many equal contributions would be as spread out. `scores` `(m,
    k)` are the probabilities of metas and then parents, at least two.
    """
    m, k = scores.shape
    counts = tuple(count for count in COUNTS if count < k)
    if not counts:
        raise ParameterError(f"there are {k} concepts; to leave some out takes at least 2")
    rank_of_weight = _ranks(head.cell_head.weight.detach().abs().cpu())  # (N, k)
    generator = np.random.default_rng(seed)
    named, number, gap = np.zeros(m, dtype=np.int64), np.zeros(m, dtype=np.float32), 0.0
    right = {way: np.zeros((len(counts), m), dtype=bool) for way in ("decision", "weights", "random")}
    size = max(1, _NUMBERS_AT_ONCE // (head.n_cells * k))
    with torch.no_grad():
        for start in range(0, m, size):
            part = slice(start, start + size)
            some = scores[part].to(head.cell_head.weight)
            terms, constant = (one.cpu() for one in head.concept_contributions(some))  # (b, N, k), (N,)
            total = terms.sum(-1) + constant  # (b, N)
            gap = max(gap, float((head(some).cell_logits.cpu() - total).abs().max()))
            best = total.argmax(-1)  # (b,)
            own = terms[torch.arange(len(best)), best].abs()  # (b, k)
            share = own / own.sum(-1, keepdim=True).clamp_min(1e-12)
            named[part], number[part] = best.numpy(), torch.special.entr(share).sum(-1).exp().numpy()
            ranks = {
                "decision": _ranks(own)[:, None],
                "weights": rank_of_weight[None],
                "random": _ranks(torch.as_tensor(generator.random(own.shape)))[:, None],
            }
            for way, rank in ranks.items():
                for i, count in enumerate(counts):
                    answer = ((terms * (rank < count)).sum(-1) + constant).argmax(-1).numpy()
                    right[way][i, part] = answer == cell[part]
    return EffectiveConcepts(counts, named, right, named == cell, number, gap)


def _ranks(values: Tensor) -> Tensor:
    """Position of each entry of a row when the row is ordered from the largest, from 0."""
    return values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def completeness_ratio(concepts: np.ndarray, full: np.ndarray, prior: np.ndarray, drawn: Resamples) -> Estimate:
    """Accuracy of the concepts above that of guessing, as a part of the full model's (Yeh et al. 2020, definition 3.1).

    Each `[m]` says whether pictures are answered right: from concepts alone, from everything that the picture tells,
    and by the most frequent label of the training split. NaN where the full model is no better than guessing beyond
    noise: a ratio with such a denominator says nothing.
    """
    if not drawn.difference(full, prior)["low"] > 0:
        return NOT_MEASURED
    return _part_above(concepts, full, prior, drawn)


def _part_above(some: np.ndarray, every: np.ndarray, floor: np.ndarray, drawn: Resamples) -> Estimate:
    """`(some - floor) / (every - floor)` of the means of three `[m]`, with its interval."""
    parts = [np.asarray(one, dtype=np.float64) for one in (some, every, floor)]

    def ratio(own: np.ndarray, whole: np.ndarray, guess: np.ndarray) -> np.ndarray:
        gap = whole - guess
        return np.where(gap > 0, (own - guess) / np.where(gap > 0, gap, 1.0), np.nan)

    value = float(ratio(*(one.mean(keepdims=True) for one in parts))[0])
    low, high = drawn.interval(ratio(*(drawn.means(one) for one in parts)))
    return {"value": value, "low": low, "high": high}


class Carried(NamedTuple):
    """How much of what a head knows is left with a few contributions to each decision."""

    share: Estimate  # right cells as a part of those with all, both from the prior's; NaN for a head no better than it
    over_prior: Estimate  # how many more cells all concepts name right than the prior does, paired
    over_random: Estimate  # how many more cells these contributions name right than as many random concepts, paired
    right: dict[str, float]  # share of right cells `with these`, `with all`, of the `prior`, and with `random` concepts


def carried(found: EffectiveConcepts, count: int, prior: np.ndarray, drawn: Resamples) -> Carried:
    """Hold `count` contributions against all, random ones, and the prior `[m]`: is the most frequent cell right?"""
    at = found.counts.index(count)
    some, random = found.right["decision"][at], found.right["random"][at]
    rights = {"with these": some, "with all": found.all_right, "prior": prior, "random": random}
    return Carried(
        completeness_ratio(some, found.all_right, prior, drawn),
        drawn.difference(found.all_right, prior),
        drawn.difference(some, random),
        {name: float(np.mean(own)) for name, own in rights.items()},
    )
