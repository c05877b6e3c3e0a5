"""The text encoder trained in Stage 0: its prototypes move, are stored, and are the ones Stage 1 gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import STAGE0, STAGE1

from geocbm.data.concepts import META_TEMPLATES, PARENT_TEMPLATES
from geocbm.encoders import load_image_encoder, load_text_encoder, prototypes
from geocbm.errors import MismatchError, ParameterError
from geocbm.files import SEAL, read_json, write_json
from geocbm.models.loading import load_stage0, read_base_prototypes
from geocbm.models.prompts import PromptPrototypes
from geocbm.models.stage0 import Stage0Config, Stage0PretrainingModel
from geocbm.run import encoding, stages

METAS, PARENTS = ["red pole", "a road", "road sign"], ["pole", "road"]
TRAINED = replace(STAGE0, train_text_encoder=True, encoder_lr=1e-3, epochs=2)


@pytest.fixture
def text(folders):
    return load_text_encoder(image_encoder_name=folders("clip"))


@pytest.mark.parametrize("chunk", [0, 4])
def test_prompts_give_the_prototypes_of_the_frozen_encoder(text, chunk):
    expected = prototypes(text, METAS, META_TEMPLATES), prototypes(text, PARENTS, PARENT_TEMPLATES)
    made = PromptPrototypes(text, METAS, PARENTS, chunk=chunk)
    for ours, theirs in zip(made(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (made.dim, made.counts) == (12, (3, 2))


def test_a_sentence_encoder_gives_the_same_prototypes_through_prompts(tmp_path):
    import transformers
    from tiny_models import WORDS, save_tokenizer

    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, start=False)
    encoder = load_text_encoder(tmp_path)
    torch.testing.assert_close(
        PromptPrototypes(encoder, METAS, PARENTS)()[0], prototypes(encoder, METAS, META_TEMPLATES)
    )


def test_the_words_are_tokenised_once_and_unused_weights_stay_frozen(text, monkeypatch):
    made = PromptPrototypes(text, METAS, PARENTS)
    monkeypatch.setattr(text, "tokenize", lambda texts: pytest.fail("tokenised again"))
    meta, parent = made()
    (meta.sum() + parent.sum()).backward()
    trained = {name: parameter for name, parameter in text.named_parameters() if parameter.requires_grad}
    assert trained and all(parameter.grad is not None for parameter in trained.values())
    assert "model.logit_scale" not in trained
    assert {name for name in trained if "text_projection" in name} == {"model.text_projection.weight"}


def test_chunks_give_the_same_gradients(folders):
    gradients = []
    for chunk in (0, 4):
        made = PromptPrototypes(load_text_encoder(image_encoder_name=folders("clip")), METAS, PARENTS, chunk=chunk)
        direction = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
        (made()[0] * direction).sum().backward()
        gradients.append({name: value.grad for name, value in made.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-6, rtol=1e-4)


def test_impossible_prompts_are_named(text):
    with pytest.raises(ParameterError, match="chunk=-1 is impossible"):
        PromptPrototypes(text, METAS, PARENTS, chunk=-1)
    with pytest.raises(ParameterError, match="parents is empty"):
        PromptPrototypes(text, METAS, [])


def test_training_needs_prompts_that_fit_the_prototypes(folders, text):
    encoder = load_image_encoder(folders("clip"))
    made = PromptPrototypes(text, METAS, PARENTS)
    with pytest.raises(MismatchError, match=r"shapes \[\(3, 12\), \(2, 12\)\], but those given have \[\(4, 12\)"):
        Stage0PretrainingModel(encoder, None, torch.zeros(4, 12), torch.zeros(2, 12), TRAINED, 8, made)
    with pytest.raises(ParameterError, match="train_text_encoder=True needs the prompts; give prompts="):
        Stage0PretrainingModel(encoder, None, torch.zeros(3, 12), torch.zeros(2, 12), TRAINED, 8).train()
    with pytest.raises(ParameterError, match="train_text_encoder=True is useless with concept_losses=False"):
        Stage0Config(train_text_encoder=True, concept_losses=False)


def test_the_model_trains_the_words_and_remembers_them_when_it_is_evaluated(folders, text):
    made = PromptPrototypes(text, METAS, PARENTS)
    first = [values.detach() for values in made()]
    encoder = load_image_encoder(folders("clip"))
    config = replace(TRAINED, concept_emb_dim=8)
    model = Stage0PretrainingModel(encoder, None, *first, config, 8, made).train()
    output = model(torch.randn(4, 17, 16), torch.randn(4, 8))
    output.meta_prototypes.sum().backward()
    weight = text.model.text_projection.weight
    assert weight.grad.abs().sum() > 0
    with torch.no_grad():
        weight.sub_(weight.grad)
    assert torch.equal(model.meta_base, first[0])
    model.eval()
    assert not torch.allclose(model.meta_base, first[0])
    torch.testing.assert_close(model.meta_base, prototypes(text, METAS, META_TEMPLATES))
    torch.testing.assert_close(model.parent_base, prototypes(text, PARENTS, PARENT_TEMPLATES))


@pytest.fixture
def worded_run(copied_run, folders):
    """The tiny run with Stage 0 trained again, its text encoder too."""
    files = copied_run.files
    encoders = encoding.EncoderConfig(**read_json(files.path("features.json"))["encoders"])
    encoder = encoding.load_image_encoder(encoders.image_encoder)
    vanilla = files.features("vanilla")
    _, _, adapted = stages.fit_stage0(files, TRAINED, encoders, encoder, vanilla)
    return copied_run, adapted


@pytest.mark.parametrize("start", [True, False])
def test_stage1_gets_exactly_the_prototypes_that_stage0_came_to(worded_run, start):
    run, adapted = worded_run
    files = run.files
    first = encoding.read_prototypes(files, trained=False)
    stored = load_file(files.path("stage0.safetensors"))
    used = encoding.read_prototypes(files)
    model, _ = stages.fit_stage1(files, replace(STAGE1, init_from_stage0=start), adapted)
    written = load_file(files.path("stage1.safetensors"))
    for kind in ("meta", "parent"):
        assert not torch.allclose(stored[f"{kind}_base"], first[kind], atol=1e-4)
        for value in (used[kind], getattr(model, f"{kind}_base").cpu(), written[f"{kind}_base"]):
            assert torch.equal(value, stored[f"{kind}_base"])
    # The model itself loads without any text encoder.
    assert torch.equal(encoding.load_stage0(files)[0].meta_base, stored["meta_base"])


def test_stage0_is_loaded_with_the_prototypes_that_its_text_encoder_came_to(worded_run):
    files = worded_run[0].files
    path = files.path("stage0.safetensors")
    loaded = load_stage0(path, encoding.load_image_encoder(encoding.read_encoders(files).image_encoder))
    assert loaded.prompts is None
    assert torch.equal(read_base_prototypes(path)["parent"], loaded.parent_base)


def test_training_again_starts_from_the_first_prototypes(worded_run):
    run, _ = worded_run
    files = run.files
    before = load_file(files.path("stage0.safetensors"))
    encoders = encoding.EncoderConfig(**read_json(files.path("features.json"))["encoders"])
    encoder = encoding.load_image_encoder(encoders.image_encoder)
    stages.fit_stage0(files, TRAINED, encoders, encoder, files.features("vanilla"))
    torch.testing.assert_close(load_file(files.path("stage0.safetensors"))["meta_base"], before["meta_base"])


def test_prototypes_of_another_vocabulary_are_refused(worded_run):
    files = worded_run[0].files
    vocabulary = read_json(files.path("concepts.json"))
    write_json(files.path("concepts.json"), vocabulary | {SEAL: "", "metas": vocabulary["metas"][::-1]})
    with pytest.raises(MismatchError):
        encoding.read_prototypes(files)


def test_a_frozen_text_encoder_leaves_one_set_of_prototypes_bit_for_bit(trained_run):
    files = trained_run.files
    base = load_file(files.path("prototypes.safetensors"))
    for stage in (0, 1):
        tensors = load_file(files.path(f"stage{stage}.safetensors"))
        for kind, values in base.items():
            assert torch.equal(tensors[f"{kind}_base"], values)
            assert torch.equal(encoding.read_prototypes(files)[kind], values)
        assert not any(name.startswith("prompts.") for name in tensors)
