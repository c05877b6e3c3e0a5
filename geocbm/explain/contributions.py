"""Which concepts led to an answer: what each adds to the logit of a cell, or to the odds of a country.

The logit of a cell is a sum of one term per concept in the modes `concept_scores` and `hybrid`. The score of a country
is not: its probability is a sum of exponentials over its cells. Its log odds can still be taken apart without a rest.
With `pi` the model's own distribution over the cells inside the country and `rho` that over the cells outside,

    log(P / (1 - P)) = sum_in pi_i z_i - sum_out rho_i z_i + H(pi) - H(rho)

since `logsumexp(z) = sum pi_i z_i + H(pi)` with H the entropy in nats. The first two sums are linear in the logits z,
so each falls into one term per concept and a constant; the difference of entropies ("spread") says how many cells share
the belief on either side. The terms are also the slopes of the log odds times the standardised scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from geocbm.errors import ParameterError
from geocbm.geocells.distribution import sum_by_place

if TYPE_CHECKING:
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead, Stage2Output

EXACT, BY_ABLATION = "exact", "by ablation"


@dataclass(frozen=True)
class Explanation:
    """How an answer for one picture came about.

    Attributes:
        target: the place that is explained, in words.
        quantity: "logit" (of a cell) or "log odds" (of a country).
        method: `EXACT`: terms and `others` add up to the total; `BY_ABLATION`: each term is what the total loses
            without the concept, and the terms need not add up.
        concepts: `k` names, metas and then parents.
        n_metas: how many of them are metas.
        terms: `[k]` what each concept adds; NaN where the mode does not read it.
        others: further summands: "constant", "spread" and, in mode `hybrid`, "patches".
        total: the logit or the log odds as the model gives them.
    """

    target: str
    quantity: str
    method: str
    concepts: tuple[str, ...]
    n_metas: int
    terms: np.ndarray
    total: float
    others: dict[str, float] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """What terms and others lack to the total: about 0 where the method is exact."""
        return self.total - float(np.nansum(self.terms)) - sum(self.others.values())

    def largest(self, most: int = 12) -> pd.DataFrame:
        """The largest terms, the sum of all remaining ones, and the further summands.

        Returns:
            Columns `name`, `kind` ("meta", "parent", "rest" or "other") and `term`.
        """
        present = np.flatnonzero(~np.isnan(self.terms))
        order = present[np.argsort(-np.abs(self.terms[present]), kind="stable")]
        rows: list[tuple[str, str, float]] = [
            (self.concepts[i], "meta" if i < self.n_metas else "parent", float(self.terms[i])) for i in order[:most]
        ]
        if len(order) > most:
            rest = f"{len(order) - most} further concepts"
            rows.append((rest, "rest", float(self.terms[order[most:]].sum())))
        rows += [(name, "other", value) for name, value in self.others.items()]
        return pd.DataFrame(rows, columns=["name", "kind", "term"])


def country_weights(logits: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The log odds of a set of cells as a linear function of the logits, at these logits.

    Args:
        logits: `(B, N)`.
        inside: `(N,)` or `(B, N)` booleans, the cells of the country; at least one inside and one outside.

    Returns:
        `(B, N)` weights, `(B,)` spread and `(B,)` log odds: weights times logits, summed, plus spread are the odds.

    Raises:
        ParameterError: no cell is inside, or none outside.
    """
    inside = inside.expand_as(logits)
    if not (inside.any(-1) & (~inside).any(-1)).all():
        raise ParameterError("inside names no cell or all of them; the odds of a country need cells on both sides")
    z = logits.double()
    none = torch.full_like(z, -torch.inf)
    parts = [torch.where(mask, z, none) for mask in (inside, ~inside)]
    totals = [part.logsumexp(-1) for part in parts]  # (B,) each
    shares = [part.softmax(-1) for part in parts]  # (B, N) each: pi and rho
    entropies = [torch.special.entr(share).sum(-1) for share in shares]
    return shares[0] - shares[1], entropies[0] - entropies[1], totals[0] - totals[1]


def weighted_terms(
    head: Stage2CrossAttentionGeoHead, scores: Tensor, weights: Tensor, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """Terms of concepts in a weighted sum of logits.

    Args:
        head: a head of mode `concept_scores` or `hybrid`.
        scores: `(B, k)`.
        weights: `(B, N)` weight of each cell's logit.
        chunk: pictures at once.

    Returns:
        `(B, k)` terms and `(B,)` constants, in double precision.
    """
    terms, constants = [], []
    with torch.inference_mode():
        for some, weight in zip(scores.split(chunk), weights.double().split(chunk), strict=True):
            each, bias = head.concept_contributions(some)  # (B, N, k), (N,)
            terms.append(torch.einsum("bn,bnk->bk", weight, each.double()))
            constants.append(weight @ bias.double())
    return torch.cat(terms), torch.cat(constants)


def explain_scores(
    head: Stage2CrossAttentionGeoHead,
    scores: Tensor,
    inside: Sequence[bool] | np.ndarray | Tensor,
    target: str,
    concepts: Sequence[str],
    n_metas: int,
    tokens: Tensor | None = None,
    answer: Callable[[Tensor], Stage2Output] | None = None,
    neutral: Tensor | None = None,
    odds: bool | None = None,
) -> Explanation:
    """Explain the answer for one picture.

    Args:
        head: Stage 2 in any mode.
        scores: `(1, k)` probabilities of metas and then parents.
        inside: `(N,)` booleans: one cell, whose logit is explained, or those of a country, whose log odds are.
        target: the place in words.
        concepts: `k` names.
        n_metas: how many of them are metas.
        tokens: `(1, P, w)` patch tokens of the picture, for mode `hybrid`.
        answer: what the model says of edited scores `(E, k)` of this picture, for modes whose logits are no sums; see
            `interventions.predict_with_scores`.
        neutral: `(k,)` scores that say nothing (`interventions.baseline_scores`), for the same modes.
        odds: explain log odds rather than a logit; by default so for several cells. True for a country of one cell.

    Returns:
        The explanation: `EXACT` for `concept_scores` and `hybrid`, else `BY_ABLATION`.

    Raises:
        ParameterError: no cell is named, or a mode lacks what it needs.
    """
    if scores.ndim != 2 or len(scores) != 1:
        raise ParameterError(f"scores have shape {tuple(scores.shape)}; explain one picture at a time: (1, k)")
    if len(concepts) != scores.shape[1]:
        raise ParameterError(f"concepts has {len(concepts)} names for {scores.shape[1]} scores")
    mask = torch.as_tensor(np.asarray(inside), dtype=torch.bool)
    one_cell = int(mask.sum()) == 1 if odds is None else not odds
    if one_cell and int(mask.sum()) != 1:
        raise ParameterError(f"inside names {int(mask.sum())} cells; a logit is that of one cell, else take the odds")
    quantity = "logit" if one_cell else "log odds"
    names = tuple(concepts)
    if not head.config.reads_scores:
        if answer is None or neutral is None:
            raise ParameterError(
                f"ablation_mode={head.config.ablation_mode!r} is explained by ablation; give answer and neutral"
            )
        terms, total = _by_ablation(scores, mask, one_cell, n_metas, answer, neutral)
        return Explanation(target, quantity, BY_ABLATION, names, n_metas, terms, total)
    with torch.inference_mode():
        output = head(scores, tokens)
    logits = output.cell_logits.cpu()
    others: dict[str, float] = {}
    if one_cell:
        weights, spread = mask[None].double(), None
        total = float((weights * logits).sum())
    else:
        weights, spread, log_odds = country_weights(logits, mask)
        total = float(log_odds)
    exact, constant = weighted_terms(head, scores, weights.to(scores.device))
    others["constant"] = float(constant)
    if spread is not None:
        others["spread"] = float(spread)
    if output.residual_logits is not None:
        others["patches"] = float((weights * output.residual_logits.cpu()).sum())
    return Explanation(target, quantity, EXACT, names, n_metas, exact[0].cpu().numpy(), total, others)


def _by_ablation(
    scores: Tensor,
    mask: Tensor,
    one_cell: bool,
    n_metas: int,
    answer: Callable[[Tensor], Stage2Output],
    neutral: Tensor,
) -> tuple[np.ndarray, float]:
    """What the target loses when each meta in turn says nothing: terms `[k]`, and the total with all of them."""
    edited = scores.repeat(n_metas + 1, 1)  # the last row stays as it is
    metas = torch.arange(n_metas)
    edited[metas, metas] = neutral.to(scores)[:n_metas]
    with torch.inference_mode():
        logits = answer(edited).cell_logits.cpu()
    values = logits[:, mask][:, 0].double() if one_cell else country_weights(logits, mask)[2]
    terms = np.full(scores.shape[1], np.nan)
    terms[:n_metas] = (values[-1] - values[:-1]).numpy()
    return terms, float(values[-1])


def country_terms(
    head: Stage2CrossAttentionGeoHead, scores: Tensor, logits: Tensor, cell_country: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What each concept adds to the log odds of the country that is named, for many pictures.

    Args:
        head: a head of mode `concept_scores` or `hybrid`.
        scores: `(B, k)`.
        logits: `(B, N)` of the head.
        cell_country: `[N]` country of each cell.

    Returns:
        `[B]` the most probable country and `[B, k]` terms.
    """
    names, by_country = sum_by_place(logits.cpu().double().softmax(-1).numpy(), cell_country)
    if len(names) < 2:
        raise ParameterError(f"all cells lie in {names[0]}; the odds of a country need another one")
    named = names[by_country.argmax(1)]  # [B]
    inside = torch.from_numpy(named[:, None] == np.asarray(cell_country, dtype=str)[None])  # (B, N)
    weights = country_weights(logits.cpu(), inside)[0]
    terms, _ = weighted_terms(head, scores, weights.to(scores.device))
    return named, terms.cpu().numpy()
