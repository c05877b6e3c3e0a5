"""Maps of concepts: native ones by hand, gradients against what they must be, controls."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_run import STAGE1

from geocbm.errors import ParameterError
from geocbm.explain import maps
from geocbm.explain.maps import GRADIENT, SCORE, SHARE, MapModel, centre_map, concept_maps, named_map
from geocbm.run import encoding

if TYPE_CHECKING:
    from tiny_run import TinyRun


def _model(run: TinyRun, kind: str) -> MapModel:
    """An untrained Stage 1 of a kind of bottleneck that fits the run."""
    from geocbm.models.stage1 import Stage1ConceptModel

    files = run.files
    features = files.features("adapted")
    base = encoding.read_prototypes(files)
    torch.manual_seed(0)
    config = replace(STAGE1, bottleneck=kind, transformer_width=16)
    stage1 = Stage1ConceptModel(
        features.shape("pooled")[0],
        base["meta"],
        base["parent"],
        torch.as_tensor(files.concepts.parent_index),
        config,
        token_dim=features.shape("tokens")[1],
    ).eval()
    return MapModel(files, encoding.load_stage0(files)[1], features, stage1)


@pytest.mark.parametrize(("bottleneck", "kinds"), [("patch", (SCORE, SHARE)), ("mlp", (GRADIENT,))])
def test_kinds(trained_run: TinyRun, bottleneck: str, kinds: tuple[str, ...]) -> None:
    assert _model(trained_run, bottleneck).kinds == kinds


def test_native_maps(trained_run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "BATCH_SIZE", 1)
    model = _model(trained_run, "patch")
    rows, metas = np.array([7, 2, 7]), np.array([0, 3, 5])
    with torch.no_grad():
        scores = model.stage1(*model.read(rows)).meta_maps.numpy()  # (3, P, k_m)
    exponentials = np.exp(scores.astype(np.float64))
    wanted = exponentials / exponentials.sum(-1, keepdims=True)
    share = concept_maps(model, rows, metas)
    assert share == pytest.approx(np.stack([wanted[i, :, metas[i]] for i in range(3)]), rel=1e-4)
    score = concept_maps(model, rows, metas, SCORE)
    own = np.stack([scores[i, :, metas[i]] for i in range(3)])
    assert score.max(axis=1) == pytest.approx(1) and (score.argmax(1) == own.argmax(1)).all()
    assert np.log(score) == pytest.approx(own - own.max(1, keepdims=True), abs=1e-3)


@pytest.mark.parametrize("bottleneck", ["mlp", "transformer"])
def test_gradient_maps(trained_run: TinyRun, bottleneck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "BATCH_SIZE", 2)
    monkeypatch.setattr(maps, "_FROM_PIXELS", 2)
    model = _model(trained_run, bottleneck)
    found = concept_maps(model, np.array([3, 3, 5]), np.array([0, 1, 0]))
    assert found.shape == (3, model.n_patches) and (found >= 0).all() and np.isfinite(found).all()
    assert not np.allclose(found[0], found[1])  # two concepts of one picture
    assert found.max() > 0
    alone = concept_maps(model, np.array([5]), np.array([0]))
    assert alone[0] == pytest.approx(found[2], rel=1e-3, abs=1e-7)  # the batch does not matter


def test_few_pictures_at_once_pass_the_encoder_with_a_gradient(
    trained_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = MapModel.pixels

    def counted(model: MapModel, rows: np.ndarray) -> torch.Tensor:
        sizes.append(len(rows))
        return whole(model, rows)

    monkeypatch.setattr(MapModel, "pixels", counted)
    concept_maps(_model(trained_run, "mlp"), np.arange(9), np.zeros(9, dtype=int))
    assert sizes == [4, 4, 1]


def test_refusals_and_nothing(trained_run: TinyRun) -> None:
    model = _model(trained_run, "mlp")
    with pytest.raises(ParameterError, match=r"kind is 'share'.*'gradient x input'"):
        concept_maps(model, np.array([1]), np.array([0]), SHARE)
    with pytest.raises(ParameterError, match="give a concept for each row"):
        concept_maps(model, np.array([1, 2]), np.array([0]))
    assert len(concept_maps(model, np.array([]), np.array([]))) == 0


def test_named_map_weighs_by_probability(trained_run: TinyRun) -> None:
    model = _model(trained_run, "patch")
    scores = np.zeros((len(trained_run.files.table), 6))
    scores[4, [1, 2, 5]] = 0.6, 0.3, 0.05
    one, two, three = concept_maps(model, np.array([4, 4, 4]), np.array([1, 2, 5]))
    wanted = (0.6 * one / one.sum() + 0.3 * two / two.sum() + 0.05 * three / three.sum()) / 0.95
    mixed = named_map(model, scores, np.array([4]))
    assert mixed[0] == pytest.approx(wanted, rel=1e-4) and mixed.sum() == pytest.approx(1)


def test_controls() -> None:
    middle = centre_map((3, 5)).reshape(3, 5)
    assert middle.argmax() == 7 and middle.sum() == pytest.approx(1)
    assert np.array_equal(middle, middle[::-1]) and middle == pytest.approx(middle[:, ::-1])
