"""Every family that people name: the right grid, the right places, blocks that can be trained."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_zoo import ZOO, save_zoo

from geocbm.encoders import load_image_encoder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Each family once; a test that changes weights takes a copy."""
    held = {}

    def encoder(name):
        if name not in held:
            held[name] = load_image_encoder(save_zoo(tmp_path_factory.mktemp(name), name))
        return held[name]

    return encoder


def noise(name, n=2):
    return torch.randn(n, 3, *ZOO[name].size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ZOO)
def test_a_bright_patch_lights_up_at_its_own_place(encoders, name):
    family, encoder = ZOO[name], encoders(name)
    rows, columns = (pixels // family.stride for pixels in family.size)
    assert encoder.grid == (rows, columns)
    cells = [(row, column) for row in range(rows) for column in range(columns)][:: max(1, rows * columns // 24)]
    pictures = torch.full((1 + len(cells), 3, *family.size), -0.2)
    for picture, (row, column) in zip(pictures[1:], cells, strict=True):
        top, left = row * family.stride, column * family.stride
        picture[:, top : top + family.stride, left : left + family.stride] = 1.0
    with torch.no_grad():
        pooled, tokens = encoder(pictures)
    assert pooled.shape == (len(pictures), encoder.pooled_dim)
    assert tokens.shape == (len(pictures), rows * columns, encoder.token_dim)
    light = (tokens[1:] - tokens[0]).norm(dim=-1).unflatten(1, (rows, columns))
    if family.is_exact:
        assert [divmod(int(each.argmax()), columns) for each in light] == cells
        return
    # The centre of the light, less what every place answers to any patch, moves down and to the right with the patch.
    light = light / light.mean(dim=0)
    light = (light - light.amin(dim=(1, 2), keepdim=True)).square()
    for axis in (0, 1):
        along = light.amax(dim=2 - axis)
        centre = (along * torch.arange(along.shape[1])).sum(dim=1) / along.sum(dim=1)
        true = torch.tensor([float(cell[axis]) for cell in cells])
        assert torch.corrcoef(torch.stack([centre, true]))[0, 1] > 0.5


@pytest.mark.parametrize("name", ZOO)
def test_blocks_are_found_and_two_halves_make_the_whole(encoders, name):
    encoder, pixels = encoders(name), noise(name)
    assert encoder.n_blocks == ZOO[name].blocks
    with torch.no_grad():
        whole = encoder(pixels)
        for top_blocks in sorted({0, 1, 2, encoder.n_blocks // 2, encoder.n_blocks}):
            hidden = encoder.lower(pixels, top_blocks)
            assert tuple(hidden.shape[1:]) == encoder.hidden_shape(top_blocks)
            halves = encoder.upper(hidden, top_blocks)
            torch.testing.assert_close(halves.pooled, whole.pooled, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(halves.tokens, whole.tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_training_the_last_blocks_leaves_what_is_below_alone(encoders, name):
    encoder, pixels = copy.deepcopy(encoders(name)), noise(name)
    trained = encoder.upper_parameters(2)
    with torch.no_grad():
        hidden = encoder.lower(pixels, 2)
        for parameter in trained.values():
            parameter.add_(0.05)
        assert torch.equal(encoder.lower(pixels, 2), hidden)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    features = encoder.upper(hidden, 2)
    (features.pooled.square().sum() + features.tokens.square().sum()).backward()
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    last = set(encoder._backbone.blocks[-1].parameters())
    assert last <= set(trained.values())
