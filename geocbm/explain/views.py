"""Concepts that led to the one answer for several views of a picture.

The pooled log probability of a cell is the mean over the views of what each gives it, up to a constant of the picture.
Logits and log odds of countries are therefore taken apart as for a single picture, with the mean logits in the place
of the logits: a term is the mean of the terms of the views at the weights of the pooled answer, and adds up exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geocbm.explain.contributions import BY_ABLATION, EXACT, Explanation, country_weights, weighted_terms

if TYPE_CHECKING:
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead, Stage2Output


@dataclass(frozen=True)
class Question:
    """What is to be explained.

    Attributes:
        target: the place in words.
        inside: `[N]` booleans: the cells of a country, or one cell.
        odds: explain the log odds of the cells; otherwise the logit of the one cell.
        metas: names of the fine concepts.
        parents: names of the coarse ones.
    """

    target: str
    inside: np.ndarray
    odds: bool
    metas: Sequence[str]
    parents: Sequence[str]


def explain_views(
    head: Stage2CrossAttentionGeoHead,
    scores: Tensor,
    question: Question,
    tokens: Tensor,
    answer: Callable[[Tensor], Stage2Output],
    neutral: Tensor | None,
) -> Explanation:
    """Explain the pooled answer for the views of one picture.

    Args:
        head: Stage 2 in any mode.
        scores: `(V, k)` probabilities of metas and then parents, a row for each view.
        question: the place whose log odds or mean logit is explained.
        tokens: `(V, P, w)` patch tokens, for mode `hybrid`.
        answer: what the model says of edited scores `(E * V, k)`, view by view within each edit.
        neutral: `(k,)` scores that say nothing, for modes whose logits are no sums of terms; None for the others.

    Returns:
        The explanation: exact where that of a single picture is.
    """
    mask = torch.as_tensor(question.inside, dtype=torch.bool)
    names, n_metas = (*question.metas, *question.parents), len(question.metas)
    quantity = "log odds" if question.odds else "logit"
    views, k = scores.shape
    with torch.inference_mode():
        if neutral is not None:
            edited = scores.repeat(n_metas + 1, 1, 1)  # (k_m + 1, V, k); the last edit changes nothing
            numbers = torch.arange(n_metas)
            edited[numbers, :, numbers] = neutral.to(scores)[:n_metas, None]
            each = answer(edited.reshape(-1, k)).cell_logits.double().cpu()  # ((k_m + 1) * V, N)
            logits = each.reshape(n_metas + 1, views, -1).mean(1)
            values = country_weights(logits, mask)[2] if question.odds else logits[:, mask][:, 0]
            terms = np.full(k, np.nan)
            terms[:n_metas] = (values[-1] - values[:-1]).numpy()
            return Explanation(question.target, quantity, BY_ABLATION, names, n_metas, terms, float(values[-1]))
        output = head(scores, tokens)
        logits = output.cell_logits.double().cpu().mean(0, keepdim=True)  # (1, N)
        others = {}
        if question.odds:
            weights, spread, odds = country_weights(logits, mask)
            others["spread"], total = float(spread), float(odds)
        else:
            weights = mask[None].double()
            total = float((weights * logits).sum())
    terms_of_view, constants = weighted_terms(head, scores, weights.expand(views, -1).to(scores.device))
    others["constant"] = float(constants.mean())
    if output.residual_logits is not None:
        others["patches"] = float((weights * output.residual_logits.double().cpu().mean(0)).sum())
    exact = terms_of_view.mean(0).cpu().numpy()
    return Explanation(question.target, quantity, EXACT, names, n_metas, exact, total, others)
