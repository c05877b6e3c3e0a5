import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from stage_training import Stage1Training
from test_stage0 import GPS, POOLED, TEXT, TinyEncoder
from torch.nn import functional

from geocbm.errors import MismatchError, ParameterError
from geocbm.files import write_json
from geocbm.models import stage1
from geocbm.models.loading import load_stage1
from geocbm.models.stage0 import Stage0Config, Stage0PretrainingModel
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config, predict_stage1
from geocbm.models.stage_losses import Stage1Loss

META_TO_PARENT = torch.tensor([0, 0, 1, 1])


@pytest.fixture
def world():
    generator = torch.Generator().manual_seed(0)
    meta = np.arange(120) % 4
    features = torch.randn(120, POOLED, generator=generator) * 0.5
    features[:, :4] += 2 * torch.eye(4)[meta]
    return Stage1Training(
        config=Stage1Config(epochs=12, batch_size=32, lr=3e-3, concept_emb_dim=16, dropout=0.1),
        features=features,
        meta=meta,
        parent=META_TO_PARENT.numpy()[meta],
        meta_prototypes=torch.randn(4, TEXT, generator=generator),
        parent_prototypes=torch.randn(2, TEXT, generator=generator),
        meta_to_parent=META_TO_PARENT,
        train_rows=np.arange(0, 90),
        val_rows=np.arange(90, 120),
        report=lambda line: None,
    )


def model_of(world, **settings):
    return Stage1ConceptModel(
        POOLED,
        world.meta_prototypes,
        world.parent_prototypes,
        META_TO_PARENT,
        Stage1Config(concept_emb_dim=16, **settings),
    )


def test_defaults_are_the_specification():
    c = Stage1Config()
    assert (c.batch_size, c.lr, c.epochs, c.dropout, c.label_smoothing, c.gamma) == (256, 3e-4, 50, 0.4, 0.2, 2.0)
    assert (c.lambda_meta, c.lambda_parent, c.lambda_consistency, c.lambda_parent_contrastive) == (1.0, 0.5, 0.3, 0.2)
    assert (c.lambda_contrastive, c.lambda_reg, c.lambda_intra_parent, c.lambda_semantic) == (0.5, 0.001, 0.01, 0.15)
    assert (c.lambda_meta_guided, c.logit_scale_init, c.logit_scale_max) == (0.0, 14.0, 20.0)


@pytest.mark.parametrize(
    "settings", [{"monitor": "joy"}, {"intra_parent_reduction": "max"}, {"bottleneck": "cnn"}], ids=str
)
def test_unknown_choices_are_named(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(ParameterError, match=f"{name}={value!r}"):
        Stage1Config(**settings)


def test_logits_are_scaled_cosines_plus_bias(world):
    model = model_of(world).eval()
    with torch.no_grad():
        model.meta_bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
        model.logit_scale_meta.fill_(35.0)  # above the limit of 20
    output = model(world.features[:6])
    moved = model.prototype_projection(model.meta_base + model.delta_meta)
    cosine = functional.cosine_similarity(output.concept_emb[:, None], moved[None], dim=-1)
    torch.testing.assert_close(output.meta_logits, 20 * cosine + torch.arange(4.0))
    assert output.parent_logits.abs().max() <= 14.0 + 1e-4
    torch.testing.assert_close(output.meta_prototypes.norm(dim=-1), torch.ones(4))


def test_residuals_start_small_and_bases_do_not_train(world):
    config = Stage1Config(concept_emb_dim=16)
    model = Stage1ConceptModel(POOLED, torch.zeros(200, 300), torch.zeros(2, 300), torch.zeros(200), config)
    assert model.delta_meta.std().item() == pytest.approx(0.01, rel=0.05)
    assert "meta_base" not in dict(model.named_parameters())


def test_the_total_is_the_weighted_sum_of_nine_terms(world):
    model = model_of(world, lambda_meta_guided=0.7).eval()
    meta = torch.from_numpy(world.meta[:20])
    batch = {"concept_idx": meta, "parent_idx": META_TO_PARENT[meta]}
    terms = Stage1Loss(model)(model(world.features[:20]), batch)
    assert set(terms) - {"loss"} == {
        "meta", "parent", "consistency", "meta_guided", "parent_contrastive", "contrastive", "reg", "intra_parent",
        "semantic",
    }  # fmt: skip
    total = sum(getattr(model.config, f"lambda_{name}") * terms[name] for name in terms if name != "loss")
    torch.testing.assert_close(terms["loss"], total)


def test_every_trained_part_gets_a_gradient(world):
    model = model_of(world)
    meta = torch.from_numpy(world.meta[:20])
    batch = {"concept_idx": meta, "parent_idx": META_TO_PARENT[meta]}
    Stage1Loss(model)(model(world.features[:20]), batch)["loss"].backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_training_recognises_concepts_and_comes_back_from_disk(world, tmp_path):
    path = tmp_path / "stage1.safetensors"
    model, result = world.fit(path)
    assert result.best["meta_top1"] > 0.8 > 0.5 > result.initial["meta_top1"]
    loaded = load_stage1(path)
    rows = np.array([5, 2, 77])
    ours, theirs = (predict_stage1(each, world.features[rows]) for each in (model, loaded))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    torch.testing.assert_close(ours["meta_probabilities"].sum(1), torch.ones(3))
    torch.testing.assert_close(predict_stage1(loaded, world.features)["concept_emb"][rows], ours["concept_emb"])


def test_a_store_and_a_tensor_train_alike(world):
    class Store:
        def read(self, kind, rows):
            assert kind == "pooled"
            return world.features[rows]

    world.config = Stage1Config(epochs=2, batch_size=32, concept_emb_dim=16)
    tensor = world.fit()[1].history.drop(columns="seconds", errors="ignore")
    store = replace(world, features=Store()).fit()[1].history.drop(columns="seconds", errors="ignore")
    assert tensor.equals(store)


def test_stage1_starts_from_stage0(world):
    stage0 = Stage0PretrainingModel(
        TinyEncoder(), None, world.meta_prototypes, world.parent_prototypes, Stage0Config(concept_emb_dim=16), GPS
    )
    settings = {"epochs": 1, "lr": 0.0, "weight_decay": 0.0, "concept_emb_dim": 16}
    model, _ = replace(world, config=Stage1Config(**settings)).fit(stage0=stage0)
    for part in ("bottleneck", "prototype_projection"):
        for name, value in getattr(stage0, part).state_dict().items():
            assert torch.equal(getattr(model, part).state_dict()[name], value)
    fresh, _ = replace(world, config=Stage1Config(init_from_stage0=False, **settings)).fit(stage0=stage0)
    assert not torch.equal(fresh.prototype_projection.weight, stage0.prototype_projection.weight)
    with pytest.raises(MismatchError, match="init_from_stage0=False"):
        Stage1ConceptModel(POOLED + 1, world.meta_prototypes, world.parent_prototypes, META_TO_PARENT).start_from(
            stage0
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 1.0}, {"label_smoothing": 2.0}, {"gamma": -1.0}, {"temperature": 0.0}, {"parent_temperature": -1.0},
        {"concept_emb_dim": 0}, {"lambda_reg": -1.0}, {"residual_std": -0.1}, {"precision": "fp8"},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_settings_are_named(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ParameterError, match=f"{name}={value!r} is .*(use|give)"):
        Stage1Config(**settings)


def test_empty_splits_and_lists_of_rows(world):
    class Store:
        def read(self, kind, rows):
            return world.features[torch.as_tensor(rows)]

    world.config = Stage1Config(epochs=1, batch_size=32, concept_emb_dim=16)
    for features in (world.features, Store()):
        model, _ = replace(world, features=features, train_rows=list(range(40)), val_rows=[]).fit()
        nothing = predict_stage1(model, world.features[:0])
        assert [tuple(value.shape) for value in nothing.values()] == [(0, 16), (0, 4), (0, 2)]


def test_features_of_another_precision_give_the_same_answer(world):
    model = model_of(world).eval()
    expected = model(world.features[:3].half().float()).meta_logits
    torch.testing.assert_close(model(world.features[:3].half()).meta_logits, expected)
    torch.testing.assert_close(model.double()(world.features[:3].half()).meta_logits.float(), expected)


def test_checkpoints_that_are_damaged_or_of_another_stage_are_refused(world, tmp_path):
    path = tmp_path / "myrun" / "stage1.safetensors"
    world.config = Stage1Config(epochs=1, concept_emb_dim=16)
    world.fit(path)
    described = json.loads(path.with_suffix(".json").read_text())
    for content, message in (
        ("{", "stage1.json is damaged"),
        ([], "stage1.json is damaged"),
        (described | {"stage": 2}, "is a checkpoint of stage 2, not of stage 1"),
        (
            described | {"config": described["config"] | {"magic": 1}},
            "magic.*geocbm run --run myrun --from 01",
        ),
    ):
        write_json(path.with_suffix(".json"), content)
        with pytest.raises(MismatchError, match=message):
            load_stage1(path)
    # a setting that an older version did not know takes its default
    described["config"].pop("label_smoothing")
    write_json(path.with_suffix(".json"), described)
    assert load_stage1(path).config.label_smoothing == 0.2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_precision_predicts_single_precision(world, dtype):
    found = predict_stage1(model_of(world).to(dtype), world.features[:3])
    assert {value.dtype for value in found.values()} == {torch.float32}


TOKEN = 6


PLACE = torch.arange(120) % 9
"""Patch of nine that shows the concept of each row."""


@pytest.fixture
def patchy(world):
    """The same labels, seen in one patch of nine and not in the pooled features."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(120, 9, TOKEN, generator=generator) * 0.3
    tokens[torch.arange(120), PLACE, world.meta] += 3.0
    features = torch.randn(120, POOLED, generator=generator)
    return replace(world, features=features, tokens=tokens)


@pytest.mark.parametrize("kind", ["transformer", "patch"])
def test_bottlenecks_that_read_patches_see_what_the_pooled_features_do_not(patchy, tmp_path, monkeypatch, kind):
    options = {"epochs": 40, "batch_size": 16, "lr": 5e-3, "concept_emb_dim": 64, "dropout": 0.0, "patience": 40}
    patchy.config = Stage1Config(bottleneck=kind, transformer_width=32, top_patches=2, **options)
    path = tmp_path / "stage1.safetensors"
    model, result = patchy.fit(path)
    assert result.best["meta_top1"] > 0.8  # chance is 0.25
    with pytest.raises(ParameterError, match=f"bottleneck='{kind}' reads patch tokens, but tokens is None"):
        predict_stage1(model, patchy.features)
    loaded = load_stage1(path)
    ours = predict_stage1(model, patchy.features, patchy.tokens)
    monkeypatch.setattr(stage1, "ROWS_AT_A_TIME", 7)
    theirs = predict_stage1(loaded, patchy.features, patchy.tokens)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    if kind == "patch":
        output = loaded(patchy.features, patchy.tokens)
        assert output.meta_maps.shape == (120, 9, 4) and output.concept_emb.shape == (120, 64)
        own = output.meta_maps[torch.arange(120), :, torch.as_tensor(patchy.meta)]  # map of the true meta
        assert (own.argmax(1) == PLACE).float().mean() > 0.9


def test_another_kind_of_bottleneck_than_stage0s_starts_afresh_and_says_so(patchy):
    stage0 = Stage0PretrainingModel(
        TinyEncoder(), None, patchy.meta_prototypes, patchy.parent_prototypes,
        Stage0Config(concept_emb_dim=16, unfreeze_layers=1), GPS,
    )  # fmt: skip
    said = []
    patchy.config = Stage1Config(bottleneck="patch", epochs=1, lr=0.0, concept_emb_dim=16)
    model, _ = replace(patchy, report=said.append).fit(stage0=stage0)
    assert torch.equal(model.prototype_projection.weight, stage0.prototype_projection.weight)
    assert "bottleneck='patch' starts afresh: Stage 0 trained 'mlp'" in said[0]


def test_sigmoid_scores_are_each_by_themselves(world):
    model = model_of(world, concept_target="multi").eval()
    output = model(world.features[:5])
    said = output.probabilities()
    torch.testing.assert_close(said["meta_probabilities"], torch.sigmoid(output.meta_logits))
    torch.testing.assert_close(said["parent_probabilities"], torch.sigmoid(output.parent_logits))
    assert (said["meta_probabilities"].sum(1) - 1).abs().min() > 1e-3
    # Without a cosine every one of four concepts is named once in four, of two parents once in two.
    torch.testing.assert_close(model.meta_bias.sigmoid(), torch.full((4,), 0.25))
    torch.testing.assert_close(model.parent_bias.sigmoid(), torch.full((2,), 0.5))


def test_a_picture_with_several_names_has_them_all_as_targets(world):
    model = model_of(world, concept_target="multi").eval()
    several = torch.tensor([[True, False, True, False], [False, True, False, False]])
    batch = {"concept_idx": torch.tensor([0, 1]), "parent_idx": torch.tensor([0, 0]), "named_metas": several}
    output = model(world.features[:2])
    parents = torch.tensor([[True, True], [True, False]])
    assert [each.tolist() for each in model.named(batch)] == [several.tolist(), parents.tolist()]
    terms = Stage1Loss(model)(output, batch)
    assert set(terms) == {"loss", "meta", "parent", "reg", "intra_parent"}
    # Of the second picture the named meta has the sibling 0; metas 2 and 3 and the second parent are unknown.
    weights = {"meta": torch.tensor([[1, 1, 1, 1], [1, 1, 0.1, 0.1]]), "parent": torch.tensor([[1, 1], [1, 0.1]])}
    for name, logits, there in (("meta", output.meta_logits, several), ("parent", output.parent_logits, parents)):
        plain = functional.binary_cross_entropy_with_logits(logits, there.float(), weights[name], reduction="sum") / 2
        torch.testing.assert_close(terms[name], plain)
    lambdas = {name: getattr(model.config, f"lambda_{name}") for name in terms if name != "loss"}
    torch.testing.assert_close(terms["loss"], sum(lambdas[name] * terms[name] for name in lambdas))
    first = output._replace(meta_logits=torch.tensor([[0.0, 1, 5, 2], [9.0, 1, 5, 2]]))
    assert model.predictions(first, batch)["meta_top1"].tolist() == [True, False]
    batch.pop("named_metas")  # then the label is the only name
    assert model.named(batch)[0].tolist() == [[True, False, False, False], [False, True, False, False]]


def test_sigmoids_are_trained_stopped_by_average_precision_and_read_again(world, tmp_path):
    world.config = replace(world.config, concept_target="multi", unknown_weight=0.5, monitor="mean_ap")
    model, result = world.fit(tmp_path / "stage1.safetensors")
    assert result.best["mean_ap"] > 0.9 and result.best["meta_top1"] > 0.9
    again = load_stage1(tmp_path / "stage1.safetensors")
    assert again.config.concept_target == "multi"
    own, theirs = (predict_stage1(each, world.features) for each in (model, again))
    assert torch.equal(own["meta_probabilities"], theirs["meta_probabilities"])


def test_the_patches_mix_prototypes_by_their_own_probabilities(patchy):
    config = Stage1Config(bottleneck="patch", concept_emb_dim=16, concept_target="multi")
    model = Stage1ConceptModel(
        patchy.features.shape[1],
        patchy.meta_prototypes,
        patchy.parent_prototypes,
        patchy.meta_to_parent,
        config,
        patchy.tokens.shape[2],
    ).eval()
    output = model(patchy.features[:3], patchy.tokens[:3].float())
    expected = output.meta_logits.sigmoid().sqrt() @ output.meta_prototypes
    torch.testing.assert_close(output.concept_emb, expected)
