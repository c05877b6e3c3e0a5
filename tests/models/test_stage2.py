from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_training import Stage2Training
from torch import nn

from geocbm.errors import MismatchError, ParameterError
from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
from geocbm.models.loading import load_stage2
from geocbm.models.offsets import decode_offsets, offset_targets
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead, Stage2Output
from geocbm.models.stage2_inference import predict_stage2
from geocbm.models.stage_losses import Stage2Loss

CENTERS = latlng_to_cartesian(np.array([0.0, 45.0, -30.0]), np.array([0.0, 90.0, 179.9]))
MODES = ("both", "concept_only", "image_only", "concept_scores", "hybrid")
SCALES = np.array([100.0, 200.0, 50.0])


def head(concept_dim=32, token_dim=20, **options):
    return Stage2CrossAttentionGeoHead(
        concept_dim, token_dim, 3, CENTERS, Stage2Config(**({"embed_dim": 32, "heads": 4} | options)), SCALES
    )


@pytest.mark.parametrize("mode", MODES)
def test_shapes_and_gradients_of_every_mode(mode):
    model = head(ablation_mode=mode, concept_dim=16)
    output = model(torch.randn(6, 16), torch.randn(6, 9, 20))
    assert output.cell_logits.shape == (6, 3) and output.offsets.shape == (6, 3)
    assert output.attention.shape == (6, 4, 9)
    total = {"both": 1.0, "image_only": 1.0, "hybrid": 1.0}.get(mode, 0.0)
    torch.testing.assert_close(output.attention.sum(-1), torch.full((6, 4), total))
    assert not output.offsets.any()  # the first guess is the centre of the cell
    (output.cell_logits.sum() + (output.offsets - 1).square().sum()).backward()
    untouched = {name for name, value in model.named_parameters() if value.grad is None}
    frozen = {f"{part}_head.{kind}" for part in ("cell", "offset") for kind in ("weight", "bias")}
    assert untouched == (frozen if mode == "hybrid" else set())


def test_each_mode_reads_only_what_it_says():
    concept, tokens = torch.randn(4, 32), torch.randn(4, 9, 20)
    other_concept, other_tokens = torch.randn(4, 32), torch.randn(4, 9, 20)
    for mode in MODES:
        model = head(ablation_mode=mode).eval()
        for part in model.modules():  # heads that start at 0 would hide what they read
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.1)
        base = model(concept, tokens).cell_logits
        assert torch.equal(model(other_concept, tokens).cell_logits, base) == (mode == "image_only")
        assert torch.equal(model(concept, other_tokens).cell_logits, base) == (not model.config.reads_tokens)
    assert head(ablation_mode="concept_only")(concept).attention.shape == (4, 4, 0)
    with pytest.raises(ParameterError, match="'image_only' reads patch_tokens"):
        head(ablation_mode="image_only")(concept)


def test_image_only_pools_projected_patches_and_obeys_the_mask():
    model = head(ablation_mode="image_only").eval()
    tokens, mask = torch.randn(2, 9, 20), torch.zeros(2, 9, dtype=torch.bool)
    mask[:, 4:] = True
    expected = model.cell_head(model.image_pool(model.patch_projection(tokens[:, :4]).mean(1)))
    torch.testing.assert_close(model(torch.zeros(2, 32), tokens, mask).cell_logits, expected)


def test_the_length_of_the_concept_embedding_does_not_matter():
    model = head().eval()
    concept, tokens = torch.randn(4, 32), torch.randn(4, 9, 20)
    torch.testing.assert_close(
        model(concept, tokens).cell_logits, model(40 * concept, tokens).cell_logits, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("mode", ["both", "concept_only", "hybrid"])
def test_without_the_norm_at_the_entrance_the_embedding_enters_as_it_is(mode):
    concept, tokens = torch.rand(2, 32), torch.randn(2, 7, 20)
    letter = head(ablation_mode=mode, entrance_norm=False).eval()
    assert "concept_norm.weight" not in letter.state_dict()
    seen = []
    letter.concept_projection.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    letter(concept, tokens)
    assert torch.equal(seen[0], concept)


def test_gate_and_fusion_are_options():
    def parts(**options):
        return {name.split(".")[0] for name, _ in head(**options).named_parameters()} & {"gate", "fusion"}

    assert parts() == {"gate", "fusion"}
    assert parts(gating=False) == {"fusion"}
    assert parts(gating=False, explicit_fusion=False) == set()
    model, concept, tokens = head(explicit_fusion=False).eval(), torch.randn(2, 32), torch.randn(2, 9, 20)
    nn.init.constant_(model.gate.bias, 1e4)  # the gate fully open to the concept
    torch.testing.assert_close(model(concept, tokens).cell_logits, model.cell_head(model.concept_norm(concept)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation_mode": "guess"}, "ablation_mode='guess' is unknown; use 'both', 'concept_only', .* or 'hybrid'"),
        ({"offset_kind": "polar"}, "offset_kind='polar' is unknown; use 'cartesian', 'latlng' or 'tangent'"),
        ({"heads": 7}, "heads=7 does not divide embed_dim=512"),
        ({"monitor": "joy"}, "monitor='joy'"),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        Stage2Config(**options)


def test_centres_of_another_shape_are_refused():
    with pytest.raises(ParameterError, match=r"shape \(3, 3\); 5 cells need \(5, 3\)"):
        Stage2CrossAttentionGeoHead(8, 8, 5, CENTERS)


FOUR = latlng_to_cartesian(np.array([0.0, 45.0, -30.0, 10.0]), np.array([0.0, 90.0, 179.9, 20.0]))


def at_centers(config, output, cells):
    """Loss terms for pictures that lie in the very centres of cells, so that every offset to find is 0."""
    lat, lng = (torch.as_tensor(each)[cells] for each in cartesian_to_latlng(FOUR))
    batch = {"cell_label": torch.tensor(cells), "lat": lat, "lng": lng}
    return Stage2Loss(config, SimpleNamespace(centers=FOUR, scale_km=np.full(4, 100.0)))(output, batch)


def test_losses_by_hand():
    output = Stage2Output(torch.zeros(2, 4), torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.0, 0.2]]), torch.zeros(2, 1, 1))
    terms = at_centers(Stage2Config(), output, [0, 3])
    assert terms["cell"].item() == pytest.approx(np.log(4))
    assert terms["offset"].item() == pytest.approx(0.05 / 6)
    assert terms["loss"].item() == pytest.approx(np.log(4) + 5 * 0.05 / 6)


def test_degree_offsets_go_the_short_way_round_and_come_back():
    center = latlng_to_cartesian(torch.tensor([10.0]), torch.tensor([179.0]))
    lat, lng = torch.tensor([12.0]), torch.tensor([-178.0])
    offsets = offset_targets(center, lat, lng, "latlng")
    torch.testing.assert_close(offsets, torch.tensor([[2.0, 3.0]]), rtol=0, atol=1e-4)
    back = decode_offsets(center, offsets, "latlng")
    torch.testing.assert_close(torch.stack(back), torch.stack([lat, lng]), rtol=0, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    lat=st.floats(-89.9, 89.9), lng=st.floats(-179.9, 179.9), c_lat=st.floats(-89, 89), c_lng=st.floats(-179.9, 179.9),
    kind=st.sampled_from(["cartesian", "latlng", "tangent"]),
)  # fmt: skip
def test_true_offsets_lead_to_the_true_place(lat, lng, c_lat, c_lng, kind):
    center = latlng_to_cartesian(torch.tensor([c_lat]), torch.tensor([c_lng]))
    place = torch.tensor([lat]), torch.tensor([lng])
    scale = torch.tensor([300.0])
    found = decode_offsets(center, offset_targets(center, *place, kind, scale), kind, scale)
    difference = latlng_to_cartesian(*found) - latlng_to_cartesian(*place)
    assert difference.norm() < 1e-5


@settings(max_examples=60, deadline=None)
@given(offsets=st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=3))
def test_any_offset_decodes_to_a_place_on_the_sphere(offsets):
    kinds = ("cartesian",) if len(offsets) == 3 else ("latlng", "tangent")
    for kind in kinds:
        lat, lng = decode_offsets(torch.from_numpy(CENTERS[:1]), torch.tensor([offsets]), kind, torch.tensor([300.0]))
    assert -90 <= lat.item() <= 90 and -180 <= lng.item() <= 180


def test_an_offset_to_the_middle_of_the_earth_falls_back_to_the_centre():
    center = torch.from_numpy(CENTERS[1:2]).float()
    lat, lng = decode_offsets(center, -center)
    assert (round(lat.item(), 3), round(lng.item(), 3)) == (45.0, 90.0)


@pytest.fixture
def world():
    generator = torch.Generator().manual_seed(0)
    n = 150
    label = np.arange(n) % 3
    random = np.random.default_rng(0)
    tokens = torch.randn(n, 9, 20, generator=generator) * 0.5
    tokens[:, 3, :3] += 3 * torch.eye(3)[label]
    return Stage2Training(
        config=Stage2Config(epochs=10, batch_size=16, lr=2e-3, embed_dim=32, heads=4),
        concept_emb=torch.randn(n, 32, generator=generator) + 4 * torch.eye(32)[label],
        tokens=tokens,
        cells=SimpleNamespace(centers=CENTERS, digest="abc", scale_km=SCALES, country=np.array(["A", "A", "B"])),
        cell_label=label,
        lat=np.array([0.0, 45.0, -30.0])[label] + random.normal(0, 1, n),
        lng=np.array([0.0, 90.0, 179.9])[label] + random.normal(0, 1, n),
        train_rows=np.arange(110),
        val_rows=np.arange(110, n),
        report=lambda line: None,
    )


def test_training_finds_places_and_comes_back_from_disk(world, tmp_path):
    path = tmp_path / "stage2.safetensors"
    model, result = world.fit(path)
    assert result.best["cell_top1"] > 0.9
    assert result.best["median_km"] < 400 < result.initial["median_km"]
    loaded = load_stage2(path, "abc")
    rows = np.array([149, 3])
    ours, theirs = (predict_stage2(each, world.concept_emb, world.tokens, rows) for each in (model, loaded))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert ours["cell"].shape == ours["cell_probability"].shape == (2, 3)
    assert ours["attention"].shape == (2, 9)
    np.testing.assert_allclose(ours["cell_probability"].sum(1), 1, rtol=1e-5)
    assert (np.diff(ours["cell_probability"], axis=1) <= 0).all()
    with pytest.raises(MismatchError, match="other geocells"):
        load_stage2(path, "xyz")


@pytest.mark.parametrize(
    "options",
    [
        {"ablation_mode": "concept_only"},
        {"offset_kind": "latlng"},
        {"offset_kind": "tangent", "per_cell_offsets": True},
        {"smooth_km": 500.0},
        {"lambda_country": 1.0},
        {"ablation_mode": "concept_scores"},
    ],
    ids=str,
)
def test_other_variants_train(world, options):
    world.config = Stage2Config(epochs=1, batch_size=32, embed_dim=32, heads=4, **options)
    model, result = world.fit()
    assert np.isfinite(result.best["median_km"])
    assert model(world.concept_emb, world.tokens).offsets.shape[1] == model.config.coord_output_dim


def test_stage2_starts_from_the_patch_projection_of_stage0(world):
    stage0 = SimpleNamespace(patch_projection=nn.Linear(20, 32))
    frozen = {"epochs": 1, "lr": 0.0, "weight_decay": 0.0, "embed_dim": 32, "heads": 4}
    for mode in ("both", "image_only"):
        model, _ = replace(world, config=Stage2Config(ablation_mode=mode, **frozen)).fit(stage0=stage0)
        carried = model.attention.patch_projection if mode == "both" else model.patch_projection
        assert torch.equal(carried.weight, stage0.patch_projection.weight)
        assert torch.equal(carried.bias, stage0.patch_projection.bias)
    fresh, _ = replace(world, config=Stage2Config(init_from_stage0=False, **frozen)).fit(stage0=stage0)
    assert not torch.equal(fresh.attention.patch_projection.weight, stage0.patch_projection.weight)
    with pytest.raises(MismatchError, match="init_from_stage0=False"):
        head(token_dim=21).start_from(stage0)


@pytest.mark.parametrize(
    "settings",
    [{"dropout": 2.0}, {"embed_dim": 0}, {"heads": 0}, {"lambda_offset": -1.0}, {"batch_size": 0}, {"monitor": "joy"}],
    ids=str,
)
def test_settings_of_the_wrong_size_are_named(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ParameterError, match=f"{name}={value!r}"):
        Stage2Config(**settings)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_of_another_precision_give_the_same_answer(mode):
    model, concept, tokens = head(ablation_mode=mode).eval(), torch.randn(3, 32), torch.randn(3, 9, 20)
    expected = model(concept.half().float(), tokens.half().float())
    for output in (model(concept.half(), tokens.half()), model(concept.half().double(), tokens.half().double())):
        torch.testing.assert_close(output.cell_logits, expected.cell_logits)
        assert output.attention.dtype == torch.float32


def test_inputs_that_do_not_fit_are_named():
    model = head()
    for concept, tokens, message in (
        (torch.randn(2, 32), torch.randn(1, 9, 20), r"patch_tokens has shape \(1, 9, 20\).*\(2, P, 20\)"),
        (torch.randn(2, 32), torch.randn(2, 9, 21), r"patch_tokens has shape \(2, 9, 21\)"),
        (torch.randn(2, 31), torch.randn(2, 9, 20), r"concept_emb has shape \(2, 31\).*\(B, 32\)"),
    ):
        with pytest.raises(ParameterError, match=message):
            model(concept, tokens)


def test_no_rows_give_empty_answers_of_the_usual_shape():
    model = head()
    for rows in ([], np.zeros(0, dtype=np.int64)):
        nothing = predict_stage2(model, torch.randn(4, 32), torch.randn(4, 9, 20), rows)
        shapes = {name: value.shape for name, value in nothing.items()}
        places = dict.fromkeys(("lat", "lng", "lat_offset", "lng_offset"), (0,))
        assert shapes == places | {"cell": (0, 3), "cell_probability": (0, 3), "attention": (0, 9)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_head_of_another_precision_predicts_single_precision_arrays(dtype):
    single, concept, tokens = head().eval(), torch.randn(4, 32), torch.randn(4, 9, 20)
    expected = predict_stage2(single, concept, tokens, np.arange(4))
    found = predict_stage2(single.to(dtype), concept, tokens, np.arange(4))
    assert {name: value.dtype.name for name, value in found.items()} == {
        "lat": "float32", "lng": "float32", "lat_offset": "float32", "lng_offset": "float32",
        "cell": "int64", "cell_probability": "float32", "attention": "float32",
    }  # fmt: skip
    np.testing.assert_allclose(found["attention"], expected["attention"], atol=0.02)


def test_centers_may_be_a_list_or_a_tensor_in_a_graph():
    for centers in (CENTERS.tolist(), torch.from_numpy(CENTERS).requires_grad_()):
        model = Stage2CrossAttentionGeoHead(32, 20, 3, centers, Stage2Config(embed_dim=32, heads=4))
        torch.testing.assert_close(model.cell_centers.double(), torch.from_numpy(CENTERS))
        assert not model.cell_centers.requires_grad


def test_tangent_offsets_by_hand():
    centers = latlng_to_cartesian(torch.tensor([0.0, 0.0, 60.0]), torch.tensor([179.5, 10.0, 0.0])).double()
    lat, lng = torch.tensor([0.0, -1.0, 60.0]).double(), torch.tensor([-179.5, 10.0, 1.0]).double()
    km = 6371.0 * np.pi / 180  # of a degree
    offsets = offset_targets(centers, lat, lng, "tangent", torch.tensor([km, 2 * km, km]).double())
    # One degree east over the antimeridian, one degree south at twice the scale, one degree of longitude at 60 north.
    expected = torch.tensor([[1.0, 0.0], [0.0, -0.5], [0.5, 0.00378]]).double()
    torch.testing.assert_close(offsets, expected, rtol=0, atol=2e-4)
    with pytest.raises(ParameterError, match="offset_kind='tangent' needs the scale"):
        offset_targets(centers, lat, lng, "tangent")
    with pytest.raises(ParameterError, match="cell_scale_km is None; offset_kind='tangent'"):
        Stage2CrossAttentionGeoHead(8, 8, 3, CENTERS, Stage2Config(offset_kind="tangent"))


def test_the_loss_of_each_offset_kind_by_hand():
    output = Stage2Output(torch.zeros(1, 4), torch.tensor([[3.0, 0.0]]), torch.zeros(1, 1, 1))
    squared = at_centers(Stage2Config(offset_kind="latlng"), output, [0])
    huber = at_centers(Stage2Config(offset_kind="tangent"), output, [0])
    assert squared["offset"].item() == pytest.approx(9 / 2)
    assert huber["offset"].item() == pytest.approx((3.0 - 0.5) / 2)


def test_a_smoothed_label_gives_a_share_to_cells_nearby():
    cells = SimpleNamespace(centers=latlng_to_cartesian(np.array([0.0, 0.0, 60.0]), np.array([-1.0, 1.0, 90.0])))
    output = Stage2Output(torch.tensor([[2.0, 0.0, 0.0]]), torch.zeros(1, 3), torch.zeros(1, 1, 1))
    batch = {"cell_label": torch.tensor([0]), "lat": torch.zeros(1).double(), "lng": torch.zeros(1).double()}
    smooth = Stage2Loss(Stage2Config(smooth_km=100.0), cells)(output, batch)
    # Half for each of two centres that are equally far.
    assert smooth["cell"].item() == pytest.approx(np.log(np.exp(2) + 2) - 1, abs=1e-6)


def test_an_offset_for_every_cell_is_read_at_the_named_one():
    model = head(per_cell_offsets=True, offset_kind="latlng").eval()
    with torch.no_grad():
        model.offset_head.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
        model.cell_head.bias.copy_(torch.tensor([0.0, 99.0, 0.0]))
    output = model(torch.randn(2, 32), torch.randn(2, 9, 20))
    assert output.offsets.tolist() == [[3.0, 4.0]] * 2
    assert output.offsets_at(torch.tensor([0, 2])).tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert model.decode(output)[0].tolist() == pytest.approx([48.0] * 2, abs=1e-4)
