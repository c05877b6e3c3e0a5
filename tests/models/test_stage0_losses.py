"""The weighted sum of Stage 0, worked out by hand for three rows, under each option."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from geocbm.models.stage0 import Stage0Config, Stage0Output
from geocbm.models.stage_losses import Stage0Loss

E = math.e
LN2, LN3 = math.log(2), math.log(3)
ONE_OF_TWO = math.log(1 + 1 / E)  # the right one has cosine 1, one other 0
ONE_OF_THREE = math.log(1 + 2 / E)  # the right one has cosine 1, two others 0

OUTPUT = Stage0Output(
    pooled=torch.eye(3) * 5,  # lengths must not matter to a cosine
    gps=torch.tensor([[2.0, 0, 0]] * 3),  # all places look alike, so each image has three equal candidates
    concept_emb=torch.tensor([[1.0, 0], [3.0, 0], [0, 1.0]]),
    patch_emb=torch.eye(3),
    meta_prototypes=torch.eye(2),
    parent_prototypes=torch.tensor([[1.0, 0], [-1.0, 0]]),
    temperature=torch.tensor(1.0),
)
BATCH = {
    "gps": torch.eye(3),
    "pooled": torch.eye(3) * 5 - 2,
    "concept_idx": torch.tensor([0, 1, 1]),
    "parent_idx": torch.tensor([0, 0, 1]),
    "lat": torch.tensor([0.0, 1.0, 10.0]),  # a degree is 111.19 km
    "lng": torch.zeros(3),
}
BY_HAND = {
    "gps": LN3,
    # Rows 0 and 2 find their prototype before one at a right angle; row 1 has cosine 0 to its own and 1 to the other.
    "child": (2 * ONE_OF_TWO + math.log(1 + E)) / 3,
    # Cosines 1 and -1 for rows 0 and 1, 0 and 0 for row 2.
    "parent": (2 * math.log(1 + E**-2) + LN2) / 3,
    # Rows 0 and 1 have each other; row 2 has no sibling and is skipped.
    "hierarchy": ONE_OF_TWO,
    "patch_gps": ONE_OF_THREE,
    "anchor": 4.0,
}
WEIGHTS = {"gps": 1.0, "child": 1.0, "parent": 0.5, "hierarchy": 0.3, "patch_gps": 0.2, "anchor": 0.01}
CONFIG = Stage0Config(temperature=1.0)


def check(terms: dict[str, torch.Tensor], expected: dict[str, float], weights: dict[str, float] = WEIGHTS) -> None:
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5), name
    total = sum(weight * expected[name] for name, weight in weights.items())
    assert terms["loss"].item() == pytest.approx(total, rel=1e-5)


def test_the_specification():
    check(Stage0Loss(CONFIG)(OUTPUT, BATCH), BY_HAND)


def test_weights_are_those_of_the_settings():
    weights = {name: 2.0 + number for number, name in enumerate(WEIGHTS)}
    config = replace(CONFIG, **{f"lambda_{name}": weight for name, weight in weights.items()})
    check(Stage0Loss(config)(OUTPUT, BATCH), BY_HAND, weights)


def test_symmetric_contrasts_places_against_images_too():
    # Each place resembles image 0: cosine 1 to it, 0 to the others; the right one is image 0, 1, 2 in turn.
    backward = math.log(E + 2) - 1 / 3
    terms = Stage0Loss(replace(CONFIG, symmetric=True))(OUTPUT, BATCH)
    check(terms, BY_HAND | {"gps": (LN3 + backward) / 2})


def test_near_places_are_no_negatives():
    # Rows 0 and 1 lie 111 km apart and leave one candidate less for each other.
    changed = {"gps": (2 * LN2 + LN3) / 3, "patch_gps": (2 * ONE_OF_TWO + ONE_OF_THREE) / 3}
    check(Stage0Loss(replace(CONFIG, false_negative_km=112.0))(OUTPUT, BATCH), BY_HAND | changed)
    check(Stage0Loss(replace(CONFIG, false_negative_km=111.0))(OUTPUT, BATCH), BY_HAND)


def test_a_temperature_of_the_model_divides_the_contrasts_with_places_only():
    output = OUTPUT._replace(temperature=torch.tensor(0.5, requires_grad=True))
    terms = Stage0Loss(CONFIG)(output, BATCH)
    check(terms, BY_HAND | {"patch_gps": math.log(1 + 2 * E**-2)})  # the equal candidates stay equal at any temperature
    terms["loss"].backward()
    # d/dt log(1 + 2 exp(-1/t)) = 2 exp(-1/t) / t^2 / (1 + 2 exp(-1/t)), times the weight 0.2
    assert output.temperature.grad.item() == pytest.approx(0.2 * 8 * E**-2 / (1 + 2 * E**-2), rel=1e-4)


def test_without_concept_losses_their_terms_are_given_but_weigh_nothing():
    terms = Stage0Loss(replace(CONFIG, concept_losses=False))(OUTPUT, BATCH)
    check(terms, BY_HAND, {name: WEIGHTS[name] for name in ("gps", "patch_gps", "anchor")})
