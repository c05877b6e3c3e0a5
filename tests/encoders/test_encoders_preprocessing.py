"""What decides about the pixels that a model sees, and that all of it is in the key of the feature store."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_models import SIZE, save_model

from geocbm.encoders import load_image_encoder, preprocessing
from geocbm.encoders.backbones import make_backbone
from geocbm.encoders.features import encode_features
from geocbm.encoders.image import ImageEncoder
from geocbm.encoders.loading import read_model
from geocbm.encoders.preprocessing import Preprocessing
from geocbm.errors import ParameterError
from geocbm.files import sha256_file

SETTINGS = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}


def clip(kind=transformers.CLIPImageProcessor, **changes):
    return Preprocessing(kind(**SETTINGS | changes), "clip")


@pytest.fixture
def photo(tmp_path):
    """A file with edges, on which every choice shows."""
    x, y = np.meshgrid(np.arange(150), np.arange(110))
    pixels = np.stack([x * 255 // 150, (x // 4 + y // 3) % 2 * 255, (x * y) % 256], axis=-1).astype(np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def test_two_implementations_of_one_preprocessing_do_not_share_a_store(tmp_path, photo):
    folder = save_model(tmp_path / "clip", "clip")
    stores = []
    for kind in (transformers.CLIPImageProcessor, transformers.CLIPImageProcessorPil):
        encoder = ImageEncoder(make_backbone(*read_model(folder)), kind(**SETTINGS), "clip")
        stores.append(encode_features(encoder, [photo], [sha256_file(photo)], tmp_path / "cache", progress=False))
    assert not torch.equal(stores[0].read_all("pooled"), stores[1].read_all("pooled"))
    assert stores[0].fingerprint != stores[1].fingerprint
    assert stores[0].path != stores[1].path


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": 2},
        {"do_center_crop": False, "size": {"height": SIZE, "width": SIZE}},
        {"image_mean": [0.5, 0.5, 0.5]},
        {"rescale_factor": 1 / 127.5},
        {"size": {"shortest_edge": SIZE + 4}},
    ],
)
def test_every_setting_is_in_the_key(changes):
    assert clip(**changes).fingerprint() != clip().fingerprint() == clip().fingerprint()


def test_what_no_setting_tells_is_in_the_key(monkeypatch):
    """Another version of a library, or another reader of files, changes pixels and nothing else."""
    first = clip().fingerprint()
    other = clip()
    run = type(other.processor).resize

    def resize(self, image, *args, **options):
        return run(self, image, *args, **options | {"antialias": False})

    monkeypatch.setattr(type(other.processor), "resize", resize)
    assert clip().fingerprint() != first
    monkeypatch.undo()
    opened = preprocessing.open_picture
    monkeypatch.setattr(preprocessing, "open_picture", lambda path: opened(path).transpose(0))
    assert clip().fingerprint() != first


def test_lower_halves_of_two_preprocessings_differ(tmp_path):
    folder = save_model(tmp_path, "clip")
    torchvision, pillow = (
        ImageEncoder(make_backbone(*read_model(folder)), kind(**SETTINGS), "clip")
        for kind in (transformers.CLIPImageProcessor, transformers.CLIPImageProcessorPil)
    )
    assert torchvision.lower_fingerprint(1) != pillow.lower_fingerprint(1)
    assert torchvision.weights_fingerprint() == pillow.weights_fingerprint()
    assert (torchvision.preprocessing_name, pillow.preprocessing_name) == (
        "CLIPImageProcessor",
        "CLIPImageProcessorPil",
    )


def test_features_do_not_depend_on_the_precision_around_them(tmp_path, photo):
    encoder = load_image_encoder(save_model(tmp_path / "clip", "clip"))
    digests = [sha256_file(photo)]
    plain = encode_features(encoder, [photo], digests, tmp_path / "plain", progress=False)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encode_features(encoder, [photo], digests, tmp_path / "mixed", progress=False)
    assert torch.equal(plain.read_all("tokens"), mixed.read_all("tokens"))


@pytest.mark.parametrize(
    "processor",
    [
        transformers.CLIPImageProcessor(**SETTINGS),
        transformers.CLIPImageProcessor(**SETTINGS, do_normalize=False),
        transformers.CLIPImageProcessor(**SETTINGS, do_normalize=False, do_rescale=False),
        transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE}),
        # Blue stands first in these pixels.
        transformers.MobileViTImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
        transformers.EfficientNetImageProcessor(size={"height": SIZE, "width": SIZE}, rescale_offset=True),
        transformers.LevitImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_the_picture_that_the_model_sees_has_its_colours(processor):
    prepared = Preprocessing(processor, "any")
    seen = prepared.picture(Image.new("RGB", (50, 50), (200, 30, 90)))
    assert seen.size == (SIZE, SIZE)
    assert seen.getpixel((SIZE // 2, SIZE // 2)) == (200, 30, 90)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_std": [0.0, 0.0, 0.0]}, "image_std"),
        ({"resample": 99}, "the preprocessing of the encoder 'clip' fails"),
        ({"image_mean": [0.5, 0.5]}, "the preprocessing of the encoder 'clip' fails"),
        ({"do_center_crop": False}, "pictures of different sizes"),
    ],
)
def test_impossible_settings_are_one_sentence(settings, message):
    with pytest.raises(ParameterError, match=message):
        clip(**settings)


def test_grids_of_their_own_are_refused():
    with pytest.raises(ParameterError, match="NaFlex"):
        Preprocessing(transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=64), "naflex")
