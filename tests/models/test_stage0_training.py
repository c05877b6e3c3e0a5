"""What Stage 0 trains of a CLIP, at which learning rate, and when it stops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stage_training import Stage0Training
from torch import nn

from geocbm.encoders import load_image_encoder, load_text_encoder
from geocbm.models.loading import load_stage0
from geocbm.models.prompts import PromptPrototypes
from geocbm.models.stage0 import Stage0Config

N, BLOCKS, GPS = 24, 3, 8
METAS, PARENTS = ["red pole", "a road", "road sign"], ["pole", "road"]
CONFIG = Stage0Config(epochs=1, batch_size=N, concept_emb_dim=8, lr=1e-3, encoder_lr=1e-4, weight_decay=0.0, dropout=0)


class Places(nn.Module):
    """A location encoder of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, GPS)

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        return self.layer(coordinates / 90).sin()


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest change of each tensor that changed at all."""
    largest = {name: float((value - before[name]).abs().max()) for name, value in module.state_dict().items()}
    return {name: change for name, change in largest.items() if change > 0}


@pytest.fixture
def train(folders):
    """Train the tiny CLIP on random pictures: `train(config, out, **changes) -> (model, result, encoder, before)`."""

    def run(config: Stage0Config, out=None, **changes):
        torch.manual_seed(0)
        encoder, places = load_image_encoder(folders("clip")), Places()
        with torch.no_grad():
            hidden = encoder.lower(torch.randn(N, 3, 32, 32), config.unfreeze_layers)
            vanilla = encoder.upper(hidden, config.unfreeze_layers).pooled
        before = {"encoder": state(encoder), "places": state(places)}
        training = Stage0Training(
            config=config,
            encoder=encoder,
            location_encoder=places,
            meta_prototypes=torch.randn(3, 12),
            parent_prototypes=torch.randn(2, 12),
            hidden_features=hidden,
            vanilla_features=vanilla,
            lat=np.linspace(-60, 60, N),
            lng=np.linspace(-170, 170, N),
            meta=np.arange(N) % 3,
            parent=np.arange(N) % 2,
            train_rows=np.arange(N),
            val_rows=np.arange(N),
            report=lambda line: None,
        )
        model, result = replace(training, **changes).fit(out)
        assert not moved(places, before["places"])
        return model, result, encoder, before["encoder"]

    return run


@pytest.mark.parametrize("top_blocks", range(BLOCKS + 1))
def test_the_last_blocks_the_last_norm_and_the_projection_train_and_nothing_else(train, top_blocks):
    model, _, encoder, before = train(replace(CONFIG, unfreeze_layers=top_blocks))
    last = [f".layers.{number}." for number in range(BLOCKS - top_blocks, BLOCKS)]
    parts = (*last, "post_layernorm", "visual_projection") if top_blocks else ()
    expected = {name for name in before if any(part in name for part in parts)}
    assert {name for name, value in encoder.named_parameters() if value.requires_grad} == expected
    changes = moved(encoder, before)
    assert changes.keys() <= expected
    # A bias of the keys shifts all scores of a query alike: its gradient is zero but for rounding.
    assert all(name.endswith("k_proj.bias") for name in expected - changes.keys())
    assert len([name for name in expected if ".layers." in name]) == 16 * top_blocks
    assert {"gps_adapter.weight", "patch_projection.weight"} <= {name for name, _ in model.named_parameters()}


def test_every_group_trains_at_its_own_rate(train, folders):
    # The first step of Adam moves a parameter by its learning rate, whatever the size of its gradient.
    text = load_text_encoder(image_encoder_name=folders("clip"))
    words_before = state(text)
    prompts = PromptPrototypes(text, METAS, PARENTS)
    model, _, encoder, before = train(replace(CONFIG, train_text_encoder=True), prompts=prompts)
    assert max(moved(encoder, before).values()) == pytest.approx(CONFIG.encoder_lr, rel=0.01)
    assert max(moved(text, words_before).values()) == pytest.approx(CONFIG.encoder_lr, rel=0.01)
    fresh = train(replace(CONFIG, lr=0.0))[0]  # the same seed gives the same first weights
    for name in ("gps_adapter", "bottleneck", "prototype_projection", "patch_projection"):
        changes = moved(getattr(model, name), state(getattr(fresh, name)))
        assert max(changes.values()) == pytest.approx(CONFIG.lr, rel=0.01), name


def test_an_encoder_whose_blocks_are_all_frozen_is_still_aligned_with(train, folders, tmp_path):
    path = tmp_path / "stage0.safetensors"
    config = replace(CONFIG, unfreeze_layers=0, epochs=5)
    model, result, encoder, before = train(config, out=path)
    assert not moved(encoder, before)
    assert result.best["loss"] < result.initial["loss"]
    assert result.best["anchor"] == pytest.approx(0, abs=1e-10)
    loaded = load_stage0(path, load_image_encoder(folders("clip")))
    assert torch.equal(loaded.gps_adapter.weight, model.gps_adapter.weight)


def test_training_stops_when_the_held_out_rows_gain_no_more_and_keeps_the_best(train):
    config = replace(CONFIG, epochs=60, batch_size=8, lr=1e-2, encoder_lr=1e-2, patience=3)
    model, result, _, _ = train(config, train_rows=np.arange(12), val_rows=np.arange(12, N))
    history = result.history
    assert len(history) == result.best_epoch + 3 < 60
    assert result.best_epoch == history["val_loss"].argmin() + 1
    assert result.best["loss"] == history["val_loss"].min()
    assert model.training is False


def test_a_rate_of_zero_stops_after_the_patience(train):
    result = train(replace(CONFIG, epochs=60, lr=0.0, encoder_lr=0.0, patience=2))[1]
    assert (result.best_epoch, len(result.history)) == (1, 3)


def test_skipped_the_encoder_and_its_features_stay_and_the_heads_are_untrained(train, tmp_path, folders):
    config = replace(CONFIG, epochs=0)
    model, result, encoder, before = train(config, out=tmp_path / "stage0.safetensors")
    assert not moved(encoder, before)
    hidden = torch.randn(4, *encoder.lower(torch.zeros(1, 3, 32, 32), config.unfreeze_layers).shape[1:])
    untouched = load_image_encoder(folders("clip")).eval()
    with torch.no_grad():
        pair = [each.upper(hidden, config.unfreeze_layers).pooled for each in (encoder, untouched)]
    assert torch.equal(*pair)
    assert (result.best_epoch, result.history["epoch"].tolist()) == (0, [0])
    # One epoch at a rate of 0 draws the same first weights and keeps them.
    still = train(replace(CONFIG, lr=0.0, encoder_lr=0.0))[0]
    for part in ("bottleneck", "prototype_projection", "patch_projection", "gps_adapter"):
        assert not moved(getattr(model, part), state(getattr(still, part)))
    loaded = load_stage0(tmp_path / "stage0.safetensors", load_image_encoder(folders("clip")))
    assert not moved(loaded.bottleneck, state(model.bottleneck))
