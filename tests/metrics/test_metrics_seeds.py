import numpy as np
import pytest
from resampled import bootstrap, paired_difference

from geocbm.metrics import over_seeds


def test_one_seed_is_the_plain_bootstrap():
    values, blocks = np.random.default_rng(0).normal(size=60), np.arange(60) // 3
    for statistic in ("mean", "median"):
        assert over_seeds(values[None], blocks=blocks, statistic=statistic) == bootstrap(
            values, blocks=blocks, statistic=statistic
        )
    other = values + np.random.default_rng(1).normal(size=60)
    assert over_seeds(values[None], other[None], blocks) == paired_difference(values, other, blocks)


def test_the_value_is_the_mean_over_seeds_by_hand():
    values = np.array([[1.0, 2.0, 9.0], [3.0, 3.0, 3.0]])
    assert over_seeds(values, statistic="median")["value"] == 2.5
    assert over_seeds(values, np.zeros((2, 3)), statistic="mean")["value"] == 3.5


def test_seeds_that_disagree_widen_the_interval():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=400)
    same = np.stack([rows, rows, rows])
    apart = same + np.array([[-1.0], [0.0], [1.0]])
    narrow, wide = over_seeds(same), over_seeds(apart)
    assert narrow["value"] == pytest.approx(wide["value"])
    assert wide["high"] - wide["low"] > 3 * (narrow["high"] - narrow["low"])
    # A shift that both methods share is no difference: seeds are drawn as pairs.
    paired = over_seeds(apart, apart - 0.5)
    assert (paired["low"], paired["high"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"values has the shape \(3,\)"):
        over_seeds(np.zeros(3))
    with pytest.raises(ValueError, match=r"\(2, 3\) and than \(3, 3\)"):
        over_seeds(np.zeros((2, 3)), np.zeros((3, 3)))
