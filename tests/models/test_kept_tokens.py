"""Which patches are kept, and what a head makes of them."""

import numpy as np
import pytest
import torch

from geocbm.errors import ParameterError
from geocbm.geodesy import latlng_to_cartesian
from geocbm.models.kept_tokens import PatchKeeper, on_grid
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead

CENTERS = latlng_to_cartesian(np.array([0.0, 45.0, -30.0]), np.array([0.0, 90.0, 179.9]))


def stage1(bottleneck="patch"):
    torch.manual_seed(0)
    config = Stage1Config(concept_emb_dim=8, bottleneck=bottleneck, concept_target="multi")
    model = Stage1ConceptModel(6, torch.randn(5, 7), torch.randn(2, 7), torch.tensor([0, 0, 1, 1, 1]), config, 20)
    with torch.no_grad():
        model.meta_bias.add_(torch.randn(5))
        if bottleneck == "patch":
            model.bottleneck.norm.weight.uniform_(0.5, 2)
            model.bottleneck.norm.bias.normal_()
    return model.eval()


def head(mode, keeper=None):
    torch.manual_seed(1)
    config = Stage2Config(embed_dim=32, heads=4, ablation_mode=mode)
    model = Stage2CrossAttentionGeoHead(32, 20, 3, CENTERS, config, keeper=keeper)
    for name, part in model.named_children():
        if name.endswith("cell_head"):  # a residual starts at 0, which would hide what it reads
            torch.nn.init.normal_(part.weight)
    return model.eval()


def test_the_patches_on_which_a_concept_stands_out_are_kept():
    """Two concepts at opposite ends; three patches show the first, with a share of a third each, one the second alone.

    With 2 and -2 as scores the share of the lone patch is e^2 / (e^2 + 3 e^-2) = 0.948, that of each other 0.331.
    """
    keeper = PatchKeeper(n_metas=2, width=2, token_dim=2, kept=1)
    keeper.weight.copy_(torch.eye(2))
    keeper.prototypes.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) * 2**0.5)
    tokens = torch.tensor([[[3.0, 0.0], [3.0, 1.0], [0.0, 1.0], [2.0, 0.0]]])
    assert keeper(tokens).tolist() == [[False, False, True, False]]
    assert keeper(1 - tokens).tolist() == [[False, False, True, False]]  # the concepts exchanged
    assert keeper(tokens[:, :1]).tolist() == [[True]]


def test_the_map_is_that_of_stage_1():
    model, tokens = stage1(), torch.randn(3, 16, 20)
    with torch.no_grad():
        highest = model(torch.randn(3, 6), tokens).meta_maps.softmax(1).amax(-1)  # (B, P)
    kept = PatchKeeper.of(model, 5)(tokens)
    assert kept.sum(1).tolist() == [5, 5, 5]
    for row in range(3):
        assert set(kept[row].nonzero()[:, 0].tolist()) == set(highest[row].topk(5).indices.tolist())


def test_only_a_bottleneck_that_scores_patches_can_choose():
    with pytest.raises(ParameterError, match=r"tokens='top-k' .* bottleneck='mlp' scores no patches; set 04"):
        PatchKeeper.of(stage1("mlp"), 5)


@pytest.mark.parametrize("mode", ["both", "hybrid", "image_only"])
def test_a_head_sees_nothing_but_the_kept_patches(mode):
    concept, tokens = torch.rand(3, 32), torch.randn(3, 16, 20)
    keeper = PatchKeeper.of(stage1(), 5)
    kept, plain = keeper(tokens), head(mode)
    found = head(mode, keeper)(concept, tokens)
    alone = plain(concept, tokens[kept].unflatten(0, (3, 5)))
    torch.testing.assert_close(found.cell_logits, alone.cell_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.attention, on_grid(alone.attention, kept), rtol=1e-4, atol=1e-6)
    assert not found.attention.transpose(1, 2)[~kept].any() and found.attention.shape == (3, 4, 16)
    assert not torch.allclose(found.cell_logits, plain(concept, tokens).cell_logits)


def test_all_patches_kept_is_no_choice():
    concept, tokens = torch.rand(3, 32), torch.randn(3, 16, 20)
    found, plain = head("both", PatchKeeper.of(stage1(), 16))(concept, tokens), head("both")(concept, tokens)
    assert torch.equal(found.cell_logits, plain.cell_logits) and torch.equal(found.attention, plain.attention)


def test_attention_stands_where_its_patches_do():
    attention = torch.tensor([[[0.25, 0.75], [1.0, 0.0]], [[0.5, 0.5], [0.125, 0.875]]])  # (B, heads, k)
    kept = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], dtype=torch.float16)
    expected = [[[0, 0.25, 0.75], [0, 1, 0]], [[0.5, 0, 0.5], [0.125, 0, 0.875]]]
    assert on_grid(attention, kept).tolist() == expected


@pytest.mark.parametrize("mode", ["both", "image_only", "hybrid"])
def test_a_mode_that_reads_patches_is_refused_without_any(mode):
    with pytest.raises(ParameterError, match=rf"ablation_mode='{mode}' reads patch tokens, but tokens='none'"):
        Stage2Config(ablation_mode=mode, tokens="none")
    assert not Stage2Config(ablation_mode="concept_scores", tokens="none").reads_tokens
    with pytest.raises(ParameterError, match="tokens_kept=0 is impossible"):
        Stage2Config(tokens="top-k", tokens_kept=0)
