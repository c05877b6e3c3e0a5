"""Maps under random weights: what is drawn, in which order, and what a map that cannot change looks like."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from geocbm.explain import randomization
from geocbm.explain import trust_card as card
from geocbm.explain.maps import GRADIENT, SHARE
from geocbm.explain.randomization import ALL, cascade, draw_anew, measure_randomization, randomization_metrics
from geocbm.explain.stability import ATTENTION, MAPS
from geocbm.models.stage1 import Stage1ConceptModel
from geocbm.run import stages


def figure(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_weights_keep_their_mean_and_spread():
    layer, scale = nn.Linear(200, 300), nn.Parameter(torch.tensor(14.0))
    nn.init.constant_(layer.bias, 3.0)
    nn.init.normal_(layer.weight, 2.0, 0.5)
    before = layer.weight.detach().clone()
    draw_anew([*layer.parameters(), scale], torch.Generator().manual_seed(0))
    assert layer.weight.mean().item() == pytest.approx(2.0, abs=0.02)
    assert layer.weight.std().item() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(before.flatten(), layer.weight.detach().flatten())[0, 1]) < 0.02
    assert scale.item() == 14 and (layer.bias == 3).all()  # a constant has no spread to draw from


def test_layers_are_drawn_from_the_top_down(trained_run, map_model):
    parts = [deepcopy(one) for one in (map_model.encoder, map_model.stage1, stages.load_stage2(trained_run.files))]
    start = [{name: own.detach().clone() for name, own in part.named_parameters()} for part in parts]

    def changed(part):
        own = dict(parts[part].named_parameters())
        return {name for name, value in start[part].items() if value.numel() > 1 and not torch.equal(own[name], value)}

    seen = [(step, *(bool(changed(part)) for part in range(3))) for step in cascade(*parts, seed=0)]
    assert seen[0] == ("Stage 2", False, False, True) and seen[1] == ("Stage 1, prototypes", False, True, True)
    assert seen[-1] == (ALL, True, True, True) and not any(encoder for _, encoder, _, _ in seen[:3])
    varying = {name for name, own in start[0].items() if own.numel() > 1 and own.std() > 0}
    assert changed(0) == varying
    untouched = {name for name, own in map_model.encoder.named_parameters() if not torch.equal(own, start[0][name])}
    assert not untouched  # the model itself is as it was


def test_similarity_of_a_run(trained_run, map_model):
    files, head = trained_run.files, stages.load_stage2(trained_run.files)
    own = map_model.stage1
    config = replace(own.config, bottleneck="patch")
    stage1 = Stage1ConceptModel(
        own.in_dim, own.meta_base, own.parent_base, own.meta_to_parent, config, map_model.encoder.token_dim
    )
    for model, kind in ((map_model, GRADIENT), (replace(map_model, stage1=stage1.eval()), SHARE)):
        table = measure_randomization(model, head, files.rows["test"], kind, 20)
        assert set(table["explanation"]) == {MAPS, ATTENTION} and table.attrs["n"] == len(files.rows["test"])
        assert table["similarity"].dropna().between(0, 1.000001).all()
        by_step = table.set_index(["explanation", "step"])["similarity"]
        assert by_step[MAPS, "Stage 2"] == pytest.approx(1)  # Stage 2 lies above the concepts
        assert by_step[ATTENTION, "Stage 2"] < 0.999 and by_step[MAPS, ALL] < 0.999
        assert table["chance"].iloc[0] == pytest.approx(np.sqrt(2 / np.pi / (model.n_patches - 1)))
    assert measure_randomization(map_model, head, files.rows["test"][:3], GRADIENT, 20).attrs["n"] == 3


def test_a_map_that_knows_no_weights_fails(trained_run, map_model, monkeypatch):
    head, rows = stages.load_stage2(trained_run.files), trained_run.files.rows["test"]
    fixed = np.random.default_rng(0).random((len(rows), map_model.n_patches))
    # Turned upside down with every call: still the same map.
    signs = iter([1, -1] * 100)
    monkeypatch.setattr(randomization, "concept_maps", lambda *_: fixed * next(signs))
    table = measure_randomization(map_model, head, rows, GRADIENT, 20)
    assert table.loc[table["explanation"] == MAPS, "similarity"].to_numpy() == pytest.approx(1)
    assert card.judge_randomization({MAPS: figure(1.0, 1.0, 1.0)}, 0.1).verdict == card.NO
    assert "randomized_map" in randomization_metrics(table)
    monkeypatch.setattr(randomization, "concept_maps", lambda *_: np.ones_like(fixed))
    table = measure_randomization(map_model, head, rows, GRADIENT, 20)  # an even map has no order to keep or lose
    assert table.loc[table["explanation"] == MAPS, "similarity"].isna().all()
    assert "randomized_map" not in randomization_metrics(table)


@pytest.mark.parametrize(
    ("similarity", "chance", "verdict"),
    [
        ({MAPS: figure(0.2, 0.1, 0.3), ATTENTION: figure(0.1, 0.05, 0.2)}, 0.1, card.YES),
        ({MAPS: figure(0.2, 0.1, 0.3), ATTENTION: figure(0.75, 0.7, 0.8)}, 0.1, card.NO),
        ({MAPS: figure(0.35, 0.3, 0.42)}, 0.1, card.PARTLY),
        ({MAPS: figure(0.2, 0.1, 0.3)}, 0.46, card.CANNOT),
        ({MAPS: figure(0.2, np.nan, np.nan)}, 0.1, card.UNKNOWN),
        ({}, 0.1, card.UNKNOWN),
    ],
)
def test_the_verdict(similarity, chance, verdict):
    assert card.judge_randomization(similarity, chance).verdict == verdict
