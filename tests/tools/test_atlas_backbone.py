"""The small CLIP: tokenizer, targets, contrasts, optimizer, pool, and the committed folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import geocbm_atlas
from geocbm.errors import MismatchError, MissingInputError, ParameterError
from tools.atlas_backbone import __main__ as main_module
from tools.atlas_backbone.contrastive import Schedule, contrast, shift_and_tint, split_pictures, train
from tools.atlas_backbone.model import (
    Backbone,
    BackboneShape,
    build_image_processor,
    build_model,
    build_tokenizer,
    embed_pictures,
    embed_texts,
    set_starting_values,
)
from tools.atlas_backbone.muon import Muon, orthogonalise
from tools.atlas_backbone.pretrain import PretrainSettings, pretrain, save_backbone
from tools.atlas_backbone.probe import TEMPLATES, measure, name_prototypes, normalise_pictures
from tools.atlas_backbone.scene_pool import MAX_VISIBLE, PoolAnnotations, ScenePool, patch_targets, render_pool

BACKBONE = Path(geocbm_atlas.__file__).parent / "backbone"
SMALL = BackboneShape(24, 6, width=16, layers=1, heads=2, text_width=16, text_layers=1, text_heads=2, projection=8)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}


def coloured_pool(n: int = 96, seed: int = 0) -> ScenePool:
    """Grey pictures with one coloured square each, in one of the four quarters."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(90, 130, (n, 24, 24, 3)).astype(np.uint8)
    concept = np.full((n, MAX_VISIBLE), -1)
    box = np.zeros((n, MAX_VISIBLE, 4))
    for row in range(n):
        concept[row, 0] = rng.integers(4)
        y, x = rng.integers(0, 2, 2) * 12
        pictures[row, y : y + 12, x : x + 12] = list(COLOURS.values())[concept[row, 0]]
        box[row, 0] = np.array([x, y, x + 12, y + 12]) / 24
    names = tuple(f"{colour} square" for colour in COLOURS)
    notes = PoolAnnotations(
        names,
        ("warm", "cold"),
        np.array([0, 1, 1, 0]),
        concept,
        box,
        concept[:, 0].copy(),
        tuple(f"country {value % 3}" for value in concept[:, 0]),
        tuple((f"a {names[k]}", f"road with a {names[k]}") for k in concept[:, 0]),
    )
    return ScenePool(pictures, notes)


class Bank:
    """Wordings of the coloured squares."""

    def __init__(self, notes: PoolAnnotations) -> None:
        self.names = notes.metas + notes.parents
        self.texts = [[form.format(name) for form in TEMPLATES] for name in self.names]

    def tokenize(self, tokenizer):
        tokens = tokenizer([text for texts in self.texts for text in texts], padding=True, return_tensors="pt")
        shape = (len(self.names), len(TEMPLATES), -1)
        return tokens["input_ids"].view(shape), tokens["attention_mask"].view(shape)


@pytest.fixture(scope="module")
def tokenizer():
    bank = Bank(coloured_pool(4).notes)
    return build_tokenizer([text for texts in bank.texts for text in texts], 640)


@pytest.mark.parametrize("text", ["red square", "Österreich", "日本 ญี่ปุ่น", "🚗 qwxz-77", "", "\x00\x7f"])
def test_tokenizer_takes_any_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[1:-1]  # nothing became the unknown token


def test_tokenizer_learns_whole_words_and_ignores_order(tokenizer):
    assert tokenizer.tokenize("red square") == ["red</w>", "square</w>"]
    texts = ["a red pole", "a blue pole", "a red sign"]
    assert build_tokenizer(texts, 530).get_vocab() == build_tokenizer(texts[::-1], 530).get_vocab()
    with pytest.raises(ParameterError, match="vocabulary_size = 100"):
        build_tokenizer(texts, 100)


def test_text_tower_pools_at_the_end_token(tokenizer):
    model = build_model(tokenizer, SMALL, seed=1).eval()
    with torch.no_grad():
        alone = embed_texts(model, tokenizer, ["red square"])
        padded = embed_texts(model, tokenizer, ["red square", "a street view photo with a blue square"])[:1]
    assert model.config.text_config.eos_token_id != 2
    torch.testing.assert_close(alone, padded)


def test_shape_says_what_is_wrong():
    with pytest.raises(ParameterError, match="patch_size = 7"):
        BackboneShape(patch_size=7)
    with pytest.raises(ParameterError, match="width = 90"):
        BackboneShape(width=90)


def test_build_model_leaves_the_random_state(tokenizer):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = build_model(tokenizer, SMALL, 5), build_model(tokenizer, SMALL, 5)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_starting_filters_give_uncorrelated_channels(tokenizer):
    model = build_model(tokenizer, SMALL, 0)
    pictures = torch.randn(64, 3, 24, 24, generator=torch.Generator().manual_seed(0)).cumsum(3)
    set_starting_values(model, pictures)
    with torch.no_grad():
        channels = model.vision_model.embeddings.patch_embedding(pictures).transpose(0, 1).flatten(1)  # (width, n * P)
    correlation = torch.corrcoef(channels)
    assert (correlation - torch.eye(16)).abs().max() < 0.05


def test_dropped_patches_leave_the_chosen_ones_in_order(tokenizer):
    model = build_model(tokenizer, SMALL, 0).eval()
    pixel_values = torch.randn(2, 3, 24, 24)
    everything = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        whole, patches = embed_pictures(model, pixel_values)
        again, ordered = embed_pictures(model, pixel_values, everything)
        _, few = embed_pictures(model, pixel_values, everything[:, :5])
    torch.testing.assert_close(whole, again)
    torch.testing.assert_close(patches, ordered)
    assert few.shape == (2, 5, 8)
    assert torch.allclose(patches.norm(dim=-1), torch.ones(2, 16))


def test_patch_targets_by_hand():
    concept = np.array([[1, 0, -1]])
    # Concept 1 covers the left half; concept 0 lies well inside the last patch; the third place is empty.
    box = np.array([[[0, 0, 0.5, 1], [0.8, 0.8, 0.9, 0.9], [0, 0, 1, 1]]])
    targets = patch_targets(concept, box, np.array([0, 0]), n_parents=1, grid=2)
    assert targets.shape == (1, 4, 3)
    assert targets[0, :, 1].tolist() == [True, False, True, False]
    assert targets[0, :, 0].tolist() == [False, False, False, True]
    assert targets[0, :, 2].tolist() == [True, False, True, True]


def test_patch_targets_ignore_a_box_of_no_area():
    targets = patch_targets(np.array([[0]]), np.array([[[1.0, 0.2, 1.0, 0.4]]]), np.array([0]), 1, 4)
    assert not targets.any()


def test_presence_counts_parents():
    presence = coloured_pool(8).notes.presence()
    assert presence.shape == (8, 6)
    assert (presence.sum(1) == 2).all()  # one concept and its parent


def test_contrast_by_hand():
    embedding = torch.eye(2)
    losses = contrast(
        embedding, embedding[:, None], embedding, embedding, torch.eye(2), torch.eye(2)[:, None],
        torch.zeros(3), (torch.zeros(2), torch.zeros(2)),
    )  # fmt: skip
    assert losses["caption"].item() == pytest.approx(np.log(1 + np.exp(-1)))
    # Per picture: log(1 + e^-1) for the true phrase at cosine 1, log 2 for the false one at cosine 0.
    per_picture = np.log(1 + np.exp(-1)) + np.log(2)
    assert losses["phrase"].item() == pytest.approx(per_picture)
    assert losses["patch"].item() == pytest.approx(per_picture)


def test_odds_alone_explain_pictures_without_content():
    zero, share = torch.zeros(4, 8), torch.full((1,), 0.25)
    present = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    losses = contrast(
        zero, zero[:, None], zero, torch.zeros(1, 8), present, present[:, None], torch.zeros(3),
        (share.logit(), share.logit()),
    )  # fmt: skip
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert losses["phrase"].item() == pytest.approx(entropy)


def test_shift_moves_boxes_with_pictures_and_never_mirrors():
    pictures = np.zeros((6, 24, 24, 3), np.uint8)
    pictures[:, 10:13, 9:14] = 200
    box = np.tile(np.array([9, 10, 14, 13]) / 24, (6, 1, 1))
    moved, boxes = shift_and_tint(pictures, box, np.random.default_rng(0), largest=5)
    for picture, place in zip(moved, np.rint(boxes[:, 0] * 24).astype(int), strict=True):
        x0, y0, x1, y1 = place
        bright = picture.min(-1) > 100
        assert bright[y0:y1, x0:x1].all() and bright.sum() == 15
    assert len({tuple(row) for row in boxes[:, 0].tolist()}) > 1
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[None, None, :, None], (4, 24, 1, 3))
    tinted, _ = shift_and_tint(ramp, box[:4], np.random.default_rng(1))
    assert (np.diff(tinted[:, 12, :, 1].astype(int), axis=1) >= 0).all()


def test_split_gradient_is_that_of_the_whole_batch(tokenizer):
    from concurrent.futures import ThreadPoolExecutor

    model = build_model(tokenizer, SMALL, 0)
    pixel_values = torch.randn(5, 3, 24, 24)
    whole, patches = embed_pictures(model, pixel_values)
    ((whole @ whole.T).exp().sum() + patches[..., 0].sum()).backward()
    expected = model.vision_model.embeddings.patch_embedding.weight.grad.clone()
    model.zero_grad()
    with (
        ThreadPoolExecutor(2) as executor,
        split_pictures(model, pixel_values, None, executor, 2) as (whole, patches),
    ):
        ((whole @ whole.T).exp().sum() + patches[..., 0].sum()).backward()
    torch.testing.assert_close(model.vision_model.embeddings.patch_embedding.weight.grad, expected)


def test_orthogonalise_brings_singular_values_near_one():
    matrices = torch.randn(3, 6, 20, generator=torch.Generator().manual_seed(0)) * 50
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_finds_the_least_squares_of_a_tall_matrix():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(12, 4, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(12, 4))
    optimizer = Muon([weight], lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 300)
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert (weight - target).abs().max() < 0.1
    with pytest.raises(ValueError, match="matrices only"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_schedule_rises_then_falls():
    schedule = Schedule(100, warmup=0.1)
    assert schedule.rate(0.05) == pytest.approx(0.5)
    assert schedule.rate(0.1) == pytest.approx(1.0)
    assert schedule.rate(0.55) == pytest.approx(0.5)
    assert schedule.rate(1.0) == 0.0


def fit_small(tokenizer, seed: int = 0, steps: int = 120):
    pool = coloured_pool()
    mean, std = [0.45] * 3, [0.2] * 3
    model = build_model(tokenizer, SMALL, 0)
    set_starting_values(model, normalise_pictures(pool.pictures, mean, std))
    schedule = Schedule(steps, batch_size=16, lr=0.01, keep=1.0)
    backbone = Backbone(model, tokenizer, build_image_processor(SMALL, mean, std))
    history = train(backbone, pool, Bank(pool.notes), schedule, seed, log=lambda line: None)
    return backbone, history


def test_training_learns_names_and_places_of_squares(tokenizer):
    backbone, history = fit_small(tokenizer)
    assert history[-1]["phrase"] < 0.9 * history[0]["phrase"]
    assert history[-1]["patch"] < 0.7 * history[0]["patch"]
    figures = measure(backbone, coloured_pool(seed=1))
    assert figures["presence_auc"] > 0.75
    assert figures["pointing"] > 0.9 and figures["pointing_chance"] == pytest.approx(0.25)
    assert figures["probe_meta"] > figures["probe_meta_chance"] + 0.3


def test_training_repeats(tokenizer):
    first, _ = fit_small(tokenizer, steps=3)
    second, _ = fit_small(tokenizer, steps=3)
    other, _ = fit_small(tokenizer, seed=1, steps=3)
    weights = [backbone.model.visual_projection.weight for backbone in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_prototypes_have_length_one(tokenizer):
    found = name_prototypes(build_model(tokenizer, SMALL), tokenizer, ["red square", "日本"])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_saved_folder_loads_offline(tokenizer, tmp_path):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = build_model(tokenizer, SMALL, 0).eval()
    processor = build_image_processor(SMALL, [0.4, 0.5, 0.6], [0.2, 0.2, 0.25])
    save_backbone(tmp_path / "small", Backbone(model, tokenizer, processor), {"what": "test"})
    loaded = AutoModel.from_pretrained(tmp_path / "small", local_files_only=True).eval()
    assert loaded.dtype == torch.float32
    words = AutoTokenizer.from_pretrained(tmp_path / "small", local_files_only=True)
    texts = ["red square", "Österreich"]
    with torch.no_grad():
        close = embed_texts(loaded, words, texts) - embed_texts(model, tokenizer, texts)
    assert close.abs().max() < 5e-3
    from PIL import Image

    prepared = AutoImageProcessor.from_pretrained(tmp_path / "small", local_files_only=True)
    picture = np.full((24, 24, 3), 51, np.uint8)
    values = prepared(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 24, 24)
    torch.testing.assert_close(values, normalise_pictures(picture[None], [0.4, 0.5, 0.6], [0.2, 0.2, 0.25]))


def test_pool_is_the_same_for_any_number_of_workers_and_is_reused(tmp_path):
    worlds = [(1000, 1000)]
    one = render_pool(3, worlds, 9, 48, tmp_path / "one", workers=1)
    again = render_pool(3, worlds, 9, 48, tmp_path / "one", workers=1)
    two = render_pool(2, worlds, 9, 48, tmp_path / "two", workers=1)
    assert np.array_equal(one.pictures[:2], two.pictures)
    assert np.array_equal(one.pictures, again.pictures) and again.notes.captions == one.notes.captions
    assert (one.notes.concept >= 0).any(1).all()
    assert one.notes.box.min() >= 0 and one.notes.box.max() <= 1
    with pytest.raises(MismatchError, match="pool of other scenes"):
        render_pool(3, worlds, 10, 48, tmp_path / "one", workers=1)
    with pytest.raises(ParameterError, match="n_scenes = 0"):
        render_pool(0, worlds, 9, 48, tmp_path / "none")


def test_pretrain_refuses_an_empty_contrast():
    with pytest.raises(ParameterError, match="batch_size = 1"):
        PretrainSettings(batch_size=1)


def test_pretrain_from_random_weights_and_on_from_there(tmp_path):
    shape = BackboneShape(48, 12, width=16, layers=1, heads=2, text_width=16, text_layers=1, text_heads=2, projection=8)
    settings = PretrainSettings(n_scenes=8, epochs=1, batch_size=4, n_worlds=1, workers=1, evaluation_scenes=12)
    lines: list[str] = []
    first = pretrain(tmp_path / "first", settings, shape=shape, pool_folder=tmp_path / "pool", log=lines.append)
    assert first["finished"] and first["losses"][-1]["step"] == 2
    assert set(first["figures"]) == {"another_world", "demonstration_world"}
    assert json.loads((tmp_path / "first" / "provenance.json").read_text())["shape"]["width"] == 16
    start = tmp_path / "first"
    second = pretrain(tmp_path / "second", settings, start=start, pool_folder=tmp_path / "pool", log=lines.append)
    assert second["before"]["losses"] == first["losses"] and second["shape"] == first["shape"]
    files = {file.name for file in (tmp_path / "second").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= files
    assert str(tmp_path) not in (tmp_path / "second" / "provenance.json").read_text()
    with pytest.raises(MissingInputError, match="holds no backbone"):
        pretrain(tmp_path / "third", settings, start=tmp_path / "nothing")


def test_committed_backbone_knows_the_concepts():
    """The folder in the package: its size, what it says of itself, and that names lie near their kind."""
    provenance = json.loads((BACKBONE / "provenance.json").read_text())
    assert provenance["finished"]
    assert sum(file.stat().st_size for file in BACKBONE.iterdir()) < 8 * 2**20
    for world in provenance["figures"].values():
        assert world["presence_auc"] > 0.88
        assert world["pointing"] > 4 * world["pointing_chance"]
    from transformers import AutoModel, AutoTokenizer

    from geocbm_atlas.facts import META_TO_PARENT

    model = AutoModel.from_pretrained(BACKBONE, local_files_only=True).eval()
    words = AutoTokenizer.from_pretrained(BACKBONE, local_files_only=True)
    names = name_prototypes(model, words, list(META_TO_PARENT))
    nearest = (names @ names.T - 2 * torch.eye(len(names))).argmax(1)
    parents = np.array(list(META_TO_PARENT.values()))
    alike = parents[:, None] == parents[None]
    chance = (alike.sum() - len(names)) / (len(names) * (len(names) - 1))
    assert alike[np.arange(len(names)), nearest.numpy()].mean() > 3 * chance
    assert model.config.vision_config.image_size // model.config.vision_config.patch_size == 12


def test_command_line_trains_a_backbone(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(main_module, "pretrain", lambda out, settings, start=None: asked.update(out=out, s=settings))
    main_module.main(["--out", str(tmp_path), "--n-scenes", "50", "--minutes", "1.5"])
    assert asked == {"out": tmp_path, "s": PretrainSettings(n_scenes=50, minutes=1.5)}
