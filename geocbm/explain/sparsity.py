"""Sparsity: how many concepts a decision really uses. A sum over a hundred terms is exact, but nobody can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from geocbm.metrics import Estimate, Resamples
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead

NEC_COUNTS = (5, 10, 15, 20, 25, 30)
"""Counts whose mean is the ANEC of Srivastava et al. 2024."""
COUNTS = (1, 2, 3, *NEC_COUNTS)
WAYS = ("decision", "weights", "random")
"""Which concepts are kept: the largest contributions of each decision, the largest weights of each cell, or as many
random ones."""
_NUMBERS_AT_ONCE = 8_000_000  # bounds the memory of the contributions


@dataclass(frozen=True)
class EffectiveConcepts:
    """What is left of the decisions of a head that sums concepts, when only some concepts count.

    Attributes:
        counts: how many concepts are kept.
        named: `[m]` cells that are named with all concepts.
        right: of each way of keeping, `[counts, m]` whether the right cell is named.
        same: of each way of keeping, `[counts, m]` whether the same cell is named as with all concepts.
        all_right: `[m]` whether the right cell is named with all concepts.
        number: `[m]` effective number of contributions to the named cell.
        gap: largest difference between a logit of the head and the sum of its contributions.
    """

    counts: tuple[int, ...]
    named: np.ndarray
    right: dict[str, np.ndarray]
    same: dict[str, np.ndarray]
    all_right: np.ndarray
    number: np.ndarray
    gap: float


def effective_concepts(
    head: Stage2CrossAttentionGeoHead, scores: Tensor, cell: np.ndarray, counts: tuple[int, ...] = COUNTS, seed: int = 0
) -> EffectiveConcepts:
    """Ask a head that sums concepts with only some of them.

    "weights" keeps in each cell's sum the concepts with the largest weights (on scores of spread 1) and asks every
    picture: the number of effective concepts of Srivastava et al. (2024, "VLG-CBM", arXiv 2408.01432), here without
    training the remaining weights anew, so that it is a lower bound. "decision" keeps for each picture the concepts
    that add or take most to the cell it names, in the sums of all cells. A concept that does not count has the value
    of an average training picture. The effective number of contributions is the exponential of the entropy of their
    magnitudes: as many equal contributions would be as spread out.

    Args:
        head: a head in mode `concept_scores`.
        scores: `(m, k)` probabilities of metas and then parents.
        cell: `[m]` true cells.
        counts: how many concepts may count; those above `k` are left out.
        seed: of the random concepts.

    Raises:
        ParameterError: the head's logits are no sum over concepts, or no count fits.
    """
    import torch

    m, k = scores.shape
    counts = tuple(count for count in counts if count < k)
    if not counts:
        raise ParameterError(f"no count lies below the {k} concepts there are; give counts such as (1,)")
    rank_of_weight = _ranks(head.cell_head.weight.detach().abs().cpu())  # (N, k)
    generator = np.random.default_rng(seed)
    kept: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    full, number, gap = [], [], 0.0
    size = max(1, _NUMBERS_AT_ONCE // (head.n_cells * k))
    with torch.no_grad():
        for start in range(0, m, size):
            some = scores[start : start + size].to(head.cell_head.weight)
            terms, constant = head.concept_contributions(some)
            terms, constant = terms.cpu(), constant.cpu()  # (b, N, k), (N,)
            total = terms.sum(-1) + constant  # (b, N)
            gap = max(gap, float((head(some).cell_logits.cpu() - total).abs().max()))
            named = total.argmax(-1)  # (b,)
            own = terms[torch.arange(len(named)), named].abs()  # (b, k)
            share = own / own.sum(-1, keepdim=True).clamp_min(1e-12)
            number.append(torch.special.entr(share).sum(-1).exp().numpy())
            full.append(named.numpy())
            order = torch.as_tensor(generator.random((len(named), k)))
            ranks = {
                "decision": _ranks(own)[:, None],
                "weights": rank_of_weight[None],
                "random": _ranks(order)[:, None],
            }
            for way, rank in ranks.items():
                answers = [((terms * (rank < count)).sum(-1) + constant).argmax(-1).numpy() for count in counts]
                kept[way].append(np.stack(answers))  # (counts, b)
    every = np.concatenate(full)
    asked = {way: np.concatenate(parts, axis=1) for way, parts in kept.items()}
    return EffectiveConcepts(
        counts=counts,
        named=every,
        right={way: own == cell for way, own in asked.items()},
        same={way: own == every for way, own in asked.items()},
        all_right=every == cell,
        number=np.concatenate(number),
        gap=gap,
    )


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Position of each entry of a row when the row is ordered from the largest, from 0."""
    return values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def average_accuracy(found: EffectiveConcepts, way: str, drawn: Resamples) -> Estimate:
    """ANEC: the mean over 5, 10, 15, 20, 25 and 30 concepts (those that were asked) of the share of right cells."""
    chosen = [i for i, count in enumerate(found.counts) if count in NEC_COUNTS] or [len(found.counts) - 1]
    return drawn.estimate(found.right[way][chosen].mean(axis=0))


def completeness_ratio(concepts: np.ndarray, full: np.ndarray, prior: np.ndarray, drawn: Resamples) -> Estimate:
    """Accuracy of the concepts above that of guessing, as a part of the full model's (Yeh et al. 2020, definition 3.1).

    Args:
        concepts: `[m]` whether each picture is answered right from concepts alone.
        full: `[m]` the same with everything that the picture tells.
        prior: `[m]` the same without any picture: the most frequent label of the training split.
        drawn: resamples of the pictures' blocks.

    Returns:
        `value`, `low` and `high`; 1 where concepts are as good, more where they are better. All are NaN where the
        full model is no better than guessing beyond noise: a ratio with such a denominator says nothing.
    """
    if not drawn.difference(full, prior)["low"] > 0:
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    parts = [np.asarray(one, dtype=np.float64) for one in (concepts, full, prior)]

    def ratio(own: np.ndarray, whole: np.ndarray, guess: np.ndarray) -> np.ndarray:
        gap = whole - guess
        return np.where(gap > 0, (own - guess) / np.where(gap > 0, gap, 1.0), np.nan)

    value = float(ratio(*(one.mean(keepdims=True) for one in parts))[0])
    low, high = drawn.interval(ratio(*(drawn.means(one) for one in parts)))
    return {"value": value, "low": low, "high": high}


def kept_share(found: EffectiveConcepts, count: int, drawn: Resamples) -> Estimate:
    """Accuracy with the largest contributions of each decision alone, as a part of that with all, with its interval."""
    some, every = found.right["decision"][found.counts.index(count)], found.all_right
    if not every.any():
        return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = drawn.means(some.astype(np.float64)) / drawn.means(every.astype(np.float64))
    low, high = drawn.interval(np.where(np.isfinite(ratio), ratio, np.nan))
    return {"value": float(some.mean() / every.mean()), "low": low, "high": high}


@dataclass(frozen=True)
class Carried:
    """How much of what a head knows is left with the largest contributions of each decision.

    Attributes:
        count: how many contributions are kept.
        share: right cells with these, as a part of those with all, both counted from the prior's; NaN where the head
            is no better than the prior.
        over_prior: how many more cells all concepts name right than the prior does, paired.
        over_random: how many more cells these contributions name right than as many random concepts, paired.
        right: share of right cells `with these`, `with all`, of the `prior` and with `random` concepts.
    """

    count: int
    share: Estimate
    over_prior: Estimate
    over_random: Estimate
    right: dict[str, float]


def carried(found: EffectiveConcepts, count: int, prior: np.ndarray, drawn: Resamples) -> Carried:
    """Hold a few contributions against all, against the prior, and against as many random concepts.

    Args:
        found: of `effective_concepts`.
        count: how many contributions, one of `found.counts`.
        prior: `[m]` whether the most frequent cell is the right one.
        drawn: resamples of the pictures' blocks.
    """
    at = found.counts.index(count)
    some, random = found.right["decision"][at], found.right["random"][at]
    return Carried(
        count=count,
        share=completeness_ratio(some, found.all_right, prior, drawn),
        over_prior=drawn.difference(found.all_right, prior),
        over_random=drawn.difference(some, random),
        right={
            "with these": float(some.mean()),
            "with all": float(found.all_right.mean()),
            "prior": float(np.mean(prior)),
            "random": float(random.mean()),
        },
    )


def effective_curves(found: EffectiveConcepts, drawn: Resamples) -> pd.DataFrame:
    """What `plots.kept_concepts` draws: columns `way, count, value, low, high`, all as shares."""
    rows = []
    for way in WAYS:
        for i, count in enumerate(found.counts):
            rows.append({"way": way, "count": count} | drawn.estimate(found.right[way][i]))
    return pd.DataFrame(rows)
