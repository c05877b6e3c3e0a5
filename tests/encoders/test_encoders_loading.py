from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import safetensors
import torch
import transformers
from tiny_models import FAMILIES, SIZE, VIT, pixels, save_model, save_processor

from geocbm.encoders import find_model_folder, load_image_encoder, load_text_encoder, loading
from geocbm.errors import MissingInputError, ParameterError, UserError


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


def test_weights_depend_neither_on_the_layout_of_their_file_nor_on_what_becomes_of_it(tmp_path):
    # At other addresses the same numbers may be added in another order, so that an answer has other last digits.
    file = save_model(tmp_path, "clip") / "model.safetensors"
    model, _ = loading.read_model(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    file.write_bytes(bytes(file.stat().st_size))
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {value.data_ptr() % 64 for value in after.values()} == {0}


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

    def refuse(url, timeout):
        raise ConnectionError("no route to the network")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
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
    monkeypatch.setattr(loading, "PACKAGED_FOLDER", folders("clip"))
    assert load_image_encoder("atlas").name == "atlas"
    assert load_text_encoder(image_encoder_name="atlas").dim == 12
    monkeypatch.setattr(loading, "PACKAGED_FOLDER", tmp_path)
    with pytest.raises(MissingInputError, match=r"python -m tools\.atlas_backbone"):
        load_image_encoder("atlas")


def test_a_checkpoint_with_missing_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, "clip")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParameterError, match=r"lacks 1 weights .* 'visual_projection.weight'; they would be random"):
        load_image_encoder(tmp_path)


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


def test_half_precision_weights_become_single_precision(tmp_path):
    torch.manual_seed(0)
    FAMILIES["clip"]().half().save_pretrained(tmp_path)
    save_processor(tmp_path)
    encoder = load_image_encoder(tmp_path)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder(pixels()).tokens.dtype == torch.float32


CONFIGURATIONS = ["null", "[]", "{}", "{", '{"model_type": "nobody"}', '{"model_type": "clip", "vision_config": 5}']
FOREIGN_CODE = '{"model_type": "nobody", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}'


@pytest.mark.parametrize("content", [*CONFIGURATIONS, FOREIGN_CODE])
@pytest.mark.parametrize("load", [load_image_encoder, load_text_encoder])
def test_an_odd_configuration_is_one_sentence(tmp_path, content, load):
    (save_model(tmp_path, "clip") / "config.json").write_text(content)
    with pytest.raises(ParameterError, match="configuration of the encoder") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["null", "[]", "{", '{"image_processor_type": "Nobody"}'])
def test_an_odd_preprocessing_is_one_sentence(tmp_path, content):
    (save_model(tmp_path, "clip") / "preprocessor_config.json").write_text(content)
    with pytest.raises(ParameterError, match=r"no usable preprocessor_config\.json") as caught:
        load_image_encoder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [load_image_encoder, load_text_encoder])
def test_damaged_weights_are_one_sentence(tmp_path, load):
    weights = save_model(tmp_path, "clip") / "model.safetensors"
    content = weights.read_bytes()
    for damaged in (b"", content[:3000], content[:-4]):
        weights.write_bytes(damaged)
        with pytest.raises(ParameterError, match=r"\(type 'clip'\) cannot be read") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    weights = save_model(tmp_path, "vit") / "model.safetensors"
    content = load_file(weights)
    name = max(content)
    content[name].view(-1)[0] = torch.nan
    save_file(content, weights, metadata={"format": "pt"})
    with pytest.raises(ParameterError, match=f"'{re.escape(name)}'"):
        load_image_encoder(tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        {"hidden_size": -32},
        {"hidden_size": 2**40},
        {"hidden_size": "a"},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 10**9},  # would be built one by one
        {"patch_size": 0},
        {"model_type": "x" * 5000},
        {"model_type": "own", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}},
    ],
)
def test_an_impossible_configuration_is_one_short_sentence_and_runs_no_code(tmp_path, entries):
    config = save_model(tmp_path, "vit") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | entries))
    (tmp_path / "code.py").write_text("raise SystemExit('code of a stranger ran')")
    with pytest.raises(ParameterError) as caught:
        load_image_encoder(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    if "auto_map" in entries:
        assert "code of its own" in str(caught.value) and "trust_remote_code" not in str(caught.value)


def test_only_safetensors_inside_the_folder_are_read_whatever_an_index_says(tmp_path):
    weights = save_model(tmp_path / "model", "vit") / "model.safetensors"
    names = list(safetensors.safe_open(weights, "pt").keys())
    for target in ("../outside.safetensors", "pytorch_model.bin"):
        weights.rename(tmp_path / "outside.safetensors") if weights.exists() else None
        torch.save({name: torch.zeros(1) for name in names}, tmp_path / "model" / "pytorch_model.bin")
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, target)}
        (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ParameterError, match="only safetensors are loaded"):
            load_image_encoder(tmp_path / "model")


@pytest.mark.parametrize("named", ["model.safetensors.index.json", "other.safetensors.index.json"])
@pytest.mark.parametrize("target", ["../model.safetensors", "/etc/passwd", "pytorch_model.bin", "sub/x.safetensors", 7])
def test_an_index_beside_weights_leads_to_safetensors_in_the_folder_only(tmp_path, monkeypatch, target, named):
    weights = save_model(tmp_path / "model", "vit") / "model.safetensors"
    names = list(safetensors.safe_open(weights, "pt").keys())
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "model" / "pytorch_model.bin")
    weights.rename(weights.with_name("unused.safetensors"))
    (weights.parent / named).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, target)}))
    if named != "model.safetensors.index.json":
        config = json.loads((weights.parent / "config.json").read_text())
        (weights.parent / "config.json").write_text(json.dumps(config | {"transformers_weights": named}))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    with pytest.raises(ParameterError, match="names weights that are no safetensors in its folder") as caught:
        load_image_encoder(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_weights_in_parts_are_read(tmp_path):
    torch.manual_seed(0)
    FAMILIES["vit"]().save_pretrained(tmp_path, max_shard_size="10KB")
    save_processor(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load_image_encoder(tmp_path).n_blocks == 3


@pytest.mark.parametrize("architectures", [[7], [], "x", ["Module"]])
def test_an_unknown_architecture_is_as_good_as_none(tmp_path, architectures):
    config = save_model(tmp_path, "clip") / "config.json"
    before = load_image_encoder(tmp_path)(pixels()).pooled
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": architectures}))
    assert torch.equal(load_image_encoder(tmp_path)(pixels()).pooled, before)


@pytest.mark.parametrize(("part", "count"), [("vision_config", 10**18), ("text_config", 10**9)])
def test_endless_blocks_of_a_part_are_refused_before_they_are_built(tmp_path, part, count):
    config = save_model(tmp_path, "clip") / "config.json"
    content = json.loads(config.read_text())
    content[part]["num_hidden_layers"] = count
    config.write_text(json.dumps(content))
    with pytest.raises(ParameterError, match=f"num_hidden_layers is {count}"):
        load_image_encoder(tmp_path)


@pytest.mark.parametrize("crop", [-1, 0, {"height": -3, "width": 4}, {"height": 0, "width": 30}])
def test_preprocessing_that_leaves_no_pixels_is_one_sentence(tmp_path, crop):
    file = save_model(tmp_path, "clip") / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"crop_size": crop}))
    with pytest.raises(ParameterError, match=r"preprocessor_config\.json|not \[1, 3, height, width\]"):
        load_image_encoder(tmp_path)


def test_a_name_of_any_length_is_one_sentence():
    with pytest.raises(UserError) as caught:
        find_model_folder("n" * 5000, download=False)
    assert len(str(caught.value)) < 600


def test_weights_of_more_blocks_than_configured_are_refused(tmp_path):
    """They would be left out, and the features of half a model would be taken for those of a whole one."""
    for family in ("clip", "vit"):
        config = save_model(tmp_path / family, family) / "config.json"
        config.write_text(config.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 2'))
        with pytest.raises(ParameterError, match="more blocks than its config"):
            load_image_encoder(tmp_path / family)
    transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path / "head")
    save_processor(tmp_path / "head")
    assert load_image_encoder(tmp_path / "head").n_blocks == 3  # a head that is not needed is no block too many


def test_running_statistics_that_are_missing_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    weights = save_model(tmp_path, "resnet") / "model.safetensors"
    content = load_file(weights)
    name = next(name for name in content if name.endswith("running_mean"))
    del content[name]
    save_file(content, weights, metadata={"format": "pt"})
    with pytest.raises(ParameterError, match="lacks 1 weights"):
        load_image_encoder(tmp_path)
