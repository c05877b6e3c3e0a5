"""Accuracy of named concepts: metas, their parents, and names that mean nearly the same."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from geocbm.metrics.inputs import array, column, same_length
from geocbm.metrics.resamples import Estimate, Resamples

_NUMBERS_AT_ONCE = 500_000  # a table in double precision that stays in the processor's cache


def _ranks(scores: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the true class, 0 = first, and the class that is first, both `[n]`; of equal scores the lower index."""
    rank, first = np.empty(len(scores), dtype=np.int64), np.empty(len(scores), dtype=np.int64)
    index = np.arange(scores.shape[1])[None, :]
    for rows in _parts(scores):
        part, true = _quick(scores[rows]), target[rows, None]
        own = np.take_along_axis(part, true, axis=1)  # (m, 1)
        before = (part > own) | ((part == own) & (index < true))
        rank[rows], first[rows] = np.count_nonzero(before, axis=1), part.argmax(axis=1)
    return rank, first


def _scores(values: Any, name: str) -> np.ndarray:
    """Scores `[n, classes]` in their own precision: in double precision 100,000 rows of 1,000 metas are 800 MB."""
    scores = array(values, name, None)
    scores = scores if scores.dtype.kind in "fiub" else array(values, name)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"{name} must be a non-empty table of shape [n, classes], its shape is {scores.shape}")
    for rows in _parts(scores):
        bad = np.flatnonzero(~(_quick(scores[rows]).max(axis=1) < np.inf))  # the highest of numbers with NaN is NaN
        if len(bad):
            raise ValueError(
                f"{name} must be numbers, but row {rows.start + bad[0]} holds NaN or infinity; did training diverge?"
            )
    return scores


def _quick(part: np.ndarray) -> np.ndarray:
    """The same numbers where they can be compared quickly: half precision is reckoned one by one."""
    return part.astype(np.float32) if part.dtype == np.float16 else part


def _parts(scores: np.ndarray) -> Iterator[slice]:
    """Slices of rows that are small enough to be held in double precision several times."""
    at_once = max(1, _NUMBERS_AT_ONCE // scores.shape[1])
    for start in range(0, len(scores), at_once):
        yield slice(start, min(start + at_once, len(scores)))


def _labels(values: Any, n_classes: int, name: str) -> np.ndarray:
    given = column(values, name)
    odd = given[given != np.floor(given)]
    if len(odd):
        raise ValueError(f"{name} must be whole numbers, but {odd[0]} occurs; give class indices")
    labels = given.astype(np.int64)
    if labels.min() < 0 or labels.max() >= n_classes:
        wrong = labels[(labels < 0) | (labels >= n_classes)][0]
        raise ValueError(f"{name} must lie within 0 and {n_classes - 1}, but {wrong} occurs; was another table used?")
    return labels


def concept_intervals(
    meta_probabilities: Any,
    meta: Any,
    drawn: Resamples,
    parent_probabilities: Any,
    meta_to_parent: Any,
    similarity: Any,
    close: float = 0.7,
) -> dict[str, Estimate]:
    """How well metas and parents are named, shares from 0 to 1 with their intervals (DECISIONS M3 to M5).

    - `meta_top1`, `meta_top5`: the true meta has the highest score, or one of the five highest. Of equal scores the
      meta with the lower index goes first, so that a model which says nothing gains nothing.
    - `meta_macro_recall`: mean over the metas that occur among the true ones of the share of their photographs that are
      named right, `mean_c (right_c / n_c)`: rare metas count as much as frequent ones. In a resample that lacks one
      it is left out.
    - `parent_top1`, `parent_top5`, `parent_macro_recall`: the same for the parent head.
    - `parent_top1_marginal`: the same as `parent_top1` without that head: the parent with the highest sum of the
      probabilities of its metas, `argmax_p sum_{m in p} P(m)`.
    - `semantic_close`: the named meta is the true one, or its base prototype has a cosine of at least `close` with that
      of the true one (specification, section Evaluation Metrics). `semantic_close_random` is what a uniformly random
      answer gets, the mean over photographs of the share of metas that are close to the true one; the first means
      nothing without the second.

    Probabilities of metas are `[n, k_m]`, of parents `[n, k_p]`; `meta` `[n]` are the true metas, `meta_to_parent`
    `[k_m]` the parent of each, and `similarity` `[k_m, k_m]` the cosine of the base prototypes. What does not fit
    together, or holds NaN, is a ValueError.
    """
    scores = _scores(meta_probabilities, "meta_probabilities")
    parent_scores = _scores(parent_probabilities, "parent_probabilities")
    n_metas, n_parents = scores.shape[1], parent_scores.shape[1]
    target, owner = _labels(meta, n_metas, "meta"), _labels(meta_to_parent, n_parents, "meta_to_parent")
    same_length(meta_probabilities=scores, meta=target, parent_probabilities=parent_scores)
    cosine = array(similarity, "similarity")
    if len(owner) != n_metas or cosine.shape != (n_metas, n_metas):
        raise ValueError(
            f"meta_to_parent has {len(owner)} entries and similarity the shape {cosine.shape}; give those of the "
            f"{n_metas} metas"
        )
    (rank, named), parents = _ranks(scores, target), owner[target]
    members = np.eye(n_parents)[owner]  # (k_m, k_p)
    marginal = np.concatenate([scores[rows].astype(np.float64) @ members for rows in _parts(scores)])
    is_close = (cosine >= close) | np.eye(n_metas, dtype=bool)
    found = {}
    for head, own, true in (("meta", rank, target), ("parent", _ranks(parent_scores, parents)[0], parents)):
        found[f"{head}_top1"] = drawn.estimate(own == 0)
        found[f"{head}_top5"] = drawn.estimate(own < 5)
        found[f"{head}_macro_recall"] = drawn.estimate(own == 0, groups=true)
    found["parent_top1_marginal"] = drawn.estimate(_ranks(marginal, parents)[0] == 0)
    found["semantic_close"] = drawn.estimate(is_close[named, target])
    found["semantic_close_random"] = drawn.estimate(is_close.mean(axis=0)[target])
    return found


def average_precision(scores: Any, named: Any, drawn: np.ndarray | None = None) -> np.ndarray:
    """Average precision of each concept `[k]`: the mean, over the pictures that show it, of the precision down to it.

    Pictures of equal score count as one step. NaN for a concept that no picture shows. Of `scores` `[n, k]`, and which
    pictures show which concept (`named` `[n, k]`); `drawn` `[m, n]`, how often each picture counts in each of `m`
    resamples, makes the result `[m, k]`.
    """
    given, there = _quick(_scores(scores, "scores")), array(named, "named") > 0
    if given.shape != there.shape:
        raise ValueError(f"named must have the shape of scores, {given.shape}, its shape is {there.shape}")
    weights = np.ones((1, len(given))) if drawn is None else drawn
    found = np.full((len(weights), given.shape[1]), np.nan)
    for concept in np.flatnonzero(there.any(axis=0)):
        order = np.argsort(-given[:, concept], kind="stable")
        ends = np.append(np.flatnonzero(np.diff(given[order, concept])), len(order) - 1)  # of pictures of equal score
        above = weights[:, order].astype(np.float64)  # (m, n)
        right = (above * there[order, concept]).cumsum(axis=1)[:, ends]
        precision = right / np.maximum(above.cumsum(axis=1)[:, ends], 1)
        total = right[:, -1]
        summed = (np.diff(right, axis=1, prepend=0) * precision).sum(axis=1)
        found[:, concept] = np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
    return found[0] if drawn is None else found


def best_thresholds(scores: Any, named: Any) -> np.ndarray:
    """Score of each concept from which it is called present, `[k]`: the one with the highest F1 on these pictures.

    Of scores and names `[n, k]`; NaN for a concept that no picture shows.
    """
    from sklearn.metrics import precision_recall_curve

    best = np.full(np.shape(scores)[1], np.nan)
    for concept in np.flatnonzero(np.any(named, axis=0)):
        precision, recall, threshold = precision_recall_curve(named[:, concept], scores[:, concept])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best[concept] = threshold[f1[:-1].argmax()]
    return best
