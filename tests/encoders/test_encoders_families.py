"""Every family that people name: the right grid, the right places, blocks that can be trained."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny_zoo import VIT_64, ZOO, save_zoo

from geocbm.encoders import load_image_encoder
from geocbm.encoders.backbones import make_backbone
from geocbm.errors import ParameterError
from geocbm.models.stage0 import Stage0Config, Stage0PretrainingModel


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


@pytest.mark.parametrize("name", ZOO)
def test_stage_0_trains_on_some_patches_where_blocks_take_any_number_and_on_all_elsewhere(encoders, name):
    encoder = copy.deepcopy(encoders(name))
    config = Stage0Config(patch_keep=0.4, concept_emb_dim=6, unfreeze_layers=1)
    model = Stage0PretrainingModel(encoder, None, torch.randn(3, 5), torch.randn(2, 5), config, gps_dim=4).train()
    hidden, seen, upper = encoder.lower(noise(name), 1), [], encoder.upper
    encoder.upper = lambda hidden, top_blocks: seen.append(upper(hidden, top_blocks)) or seen[-1]
    output = model(hidden, torch.zeros(2, 4))
    (output.pooled.square().sum() + output.patch_emb.square().sum()).backward()
    n_patches = encoder.grid[0] * encoder.grid[1]
    n_seen = round(0.4 * n_patches) if encoder.takes_any_tokens else n_patches
    assert seen[0].tokens.shape == (2, n_seen, encoder.token_dim)
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.upper_parameters(1).values())


@pytest.mark.parametrize("name", ZOO)
def test_blocks_that_take_any_number_of_tokens_do_not_ask_where_in_the_row_one_stands(encoders, name):
    """So that a patch means the same among fewer: another order of patches gives the same in that order."""
    encoder = encoders(name)
    if not encoder.takes_any_tokens:
        return
    n_patches = encoder.grid[0] * encoder.grid[1]
    order = torch.randperm(n_patches, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        hidden = encoder.lower(noise(name), encoder.n_blocks)
        n_prefix = hidden.shape[1] - n_patches
        others, patches = hidden[:, :n_prefix], hidden[:, n_prefix:]
        whole = encoder.upper(hidden, encoder.n_blocks)
        moved = encoder.upper(torch.cat([others, patches[:, order]], dim=1), encoder.n_blocks)
    torch.testing.assert_close(moved.tokens, whole.tokens[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.pooled, whole.pooled, atol=1e-5, rtol=1e-5)


def test_the_families_that_are_known_by_name_take_any_number_of_tokens(encoders):
    named = ["clip", "clip_vision", "clipseg", "chinese_clip", "altclip", "metaclip_2", "siglip"]
    named += ["vit", "vit_broad", "vit_msn", "deit", "dinov2", "dinov2_registers"]
    assert [name for name in ZOO if encoders(name).takes_any_tokens] == named


class Shuffled(torch.nn.Module):
    """A transformer whose tokens stand in another order than that of the picture, as those of windows do."""

    main_input_name = "pixel_values"

    def __init__(self, order, n_others=1):
        super().__init__()
        self.config = SimpleNamespace(model_type="shuffled")
        self.patches = torch.nn.Conv2d(3, 8, 8, 8)
        self.others = torch.nn.Parameter(torch.randn(1, n_others, 8))
        self.order = order

    def forward(self, pixel_values):
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)[:, self.order]
        others = self.others + tokens.mean(dim=1, keepdim=True)
        return SimpleNamespace(last_hidden_state=torch.cat([others.expand(len(tokens), -1, -1), tokens], dim=1))


def examined(model, size=(64, 64)):
    backbone = make_backbone(model.eval(), set())
    with torch.no_grad():
        backbone.examine(torch.full((3, *size), -0.2), torch.ones(3, *size))
    return backbone


def test_tokens_in_another_order_are_refused():
    torch.manual_seed(0)
    row_by_row = torch.arange(64)
    assert examined(Shuffled(row_by_row)).layout == (8, 8, 1, "sequence")
    windows = row_by_row.reshape(2, 4, 2, 4).transpose(1, 2).flatten()  # four windows of 4 x 4
    nested = torch.tensor([int(f"{i:06b}"[0::2] + f"{i:06b}"[1::2], 2) for i in range(64)])
    for order in (windows, nested, row_by_row.flip(0), row_by_row.reshape(8, 8).T.flatten(), row_by_row.roll(1)):
        with pytest.raises(ParameterError, match="lie on no grid over the picture"):
            examined(Shuffled(order))


def test_other_tokens_are_found_wherever_they_stand():
    torch.manual_seed(0)
    for n_others in (1, 4, 17):
        assert examined(Shuffled(torch.arange(64), n_others)).layout == (8, 8, n_others, "sequence")
    with pytest.raises(ParameterError, match="lie on no grid"):
        examined(Shuffled(torch.arange(50)))  # a grid that lacks its last patches


def test_models_that_no_picture_alone_is_enough_for_are_refused(tmp_path):
    video = transformers.VideoMAEModel(
        transformers.VideoMAEConfig(**VIT_64, num_frames=4, tubelet_size=2),
    )
    video.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    with pytest.raises(ParameterError, match="type 'videomae' gives no features for a picture"):
        load_image_encoder(tmp_path)


def test_cells_that_a_model_never_fills_are_refused(tmp_path):
    """This family folds its maps in pairs of rows; the last row of an odd number of them stays empty."""
    name = "mobilevitv2"
    save_zoo(tmp_path, name)
    transformers.ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(tmp_path)
    with pytest.raises(ParameterError, match=r"\(128, 7, 7\) for a picture of 224 x 224 pixels, lie on no grid"):
        load_image_encoder(tmp_path)


def test_patches_drawn_at_random_are_refused():
    class Drawn(Shuffled):
        def forward(self, pixel_values):
            self.order = torch.randperm(64)
            output = super().forward(pixel_values)
            return SimpleNamespace(
                last_hidden_state=output.last_hidden_state + torch.rand_like(output.last_hidden_state)
            )

    with pytest.raises(ParameterError, match="other features at each pass"):
        examined(Drawn(None))


def test_a_model_with_a_connection_around_its_blocks_is_used_as_a_whole():
    class Skipping(Shuffled):
        def __init__(self, skips):
            super().__init__(torch.arange(64))
            self.blocks = torch.nn.ModuleList(torch.nn.TransformerEncoderLayer(8, 1, 64) for _ in range(3))
            self.skips = skips

        def forward(self, pixel_values):
            first = hidden = super().forward(pixel_values).last_hidden_state
            for block in self.blocks:
                hidden = block(hidden)
            return SimpleNamespace(last_hidden_state=hidden + first if self.skips else hidden)

    torch.manual_seed(0)
    assert len(examined(Skipping(False)).blocks) == 3
    backbone = examined(Skipping(True))
    assert backbone.blocks == []


def test_a_model_without_its_package_is_one_sentence(tmp_path, monkeypatch):
    save_zoo(tmp_path, "timm_vit")
    real = transformers.utils.import_utils.BACKENDS_MAPPING["timm"]
    monkeypatch.setitem(transformers.utils.import_utils.BACKENDS_MAPPING, "timm", (lambda: False, real[1]))
    with pytest.raises(ParameterError, match="needs the package timm, which is not installed; run `pip install timm`"):
        load_image_encoder(tmp_path)
