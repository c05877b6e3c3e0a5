"""Distributions over cells and conformal regions, held against values worked out by hand."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from notebook_cells import NOTEBOOKS
from scipy.special import softmax

from geocbm.errors import ParameterError
from geocbm.evaluation.uncertainty import conformal
from geocbm.geocells import distribution as belief_module
from geocbm.geocells.distribution import CellDistribution, sum_by_place
from geocbm.workbench.parameters import read_cells


def drawn(n, n_cells, seed, spread=2.0):
    """Logits and cells that were drawn from exactly these distributions."""
    generator = np.random.default_rng(seed)
    logits = spread * generator.standard_normal((n, n_cells))
    probability = CellDistribution(logits).probabilities(slice(None))
    return logits, (generator.random((n, 1)) > probability.cumsum(axis=1)).sum(axis=1).clip(max=n_cells - 1)


def test_probabilities_and_temperature_by_hand():
    logits = np.log([[0.2, 0.8], [0.5, 0.5]])
    np.testing.assert_allclose(CellDistribution(logits).probabilities(slice(None)), [[0.2, 0.8], [0.5, 0.5]])
    np.testing.assert_allclose(CellDistribution(logits, 0.5).probabilities(slice(0, 1)), [[0.04 / 0.68, 0.64 / 0.68]])


def test_page_06b_works_out_the_thresholds_where_cells_are_equally_likely():
    # Logits are stored in half precision, so that cells may share one; of these few nearly all do.
    logits = np.random.default_rng(5).integers(0, 3, (199, 6)).astype(np.float16)
    y = np.random.default_rng(6).integers(0, 6, 199)
    found = conformal.calibrate_regions(CellDistribution(logits, 0.9), y, seed=3)
    regions = [SimpleNamespace(coverage=coverage, threshold=limit) for coverage, limit in found.items()]
    cell = next(each for each in read_cells(NOTEBOOKS / "06b_uncertainty.py") if "by_hand = {one" in each.source)
    space = {"np": np, "softmax": softmax, "z": logits.astype(float), "temperature": 0.9, "y": y, "val": y, "seed": 3}
    assessment = SimpleNamespace(assess=lambda *_: SimpleNamespace(regions=regions))
    methods = SimpleNamespace(main_predictions=lambda _: {"lat": 0, "lng": 0}, own_points=lambda _: {})
    exec(cell.source, space | {"assessment": assessment, "methods": methods, "files": None, "bootstrap": 0})


def test_chunks_give_what_one_piece_gives(monkeypatch):
    belief = CellDistribution(np.random.default_rng(0).standard_normal((11, 5)).astype(np.float16))
    whole = belief.gather(lambda p: p.max(axis=1))
    monkeypatch.setattr(belief_module, "NUMBERS_AT_ONCE", 12)  # two rows at a time
    assert [(part.start, part.stop) for part in belief.chunks()][:2] == [(0, 2), (2, 4)]
    np.testing.assert_array_equal(belief.gather(lambda p: p.max(axis=1)), whole)
    assert CellDistribution(np.empty((0, 5))).gather(lambda p: p.max(axis=1)).shape == (0,)


def test_entropy_by_hand():
    np.testing.assert_allclose(belief_module.entropy(np.array([[1.0, 0.0], [0.5, 0.5]])), [0, np.log(2)])


def test_countries_are_sums_over_their_cells():
    # The likeliest cell lies in B, the likeliest country is A.
    names, shares = belief_module.cell_shares(np.arange(3), np.array(["A", "B", "A"]), 3)
    assert names.tolist() == ["A", "B"]
    np.testing.assert_allclose(np.array([[0.3, 0.4, 0.3]]) @ shares, [[0.6, 0.4]])
    assert belief_module.argmax_region(CellDistribution(np.log([[0.3, 0.4, 0.3]])), names, shares).tolist() == ["A"]


def test_a_cell_is_divided_among_regions_as_its_photographs_are():
    cell, region = np.array([0, 0, 0, 0, 1]), np.array(["x", "x", "x", "", "y"])
    _, shares = belief_module.cell_shares(cell, region, 3)  # cell 2 has no photographs
    np.testing.assert_allclose(shares, [[0.75, 0], [0, 1], [0, 0]])
    np.testing.assert_allclose(np.array([[0.6, 0.3, 0.1]]) @ shares, [[0.45, 0.3]])
    nowhere = belief_module.cell_shares(cell, np.full(5, ""), 3)
    assert belief_module.argmax_region(CellDistribution(np.zeros((2, 3))), *nowhere).tolist() == ["", ""]


def test_one_country_is_certain():
    _, shares = belief_module.cell_shares(np.arange(4), np.full(4, "Chile"), 4)
    np.testing.assert_allclose(np.full((2, 4), 0.25) @ shares, 1)


def test_shares_that_do_not_fit_are_refused():
    with pytest.raises(ParameterError, match="place has 2 entries for 3 cells"):
        sum_by_place(np.ones((1, 3)) / 3, np.array(["A", "B"]))
    with pytest.raises(ParameterError, match="label has 1 entries for 2 photographs"):
        belief_module.cell_shares(np.arange(2), np.array(["A"]), 2)


def test_scores_by_hand():
    scores = conformal.rank_scores(np.array([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3]]), np.array([1.0, 0.25]))
    np.testing.assert_allclose(scores, [[1.0, 0.0, 0.8], [0.8 + 0.25 * 0.2, 0.0, 0.5 + 0.25 * 0.3]])


def test_of_equal_cells_the_first_is_ranked_first():
    np.testing.assert_allclose(conformal.rank_scores(np.full((1, 4), 0.25), np.ones(1)), [[0, 0.5, 0.75, 1.0]])


@pytest.mark.parametrize(
    ("n", "coverage", "rank"),
    [(9, 0.9, 9), (9, 0.8, 8), (19, 0.95, 19), (99, 0.9, 90), (100, 0.9, 91), (4, 0.8, 4)],
)
def test_finite_sample_quantile_by_hand(n, coverage, rank):
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert conformal.conformal_quantile(scores, coverage) == rank


def test_too_few_photographs_promise_only_everything():
    assert conformal.conformal_quantile(np.arange(8.0), 0.9) == np.inf
    assert conformal.conformal_quantile(np.empty(0), 0.5) == np.inf
    found = conformal.measure_regions(
        CellDistribution(np.zeros((2, 3))), {0.9: np.inf}, np.ones(3), {"label": np.array([0, 2])}
    )
    assert found[0].cells.tolist() == [3, 3]
    assert found[0].holds["label"].all()


@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0])
def test_coverage_is_as_promised_whether_or_not_the_probabilities_are_right(spread, temperature):
    logits, true = drawn(8000, 20, seed=3, spread=spread)
    thresholds = conformal.calibrate_regions(CellDistribution(logits[:4000], temperature), true[:4000])
    found = conformal.measure_regions(
        CellDistribution(logits[4000:], temperature), thresholds, np.ones(20), {"y": true[4000:]}
    )
    for one in found:
        right = (logits[4000:].argmax(axis=1) == true[4000:]).mean()
        assert one.holds["y"].mean() == pytest.approx(max(one.coverage, right), abs=0.02)
        np.testing.assert_array_equal(one.area_km2, one.cells)
        assert one.cells.min() >= 1
    assert all((low.cells <= high.cells).all() for low, high in pairwise(found))


def test_one_single_cell_is_the_region():
    thresholds = conformal.calibrate_regions(CellDistribution(np.zeros((30, 1))), np.zeros(30, int))
    found = conformal.measure_regions(
        CellDistribution(np.zeros((2, 1))), thresholds, np.array([7.0]), {"y": np.zeros(2, int)}
    )
    assert [one.area_km2.tolist() for one in found] == [[7.0, 7.0]] * 3


def test_a_cell_without_calibration_photographs_may_still_be_in_a_region():
    logits = np.tile(np.log([0.5, 0.3, 0.2]), (40, 1))
    true = np.arange(40) % 2  # cell 2 is never seen
    thresholds = {0.9: conformal.calibrate_regions(CellDistribution(logits), true)[0.9]}
    found = conformal.measure_regions(CellDistribution(logits), thresholds, np.ones(3), {"y": np.full(40, 2)})[0]
    assert found.cells.min() >= 1
    assert 0 <= found.holds["y"].mean() < 0.5


def test_the_same_seed_gives_the_same_regions():
    logits, true = drawn(200, 6, seed=5)
    belief = CellDistribution(logits)
    assert conformal.calibrate_regions(belief, true, seed=4) == conformal.calibrate_regions(belief, true, seed=4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ParameterError, match=r"shape \(3,\)"):
        CellDistribution(np.zeros(3))
    with pytest.raises(ParameterError, match="temperature is 0"):
        CellDistribution(np.zeros((2, 3)), 0.0)
