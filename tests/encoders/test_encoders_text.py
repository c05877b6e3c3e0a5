from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from tiny_models import WORDS, save_model, save_tokenizer
from tokenizers import normalizers
from torch.nn.functional import normalize

from geocbm.encoders import load_gallery, load_image_encoder, load_location_encoder, load_text_encoder, prototypes
from geocbm.errors import ParameterError


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


def test_another_cut_of_texts_is_another_text_encoder(folders):
    """The same weights and words, but capitals are made small, or texts are cut earlier."""
    first = load_text_encoder(folders("clip")).fingerprint()
    assert first == load_text_encoder(folders("clip")).fingerprint()
    encoder = load_text_encoder(folders("clip"))
    encoder.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    shorter = load_text_encoder(folders("clip"))
    shorter.max_tokens = 4
    assert len({first, encoder.fingerprint(), shorter.fingerprint()}) == 3


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
        with pytest.raises(ParameterError, match=r"templates (is empty|must hold)"):
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
