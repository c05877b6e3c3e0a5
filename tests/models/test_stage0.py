import dataclasses

import numpy as np
import pytest
import torch
from stage_training import Stage0Training
from torch import nn

from geocbm.encoders.location import location_embeddings
from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.models import losses
from geocbm.models.bottlenecks import BOTTLENECKS
from geocbm.models.loading import load_stage0
from geocbm.models.retrieval import retrieval_metrics
from geocbm.models.stage0 import Stage0Config, Stage0PretrainingModel
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config
from geocbm.models.stage_losses import Stage0Loss

N, P, WIDTH, POOLED, GPS, TEXT = 60, 4, 12, 10, 8, 6


class TinyEncoder(nn.Module):
    """Three residual blocks over patches; the pooled feature is a projection of their mean."""

    name, pooled_dim, token_dim, grid, image_size, n_blocks = "tiny", POOLED, WIDTH, (2, 2), 8, 3
    takes_any_tokens = True

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.projection = nn.Linear(WIDTH, POOLED)

    def upper(self, hidden, top_blocks):
        for block in self.blocks[3 - top_blocks :]:
            hidden = hidden + block(hidden).tanh()
        return self.projection(self.norm(hidden.mean(1))), hidden

    def upper_parameters(self, top_blocks):
        return {
            name: value
            for name, value in self.named_parameters()
            if not name.startswith("blocks.") or int(name.split(".")[1]) >= 3 - top_blocks
        }

    preprocessing_name = "TinyImageProcessor"

    def weights_fingerprint(self):
        return str(float(sum(value.double().sum() for value in self.state_dict().values())))


class TinyLocationEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, GPS)
        self.register_buffer("sigma", torch.ones(3))

    def forward(self, coordinates):
        return self.layer(coordinates / 90).sin()


@pytest.fixture
def world():
    generator = torch.Generator().manual_seed(0)
    parent = np.arange(N) % 2
    meta = np.arange(N) % 4
    lat, lng = np.linspace(-60, 60, N), np.linspace(-170, 170, N)
    hidden = torch.randn(N, P, WIDTH, generator=generator) * 0.3
    hidden[:, :, 0] += torch.from_numpy(lat / 30).float()[:, None]
    hidden[:, :, 1:5] += torch.eye(4)[meta][:, None]
    torch.manual_seed(1)
    encoder, location = TinyEncoder().eval(), TinyLocationEncoder()
    config = Stage0Config(epochs=3, batch_size=20, lr=3e-3, encoder_lr=1e-3, concept_emb_dim=16, unfreeze_layers=1)
    with torch.no_grad():
        vanilla = encoder.upper(hidden, 1)[0]
    return Stage0Training(
        config=config,
        encoder=encoder,
        location_encoder=location,
        meta_prototypes=torch.randn(4, TEXT, generator=generator),
        parent_prototypes=torch.randn(2, TEXT, generator=generator),
        hidden_features=hidden,
        vanilla_features=vanilla,
        lat=lat,
        lng=lng,
        meta=meta,
        parent=parent,
        train_rows=np.arange(45),
        val_rows=np.arange(45, N),
        report=lambda line: None,
    )


def test_defaults_are_the_specification():
    config = Stage0Config()
    assert (config.batch_size, config.encoder_lr, config.lr, config.epochs) == (128, 3e-5, 1e-4, 20)
    weights = [getattr(config, f"lambda_{name}") for name in ("gps", "child", "parent", "hierarchy", "patch_gps")]
    assert weights == [1.0, 1.0, 0.5, 0.3, 0.2]
    assert (config.lambda_anchor, config.unfreeze_layers, config.temperature) == (0.01, 2, 0.07)
    with pytest.raises(ParameterError, match="bottleneck='cnn'"):
        Stage0Config(bottleneck="cnn")


def test_training_lowers_every_trained_term_and_touches_the_last_block_only(world):
    encoder = world.encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    _, result = world.fit()
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {
        "blocks.2.weight",
        "blocks.2.bias",
        "norm.weight",
        "norm.bias",
        "projection.weight",
        "projection.bias",
    }
    assert result.best["loss"] < result.initial["loss"]
    assert result.best["child"] < result.initial["child"]
    assert result.initial["anchor"] == pytest.approx(0.0, abs=1e-10)
    assert {"recall_1", "recall_10", "retrieval_km", "meta_top1"} <= set(result.initial)


def test_the_total_is_the_weighted_sum_of_six_terms(world):
    model = Stage0PretrainingModel(
        world.encoder, None, world.meta_prototypes, world.parent_prototypes, world.config, GPS
    ).eval()
    rows = np.arange(12)
    gps = location_embeddings(world.location_encoder, world.lat[rows], world.lng[rows])
    output = model(world.hidden_features[rows], gps)
    assert output.pooled.shape == output.gps.shape == (12, POOLED)
    assert output.concept_emb.shape == (12, 16) and output.patch_emb.shape == (12, GPS)
    batch = {
        "gps": gps,
        "pooled": world.vanilla_features[rows] + 2.0,
        "concept_idx": torch.from_numpy(world.meta[rows]),
        "parent_idx": torch.from_numpy(world.parent[rows]),
        "lat": torch.from_numpy(world.lat[rows]),
        "lng": torch.from_numpy(world.lng[rows]),
    }
    terms = Stage0Loss(Stage0Config())(output, batch)
    total = (
        terms["gps"]
        + terms["child"]
        + 0.5 * terms["parent"]
        + 0.3 * terms["hierarchy"]
        + 0.2 * terms["patch_gps"]
        + 0.01 * terms["anchor"]
    )
    torch.testing.assert_close(terms["loss"], total)
    assert terms["anchor"].item() == pytest.approx(4.0, rel=1e-5)
    torch.testing.assert_close(terms["gps"], losses.info_nce(output.pooled, output.gps, 0.07))
    all_near = Stage0Loss(Stage0Config(false_negative_km=50_000.0))(output, batch)
    assert all_near["gps"].item() == pytest.approx(0.0, abs=1e-6)


def test_pooled_patch_projection_is_the_mean_of_projected_patches(world):
    model = Stage0PretrainingModel(
        world.encoder, None, world.meta_prototypes, world.parent_prototypes, world.config, GPS
    ).eval()
    hidden = world.hidden_features[:5]
    tokens = world.encoder.upper(hidden, 1)[1]
    torch.testing.assert_close(model(hidden, torch.zeros(5, GPS)).patch_emb, model.patch_projection(tokens).mean(1))


@pytest.mark.parametrize("kind", BOTTLENECKS)
def test_a_checkpoint_puts_the_trained_blocks_into_a_fresh_encoder(world, tmp_path, kind):
    path = tmp_path / "stage0.safetensors"
    world.config = dataclasses.replace(world.config, bottleneck=kind, transformer_width=16, top_patches=2)
    torch.manual_seed(1)
    fresh = TinyEncoder().eval()
    model, _ = world.fit(path, labels={"metas": ["a", "b", "c", "d"]})
    loaded = load_stage0(path, fresh, world.location_encoder)
    hidden, gps = world.hidden_features, torch.randn(N, GPS)
    for ours, theirs in zip(loaded(hidden, gps), model(hidden, gps), strict=True):
        assert torch.equal(ours, theirs) if theirs is not None else ours is None
    assert torch.equal(fresh.blocks[2].weight, world.encoder.blocks[2].weight)
    places = loaded.embed_places(world.lat, world.lng)
    assert places.shape == (N, POOLED)
    with pytest.raises(MismatchError, match="trained from the encoder 'tiny' with other weights"):
        load_stage0(path, TinyEncoder())
    torch.manual_seed(1)
    other = TinyEncoder().eval()
    other.preprocessing_name = "TinyImageProcessorPil"
    with pytest.raises(MismatchError, match=r"that TinyImageProcessor prepared.* TinyImageProcessorPil.*`geocbm run"):
        load_stage0(path, other, world.location_encoder)
    with pytest.raises(MissingInputError, match=r"geocbm run --run .* --from 01"):
        load_stage0(tmp_path / "none.safetensors", fresh)


@pytest.mark.parametrize("kind", BOTTLENECKS)
def test_every_kind_of_bottleneck_learns_the_concepts_and_is_handed_on(world, kind):
    settings = {"bottleneck": kind, "concept_emb_dim": 16, "transformer_width": 32, "hidden_dim": 24}
    world.config = dataclasses.replace(world.config, dropout=0.0, epochs=6, top_patches=2, **settings)
    stage0, result = world.fit()
    assert result.history["train_child"].iloc[-1] < 0.7 * result.history["train_child"].iloc[0]
    given = (POOLED, world.meta_prototypes, world.parent_prototypes, torch.tensor([0, 1, 0, 1]))
    model = Stage1ConceptModel(*given, Stage1Config(**settings), WIDTH)
    assert model.start_from(stage0) == ["bottleneck", "prototype_projection"]
    for name in ("bottleneck", "prototype_projection"):
        ours, theirs = getattr(model, name).state_dict(), getattr(stage0, name).state_dict()
        assert set(ours) == set(theirs)
        assert all(torch.equal(value, theirs[part]) for part, value in ours.items())
    if kind == "transformer":  # the same shapes of weights, another function
        other = Stage1ConceptModel(*given, Stage1Config(**settings, transformer_heads=4), WIDTH)
        with pytest.raises(MismatchError, match="has transformer_heads=8, here 4;"):
            other.start_from(stage0)


def test_the_patch_bottleneck_is_trained_on_the_scores_that_stage_1_classifies_by(world):
    config = dataclasses.replace(world.config, bottleneck="patch", top_patches=1, temperature=0.5)
    prototypes = (world.meta_prototypes, world.parent_prototypes)
    model = Stage0PretrainingModel(world.encoder, None, *prototypes, config, GPS).eval()
    hidden = world.hidden_features[:3]
    output = model(hidden, torch.zeros(3, GPS))
    tokens = world.encoder.upper(hidden, 1)[1]
    embedded = model.bottleneck.projection(model.bottleneck.norm(tokens))  # (3, P, 16)
    cosines = torch.nn.functional.cosine_similarity(embedded[:, :, None], output.meta_prototypes, dim=-1)
    best = cosines.amax(1)  # of a single patch, so that nothing is averaged
    torch.testing.assert_close(output.meta_logits, best / 0.5, rtol=1e-4, atol=1e-5)
    batch = {"gps": torch.zeros(3, GPS), "pooled": output.pooled.detach(), "concept_idx": torch.tensor([0, 3, 1])}
    batch |= {"parent_idx": torch.tensor([0, 1, 1]), "lat": torch.zeros(3), "lng": torch.zeros(3)}
    by_hand = -(best / 0.5).log_softmax(-1)[torch.arange(3), batch["concept_idx"]].mean()
    torch.testing.assert_close(Stage0Loss(config)(output, batch)["child"], by_hand)


def test_places_need_a_location_encoder(world, tmp_path):
    model = Stage0PretrainingModel(
        world.encoder, None, world.meta_prototypes, world.parent_prototypes, world.config, GPS
    )
    with pytest.raises(MismatchError, match="without a location encoder"):
        model.embed_places(np.zeros(1), np.zeros(1))


def test_retrieval_by_hand():
    place = torch.eye(3)
    image = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 2.0]])  # the second finds the first's place
    values = retrieval_metrics(image, place, np.array([0.0, 1.0, 50.0]), np.zeros(3))
    assert values["recall_1"] == pytest.approx(2 / 3)
    assert values["recall_5"] == 1.0
    assert values["retrieval_km"] == 0.0
    far = retrieval_metrics(image[[1, 1, 1]], place, np.array([0.0, 1.0, 1.0]), np.zeros(3))
    assert far["retrieval_km"] == pytest.approx(111.19, abs=0.01)


def test_retrieval_gives_a_constant_encoder_no_credit():
    values = retrieval_metrics(torch.ones(20, 4), torch.ones(20, 4), np.zeros(20), np.zeros(20))
    assert values["recall_1"] == values["recall_10"] == 0.0


def test_training_may_see_some_patches_but_validation_sees_all(world):
    config = dataclasses.replace(world.config, patch_keep=0.5)
    model = Stage0PretrainingModel(world.encoder, None, world.meta_prototypes, world.parent_prototypes, config, GPS)
    seen = []
    upper = world.encoder.upper
    world.encoder.upper = lambda hidden, top_blocks: seen.append(hidden) or upper(hidden, top_blocks)
    prefix = torch.full((3, 1, WIDTH), 7.0)  # a class token before the patches
    hidden = torch.cat([prefix, world.hidden_features[:3]], dim=1)
    model.train()(hidden, torch.zeros(3, GPS))
    model.eval()(hidden, torch.zeros(3, GPS))
    assert [each.shape[1] for each in seen] == [1 + 2, 1 + 4]
    assert torch.equal(seen[0][:, :1], prefix)
    with pytest.raises(ParameterError, match="patch_keep=0"):
        Stage0Config(patch_keep=0.0)


def test_a_run_on_some_patches_trains(world):
    world.config = dataclasses.replace(world.config, patch_keep=0.5)
    result = world.fit()[1]
    assert result.best["loss"] < result.initial["loss"]


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 1.5}, {"batch_size": 0}, {"epochs": -1}, {"lr": -1.0}, {"lr": float("nan")}, {"encoder_lr": -1.0},
        {"temperature": 0.0}, {"unfreeze_layers": -1}, {"lambda_anchor": -0.1}, {"false_negative_km": -1.0},
        {"concept_emb_dim": 0}, {"patience": 0}, {"precision": "fp8"}, {"tracking": "loud"}, {"weight_decay": -1.0},
        {"patch_keep": 0.0}, {"text_chunk": -1},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_settings_are_named(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ParameterError, match=f"{name}={value!r} is .*(use|give)"):
        Stage0Config(**settings)


def test_without_concept_losses_the_encoder_learns_places_and_the_concept_heads_stay(world, tmp_path):
    world.config = dataclasses.replace(world.config, concept_losses=False)
    path = tmp_path / "stage0.safetensors"
    torch.manual_seed(1)
    untouched = TinyEncoder().eval()
    model, result = world.fit(path)
    fresh = dataclasses.replace(world, config=dataclasses.replace(world.config, lr=0.0, epochs=1)).fit()[0]
    for part in ("bottleneck", "prototype_projection"):
        for name, value in getattr(model, part).state_dict().items():
            assert torch.equal(value, getattr(fresh, part).state_dict()[name])
    assert not torch.equal(world.encoder.blocks[2].weight, untouched.blocks[2].weight)
    assert result.history["train_gps"].iloc[-1] < result.history["train_gps"].iloc[0]
    config = world.config
    for values in (result.initial, result.best):
        assert "meta_top1" not in values  # of untrained heads it would say nothing
        assert all(np.isfinite(values[name]) for name in ("child", "parent", "hierarchy"))
        total = values["gps"] + config.lambda_patch_gps * values["patch_gps"] + config.lambda_anchor * values["anchor"]
        assert values["loss"] == pytest.approx(total, rel=1e-5)
    loaded = load_stage0(path, untouched)
    for name, value in model.bottleneck.state_dict().items():
        assert torch.equal(loaded.bottleneck.state_dict()[name], value)


def test_concept_heads_get_no_gradient_and_no_decay_without_concept_losses(world):
    config = dataclasses.replace(world.config, concept_losses=False)
    model = Stage0PretrainingModel(
        world.encoder, None, world.meta_prototypes, world.parent_prototypes, config, GPS
    ).train()
    rows = np.arange(12)
    gps = location_embeddings(world.location_encoder, world.lat[rows], world.lng[rows])
    output = model(world.hidden_features[rows], gps)
    batch = {"gps": gps, "pooled": world.vanilla_features[rows], "lat": torch.zeros(12), "lng": torch.zeros(12)}
    labels = {"concept_idx": world.meta, "parent_idx": world.parent}
    batch |= {name: torch.from_numpy(values[rows]) for name, values in labels.items()}
    Stage0Loss(config)(output, batch)["loss"].backward()
    assert model.gps_adapter.weight.grad.abs().sum() > 0
    for part in (model.bottleneck, model.prototype_projection):
        assert all(parameter.grad is None for parameter in part.parameters())  # AdamW then leaves them alone


def test_a_learned_temperature_starts_where_it_is_told_and_is_recorded(world, tmp_path):
    world.config = dataclasses.replace(world.config, learn_temperature=True, temperature=0.2, lr=0.05)
    path = tmp_path / "stage0.safetensors"
    torch.manual_seed(1)
    fresh = TinyEncoder().eval()
    model, result = world.fit(path)
    assert result.initial["temperature"] == pytest.approx(0.2)
    assert result.history["val_temperature"].nunique() > 1
    assert result.best["temperature"] == pytest.approx(model.temperature().item()) != pytest.approx(0.2)
    assert torch.equal(load_stage0(path, fresh).temperature(), model.temperature())


def test_a_learned_temperature_keeps_within_its_limits_and_can_come_back(world):
    config = dataclasses.replace(world.config, learn_temperature=True)
    model = Stage0PretrainingModel(world.encoder, None, world.meta_prototypes, world.parent_prototypes, config, GPS)
    for raw, limit in ((-9.0, 0.01), (3.0, 0.5)):
        with torch.no_grad():
            model.log_temperature.fill_(raw)
        temperature = model.temperature()
        assert temperature.item() == pytest.approx(limit, rel=1e-5)
        temperature.backward()
        assert model.log_temperature.grad.item() == pytest.approx(limit, rel=1e-5)  # d exp(x) / dx
        model.log_temperature.grad = None
    with pytest.raises(ParameterError, match=r"temperature=0\.7 is impossible with learn_temperature=True; give 0\.01"):
        Stage0Config(learn_temperature=True, temperature=0.7)
