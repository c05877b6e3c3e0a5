import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from geocbm.errors import ParameterError
from geocbm.models import losses

LN2 = math.log(2)


def test_focal_loss_of_even_odds_is_a_quarter_of_ln2():
    # p = 1/2: (1 - 1/2)^2 * ln 2
    assert losses.focal_loss(torch.zeros(1, 2), torch.tensor([0])).item() == pytest.approx(0.25 * LN2)


def test_focal_loss_weights_classes_and_averages_over_the_batch():
    # rows: alpha 3 and 0.5, both with p = 1/2 -> (3 + 0.5) / 2 * ln2 / 4
    value = losses.focal_loss(torch.zeros(2, 2), torch.tensor([0, 1]), alpha=torch.tensor([3.0, 0.5]))
    assert value.item() == pytest.approx(1.75 * 0.25 * LN2)


def test_focal_loss_smooths_only_the_cross_entropy():
    logits = torch.tensor([[math.log(3.0), 0.0]])  # p = 3/4, 1/4
    # smoothed target (0.9, 0.1); factor from the unsmoothed p: (1/4)^2
    expected = (1 / 16) * (0.9 * math.log(4 / 3) + 0.1 * math.log(4))
    assert losses.focal_loss(logits, torch.tensor([0]), label_smoothing=0.2).item() == pytest.approx(expected)


def test_focal_loss_without_gamma_is_cross_entropy_and_a_certain_row_has_a_finite_gradient():
    logits = torch.tensor([[100.0, 0.0], [0.3, 0.1]], requires_grad=True)
    target = torch.tensor([0, 1])
    plain = losses.focal_loss(logits, target, gamma=0.0)
    torch.testing.assert_close(plain, functional.cross_entropy(logits, target))
    losses.focal_loss(logits, target).backward()
    assert torch.isfinite(logits.grad).all()


def test_inverse_frequency_has_mean_one_over_present_classes():
    # counts 3, 1, 0 -> 1/3, 1 with mean 2/3 -> 0.5, 1.5; the absent class gets 1
    weights = losses.inverse_frequency(torch.tensor([0, 0, 0, 1]), 3)
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5, 1.0]))


def test_info_nce_of_orthogonal_pairs():
    z = torch.eye(2) * 7  # length must not matter
    # similarities 1 and 0 at temperature 1: -log(e / (e + 1))
    expected = math.log(1 + math.exp(-1))
    assert losses.info_nce(z, torch.eye(2), temperature=1.0).item() == pytest.approx(expected)


def test_info_nce_goes_one_way_unless_symmetric():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    partners = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # rows of logits (1, 0), (1, 0): forward = (log(1+e^-1) + log(1+e)) / 2; backward: columns are constant -> ln 2
    forward = (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert losses.info_nce(z, partners, 1.0).item() == pytest.approx(forward)
    assert losses.info_nce(z, partners, 1.0, symmetric=True).item() == pytest.approx((forward + LN2) / 2)


def test_info_nce_leaves_out_pairs_that_are_no_negatives_but_never_the_partner():
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert losses.info_nce(torch.eye(3), torch.eye(3), not_negative=everything).item() == pytest.approx(0.0)


def test_info_nce_leaves_a_pair_out_in_both_directions():
    # Anchor 0 loses partner 1: (1, -, 0) -> log(1 + e^-1). The others keep three: (0, 1, 0), (0, 0, 1).
    out = torch.tensor([[False, True, False], [False, False, False], [False, False, False]])
    two, three = math.log(1 + math.exp(-1)), math.log(1 + 2 * math.exp(-1))
    value = losses.info_nce(torch.eye(3), torch.eye(3), 1.0, not_negative=out)
    assert value.item() == pytest.approx((two + 2 * three) / 3)
    # Backwards it is partner 1 that loses anchor 0, which leaves the same mean.
    both = losses.info_nce(torch.eye(3), torch.eye(3), 1.0, symmetric=True, not_negative=out)
    assert both.item() == pytest.approx((two + 2 * three) / 3)


def test_info_nce_learns_its_temperature():
    temperature = torch.tensor(0.5, requires_grad=True)
    losses.info_nce(torch.eye(2), torch.eye(2), temperature).backward()
    assert temperature.grad.item() > 0


def test_near_pairs_are_nearer_than_the_distance_and_never_the_row_itself():
    # one degree of latitude is 111.19 km
    near = losses.near_pairs(torch.tensor([0.0, 1.0, 10.0]), torch.zeros(3), 112.0)
    assert near.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_prototype_info_nce_by_hand():
    z = torch.tensor([[2.0, 0.0]])
    prototypes = torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = -0.5 + math.log(math.exp(0.5) + 1 + math.exp(-0.5))  # temperature 2: logits 0.5, 0, -0.5
    assert losses.prototype_info_nce(z, prototypes, torch.tensor([0]), 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_supervised_contrastive_by_hand():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # anchors 0 and 1: others have similarity 1 (positive) and 0 -> log(1 + e^-1); anchor 2 has no positive
    value = losses.supervised_contrastive(z, torch.tensor([4, 4, 9]), temperature=1.0)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_supervised_contrastive_takes_the_mean_over_positives_outside_the_log():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # one label: anchors 0, 1 see (1, 0): -(1 + 0)/2 + log(e + 1); anchor 2 sees (0, 0): log 2
    expected = (2 * (math.log(math.e + 1) - 0.5) + LN2) / 3
    assert losses.supervised_contrastive(z, torch.zeros(3), temperature=1.0).item() == pytest.approx(expected)


def test_supervised_contrastive_without_a_positive_is_zero_with_a_gradient():
    z = torch.eye(3, requires_grad=True)
    value = losses.supervised_contrastive(z, torch.arange(3))
    value.backward()
    assert value.item() == 0.0
    assert z.grad.abs().sum().item() == 0.0


META_TO_PARENT = torch.tensor([0, 0, 1])


def test_hierarchy_consistency_by_hand():
    # metas 1/3 each -> parents 2/3, 1/3; actual 1/2, 1/2
    value = losses.hierarchy_consistency(torch.zeros(1, 3), torch.zeros(1, 2), META_TO_PARENT)
    assert value.item() == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))


def test_hierarchy_consistency_is_zero_when_parents_agree_even_beside_a_childless_parent():
    parents = torch.tensor([[math.log(2.0), 0.0, -200.0]])
    metas = torch.zeros(1, 3, requires_grad=True)
    value = losses.hierarchy_consistency(metas, parents, META_TO_PARENT)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(metas.grad).all()


def test_hierarchy_consistency_detached_moves_only_the_parents():
    metas, parents = torch.tensor([[1.0, 0.0, 2.0]], requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    losses.hierarchy_consistency(metas, parents, META_TO_PARENT, detach_expected=True).backward()
    assert metas.grad is None
    assert parents.grad.abs().sum() > 0


def test_parent_guided_meta_compares_siblings_only():
    logits = torch.tensor([[0.0, 0.0, 50.0], [9.0, 9.0, -3.0]])
    # row 0: two equal siblings -> ln 2; row 1: an only child -> 0
    value = losses.parent_guided_meta(logits, torch.tensor([0, 2]), META_TO_PARENT)
    assert value.item() == pytest.approx(LN2 / 2)


def test_prototype_regularization_is_the_squared_length():
    assert losses.prototype_regularization(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]])).item() == 29.0


def test_intra_parent_consistency_sums_over_unordered_sibling_pairs():
    prototypes = torch.tensor([[0.0], [1.0], [3.0], [100.0]])
    parents = torch.tensor([0, 0, 0, 1])
    assert losses.intra_parent_consistency(prototypes, parents).item() == 1 + 9 + 4
    assert losses.intra_parent_consistency(prototypes, parents, "mean").item() == pytest.approx(14 / 3)
    assert losses.intra_parent_consistency(prototypes[:2], torch.tensor([0, 1]), "mean").item() == 0.0
    with pytest.raises(ParameterError, match="reduction='max'"):
        losses.intra_parent_consistency(prototypes, parents, "max")


def test_semantic_soft_cross_entropy_by_hand():
    similarity = torch.tensor([[1.0, 0.6, 0.2], [0.6, 1.0, -0.4], [0.2, -0.4, 1.0]])
    logits = torch.tensor([[0.0, math.log(2.0), 0.0], [0.0, 0.0, 0.0]])
    # row 0 (y = 0): targets 3/4, 1/4; log p = log(1/2), log(1/4). Row 1 (y = 1): target 1 on class 0: log 3
    expected = (0.75 * LN2 + 0.25 * 2 * LN2 + math.log(3)) / 2
    value = losses.semantic_soft_cross_entropy(logits, torch.tensor([0, 1]), similarity)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_semantic_soft_cross_entropy_ignores_a_class_like_no_other():
    assert losses.semantic_soft_cross_entropy(torch.randn(1, 2), torch.tensor([0]), torch.eye(2)).item() == 0.0


def test_anchor_loss_is_the_mean_square():
    assert losses.anchor_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]])).item() == 5.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 50.0))
def test_contrastive_losses_ignore_length_and_are_never_negative(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    z, other = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, 6))
    for loss in (
        lambda a, b: losses.info_nce(a, b),
        lambda a, b: losses.prototype_info_nce(a, b, labels),
        lambda a, b: losses.supervised_contrastive(a, labels),
    ):
        value = loss(z, other)
        assert value >= 0
        torch.testing.assert_close(loss(z * scale, other / scale), value, rtol=1e-3, atol=1e-4)


LABELS = [0, 1, 2, 3, 3, 1]


@pytest.mark.parametrize(
    "convert",
    [
        lambda values: torch.tensor(values, dtype=torch.int32),
        lambda values: torch.tensor(values, dtype=torch.uint8),
        lambda values: np.array(values, dtype=np.int16),
        list,
    ],
    ids=["int32", "bytes", "array", "list"],
)
def test_labels_may_be_integers_of_any_kind(convert):
    generator = torch.Generator().manual_seed(0)
    logits, similarity = torch.randn(6, 6, generator=generator), torch.rand(6, 6, generator=generator)
    parents = [0, 0, 1, 1, 2, 2]
    for loss in (
        lambda labels, _: losses.focal_loss(logits, labels, alpha=torch.arange(6.0)),
        lambda labels, _: losses.prototype_info_nce(logits, similarity, labels),
        lambda labels, _: losses.supervised_contrastive(logits, labels),
        lambda labels, _: losses.semantic_soft_cross_entropy(logits, labels, similarity),
        lambda labels, owner: losses.parent_guided_meta(logits, labels, owner),
        lambda _, owner: losses.hierarchy_consistency(logits, logits[:, :3], owner),
        lambda _, owner: losses.intra_parent_consistency(logits, owner),
        lambda labels, _: losses.inverse_frequency(labels, 6),
    ):
        labels, owner = convert(LABELS), convert(parents)
        torch.testing.assert_close(loss(labels, owner), loss(torch.tensor(LABELS), torch.tensor(parents)))


def test_class_weights_and_similarities_may_be_arrays():
    logits, target = torch.zeros(2, 2), torch.tensor([0, 1])
    assert losses.focal_loss(logits, target, alpha=[3.0, 0.5]).item() == pytest.approx(1.75 * 0.25 * LN2)
    assert losses.semantic_soft_cross_entropy(logits, target, np.ones((2, 2))).item() == pytest.approx(LN2)


def test_single_and_double_precision_mix():
    single, double = torch.randn(4, 3), torch.randn(4, 3, dtype=torch.float64)
    target = torch.arange(4) % 3
    for value, expected in (
        (losses.info_nce(single, double), losses.info_nce(single.double(), double)),
        (losses.prototype_info_nce(single, double, target), losses.prototype_info_nce(single.double(), double, target)),
        (
            losses.hierarchy_consistency(single, double[:, :2], META_TO_PARENT),
            losses.hierarchy_consistency(single.double(), double[:, :2], META_TO_PARENT),
        ),
    ):
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_semantic_soft_cross_entropy_of_faint_similarities_and_in_half_precision():
    # one other class takes the whole target, however faint the resemblance: log 2
    similarity = torch.tensor([[1.0, 1e-14], [1e-14, 1.0]])
    value = losses.semantic_soft_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), similarity)
    assert value.item() == pytest.approx(LN2)
    alone = losses.semantic_soft_cross_entropy(torch.zeros(1, 2).half(), torch.tensor([0]), torch.eye(2).half())
    assert alone.item() == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.focal_loss(torch.zeros(2, 3), [0, 1], alpha=torch.ones(2)), "alpha has shape"),
        (lambda: losses.focal_loss(torch.zeros(2, 3), [0.5, 1.0]), "target holds torch.float32"),
        (lambda: losses.info_nce(torch.eye(2), torch.eye(3)[:, :2]), r"z_pos has shape \(3, 2\)"),
        (lambda: losses.inverse_frequency([4], 3), "target holds the index 4; it must be below n_classes=3"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


def test_smoothed_cell_labels_by_hand():
    km_per_degree = 6371.0 * np.pi / 180
    lat, lng = torch.zeros(2), torch.tensor([0.0, 1.0])
    center_lat, center_lng = torch.zeros(3), torch.tensor([0.0, 1.0, -179.0])
    labels = losses.smoothed_cell_labels(lat, lng, center_lat, center_lng, smooth_km=km_per_degree)
    near, far = 1.0, float(np.exp(-1.0))
    expected = torch.tensor([[near, far, 0.0], [far, near, 0.0]]) / (near + far)
    torch.testing.assert_close(labels, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(labels.sum(1), torch.ones(2))
    sharp = losses.smoothed_cell_labels(lat, lng, center_lat, center_lng, smooth_km=1.0)
    torch.testing.assert_close(sharp, torch.eye(3)[:2], rtol=0, atol=1e-6)
    with pytest.raises(ParameterError, match="smooth_km=0"):
        losses.smoothed_cell_labels(lat, lng, center_lat, center_lng, 0)


def test_group_cross_entropy_sums_the_members():
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
    loss = losses.group_cross_entropy(logits, torch.tensor([0, 2]), torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.8)) / 2)
    alone = losses.group_cross_entropy(logits, torch.tensor([0, 2]), torch.arange(3))
    assert alone.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2])).item())


def test_group_cross_entropy_has_a_finite_gradient_where_the_group_is_nearly_impossible():
    logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    loss = losses.group_cross_entropy(logits, torch.tensor([2]), torch.tensor([0, 0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(400, rel=1e-5) and torch.isfinite(logits.grad).all()


def test_unknown_concepts_are_absent_weighted_or_left_undecided():
    """By hand, with p = 0.8, 0.5, 0.2 of which the first is named: -log 0.8 - w (log 0.5 + log 0.8), or - w (H + H)."""
    logits = torch.tensor([[math.log(4.0), 0.0, -math.log(4.0)]], requires_grad=True)
    named = torch.tensor([[True, False, False]])
    named_term = -math.log(0.8)
    absent = -math.log(0.5) - math.log(0.8)
    assert losses.positive_unknown(logits, named).item() == pytest.approx(named_term + absent, rel=1e-5)
    assert losses.positive_unknown(logits, named, weight=0.1).item() == pytest.approx(named_term + 0.1 * absent)
    entropy = math.log(2) - 0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    undecided = losses.positive_unknown(logits, named, "entropy", 0.3)
    assert undecided.item() == pytest.approx(named_term - 0.3 * entropy, rel=1e-5)
    undecided.backward()
    # At p = 0.5 the entropy is at its top; at 0.2 it pulls upwards, towards it.
    assert logits.grad[0, 1].item() == pytest.approx(0, abs=1e-7) and logits.grad[0, 2] < 0


def test_the_sigmoid_loss_is_torchs_over_several_rows_and_finite_far_out():
    logits = torch.tensor([[120.0, -120.0, 3.0], [-2.0, 0.5, -130.0]], requires_grad=True)
    named = torch.tensor([[False, True, True], [True, True, False]])
    ours = losses.positive_unknown(logits, named)
    theirs = functional.binary_cross_entropy_with_logits(logits, named.float(), reduction="none").sum(1).mean()
    torch.testing.assert_close(ours, theirs)
    (ours + losses.positive_unknown(logits, named, "entropy")).backward()
    assert torch.isfinite(logits.grad).all()


def test_impossible_sigmoid_losses_are_named():
    logits, named = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ParameterError, match="unknown='present'"):
        losses.positive_unknown(logits, named, "present")
    with pytest.raises(ParameterError, match="positive has shape"):
        losses.positive_unknown(logits, named[:, :2])
