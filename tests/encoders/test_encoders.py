from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_models import FAMILIES, SIZE, VIT, clip_config, pixels, save_model, save_processor

from geocbm.encoders import ImageEncoder, load_image_encoder, to_rgb
from geocbm.encoders.backbones import make_backbone
from geocbm.errors import ParameterError


def reference(folder: Path, family: str, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled vector and tokens by the public face of transformers alone."""
    with torch.no_grad():
        if family in {"clip", "siglip"}:
            model = transformers.AutoModel.from_pretrained(folder).eval()
            pooled = model.get_image_features(images).pooler_output
            hidden = model.vision_model(images, output_hidden_states=True).hidden_states[-1]
            return pooled, hidden[:, 1:] if family == "clip" else hidden
        if family == "clip_vision":
            model = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
            output = model(images)
            return output.image_embeds, output.last_hidden_state[:, 1:]
        output = transformers.AutoModel.from_pretrained(folder).eval()(images)
        tokens = output.last_hidden_state
        if tokens.dim() == 4:
            return output.pooler_output.flatten(1), tokens.flatten(2).transpose(1, 2)
        skipped = {"vit": 1, "deit": 2, "dinov2": 1, "registers": 4, "swin": 0}[family]
        return output.pooler_output, tokens[:, skipped:]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_features_are_those_of_transformers(folders, family):
    encoder = load_image_encoder(folders(family))
    images = pixels()
    with torch.no_grad():
        pooled, tokens = encoder(images)
    expected_pooled, expected_tokens = reference(folders(family), family, images)
    torch.testing.assert_close(pooled, expected_pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens, expected_tokens, atol=1e-5, rtol=1e-4)
    assert pooled.shape == (2, encoder.pooled_dim)
    assert tokens.shape == (2, encoder.grid[0] * encoder.grid[1], encoder.token_dim)
    assert encoder.image_size == SIZE
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_two_halves_make_the_whole_for_every_division(folders, family):
    encoder = load_image_encoder(folders(family))
    images = pixels()
    assert encoder.n_blocks >= 2
    with torch.no_grad():
        whole = encoder(images)
        for top_blocks in range(encoder.n_blocks + 1):
            hidden = encoder.lower(images, top_blocks)
            assert tuple(hidden.shape[1:]) == encoder.hidden_shape(top_blocks)
            halves = encoder.upper(hidden, top_blocks)
            assert torch.equal(halves.pooled, whole.pooled)
            assert torch.equal(halves.tokens, whole.tokens)


@pytest.mark.parametrize("family", ["clip", "vit", "dinov2", "mobilenet", "convnext"])
def test_training_the_upper_half_leaves_the_lower_half_alone(folders, family):
    encoder = load_image_encoder(folders(family))
    images = pixels()
    trained = encoder.upper_parameters(1)
    with torch.no_grad():
        hidden = encoder.lower(images, 1)
        for parameter in trained.values():
            parameter.add_(0.05)
        assert torch.equal(encoder.lower(images, 1), hidden)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    features = encoder.upper(hidden, 1)
    (features.pooled.square().sum() + features.tokens.square().sum()).backward()
    without = [name for name, parameter in trained.items() if parameter.grad is None]
    assert not without


def test_upper_parameters_of_clip_are_last_blocks_normalisation_and_projection(folders):
    encoder = load_image_encoder(folders("clip"))
    names = encoder.upper_parameters(2)
    prefixes = {"encoder.layers.1.", "encoder.layers.2.", "post_layernorm.", "visual_projection."}
    assert {prefix for prefix in prefixes for name in names if prefix in name} == prefixes
    assert all(any(prefix in name for prefix in prefixes) for name in names)
    assert not any("layers.0." in name or "embedding" in name for name in names)
    assert encoder.upper_parameters(0) == {}
    assert set(names) <= set(dict(encoder.named_parameters()))


def test_training_mode_is_never_entered(folders):
    encoder = load_image_encoder(folders("mobilenet"))
    before = encoder.fingerprint()
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    encoder(pixels())
    assert encoder.fingerprint() == before


def test_a_copy_is_independent(folders):
    encoder = load_image_encoder(folders("clip"))
    vanilla = copy.deepcopy(encoder)
    with torch.no_grad():
        for parameter in encoder.upper_parameters(1).values():
            parameter.mul_(2.0)
        fresh = load_image_encoder(folders("clip"))
        assert torch.equal(vanilla(pixels()).pooled, fresh(pixels()).pooled)
        assert not torch.equal(encoder(pixels()).pooled, fresh(pixels()).pooled)


def test_impossible_divisions_are_refused(folders):
    encoder = load_image_encoder(folders("clip"))
    for call in (encoder.upper_parameters, encoder.hidden_shape):
        with pytest.raises(ParameterError, match=r"top_blocks is 4, .* has 3 blocks; use 0 to 3"):
            call(4)
    with pytest.raises(ParameterError, match="top_blocks is -1"):
        encoder.lower(pixels(), -1)


def test_fingerprint_follows_weights_and_preprocessing(folders, tmp_path):
    encoder = load_image_encoder(folders("clip"))
    first = encoder.fingerprint()
    assert first == load_image_encoder(folders("clip")).fingerprint() == encoder.fingerprint()
    lower = encoder.lower_fingerprint(1)
    parameter = encoder.upper_parameters(1)["model.visual_projection.weight"]
    with torch.no_grad():
        parameter[0, 0] += 0.5
    second = encoder.fingerprint()
    parameter.data[0, 0] += 0.5  # leaves the version counter alone
    third = encoder.fingerprint()
    optimiser = torch.optim.AdamW([parameter.requires_grad_(True)], lr=0.01, fused=True)
    encoder(pixels()).pooled.sum().backward()
    optimiser.step()
    assert len({first, second, third, encoder.fingerprint()}) == 4
    assert encoder.lower_fingerprint(1) == lower != encoder.lower_fingerprint(2)

    save_model(tmp_path, "clip")
    transformers.CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_mean=[0.5, 0.5, 0.5]
    ).save_pretrained(tmp_path)
    assert load_image_encoder(tmp_path).fingerprint() != first


def test_a_classifier_without_a_trained_pooler_gives_its_class_token(tmp_path):
    torch.manual_seed(0)
    classifier = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).eval()
    classifier.save_pretrained(tmp_path)
    save_processor(tmp_path)
    with torch.no_grad():
        expected = classifier(pixels(), output_hidden_states=True).hidden_states[-1]
        expected = classifier.vit.layernorm(expected)[:, 0]
        torch.testing.assert_close(load_image_encoder(tmp_path)(pixels()).pooled, expected, atol=1e-5, rtol=1e-4)


def test_streetclip_geometry_is_supported():
    """ViT-L/14 at 336 pixels: 768 projected dimensions and 24 x 24 tokens of 1024 dimensions."""
    vision = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    config = clip_config(vision_config={**vision, "image_size": 336, "patch_size": 14}, projection_dim=768)
    with torch.device("meta"):
        model = transformers.CLIPModel(config)
    model = model.to_empty(device="cpu").requires_grad_(False).eval()
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data.fill_(1e-3 if name.endswith("weight") else 0.0)
    positions = model.vision_model.embeddings.position_ids
    positions.copy_(torch.arange(positions.shape[-1]).expand_as(positions))
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    encoder = ImageEncoder(make_backbone(model, set()), processor, "streetclip geometry")
    assert (encoder.pooled_dim, encoder.token_dim, encoder.grid) == (768, 1024, (24, 24))
    assert (encoder.n_blocks, encoder.image_size) == (24, 336)
    upper = encoder.upper_parameters(2)
    assert sum(parameter.numel() for parameter in upper.values()) == 2 * 12_596_224 + 2 * 1024 + 1024 * 768
    with torch.inference_mode():
        features = encoder.upper(torch.zeros(1, 577, 1024), 1)
    assert features.pooled.shape == (1, 768)
    assert features.tokens.shape == (1, 576, 1024)


def test_pictures_of_every_mode_are_read(folders):
    encoder = load_image_encoder(folders("clip"))
    colour = Image.new("RGB", (50, 40), (200, 30, 90))
    modes = ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I", "F", "I;16"]
    pictures = [colour.convert("I").convert("I;16") if mode == "I;16" else colour.convert(mode) for mode in modes]
    batch = encoder.preprocess(pictures)
    assert batch.shape == (len(modes), 3, SIZE, SIZE)
    assert batch.dtype == torch.float32
    assert torch.isfinite(batch).all()
    torch.testing.assert_close(batch[3], batch[0])


def test_to_rgb_scales_turns_and_fills():
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert np.asarray(to_rgb(deep))[0, :, 0].tolist() == [0, 100, 255]
    unit = Image.fromarray(np.array([[0.0, 0.2, 1.0]], dtype=np.float32))
    assert np.asarray(to_rgb(unit))[0, :, 1].tolist() == [0, 51, 255]
    assert np.asarray(to_rgb(Image.new("RGBA", (1, 1), (9, 9, 9, 0)))).ravel().tolist() == [255, 255, 255]
    lying = Image.new("RGB", (4, 2), (255, 0, 0))
    lying.putpixel((0, 0), (0, 255, 0))
    lying.getexif()[0x0112] = 6  # to be turned a quarter clockwise
    upright = to_rgb(lying)
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (0, 255, 0)


def test_crop_is_the_picture_that_the_model_sees(folders):
    encoder = load_image_encoder(folders("clip"))
    wide = Image.new("RGB", (96, 32), (10, 120, 240))
    wide.paste((255, 0, 0), (0, 0, 16, 32))  # outside the centre crop
    crop = encoder.crop(wide)
    assert crop.size == (SIZE, SIZE)
    assert set(crop.get_flattened_data() if hasattr(crop, "get_flattened_data") else crop.getdata()) == {(10, 120, 240)}
    torch.testing.assert_close(encoder.preprocess([crop]), encoder.preprocess([wide]), atol=1e-5, rtol=0)
