"""Attention over unprojected patches with its derivative written out, against automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from geocbm.models import attention as module
from geocbm.models.attention import AttendTokens, ConceptCrossAttention, attend_tokens

B, H, E, P, D = 5, 2, 3, 7, 4


def inputs(masked: bool, dropout: bool, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    query, weight = torch.randn(B, H, E, dtype=dtype), torch.randn(E, D, dtype=dtype)
    mask = torch.rand(B, P) < 0.4 if masked else None
    keep = (torch.rand(B, H, P) < 0.7).to(dtype) / 0.7 if dropout else None
    if mask is not None:
        mask[:, 0] = False
    return query.requires_grad_(), weight.requires_grad_(), torch.randn(B, P, D).half(), mask, keep


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("part_bytes", [1, 2 * P * D * 8, 10**6])
@pytest.mark.parametrize("half", [False, True])
def test_results_and_gradients_are_those_of_autograd(monkeypatch, masked, dropout, part_bytes, half):
    monkeypatch.setattr(module, "PART_BYTES", part_bytes)
    query, weight, tokens, mask, keep = inputs(masked, dropout)
    tokens = tokens if half else tokens.double()
    # Without dropout the shares are 1 whatever the weights, and autograd sums rounding errors to 0.
    factors = [torch.randn(B, H, E), torch.randn(B, H, P), torch.randn(B, H, 1) * dropout]
    values, slopes = [], []
    for function in (AttendTokens.apply, attend_tokens):
        results = function(query, weight, tokens, mask, keep)
        total = sum((factor * result).sum() for factor, result in zip(factors, results, strict=True))
        values.append(results)
        slopes.append(torch.autograd.grad(total, (query, weight)))
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(slopes[0], slopes[1])


def test_the_derivative_agrees_with_differences():
    query, weight, tokens, mask, keep = inputs(masked=True, dropout=True)
    assert torch.autograd.gradcheck(lambda q, w: AttendTokens.apply(q, w, tokens, mask, keep), (query, weight))


def test_by_hand_with_one_head_and_two_patches():
    query, weight = torch.tensor([[[2.0]]]), torch.tensor([[1.0, 0.0]])
    tokens = torch.tensor([[[0.0, 9.0], [0.5, 9.0]]])
    context, attention, share = AttendTokens.apply(query, weight, tokens, None, None)
    second = torch.sigmoid(torch.tensor(1.0))  # scores 0 and 2 * 0.5
    torch.testing.assert_close(attention, torch.stack([1 - second, second])[None, None])
    torch.testing.assert_close(context, (second * 0.5)[None, None, None])
    assert share.item() == 1.0


def test_dropout_draws_what_functional_dropout_draws():
    torch.manual_seed(1)
    ours = ConceptCrossAttention(D, 4, 2, dropout=0.5)
    query, tokens = torch.randn(B, 4), torch.randn(B, P, D)
    torch.manual_seed(2)
    attended, attention = ours(query, tokens)
    torch.manual_seed(2)
    weights = functional.dropout(attention, 0.5)  # (B, H, P)
    patches = ours.patch_projection(tokens)  # (B, P, E)
    values = ours.value(patches).unflatten(-1, (2, 2))  # (B, P, H, e); a dropped patch drops its bias too
    expected = ours.out(torch.einsum("bhp,bphe->bhe", weights, values).flatten(1))
    torch.testing.assert_close(attended, expected)


def test_tokens_that_need_a_gradient_get_one():
    module = ConceptCrossAttention(D, 4, 2, dropout=0.0)
    tokens = torch.randn(B, P, D, requires_grad=True)
    module(torch.randn(B, 4), tokens)[0].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().sum() > 0


def test_mixed_precision_and_half_precision_tokens_agree_with_single():
    torch.manual_seed(0)
    module = ConceptCrossAttention(D, 4, 2, dropout=0.0)
    query, tokens = torch.randn(B, 4), torch.randn(B, P, D).half()
    expected = module(query, tokens.float())[0]
    torch.testing.assert_close(module(query, tokens)[0], expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(query, tokens)[0].float(), expected, atol=0.05, rtol=0.05)
