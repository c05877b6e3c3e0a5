"""From the files of a run to its trained stages: what is written, what is found again, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import PARENT_OF, STAGE1, STAGE2, N, prepare, write_cells, write_pictures

from geocbm import data
from geocbm.data.concepts import META_TEMPLATES
from geocbm.encoders import ImageEncoder, load_text_encoder, prototypes
from geocbm.encoders.features import OnTheFlyFeatures
from geocbm.errors import MismatchError, MissingInputError
from geocbm.files import read_json, write_json
from geocbm.models.stage2 import Stage2Config
from geocbm.models.stage2_inference import concept_input, predict_stage2
from geocbm.run import encoding, predictions, stages
from geocbm.workbench.settings import config_fields


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stage_leaves_its_checkpoint_description_and_history(trained_run, stage):
    files = trained_run.files
    for name in (f"stage{stage}.safetensors", f"stage{stage}.json", f"history_stage{stage}.parquet"):
        assert files.need(name).stat().st_size
    assert read_json(files.path(f"stage{stage}.json"))["labels"] == files.labels(f"stage{stage}.safetensors")


def test_prototypes_follow_the_order_of_the_vocabulary(trained_run, folders):
    base = encoding.read_prototypes(trained_run.files)
    assert {name: tuple(value.shape) for name, value in base.items()} == {"meta": (6, 12), "parent": (3, 12)}
    text = load_text_encoder(image_encoder_name=folders("clip"))
    torch.testing.assert_close(base["meta"], prototypes(text, sorted(PARENT_OF), META_TEMPLATES))


@pytest.mark.parametrize("which", ["vanilla", "adapted"])
@pytest.mark.parametrize("max_cache_gb", [60.0, 0.0])
def test_features_whose_cache_is_gone_are_the_same_again(copied_run, which, max_cache_gb):
    files = copied_run.files
    before = files.features(which)
    expected = {kind: before.read_all(kind) for kind in before.kinds}
    shutil.rmtree(copied_run.cache)
    content = read_json(files.path("features.json"))
    content["encoders"]["max_cache_gb"] = max_cache_gb
    write_json(files.path("features.json"), content)
    again = copied_run.files.features(which)
    assert again.n == N
    assert set(again.kinds) == set(expected) == {"pooled", {"vanilla": "hidden:1", "adapted": "tokens"}[which]}
    for kind, values in expected.items():
        torch.testing.assert_close(again.read_all(kind), values, atol=2e-3, rtol=2e-3)  # half precision
    assert isinstance(again, OnTheFlyFeatures) == (max_cache_gb == 0)


def test_pictures_are_encoded_where_the_stages_are_trained(copied_run, monkeypatch):
    moved = []
    # There is no other device on every machine.
    monkeypatch.setattr(encoding, "compute_device", lambda: torch.device("meta"))
    monkeypatch.setattr(ImageEncoder, "to", lambda encoder, device: moved.append(device) or encoder)
    shutil.rmtree(copied_run.cache)
    copied_run.files.features("adapted")
    assert moved == [torch.device("meta")] * 2  # for the untouched and for the adapted encoder


def test_features_of_other_pictures_are_refused(copied_run):
    path = copied_run.folder / "table.parquet"
    table = data.read_table(path)
    table.loc[3, "image_sha256"] = "0" * 64
    data.save_table(table, path)
    with pytest.raises(MismatchError, match=r"another table than .* geocbm run --run tiny --from 03"):
        copied_run.files.features("adapted")


def test_stage0_comes_with_the_encoder_it_trained(trained_run):
    files = trained_run.files
    _, encoder = encoding.load_stage0(files)
    untouched = encoding.load_image_encoder(read_json(files.path("features.json"))["encoders"]["image_encoder"])
    assert encoder.fingerprint() != untouched.fingerprint()
    assert encoder.lower_fingerprint(1) == untouched.lower_fingerprint(1)
    assert encoder.fingerprint() == files.features("adapted").fingerprint


def test_the_same_seed_trains_the_same_concept_model(copied_run):
    files = copied_run.files
    before = load_file(files.path("stage1.safetensors"))
    stages.fit_stage1(files, STAGE1, files.features("adapted"))
    after = load_file(files.path("stage1.safetensors"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


def test_a_variant_has_a_checkpoint_of_its_own(trained_run):
    model = stages.load_stage2(trained_run.files, "stage2_concept_only")
    assert model.config.ablation_mode == "concept_only"
    assert stages.load_stage2(trained_run.files).config.ablation_mode == "both"


def test_a_head_of_other_cells_is_refused_until_it_is_trained_again(copied_run):
    write_cells(copied_run.files, min_samples_per_cell=1000)
    with pytest.raises(MismatchError, match=r"other geocells than .* geocbm run --run tiny --from 05"):
        stages.load_stage2(copied_run.files)
    stages.load_stage1(copied_run.files)  # does not depend on cells


@pytest.mark.parametrize(
    ("name", "load", "number"),
    [
        ("prototypes.safetensors", encoding.read_prototypes, "03"),
        ("stage0.safetensors", encoding.load_stage0, "03"),
        ("stage1.safetensors", stages.load_stage1, "04"),
        ("stage2.safetensors", stages.load_stage2, "05"),
    ],
)
def test_what_was_not_made_yet_is_named_with_its_command(copied_run, name, load, number):
    copied_run.files.path(name).unlink()
    with pytest.raises(MissingInputError, match=rf"{name} .* geocbm run --run tiny --from {number}"):
        load(copied_run.files)


def test_only_settings_of_the_stage_are_taken_from_parameters():
    parameters = {"epochs": 7, "lr": 0.5, "run": "smoke", "variants": ["image_only"]}
    fields = config_fields(Stage2Config, parameters)
    assert fields == {"epochs": 7, "lr": 0.5}
    assert Stage2Config(**fields).epochs == 7


def test_later_stages_take_the_layers_of_stage0_without_its_encoder(trained_run, monkeypatch):
    files = trained_run.files
    whole, features = encoding.load_stage0(files)[0], files.features("adapted")
    monkeypatch.setattr(encoding, "load_image_encoder", lambda name: pytest.fail("the image encoder was built"))
    stage1 = stages.prepare_stage1(files, STAGE1, features, name=None).model
    for mine, theirs in zip(stage1.bottleneck.parameters(), whole.bottleneck.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(stage1.prototype_projection.weight, whole.prototype_projection.weight)
    stage2 = stages.prepare_stage2(files, STAGE2, stages.predict_concepts(files, features), features, name=None).model
    assert torch.equal(stage2.attention.patch_projection.weight, whole.patch_projection.weight)


def test_rows_of_one_picture_share_their_names_and_train_once(tmp_path, folders):
    """DECISIONS D8: of sixty rows two are a second name of the pictures p00 and p01."""
    csv = write_pictures(tmp_path / "world")
    table = pd.read_csv(csv)
    second = table.iloc[:2].assign(meta_name=["red sign", "red road"], parent_concept=["sign", "road"])
    pd.concat([table, second]).to_csv(csv, index=False)
    files = prepare(tmp_path / "run", csv)
    metas = files.concepts.metas
    assert len(files.table) == 62 and files.named_metas.sum() == 58 + 4 * 2
    for row, names in ((0, {"red pole", "red sign"}), (60, {"red pole", "red sign"}), (2, {"red sign"})):
        assert {metas[k] for k in np.flatnonzero(files.named_metas[row])} == names
    encoders = encoding.EncoderConfig(str(folders("clip")), unfreeze_layers=1, batch_size=16)
    vanilla = encoding.encode_vanilla(files, encoders, encoding.load_image_encoder(encoders.image_encoder))
    encoding.write_prototypes(files, encoders)
    for target, times in (("single", 2), ("multi", 1)):
        config = replace(STAGE1, concept_target=target, init_from_stage0=False)
        stage = stages.prepare_stage1(files, config, vanilla, name=None)
        trained = files.table["pano_id"].iloc[np.concatenate([stage.train.rows, stage.val.rows])].value_counts()
        held = set(files.table["pano_id"].iloc[files.rows["test"]])
        assert {trained[name] for name in ("p00", "p01") if name not in held} <= {times}
        stage.fit(lambda line: None)
        batch = stage.train.read(np.array([0, 2]))
        assert ("named_metas" in batch) == (target == "multi")


def test_stage_2_trains_on_kept_patches_alone_where_no_tokens_are_stored(copied_run):
    """Sixteen patches, of which four are kept; the room is for pooled features and for what is kept."""
    content = read_json(copied_run.folder / "features.json")
    content["encoders"]["max_cache_gb"] = 1.2e-5  # the tokens of sixty pictures take 3.1e-5, the kept ones 0.8e-5
    write_json(copied_run.folder / "features.json", content)
    shutil.rmtree(copied_run.cache)
    files = copied_run.files
    features = files.features("adapted")
    assert isinstance(features, OnTheFlyFeatures) and set(features.elsewhere) == {"pooled"}
    stage1, _ = stages.fit_stage1(files, replace(STAGE1, bottleneck="patch"), features)
    scores = predictions.concept_probabilities(stage1, features)
    written = files.path("concept_scores.npz")
    before = stages.predict_concepts(files, features)  # those in the file are of another Stage 1
    predictions.save_concept_scores(written, scores, files.made_from("concept_scores.npz"))
    concepts = stages.predict_concepts(files, features)
    for name, values in before.items():
        torch.testing.assert_close(concepts[name], values, rtol=1e-4, atol=1e-5)

    config = replace(STAGE2, ablation_mode="hybrid", tokens="top-k", tokens_kept=4, score_epochs=2)
    head, _ = stages.fit_stage2(files, config, concepts, features)
    kept = encoding.kept_tokens(files, head.keeper, features)
    assert kept.shape("tokens") == (4, 16) and not isinstance(kept, OnTheFlyFeatures)
    torch.testing.assert_close(kept.read_all("pooled"), features.read_all("pooled"))
    marked = kept.read_all("kept").bool()
    assert marked.sum(1).eq(4).all()
    torch.testing.assert_close(kept.read_all("tokens").flatten(0, 1), features.read_all("tokens")[marked])

    rows = files.rows["test"]
    again = stages.load_stage2(files)
    answers = predictions.predict_places(files, again, concepts, features, rows)
    whole = predict_stage2(again, concept_input(config, concepts), features, rows)  # of which it is given all patches
    for name, values in whole.items():
        np.testing.assert_allclose(answers[name], values, rtol=1e-3, atol=1e-4)
    assert (answers["attention"] > 0).sum(1).max() == 4 and answers["attention"].shape == (len(rows), 16)
