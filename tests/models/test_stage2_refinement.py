import numpy as np
import pytest
import torch
from test_stage2 import head

from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.models.stage2 import Stage2Config
from geocbm.models.stage2_inference import NeighbourRefiner, locate, predict_stage2

FEATURES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
LAT, LNG = np.array([10.0, 20.0, 30.0, -40.0]), np.array([179.0, -179.0, 5.0, 7.0])
CELL = torch.tensor([0, 0, 1, 1])


def config(**options):
    return Stage2Config(refine_cells=2, **({"refine_neighbours": 1, "refine_temperature": 0.1} | options))


def test_the_nearest_picture_of_the_best_cell_gives_the_place():
    refiner = NeighbourRefiner(FEATURES, LAT, LNG, CELL)
    query, cells = torch.tensor([[1.0, 0.1], [1.0, 0.9]]), torch.tensor([[0, 1], [0, 1]])
    lat, lng, cell = refiner.refine(query, cells, torch.tensor([[0.6, 0.4], [0.6, 0.4]]), config())
    assert cell.tolist() == [0, 1]  # the second picture is almost the third training picture: its cell wins
    np.testing.assert_allclose(lat, [10.0, 30.0], atol=1e-4)
    np.testing.assert_allclose(lng, [179.0, 5.0], atol=1e-4)


def test_the_mean_of_neighbours_crosses_the_antimeridian():
    refiner = NeighbourRefiner(FEATURES, LAT * 0, LNG, CELL)
    lat, lng, _ = refiner.refine(
        torch.tensor([[1.0, 1.0]]), torch.tensor([[0]]), torch.tensor([[1.0]]), config(refine_neighbours=2)
    )
    assert abs(lat.item()) < 1e-4 and abs(abs(lng.item()) - 180) < 1e-3


def test_more_neighbours_than_pictures_of_the_cell_take_those_there_are():
    refiner = NeighbourRefiner(FEATURES, LAT, LNG, CELL)
    few = refiner.refine(FEATURES[:1], torch.tensor([[0]]), torch.tensor([[1.0]]), config(refine_neighbours=2))
    many = refiner.refine(FEATURES[:1], torch.tensor([[0]]), torch.tensor([[1.0]]), config(refine_neighbours=99))
    torch.testing.assert_close(few[0], many[0])


def test_a_cell_without_training_pictures_keeps_centre_and_offset():
    refiner = NeighbourRefiner(FEATURES[:2], LAT[:2], LNG[:2], torch.tensor([0, 0]))
    empty = refiner.refine(FEATURES[:1], torch.tensor([[2]]), torch.tensor([[1.0]]), config())
    assert empty[0].isnan().all() and empty[1].isnan().all()
    model = head(refine_cells=1).eval()
    torch.nn.init.zeros_(model.cell_head.weight)
    concept, tokens = torch.randn(3, 32), torch.randn(3, 9, 20)
    for best, moved in ((2, False), (0, True)):
        with torch.no_grad():
            model.cell_head.bias.copy_(5.0 * torch.eye(3)[best])
        output = model(concept, tokens)
        plain, refined = model.decode(output), locate(model, output, refiner, FEATURES[[0, 0, 0]])
        assert np.allclose(plain[0].detach(), refined[0]) != moved


def test_predictions_use_it_and_ask_for_features(tmp_path):
    model = head(refine_cells=2, refine_neighbours=1).eval()
    refiner = NeighbourRefiner(FEATURES, LAT, LNG, CELL)
    refiner.save(tmp_path / "neighbours.safetensors")
    loaded = NeighbourRefiner.load(tmp_path / "neighbours.safetensors")
    concept, tokens, rows = torch.randn(4, 32), torch.randn(4, 9, 20), np.arange(4)
    with pytest.raises(ParameterError, match="pooled is None"):
        predict_stage2(model, concept, tokens, rows, refiner=refiner)
    one, two = (
        predict_stage2(model, concept, tokens, rows, refiner=each, pooled=FEATURES) for each in (refiner, loaded)
    )
    np.testing.assert_allclose(one["lat"], two["lat"], atol=1e-3)
    assert set(np.round(one["lat"])) <= set(LAT) | set(np.round(predict_stage2(model, concept, tokens, rows)["lat"]))


def test_wrong_inputs_are_named(tmp_path):
    with pytest.raises(ParameterError, match=r"have \[3, 4\] rows"):
        NeighbourRefiner(FEATURES, LAT[:3], LNG, CELL)
    with pytest.raises(MissingInputError, match="--from 01"):
        NeighbourRefiner.load(tmp_path / "nothing.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(MismatchError, match="it lacks 'geocbm'"):
        NeighbourRefiner.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("mode", ["concept_only", "concept_scores"])
def test_modes_that_see_no_picture_are_not_refined(mode):
    model = head(refine_cells=2, ablation_mode=mode).eval()
    assert not model.config.refines and head(refine_cells=2).config.refines
    output = model(torch.rand(2, 32))
    refined = locate(model, output, NeighbourRefiner(FEATURES, LAT, LNG, CELL), FEATURES[:2])
    assert np.array_equal(refined[0], model.decode(output)[0].detach())
