"""Discovered concepts: what the autoencoder keeps, and that it finds directions that were planted."""

import numpy as np
import torch
from torch.nn import functional

from geocbm.explain.discovered import SparseAutoencoder, discover, unit_scores


class Tokens:
    """Six planted directions, one on each patch."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.directions = functional.normalize(torch.randn(6, 24, generator=generator), dim=-1)
        self.shown = torch.randint(0, 6, (40, 9), generator=generator)  # (n, P)

    def read(self, kind, rows, dtype=torch.float32):
        assert kind == "tokens"
        return 5 * self.directions[self.shown[torch.as_tensor(rows)]]


def test_only_the_highest_units_are_active_and_rebuild_the_token():
    """The normalised token is (1, -1); three units read 1, -1 and 2 of it, and the decoder writes the third alone."""
    model = SparseAutoencoder(2, 3, active=1)
    with torch.no_grad():
        model.encoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]))
        model.encoder.bias.zero_()
        model.decoder.weight.copy_(torch.tensor([[9.0, 9.0, 0.5], [9.0, 9.0, -0.5]]))
    token = torch.tensor([[7.0, 3.0]])
    torch.testing.assert_close(model.encode(token), torch.tensor([[0.0, 0.0, 2.0]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(model(token), torch.tensor([[1.0, -1.0]]), atol=1e-4, rtol=0)


def test_planted_directions_are_rebuilt_and_units_score_pictures():
    tokens, train = Tokens(), np.arange(30)
    model, left = discover(tokens, train, units=12, steps=300)
    assert left < 0.05
    scores = unit_scores(model, tokens, 40)
    assert scores.shape == (40, 12)
    np.testing.assert_allclose(scores[7], model.encode(tokens.read("tokens", [7]))[0].amax(0).detach(), rtol=1e-5)
    again, _ = discover(tokens, train, units=12, steps=300)
    assert torch.equal(again.encoder.weight, model.encoder.weight)


def test_an_autoencoder_of_ones_own_is_trained_in_its_place():
    class Tied(SparseAutoencoder):
        def forward(self, tokens):
            return self.encode(tokens) @ self.encoder.weight + self.centre

    model, left = discover(Tokens(), np.arange(30), units=12, steps=300, build=Tied)
    assert isinstance(model, Tied) and left < 0.1
