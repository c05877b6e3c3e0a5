import math

import pytest
import torch
from torch.nn import functional

from geocbm.errors import ParameterError
from geocbm.models.bottlenecks import BOTTLENECKS, MLPBottleneck, build_bottleneck, mix_prototypes, pool_scores
from geocbm.models.stage0 import Stage0Config
from geocbm.models.stage1 import Stage1Config


def test_mlp_has_the_widths_of_the_specification():
    bottleneck = build_bottleneck(Stage1Config(), 768)
    linear = [layer for layer in bottleneck.modules() if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(768, 1024), (1024, 512)]
    assert [layer.p for layer in bottleneck.modules() if isinstance(layer, torch.nn.Dropout)] == [0.4]
    assert bottleneck(torch.randn(3, 768)).shape == (3, 512)
    assert not bottleneck.needs_tokens


def test_dropout_acts_in_training_only():
    bottleneck = build_bottleneck(Stage1Config(concept_emb_dim=4, hidden_dim=64, dropout=0.5), 8)
    x = torch.randn(2, 8)
    assert not torch.equal(bottleneck(x), bottleneck(x))
    bottleneck.eval()
    assert torch.equal(bottleneck(x), bottleneck(x))


@pytest.mark.parametrize("config", [Stage0Config, Stage1Config])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bottleneck": "cnn"}, r"bottleneck='cnn' is unknown; use 'mlp', 'transformer' or 'patch'"),
        ({"transformer_width": 20}, "transformer_width=20 is no multiple of transformer_heads=8"),
        ({"transformer_layers": 0}, "transformer_layers=0 is impossible"),
        ({"hidden_dim": 0}, "hidden_dim=0 is impossible"),
        ({"concept_emb_dim": 0}, "concept_emb_dim=0 is impossible"),
    ],
)
def test_impossible_bottlenecks_are_refused_before_training(config, settings, message):
    with pytest.raises(ParameterError, match=message):
        config(**settings)


def test_a_class_that_is_entered_is_built_by_name(monkeypatch):
    class Halved(MLPBottleneck):
        def forward(self, pooled, tokens=None):
            return super().forward(pooled) / 2

    monkeypatch.setitem(BOTTLENECKS, "halved", Halved)
    assert type(build_bottleneck(Stage1Config(bottleneck="halved"), 8)) is Halved


@pytest.mark.parametrize("kind", ["transformer", "patch"])
def test_kinds_that_read_patches_say_so_and_refuse_to_do_without(kind):
    bottleneck = build_bottleneck(Stage1Config(bottleneck=kind, transformer_width=16), 8, 6)
    assert bottleneck.needs_tokens
    with pytest.raises(ParameterError, match=f"bottleneck='{kind}' reads patch tokens, but tokens is None"):
        bottleneck(torch.randn(2, 8))
    with pytest.raises(ParameterError, match=f"bottleneck='{kind}' reads patch tokens; give token_dim"):
        build_bottleneck(Stage1Config(bottleneck=kind), 8)


def test_transformer_has_two_layers_of_eight_heads_and_ignores_the_order_of_patches():
    torch.manual_seed(0)
    bottleneck = build_bottleneck(Stage1Config(bottleneck="transformer", concept_emb_dim=5, transformer_width=16), 8, 6)
    bottleneck.eval()
    layers = [layer for layer in bottleneck.modules() if isinstance(layer, torch.nn.TransformerEncoderLayer)]
    assert [layer.self_attn.num_heads for layer in layers] == [8, 8]
    pooled, tokens = torch.randn(3, 8), torch.randn(3, 7, 6)
    embedded = bottleneck(pooled, tokens)
    assert embedded.shape == (3, 5)
    # Positions are in the tokens already: the bottleneck adds none.
    torch.testing.assert_close(bottleneck(pooled, tokens[:, torch.randperm(7)]), embedded, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(bottleneck(pooled + 1, tokens), embedded, atol=1e-3)
    assert not torch.allclose(bottleneck(pooled, tokens + 1), embedded, atol=1e-3)


def test_scores_are_pooled_over_the_highest_patches_by_hand():
    scores = torch.tensor([[[0.0, 5.0], [2.0, 5.0], [1.0, -9.0], [-3.0, 5.0]]])  # four patches, two concepts
    pooled = pool_scores(scores, 2)
    expected = [math.log((math.exp(2) + math.exp(1)) / 2), 5.0]
    torch.testing.assert_close(pooled, torch.tensor([expected]))
    torch.testing.assert_close(pool_scores(scores, 1), scores.amax(1))
    assert torch.equal(pool_scores(scores, 99), pool_scores(scores, 4))


@pytest.mark.parametrize(("token_dim", "out_dim"), [(6, 10), (10, 6)])
def test_patch_cosines_equal_those_of_embeddings_that_are_formed(token_dim, out_dim):
    torch.manual_seed(0)
    bottleneck = build_bottleneck(Stage0Config(bottleneck="patch", concept_emb_dim=out_dim, dropout=0.0), 8, token_dim)
    tokens, prototypes = torch.randn(3, 5, token_dim), functional.normalize(torch.randn(4, out_dim), dim=-1)
    pull = torch.randn(3, 5, 4)

    def gradients(cosines):
        bottleneck.zero_grad()
        (cosines * pull).sum().backward()
        return [parameter.grad.clone() for parameter in bottleneck.parameters()]

    ours = bottleneck.cosines(bottleneck(torch.randn(3, 8), tokens), prototypes)
    formed = bottleneck.projection(bottleneck.norm(tokens))  # (B, P, c)
    plain = functional.normalize(formed, dim=-1) @ prototypes.T
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    for mine, other in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_prototypes_are_mixed_by_the_square_roots_of_the_probabilities():
    logits = torch.tensor([[0.64, 0.36, 1e-30]]).log().requires_grad_()
    mixed = mix_prototypes(logits, torch.eye(3))
    torch.testing.assert_close(mixed, torch.tensor([[0.8, 0.6, 0.0]]))
    mixed.sum().backward()
    assert torch.isfinite(logits.grad).all()
