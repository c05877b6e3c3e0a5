"""Accuracy of named concepts: metas, their parents, and names that mean nearly the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from geocbm.metrics.inputs import array, column, same_length


def _ranks(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rank of the true class, 0 = first; of equal scores the class with the lower index goes first."""
    own = np.take_along_axis(scores, target[:, None], axis=1)  # (n, 1)
    earlier = np.arange(scores.shape[1])[None, :] < target[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


def macro_recall(correct: Any, target: Any) -> tuple[float, int]:
    """Recall averaged over the classes that occur in `target`, and the number of those classes.

    Args:
        correct: `[n]` whether each row was named rightly.
        target: `[n]` true class of each row.
    """
    hits, classes = column(correct, "correct"), column(target, "target", None)
    same_length(correct=hits, target=classes)
    _, index, count = np.unique(classes, return_inverse=True, return_counts=True)
    return float((np.bincount(index, weights=hits) / count).mean()), len(count)


def _scores(values: Any, name: str) -> np.ndarray:
    scores = array(values, name)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"{name} must be a non-empty table of shape [n, classes], its shape is {scores.shape}")
    bad = np.flatnonzero((np.isnan(scores) | np.isposinf(scores)).any(axis=1))
    if len(bad):
        raise ValueError(f"{name} must be numbers, but row {bad[0]} holds NaN or infinity; did training diverge?")
    return scores


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


def concept_metrics(
    meta_logits: Any,
    meta: Any,
    parent_logits: Any | None = None,
    parent: Any | None = None,
    meta_to_parent: Any | None = None,
    similarity: Any | None = None,
    probabilities: bool = False,
    close: float = 0.7,
) -> dict[str, float]:
    """How well metas and parents are named.

    Args:
        meta_logits: `[n, k_m]` scores of the metas.
        meta: `[n]` true metas.
        parent_logits: `[n, k_p]` scores of the parents, or None without a parent head.
        parent: `[n]` true parents; by default the parents of the true metas.
        meta_to_parent: `[k_m]` parent of each meta; needed for everything about parents.
        similarity: `[k_m, k_m]` cosine similarity of the base prototypes; needed for semantic closeness.
        probabilities: the scores are probabilities already, not logits.
        close: cosine from which a named meta counts as close to the true one (a meta is close to itself).

    Returns:
        `meta_top1`, `meta_top5`, `meta_macro_recall`, `n_classes` (classes present, over which recall is averaged) and
        `n`; `parent_top1`, `parent_top5`, `parent_macro_recall`, `n_parents` (parent head), `parent_top1_marginal`
        (probabilities of the metas summed by parent); `semantic_close` and `semantic_close_random`, what a uniformly
        random answer gets.
        Figures whose inputs are None are left out.

    Raises:
        ValueError: no rows, shapes or labels that do not fit together, or scores that are NaN.
    """
    meta_scores = _scores(meta_logits, "meta_logits")
    n_metas = meta_scores.shape[1]
    target = _labels(meta, n_metas, "meta")
    same_length(meta_logits=meta_scores, meta=target)
    rank = _ranks(meta_scores, target)
    recall, n_classes = macro_recall(rank == 0, target)
    metrics: dict[str, float] = {
        "meta_top1": float((rank == 0).mean()),
        "meta_top5": float((rank < 5).mean()),
        "meta_macro_recall": recall,
        "n_classes": n_classes,
        "n": len(target),
    }
    if meta_to_parent is not None:
        owner = column(meta_to_parent, "meta_to_parent", np.int64)
        if len(owner) != n_metas:
            raise ValueError(f"meta_to_parent must have one entry per meta: {len(owner)} entries for {n_metas} metas")
        n_parents = _scores(parent_logits, "parent_logits").shape[1] if parent_logits is not None else owner.max() + 1
        owner = _labels(owner, n_parents, "meta_to_parent")
        parents = owner[target] if parent is None else _labels(parent, n_parents, "parent")
        same_length(meta=target, parent=parents)
        mass = meta_scores
        if not probabilities:
            mass = np.exp(meta_scores - meta_scores.max(axis=1, keepdims=True))
            mass /= mass.sum(axis=1, keepdims=True)
        marginal = mass @ np.eye(n_parents)[owner]  # (n, k_p)
        metrics["parent_top1_marginal"] = float((_ranks(marginal, parents) == 0).mean())
        if parent_logits is not None:
            parent_scores = _scores(parent_logits, "parent_logits")
            same_length(parent_logits=parent_scores, parent=parents)
            rank = _ranks(parent_scores, parents)
            recall, n_present = macro_recall(rank == 0, parents)
            metrics["parent_top1"] = float((rank == 0).mean())
            metrics["parent_top5"] = float((rank < 5).mean())
            metrics |= {"parent_macro_recall": recall, "n_parents": n_present}
    elif parent_logits is not None:
        raise ValueError("meta_to_parent is needed to judge parent_logits; pass the parent of each meta")
    if similarity is not None:
        cosine = array(similarity, "similarity")
        if cosine.shape != (n_metas, n_metas):
            raise ValueError(f"similarity must have shape ({n_metas}, {n_metas}), its shape is {cosine.shape}")
        is_close = (cosine >= close) | np.eye(n_metas, dtype=bool)
        metrics["semantic_close"] = float(is_close[meta_scores.argmax(axis=1), target].mean())
        metrics["semantic_close_random"] = float(is_close[:, target].mean())
    return metrics
