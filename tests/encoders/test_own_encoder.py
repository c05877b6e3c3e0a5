"""An encoder of one's own is one class: it is stored like any other, and the stages read its features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from geocbm.encoders.features import encode_features
from geocbm.encoders.image import ImageFeatures
from geocbm.files import sha256_file
from geocbm.models.attention import ConceptCrossAttention


class QuarterColours:
    """The mean colour of each quarter of a picture as a token, their mean as the pooled vector."""

    name, pooled_dim, token_dim, grid, device = "quarter colours", 3, 3, (2, 2), "cpu"

    def preprocess(self, images):
        small = [np.asarray(image.convert("RGB").resize((2, 2), Image.Resampling.BOX)) for image in images]
        return torch.from_numpy(np.stack(small)).float().permute(0, 3, 1, 2) / 255  # (B, 3, 2, 2)

    def lower(self, pixels, top_blocks):
        return pixels

    def upper(self, hidden, top_blocks):
        tokens = hidden.flatten(2).transpose(1, 2)  # (B, 4, 3)
        return ImageFeatures(tokens.mean(1), tokens)

    def fingerprint(self):
        return "quarter colours, version 1"


@pytest.fixture
def store(tmp_path):
    picture = Image.new("RGB", (8, 8), (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, 4, 4))
    picture.save(tmp_path / "red_corner.png")
    Image.new("RGB", (8, 8), (0, 255, 0)).save(tmp_path / "green.png")
    files = [tmp_path / "red_corner.png", tmp_path / "green.png"]
    digests = [sha256_file(file) for file in files]
    return encode_features(QuarterColours(), files, digests, tmp_path / "cache", kinds=("pooled", "tokens"))


def test_its_features_are_stored_and_read_by_kind(store):
    tokens = store.read("tokens", np.array([0]))
    torch.testing.assert_close(tokens[0, 0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(tokens[0, 1:], torch.tensor([[0.0, 0.0, 1.0]] * 3))
    torch.testing.assert_close(store.read("pooled", np.array([0, 1])), torch.tensor([[0.25, 0, 0.75], [0, 1.0, 0]]))


def test_the_attention_of_stage_2_reads_its_tokens(store):
    attention = ConceptCrossAttention(QuarterColours.token_dim, embed_dim=8, heads=2).eval()
    attended, weights = attention(torch.ones(2, 8), store.read("tokens", np.array([0, 1])))
    assert attended.shape == (2, 8) and weights.shape == (2, 2, 4)
    torch.testing.assert_close(weights[1], torch.full((2, 4), 0.25))  # four equal quarters are attended alike
