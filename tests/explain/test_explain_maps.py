"""Maps of concepts: native ones by hand, gradients against what they must be, controls."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_run import STAGE1

from geocbm import pipeline
from geocbm.errors import ParameterError
from geocbm.explain.maps import GRADIENT, SCORE, SHARE, centre_map, concept_maps, kinds_of_map, named_map, random_maps

if TYPE_CHECKING:
    from tiny_run import TinyRun

    from geocbm.models.stage1 import Stage1ConceptModel


def _model(run: TinyRun, kind: str) -> Stage1ConceptModel:
    """An untrained model of a kind of bottleneck that fits the run."""
    from geocbm.models.stage1 import Stage1ConceptModel

    files = run.files
    features = pipeline.open_features(files, "adapted", run.cache)
    base = pipeline.read_prototypes(files)
    torch.manual_seed(0)
    config = replace(STAGE1, bottleneck=kind, transformer_width=16)
    return Stage1ConceptModel(
        features.shape("pooled")[0],
        base["meta"],
        base["parent"],
        torch.as_tensor(files.concepts.parent_index),
        config,
        token_dim=features.shape("tokens")[1],
    ).eval()


@pytest.mark.parametrize(("bottleneck", "kinds"), [("patch", (SCORE, SHARE)), ("mlp", (GRADIENT,))])
def test_kinds(trained_run: TinyRun, bottleneck: str, kinds: tuple[str, ...]) -> None:
    assert kinds_of_map(_model(trained_run, bottleneck)) == kinds


def test_native_maps(trained_run: TinyRun) -> None:
    files, model = trained_run.files, _model(trained_run, "patch")
    encoder, features = pipeline.load_stage0(files)[1], pipeline.open_features(files, "adapted", trained_run.cache)
    rows, metas = np.array([7, 2, 7]), np.array([0, 3, 5])
    with torch.no_grad():
        scores = model(features.read("pooled", rows), features.read("tokens", rows)).meta_maps.numpy()  # (3, P, k_m)
    exponentials = np.exp(scores.astype(np.float64))
    wanted = exponentials / exponentials.sum(-1, keepdims=True)
    share = concept_maps(files, encoder, model, features, rows, metas, batch_size=1)
    assert share == pytest.approx(np.stack([wanted[i, :, metas[i]] for i in range(3)]), rel=1e-4)
    score = concept_maps(files, encoder, model, features, rows, metas, SCORE)
    own = np.stack([scores[i, :, metas[i]] for i in range(3)])
    assert score.max(axis=1) == pytest.approx(1) and (score.argmax(1) == own.argmax(1)).all()
    assert np.log(score) == pytest.approx(own - own.max(1, keepdims=True), abs=1e-3)


@pytest.mark.parametrize("bottleneck", ["mlp", "transformer"])
def test_gradient_maps(trained_run: TinyRun, bottleneck: str) -> None:
    files, model = trained_run.files, _model(trained_run, bottleneck)
    encoder, features = pipeline.load_stage0(files)[1], pipeline.open_features(files, "adapted", trained_run.cache)
    maps = concept_maps(files, encoder, model, features, np.array([3, 3, 5]), np.array([0, 1, 0]), batch_size=2)
    assert maps.shape == (3, encoder.grid[0] * encoder.grid[1]) and (maps >= 0).all() and np.isfinite(maps).all()
    assert not np.allclose(maps[0], maps[1])  # two concepts of one picture
    assert maps.max() > 0
    alone = concept_maps(files, encoder, model, features, np.array([5]), np.array([0]))
    assert alone[0] == pytest.approx(maps[2], rel=1e-3, abs=1e-7)  # the batch does not matter


def test_refusals_and_nothing(trained_run: TinyRun) -> None:
    files, model = trained_run.files, _model(trained_run, "mlp")
    encoder, features = pipeline.load_stage0(files)[1], pipeline.open_features(files, "adapted", trained_run.cache)
    with pytest.raises(ParameterError, match=r"kind is 'share'.*'gradient x input'"):
        concept_maps(files, encoder, model, features, np.array([1]), np.array([0]), SHARE)
    with pytest.raises(ParameterError, match="give a concept for each row"):
        concept_maps(files, encoder, model, features, np.array([1, 2]), np.array([0]))
    assert len(concept_maps(files, encoder, model, features, np.array([]), np.array([]))) == 0


def test_named_map_weighs_by_probability(trained_run: TinyRun) -> None:
    files, model = trained_run.files, _model(trained_run, "patch")
    encoder, features = pipeline.load_stage0(files)[1], pipeline.open_features(files, "adapted", trained_run.cache)
    scores = np.zeros((len(files.table), 6))
    scores[4, [1, 2, 5]] = 0.6, 0.3, 0.05
    one, two = concept_maps(files, encoder, model, features, np.array([4, 4]), np.array([1, 2]))
    wanted = (0.6 * one / one.sum() + 0.3 * two / two.sum()) / 0.9
    mixed = named_map(files, encoder, model, features, scores, np.array([4]), most=2)
    assert mixed[0] == pytest.approx(wanted, rel=1e-4) and mixed.sum() == pytest.approx(1)


def test_controls() -> None:
    middle = centre_map((3, 5)).reshape(3, 5)
    assert middle.argmax() == 7 and middle.sum() == pytest.approx(1)
    assert np.array_equal(middle, middle[::-1]) and middle == pytest.approx(middle[:, ::-1])
    assert np.array_equal(random_maps(2, 9, 1), random_maps(2, 9, 1))
    assert not np.array_equal(random_maps(2, 9, 1), random_maps(2, 9, 2))
