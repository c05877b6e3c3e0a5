"""Attention over unprojected patches: against automatic differentiation, and against projecting every patch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
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


def naive(attention: ConceptCrossAttention):
    """The same parameters in `nn.MultiheadAttention` over patches that are projected one by one."""
    width = attention.query.in_features
    reference = nn.MultiheadAttention(width, attention.heads, batch_first=True)
    with torch.no_grad():
        layers = (attention.query, attention.key, attention.value)
        reference.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        # A key bias of any value is removed by the softmax.
        biases = (attention.query.bias, torch.randn(width), attention.value.bias)
        reference.in_proj_bias.copy_(torch.cat(biases))
        reference.out_proj.load_state_dict(attention.out.state_dict())
    projection = nn.Linear(attention.patch_projection.in_features, width)
    projection.load_state_dict(attention.patch_projection.state_dict())
    return projection, reference


@pytest.mark.parametrize("masked", [False, True])
def test_absorbed_attention_equals_multihead_attention_with_gradients(masked):
    torch.manual_seed(0)
    attention = ConceptCrossAttention(20, 32, 4, dropout=0.1).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.2)
    projection, reference = naive(attention)
    query, tokens = torch.randn(5, 32, requires_grad=True), torch.randn(5, 9, 20)
    mask = torch.rand(5, 9) < 0.4 if masked else None
    ours, weights = attention(query, tokens, mask)
    projected = projection(tokens)
    theirs, their_weights = reference(
        query[:, None], projected, projected, key_padding_mask=mask, average_attn_weights=False
    )
    torch.testing.assert_close(ours, theirs[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(weights, their_weights[:, :, 0], rtol=0, atol=1e-5)
    goal = torch.randn(5, 32)
    (query_gradient,) = torch.autograd.grad((ours * goal).sum(), query, retain_graph=True)
    (their_query_gradient,) = torch.autograd.grad((theirs[:, 0] * goal).sum(), query, retain_graph=True)
    torch.testing.assert_close(query_gradient, their_query_gradient, rtol=1e-4, atol=1e-5)
    (ours * goal).sum().backward()
    (theirs[:, 0] * goal).sum().backward()
    for mine, other in ((attention.patch_projection, projection), (attention.out, reference.out_proj)):
        torch.testing.assert_close(mine.weight.grad, other.weight.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.bias.grad, other.bias.grad, rtol=1e-4, atol=1e-5)
    gradients = [attention.query.weight.grad, attention.key.weight.grad, attention.value.weight.grad]
    torch.testing.assert_close(torch.cat(gradients), reference.in_proj_weight.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention.value.bias.grad, reference.in_proj_bias.grad[64:], rtol=1e-4, atol=1e-5)


def test_absorbed_attention_equals_the_naive_form_under_dropout():
    torch.manual_seed(0)
    attention = ConceptCrossAttention(20, 32, 4, dropout=0.5).train()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.2)
    query, tokens = torch.randn(3, 32), torch.randn(3, 9, 20)
    torch.manual_seed(7)
    ours, weights = attention(query, tokens)
    torch.manual_seed(7)
    dropped = functional.dropout(weights, 0.5, True)
    values = attention.value(attention.patch_projection(tokens)).unflatten(-1, (4, 8))  # (B, P, H, e)
    theirs = attention.out(torch.einsum("bhp,bphe->bhe", dropped, values).flatten(1))
    assert not torch.allclose(dropped.sum(-1), torch.ones(3, 4))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
