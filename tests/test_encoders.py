from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import normalize

from geocbm.encoders import (
    ImageEncoder,
    find_model_folder,
    load_gallery,
    load_image_encoder,
    load_location_encoder,
    load_text_encoder,
    prototypes,
    resolve,
    to_rgb,
)
from geocbm.encoders.backbones import make_backbone
from geocbm.errors import MissingInputError, ParameterError, UserError

SIZE = 32
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIZE,
    "patch_size": 8,
}
WORDS = ["[PAD]", "[UNK]", "<start>", "<end>", "a", "photo", "of", "road", "pole", "sign", "in", "red"]
FAMILIES = {
    "clip": lambda: transformers.CLIPModel(clip_config()),
    "clip_vision": lambda: transformers.CLIPVisionModelWithProjection(clip_config().vision_config),
    "siglip": lambda: transformers.SiglipModel(
        transformers.SiglipConfig(
            vision_config=dict(VIT),
            text_config={**VIT, "vocab_size": len(WORDS), "projection_size": 16, "max_position_embeddings": 8},
        )
    ),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**VIT)),
    "deit": lambda: transformers.DeiTModel(transformers.DeiTConfig(**VIT)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**VIT)),
    "registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=3)
    ),
    "mobilenet": lambda: transformers.MobileNetV2Model(transformers.MobileNetV2Config(depth_multiplier=0.1)),
    "resnet": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic")
    ),
    "regnet": lambda: transformers.RegNetModel(
        transformers.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8)
    ),
    "convnext": lambda: transformers.ConvNextModel(
        transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    ),
    "swin": lambda: transformers.SwinModel(
        transformers.SwinConfig(
            image_size=SIZE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
        )
    ),
}


def clip_config(**changes):
    text = {**VIT, "vocab_size": len(WORDS), "max_position_embeddings": 8}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    del text["image_size"], text["patch_size"]
    values = {"text_config": text, "vision_config": dict(VIT), "projection_dim": 12} | changes
    values["vision_config"].setdefault("projection_dim", values["projection_dim"])
    return transformers.CLIPConfig(**values)


def save_tokenizer(folder: Path, start: bool = True) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
        )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="<end>", model_max_length=8
    ).save_pretrained(folder)


def save_processor(folder: Path, size: int = SIZE) -> None:
    transformers.CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)


def save_model(folder: Path, family: str, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = FAMILIES[family]().eval()
    for name, buffer in model.named_buffers():  # untrained running statistics would hide mistakes
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    model.save_pretrained(folder)
    save_processor(folder)
    if family in {"clip", "siglip"}:
        save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_model(root / family, family)
        return made[family]

    return folder


def pixels(n: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"swin"}))
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
    swin = load_image_encoder(folders("swin"))
    assert swin.n_blocks == 0
    with pytest.raises(ParameterError, match="cannot be divided into blocks; use 0"):
        swin.lower(pixels(), 1)


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


def test_half_precision_weights_become_single_precision(tmp_path):
    torch.manual_seed(0)
    FAMILIES["clip"]().half().save_pretrained(tmp_path)
    save_processor(tmp_path)
    encoder = load_image_encoder(tmp_path)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder(pixels()).tokens.dtype == torch.float32


def test_a_classifier_without_a_trained_pooler_gives_its_class_token(tmp_path):
    torch.manual_seed(0)
    classifier = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).eval()
    classifier.save_pretrained(tmp_path)
    save_processor(tmp_path)
    with torch.no_grad():
        expected = classifier(pixels(), output_hidden_states=True).hidden_states[-1]
        expected = classifier.vit.layernorm(expected)[:, 0]
        torch.testing.assert_close(load_image_encoder(tmp_path)(pixels()).pooled, expected, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_with_missing_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, "clip")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParameterError, match=r"lacks 1 weights .* 'visual_projection.weight'; they would be random"):
        load_image_encoder(tmp_path)


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


def test_preprocessing_that_does_not_fit_is_refused(tmp_path):
    save_model(tmp_path, "clip")
    save_processor(tmp_path, size=48)
    with pytest.raises(UserError, match=r"does not accept the pictures its preprocessing makes \(48 x 48 pixels\)"):
        load_image_encoder(tmp_path)
    transformers.CLIPImageProcessor(size={"shortest_edge": SIZE}, do_center_crop=False).save_pretrained(tmp_path)
    with pytest.raises(ParameterError, match="pictures of different sizes"):
        load_image_encoder(tmp_path)
    for file in tmp_path.glob("*processor*"):
        file.unlink()
    with pytest.raises(ParameterError, match=r"no usable preprocessor_config\.json"):
        load_image_encoder(tmp_path)


def test_only_safetensors_are_loaded(tmp_path):
    save_model(tmp_path, "clip")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ParameterError, match=r"only pytorch_model\.bin, which could execute code .* save it again"):
        load_image_encoder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(MissingInputError, match=r"has no config\.json"):
        load_image_encoder(tmp_path)
    with pytest.raises(MissingInputError, match="does not exist"):
        load_image_encoder(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match="is empty"):
        find_model_folder(" ")


def test_a_model_out_of_reach_is_reported_in_one_sentence_at_once(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(MissingInputError) as caught:
        load_image_encoder("somebody/some-clip")
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert "'somebody/some-clip' could not be loaded: offline mode is set" in message
    assert all(way in message for way in ("local folder", "HF_HOME", "'atlas'"))
    assert "\n" not in message
    assert caught.value.__cause__ is None

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def refuse(repository, revision):
        raise ConnectionError("no route to the network")

    monkeypatch.setattr(resolve, "_probe", refuse)
    with pytest.raises(MissingInputError, match=r"out of reach \(ConnectionError\)"):
        load_image_encoder("somebody/some-clip")


def test_a_cached_hub_model_is_found_without_a_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def cache(repository: str, revision: str, commit: str) -> Path:
        root = tmp_path / ("models--" + repository.replace("/", "--"))
        (root / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
        (root / "refs" / revision).write_text(commit)
        (root / "snapshots" / commit).mkdir(parents=True)
        (root / "snapshots" / commit / "config.json").write_text("{}")
        return root / "snapshots" / commit

    main = cache("geolocal/StreetCLIP", "main", "a" * 40)
    (main / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(MissingInputError, match="cached copy has only a pickle"):
        find_model_folder("geolocal/StreetCLIP")
    converted = cache("geolocal/StreetCLIP", "refs/pr/1", "b" * 40)
    (converted / "model.safetensors").write_bytes(b"")
    assert find_model_folder("geolocal/StreetCLIP").resolve() == converted.resolve()
    assert find_model_folder("geolocal/StreetCLIP@refs/pr/1").resolve() == converted.resolve()


def test_the_alias_of_the_packaged_backbone(folders, monkeypatch, tmp_path):
    monkeypatch.setattr(resolve, "packaged_backbone_folder", lambda: folders("clip"))
    assert load_image_encoder("atlas").name == "atlas"
    assert load_text_encoder(image_encoder_name="atlas").dim == 12
    monkeypatch.setattr(resolve, "packaged_backbone_folder", lambda: tmp_path)
    with pytest.raises(MissingInputError, match="geocbm atlas pretrain"):
        load_image_encoder("atlas")


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_text_tower_gives_the_projected_vectors(folders, family):
    encoder = load_text_encoder(image_encoder_name=folders(family))
    texts = ["a photo of red road", "pole", "a sign in a road of a pole"]
    model = transformers.AutoModel.from_pretrained(folders(family)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders(family))
    vectors = encoder.encode(texts, batch_size=2)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    for row, text in enumerate(texts):
        options = {"padding": "max_length"} if family == "siglip" else {}
        ids = tokenizer(text, truncation=True, max_length=8, return_tensors="pt", **options)["input_ids"]
        with torch.no_grad():
            torch.testing.assert_close(vectors[row], model.get_text_features(ids).pooler_output[0], atol=1e-5, rtol=0)


def test_sentence_encoder_averages_over_words_only(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, start=False)
    encoder = load_text_encoder(tmp_path)
    with torch.no_grad():
        alone = model(torch.tensor([[4, 7]])).last_hidden_state[0].mean(dim=0)
    together = encoder.encode(["a road", "a photo of red road in a"])
    torch.testing.assert_close(together[0], alone, atol=1e-5, rtol=0)
    assert encoder.dim == 16


def test_text_encoder_keeps_the_order_and_can_be_trained(folders):
    encoder = load_text_encoder(folders("clip"))
    texts = ["a road in a red sign", "pole", "a photo of sign", "red", "a pole of a road"]
    one_by_one = torch.cat([encoder.encode([text]) for text in texts])
    torch.testing.assert_close(encoder.encode(texts, batch_size=2), one_by_one, atol=1e-5, rtol=0)
    assert encoder.encode([]).shape == (0, 12)
    before = encoder.fingerprint()
    encoder.requires_grad_(True)
    encoder(texts).sum().backward()
    weight = encoder.model.text_projection.weight
    assert weight.grad is not None
    with torch.no_grad():
        weight.sub_(weight.grad)
    assert encoder.fingerprint() != before
    with pytest.raises(ParameterError, match="batch_size is 0"):
        encoder.encode(texts, batch_size=0)


def test_models_without_text_are_refused(folders, tmp_path):
    with pytest.raises(ParameterError, match=r"\(type 'vit'\) has no text tower; set text_encoder"):
        load_text_encoder(image_encoder_name=folders("vit"))
    with pytest.raises(ParameterError, match="neither a text encoder nor an image encoder"):
        load_text_encoder()
    save_model(tmp_path, "clip")
    for file in tmp_path.glob("token*"):
        file.unlink()
    with pytest.raises(ParameterError, match="no tokenizer files"):
        load_text_encoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ParameterError, match="no usable tokenizer"):
        load_text_encoder(tmp_path)
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(ParameterError, match=r"'bert' reads no pictures"):
        load_image_encoder(tmp_path / "bert")


def test_prototypes_are_means_of_normalised_prompts(folders):
    encoder = load_text_encoder(folders("clip"))
    result = prototypes(encoder, ["road", "pole"], ["a photo of {}", "{}"])
    prompts = normalize(encoder.encode(["a photo of pole", "pole"]), dim=-1)
    torch.testing.assert_close(result[1], normalize(prompts.mean(dim=0), dim=0))
    torch.testing.assert_close(result.norm(dim=1), torch.ones(2))
    assert torch.equal(result, prototypes(encoder, ["road", "pole"], ["a photo of {}", "{}"]))
    for templates in ([], ["a photo"]):
        with pytest.raises(ParameterError, match="templates is"):
            prototypes(encoder, ["road"], templates)


def test_location_encoder_is_frozen_and_tells_places_apart():
    encoder = load_location_encoder()
    places = torch.tensor([[48.857, 2.352], [48.858, 2.353], [-33.87, 151.21]])  # Paris twice, Sydney
    vectors = encoder(places)
    assert vectors.shape == (3, 512)
    assert not vectors.requires_grad
    assert not any(module.training for module in encoder.modules())
    near, far = torch.cosine_similarity(vectors[:1], vectors[1:])
    assert near > 0.95 > far
    torch.testing.assert_close(vectors, load_location_encoder()(places))


def test_gallery_has_real_coordinates():
    gallery = load_gallery()
    assert gallery.shape == (100_000, 2)
    assert np.abs(gallery[:, 0]).max() <= 90
    assert np.abs(gallery[:, 1]).max() <= 180
    assert np.abs(gallery[:, 1]).max() > 90
