"""The loss functions of the three stages: pure functions of tensors, mean over the batch, without their weights.

Formulas are those of the specification, sections "Stage 0" to "Stage 2" and "Loss Functions". Unless a function says
otherwise, it returns a scalar and takes, by these names: `logits (B, k)` and the true classes `target (B,)`; embeddings
`z (B, d)`, which need not be normalised (cosine similarity is taken inside), and a `temperature` that divides the
similarity; `meta_to_parent (k_m,)`, the parent index of each meta. Indices may be integers of any width, as a tensor,
an array or a list; other numbers are refused with a `ParameterError`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from geocbm.errors import ParameterError
from geocbm.geodesy import haversine_km


def _indices(values: Any, name: str, device: torch.device | None = None) -> Tensor:
    """Class indices as int64, on a device if one is given; bytes would otherwise select like a mask."""
    indices = torch.as_tensor(values, device=device)
    if len(indices) and indices.is_floating_point():
        raise ParameterError(f"{name} holds {indices.dtype} numbers; give whole class indices")
    return indices.long()


def _similarity(z: Tensor, other: Tensor, temperature: float | Tensor) -> Tensor:
    """Cosine similarity of all rows `(B, d)` with all others `(k, d)`, divided by the temperature: `(B, k)`."""
    dtype = torch.promote_types(z.dtype, other.dtype)
    z, other = functional.normalize(z.to(dtype), dim=-1), functional.normalize(other.to(dtype), dim=-1)
    return z @ other.T / temperature


def focal_loss(
    logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy that turns away from examples the model already gets right (Lin et al., 2017).

    `alpha[y] * (1 - p_y)**gamma * CE(logits, y)`, where `p_y` is the probability of the true class and only the
    cross-entropy factor is smoothed, so that `label_smoothing=0` is the specification's formula. Of `alpha (k,)` there
    must be one weight per class (`ParameterError`); None weighs all alike.
    """
    target = _indices(target, "target", logits.device)
    cross_entropy = functional.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)  # (B,)
    log_true = logits.log_softmax(-1).gather(1, target[:, None]).squeeze(1)  # (B,)
    # expm1 keeps the factor (and its gradient) exact where the true class is almost certain.
    factor = (-torch.expm1(log_true)).clamp_min(0.0) ** gamma
    loss = factor * cross_entropy
    if alpha is not None:
        alpha = torch.as_tensor(alpha, dtype=loss.dtype, device=loss.device)
        if alpha.shape != logits.shape[1:]:
            raise ParameterError(f"alpha has shape {tuple(alpha.shape)}; give one weight for each of {logits.shape[1]}")
        loss = loss * alpha[target]
    return loss.mean()


def positive_unknown(
    logits: Tensor, positive: Tensor, unknown: Literal["absent", "entropy"] = "absent", weight: float | Tensor = 1.0
) -> Tensor:
    """Sigmoid loss over concepts of which only some that can be seen are named; nothing is known of the others.

    A named concept adds `-log p`, with `p = sigmoid(logit)`. An unknown one is taken as "absent" and adds
    `-weight * log(1 - p)` (Cole et al., 2021, "Multi-label learning from single positive labels"), or is left undecided
    by "entropy": `-weight * H(p)`, with `H` the entropy in nats (Zhou et al., 2022, "Acknowledging the unknown"). It is
    the sum over the concepts; `positive (B, k)` holds booleans, and the weight may be one for each, `(B, k)`.
    """
    if positive.shape != logits.shape:
        raise ParameterError(f"positive has shape {tuple(positive.shape)}; give one of {tuple(logits.shape)}")
    named = positive.to(logits.dtype)
    log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    if unknown == "absent":
        of_unknown = -log_q
    elif unknown == "entropy":
        of_unknown = log_p.exp() * log_p + log_q.exp() * log_q
    else:
        raise ParameterError(f"unknown={unknown!r} is unknown; use 'absent' or 'entropy'")
    return (weight * (1 - named) * of_unknown - named * log_p).sum(-1).mean()


def inverse_frequency(target: Tensor, n_classes: int) -> Tensor:
    """Class weights `(n_classes,)` proportional to 1 / count, with mean 1 over the classes that are present.

    `target (n,)` are the classes of the training rows; a class without a row has weight 1. An index that is not below
    `n_classes` raises a `ParameterError`.
    """
    target = _indices(target, "target")
    counts = torch.bincount(target, minlength=n_classes).to(torch.float32)
    if len(counts) > n_classes:
        raise ParameterError(f"target holds the index {len(counts) - 1}; it must be below n_classes={n_classes}")
    present = counts > 0
    weights = torch.ones(n_classes, dtype=torch.float32, device=target.device)
    inverse = 1.0 / counts[present]
    weights[present] = inverse / inverse.mean()
    return weights


def near_pairs(lat: Tensor, lng: Tensor, km: float) -> Tensor:
    """Pairs of places `(B,)`, degrees, nearer than `km`, which are no negatives of one another.

    `(B, B)` booleans; the diagonal is False.
    """
    near = haversine_km(lat[:, None], lng[:, None], lat[None], lng[None]) < km
    return near & ~torch.eye(len(lat), dtype=torch.bool, device=lat.device)


def info_nce(
    z: Tensor,
    z_pos: Tensor,
    temperature: float | Tensor = 0.07,
    symmetric: bool = False,
    not_negative: Tensor | None = None,
) -> Tensor:
    """Contrast each row of `z` and its partner in `z_pos` with all other partners (van den Oord et al., 2018).

    Anchors and partners are `(B, d)`; the temperature may be a tensor that is learned. `symmetric` also contrasts each
    partner against all anchors and averages both directions; pairs `(B, B)` that are `not_negative` are left out of the
    denominator (see `near_pairs`).
    """
    if z.shape != z_pos.shape:
        raise ParameterError(f"z_pos has shape {tuple(z_pos.shape)}, z {tuple(z.shape)}; give one partner per anchor")
    logits = _similarity(z, z_pos, temperature)  # (B, B)
    target = torch.arange(len(z), device=z.device)
    if not_negative is not None:
        partner = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = logits.masked_fill(not_negative & ~partner, -torch.inf)
    loss = functional.cross_entropy(logits, target)
    if symmetric:
        loss = (loss + functional.cross_entropy(logits.T, target)) / 2
    return loss


def prototype_info_nce(z: Tensor, prototypes: Tensor, target: Tensor, temperature: float | Tensor = 0.07) -> Tensor:
    """Contrast each embedding with the prototype of its class against all prototypes `(k, d)`."""
    logits = _similarity(z, prototypes, temperature)  # (B, k)
    return functional.cross_entropy(logits, _indices(target, "target", z.device))


def supervised_contrastive(z: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Draw rows with one label together and push the others away (Khosla et al., 2020, positives outside the log).

    Serves as the intra-batch hierarchy loss of Stage 0 and the inter-parent contrastive loss of Stage 1. The anchor
    itself is in neither numerator nor denominator; anchors without a positive are skipped, and it is 0 without any
    other. `labels (B,)` may be of any kind.
    """
    labels = torch.as_tensor(labels, device=z.device)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels[None]) & ~itself  # (B, B)
    n_positive = positive.sum(1)  # (B,)
    has_positive = n_positive > 0
    if not bool(has_positive.any()):
        return z.sum() * 0.0
    log_share = _similarity(z, z, temperature).masked_fill(itself, -torch.inf).log_softmax(1)  # (B, B)
    # The diagonal is -inf and 0 * -inf is NaN, so the positives are selected rather than multiplied.
    per_anchor = -log_share.masked_fill(~positive, 0.0).sum(1) / n_positive.clamp_min(1)  # (B,)
    return per_anchor[has_positive].mean()


def hierarchy_consistency(
    meta_logits: Tensor, parent_logits: Tensor, meta_to_parent: Tensor, detach_expected: bool = False
) -> Tensor:
    """KL divergence from the parents that the metas imply to the parents predicted, `KL(expected || actual)`.

    `meta_logits (B, k_m)` against `parent_logits (B, k_p)`; with `detach_expected` the gradient flows into the latter
    only.
    """
    meta_to_parent = _indices(meta_to_parent, "meta_to_parent", meta_logits.device)
    implied = meta_logits.softmax(-1)
    expected = meta_logits.new_zeros(parent_logits.shape).index_add(1, meta_to_parent, implied)  # (B, k_p)
    if detach_expected:
        expected = expected.detach()
    # A parent without metas is expected with probability 0 and adds 0 * log(tiny) = 0.
    log_expected = expected.clamp_min(torch.finfo(expected.dtype).tiny).log()
    return (expected * (log_expected - parent_logits.log_softmax(-1))).sum(-1).mean()


def parent_guided_meta(meta_logits: Tensor, target: Tensor, meta_to_parent: Tensor) -> Tensor:
    """`-log P(meta | true parent)`: cross-entropy among the children of the true parent only."""
    target = _indices(target, "target", meta_logits.device)
    meta_to_parent = _indices(meta_to_parent, "meta_to_parent", meta_logits.device)
    stranger = meta_to_parent[None] != meta_to_parent[target][:, None]  # (B, k_m)
    return functional.cross_entropy(meta_logits.masked_fill(stranger, -torch.inf), target)


def prototype_regularization(delta_meta: Tensor, delta_parent: Tensor) -> Tensor:
    """Squared length of all prototype residuals `(k_m, d)` and `(k_p, d)`, `||delta_meta||^2 + ||delta_parent||^2`."""
    return delta_meta.square().sum() + delta_parent.square().sum()


def intra_parent_consistency(
    prototypes: Tensor, meta_to_parent: Tensor, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """Squared distances between the projected prototypes `(k_m, d)` of siblings, over unordered pairs; 0 without any.

    The specification takes the "sum" over pairs; the "mean" does not grow with the vocabulary. Another reduction raises
    a `ParameterError`.
    """
    if reduction not in ("sum", "mean"):
        raise ParameterError(f"reduction={reduction!r} is unknown; use 'sum' or 'mean'")
    meta_to_parent = _indices(meta_to_parent, "meta_to_parent", prototypes.device)
    siblings = (meta_to_parent[:, None] == meta_to_parent[None]).triu(diagonal=1)  # (k_m, k_m)
    first, second = siblings.nonzero(as_tuple=True)
    total = (prototypes[first] - prototypes[second]).square().sum()
    return total / max(len(first), 1) if reduction == "mean" else total


def semantic_soft_cross_entropy(logits: Tensor, target: Tensor, similarity: Tensor) -> Tensor:
    """Cross-entropy towards the classes that resemble the true one, the true one left out.

    Soft targets are `S[y, j] / sum_{k != y} S[y, k]` for `j != y`, with `S (k, k)` the cosine similarity of the base
    prototypes, negative ones set to 0. A class that resembles no other adds 0.
    """
    target = _indices(target, "target", logits.device)
    similarity = torch.as_tensor(similarity, dtype=logits.dtype, device=logits.device)
    weights = similarity.clamp_min(0.0)[target].scatter(1, target[:, None], 0.0)  # (B, k)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return -(weights * logits.log_softmax(-1)).sum(1).mean()


def anchor_loss(features: Tensor, vanilla: Tensor) -> Tensor:
    """Mean squared difference of features `(B, d)` in training from those of the untrained encoder."""
    return functional.mse_loss(features, vanilla)


def smoothed_cell_labels(lat: Tensor, lng: Tensor, center_lat: Tensor, center_lng: Tensor, smooth_km: float) -> Tensor:
    """Share of each cell in the label of a place, falling with its distance (Haas et al., 2024, "PIGEON").

    `exp(-d_j / smooth_km)`, divided by the sum over all cells: `(B, N)` rows of sum 1 in single precision, for places
    `(B,)` and centres `(N,)` in degrees. A `smooth_km` that is not above 0 raises a `ParameterError`.
    """
    if not smooth_km > 0:
        raise ParameterError(f"smooth_km={smooth_km} is impossible; give a distance above 0 km")
    km = haversine_km(lat[:, None], lng[:, None], center_lat[None], center_lng[None])  # (B, N)
    return (-km / smooth_km).softmax(-1).float()


def group_cross_entropy(logits: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """Cross-entropy over groups of classes: `-log sum_{j in group of target} p_j`, for groups `(k,)` counted from 0.

    As OSV-5M trains its hierarchy of places (Astruc et al., 2024): with cells as classes and countries as groups, a
    wrong cell of the right country costs less than one abroad.
    """
    target, group = _indices(target, "target", logits.device), _indices(group, "group", logits.device)
    log_p = logits.log_softmax(-1)
    own = group[None] == group[target][:, None]  # (B, k)
    return -log_p.masked_fill(~own, -torch.inf).logsumexp(-1).mean()
