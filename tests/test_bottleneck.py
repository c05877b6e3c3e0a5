import pytest
import torch

from geocbm.bottleneck import build_bottleneck
from geocbm.errors import ParameterError


def test_mlp_has_the_widths_of_the_specification():
    bottleneck = build_bottleneck("mlp", 768)
    linear = [layer for layer in bottleneck.modules() if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(768, 1024), (1024, 512)]
    assert [layer.p for layer in bottleneck.modules() if isinstance(layer, torch.nn.Dropout)] == [0.4]
    assert bottleneck(torch.randn(3, 768)).shape == (3, 512)
    assert not bottleneck.needs_tokens


def test_dropout_acts_in_training_only():
    bottleneck = build_bottleneck("mlp", 8, 4, hidden_dim=64, dropout=0.5)
    x = torch.randn(2, 8)
    assert not torch.equal(bottleneck(x), bottleneck(x))
    bottleneck.eval()
    assert torch.equal(bottleneck(x), bottleneck(x))


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ParameterError, match=r"bottleneck='cnn' is unknown; known: .*mlp"):
        build_bottleneck("cnn", 8)
