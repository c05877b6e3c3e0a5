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
    meta_logits: Any,
    meta: Any,
    blocks: Any,
    parent_logits: Any | None = None,
    meta_to_parent: Any | None = None,
    similarity: Any | None = None,
    probabilities: bool = False,
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
      probabilities of its metas, `argmax_p sum_{m in p} softmax(meta_logits)_m`.
    - `semantic_close`: the named meta is the true one, or its base prototype has a cosine of at least `close` with that
      of the true one (specification, section Evaluation Metrics). `semantic_close_random` is what a uniformly random
      answer gets, the mean over photographs of the share of metas that are close to the true one; the first means
      nothing without the second.

    Scores of metas are `[n, k_m]`, of parents `[n, k_p]`, logits or `probabilities`; `meta` `[n]` are the true metas,
    `blocks` `Resamples` of the photographs or `[n]` to resample. What is said of parents needs `meta_to_parent`
    `[k_m]`, and closeness the cosine `similarity` `[k_m, k_m]` of the base prototypes; without them it is left out.

    Raises:
        ValueError: no rows, shapes or labels that do not fit together, or scores that are NaN.
    """
    hits = _hits(meta_logits, meta, parent_logits, meta_to_parent, similarity, probabilities, close)
    drawn = blocks if isinstance(blocks, Resamples) else Resamples(blocks)
    return {name: drawn.estimate(values, groups=classes) for name, (values, classes) in hits.items()}


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


def _hits(
    meta_logits: Any,
    meta: Any,
    parent_logits: Any | None,
    meta_to_parent: Any | None,
    similarity: Any | None,
    probabilities: bool,
    close: float,
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Values `[n]` of every photograph whose mean is a metric, and the classes to average over, if any, by name."""
    meta_scores = _scores(meta_logits, "meta_logits")
    n_metas = meta_scores.shape[1]
    target = _labels(meta, n_metas, "meta")
    same_length(meta_logits=meta_scores, meta=target)
    rank, named = _ranks(meta_scores, target)
    hits = _of_head("meta", rank, target)
    if meta_to_parent is not None:
        owner = column(meta_to_parent, "meta_to_parent", np.int64)
        if len(owner) != n_metas:
            raise ValueError(f"meta_to_parent must have one entry per meta: {len(owner)} entries for {n_metas} metas")
        parent_scores = None if parent_logits is None else _scores(parent_logits, "parent_logits")
        n_parents = int(owner.max()) + 1 if parent_scores is None else parent_scores.shape[1]
        owner = _labels(owner, n_parents, "meta_to_parent")
        parents = owner[target]
        marginal = _sums_by_parent(meta_scores, np.eye(n_parents)[owner], probabilities)
        hits["parent_top1_marginal"] = (_ranks(marginal, parents)[0] == 0, None)
        if parent_scores is not None:
            same_length(parent_logits=parent_scores, parent=parents)
            hits |= _of_head("parent", _ranks(parent_scores, parents)[0], parents)
    elif parent_logits is not None:
        raise ValueError("meta_to_parent is needed to judge parent_logits; pass the parent of each meta")
    if similarity is not None:
        cosine = array(similarity, "similarity")
        if cosine.shape != (n_metas, n_metas):
            raise ValueError(f"similarity must have shape ({n_metas}, {n_metas}), its shape is {cosine.shape}")
        is_close = (cosine >= close) | np.eye(n_metas, dtype=bool)
        hits["semantic_close"] = (is_close[named, target], None)
        hits["semantic_close_random"] = (is_close.mean(axis=0)[target], None)
    return hits


def _of_head(head: str, rank: np.ndarray, target: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """What ranks `[n]` of the true classes `[n]` say of a head."""
    return {
        f"{head}_top1": (rank == 0, None),
        f"{head}_top5": (rank < 5, None),
        f"{head}_macro_recall": (rank == 0, target),
    }


def _sums_by_parent(scores: np.ndarray, members: np.ndarray, probabilities: bool) -> np.ndarray:
    """Probabilities of parents `[n, k_p]`, from scores of metas `[n, k_m]` and members `[k_m, k_p]` of 0 and 1."""
    sums = np.empty((len(scores), members.shape[1]))
    for rows in _parts(scores):
        mass = scores[rows].astype(np.float64)
        if not probabilities:
            mass = np.exp(mass - mass.max(axis=1, keepdims=True))
            mass /= mass.sum(axis=1, keepdims=True)
        sums[rows] = mass @ members
    return sums
