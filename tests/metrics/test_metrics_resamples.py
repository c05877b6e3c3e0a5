"""Shared resamples against resamples built row by row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resampled import bootstrap, concept_metrics, paired_difference, place_accuracy

from geocbm import metrics
from geocbm.metrics import Resamples, estimates_by_group, resamples


def plain_draws(values, blocks, statistic, n, seed):
    """The definition: draw as many blocks as there are, put their rows together, take the statistic."""
    block = np.unique(blocks, return_inverse=True)[1]
    count = block.max() + 1
    found = []
    for drawn in np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n):
        rows = np.concatenate([np.repeat(row, drawn[block[row]]) for row in range(len(values))]).astype(int)
        present = values[rows][~np.isnan(values[rows])]
        found.append(statistic(present) if len(present) else np.nan)
    return np.array(found)


def middle(values):
    """Median of sorted values; two infinite ones in the middle have no difference to be halved."""
    ordered = np.sort(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2


numbers = st.one_of(st.sampled_from([np.nan, np.inf, 0.0, 1.0]), st.floats(0, 20000))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(0, 5)), min_size=1, max_size=40), st.integers(0, 99), st.integers(1, 50))
def test_medians_and_means_are_those_of_rows_put_together(rows, seed, at_once):
    values, blocks = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    draws = Resamples(blocks, n=20, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resamples, "_NUMBERS_AT_ONCE", at_once)  # any cut into parts gives the same numbers
        same = Resamples(blocks, n=20, seed=seed)
        medians, means = same.medians(values), same.means(values)
    assert np.array_equal(medians, plain_draws(values, blocks, middle, 20, seed), equal_nan=True)
    assert np.array_equal(draws.medians(values), medians, equal_nan=True)
    np.testing.assert_allclose(means, plain_draws(values, blocks, np.mean, 20, seed), rtol=1e-12)
    np.testing.assert_allclose(draws.means(values), means, rtol=1e-12)


def test_many_rows_of_few_blocks_and_of_many():
    generator = np.random.default_rng(0)
    for blocks in (generator.integers(0, 7, 3000), np.arange(3000), generator.integers(0, 900, 3000)):
        values = np.where(generator.random(3000) < 0.1, np.inf, generator.exponential(500, 3000).round(-1))
        expected = plain_draws(values, blocks, middle, 25, 4)
        assert np.array_equal(Resamples(blocks, 25, 4).medians(values), expected)


def test_group_means_are_those_of_rows_put_together():
    generator = np.random.default_rng(1)
    values, blocks = generator.normal(size=200), generator.integers(0, 15, 200)
    groups = generator.integers(0, 40, 200)  # some groups lie in one or two blocks, and some resamples lack them
    block = np.unique(blocks, return_inverse=True)[1]
    expected = []
    for drawn in np.random.default_rng(2).multinomial(15, np.full(15, 1 / 15), size=30):
        rows = np.repeat(np.arange(200), drawn[block])
        expected.append(np.mean([values[rows][groups[rows] == group].mean() for group in np.unique(groups[rows])]))
    np.testing.assert_allclose(Resamples(blocks, 30, 2).group_means(values, groups), expected, rtol=1e-12)


def test_functions_and_shared_draws_agree():
    generator = np.random.default_rng(0)
    first, second, blocks = generator.normal(size=90), generator.normal(size=90), np.arange(90) // 4
    draws = Resamples(blocks, n=300, seed=5)
    assert len(draws) == 90 and draws.n_blocks == 23
    for statistic in ("mean", "median"):
        alone = bootstrap(first, blocks, statistic, n=300, seed=5)
        assert alone == draws.estimate(first, statistic) == bootstrap(first, draws, statistic)
        paired = paired_difference(first, second, blocks, statistic, n=300, seed=5)
        assert paired == draws.difference(first, second, statistic)
    assert bootstrap(first > 0, blocks, groups=blocks % 3, n=300, seed=5) == draws.estimate(
        first > 0, groups=blocks % 3
    )


def test_one_block_has_no_interval():
    entries = metrics.geolocation_intervals([0.0, 1.0], [0.0, 1.0], [0.1, 0.2], [0.1, 0.2])
    assert all(np.isfinite(entry["value"]) for entry in entries.values())
    assert all(np.isnan(entry["low"]) and np.isnan(entry["high"]) for entry in entries.values())
    for entry in (
        bootstrap([5.0]),
        bootstrap([1, 0], [3, 3], groups=[0, 1]),
        paired_difference([1.0, 3.0], [0.0, 1.0], ["a", "a"]),
        metrics.over_seeds(np.array([[1.0, 2.0], [5.0, 6.0]]), None, [0, 0]),
    ):
        assert np.isfinite(entry["value"]) and np.isnan(entry["low"]) and np.isnan(entry["high"])


def test_a_share_of_none_or_all_is_not_certain():
    # Ten blocks without a hit: a share p is excluded when (1 - p)^10 < 0.025, above 0.3085.
    blocks = np.arange(30) // 3
    none = bootstrap(np.zeros(30, dtype=bool), blocks)
    assert none == {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.025**0.1)}
    assert none["high"] == pytest.approx(0.3085, abs=1e-4)
    every = bootstrap(np.ones(30, dtype=bool), blocks, level=0.9)
    assert every == {"value": 1.0, "low": pytest.approx(0.05**0.1), "high": 1.0}
    far = metrics.geolocation_intervals(np.zeros(30), np.zeros(30), np.full(30, 50.0), np.arange(30.0), blocks=blocks)
    assert far["acc_1km"] == none
    # Numbers that happen to be alike are no shares.
    assert bootstrap(np.zeros(30), blocks) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_an_infinite_mean_is_infinite():
    entry = Resamples(range(10)).estimate([*np.arange(9.0), np.inf])
    assert (entry["value"], entry["high"]) == (np.inf, np.inf) and np.isfinite(entry["low"])


def test_bad_resamples_are_named():
    with pytest.raises(ValueError, match="n must be at least 1 resample"):
        Resamples([0, 1], n=0)
    with pytest.raises(ValueError, match="blocks is empty"):
        Resamples([])
    with pytest.raises(ValueError, match="blocks has 2"):
        Resamples([0, 1]).estimate([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        Resamples([0, 1]).estimate([1.0, 2.0], level=95)


@pytest.mark.parametrize(
    ("entry", "text", "kept"),
    [
        ((412.3, 380.0, 447.0), "412 [380, 447]", {"value": 412.3, "low": 380.0, "high": 447.0}),
        ((412.3, 380.0, np.inf), "412 [380, no answer]", 412.3),
        ((np.inf, 380.0, np.inf), "no answer [380, no answer]", None),
        ((412.3, np.nan, np.nan), "412 (no interval)", 412.3),
        ((np.nan, np.nan, np.nan), "", None),
    ],
)
def test_words_and_records_of_metrics(entry, text, kept):
    named = dict(zip(("value", "low", "high"), entry, strict=True))
    assert metrics.estimate_text(named) == text
    assert metrics.recordable(named) == kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((5.0, 1.0, 9.0), "better"),
        ((-5.0, -9.0, -1.0), "worse"),
        ((5.0, -1.0, 9.0), "no difference beyond noise"),
        ((5.0, np.nan, np.nan), metrics.NO_INTERVAL),
        ((np.nan, 1.0, np.inf), "not comparable: most answers are missing"),
        ((np.inf, 300.0, np.inf), "better"),
    ],
)
def test_verdicts(change, words):
    named = dict(zip(("value", "low", "high"), change, strict=True))
    assert metrics.verdict(named, more_is_better=True) == words
    opposite = {"better": "worse", "worse": "better"}.get(words, words)
    assert metrics.verdict(named, more_is_better=False) == opposite


def test_concept_intervals_hold_the_metrics():
    generator = np.random.default_rng(0)
    logits, meta = generator.normal(size=(300, 12)).astype(np.float32), generator.integers(0, 9, 300)  # 3 never occur
    logits[np.arange(300), meta] += 1
    owner, blocks = np.arange(12) % 4, generator.integers(0, 40, 300)
    parents = generator.normal(size=(300, 4))
    found = metrics.concept_intervals(logits, meta, Resamples(blocks, n=100), parents, owner, np.eye(12))
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in found.values())
    hits = logits.argmax(axis=1) == meta
    assert found["meta_top1"] == bootstrap(hits, blocks, n=100)
    assert found["meta_macro_recall"] == bootstrap(hits, blocks, groups=meta, n=100)


def test_concept_metrics_do_not_depend_on_parts_or_precision(monkeypatch):
    from geocbm.metrics import concept

    generator = np.random.default_rng(0)
    logits, meta = generator.integers(-9, 9, size=(50, 6)).astype(float), generator.integers(0, 6, 50)
    whole = concept_metrics(logits, meta, meta_to_parent=[0, 0, 1, 1, 2, 2])
    assert concept_metrics(logits.astype(np.float16), meta, meta_to_parent=[0, 0, 1, 1, 2, 2]) == whole
    monkeypatch.setattr(concept, "_NUMBERS_AT_ONCE", 20)
    assert concept_metrics(logits, meta, meta_to_parent=[0, 0, 1, 1, 2, 2]) == whole
    logits[40, 2] = np.nan
    with pytest.raises(ValueError, match="row 40 holds NaN"):
        concept_metrics(logits, meta)


def test_the_nearest_town_may_lie_across_the_antimeridian():
    # Labasa (179.36 E) is 84 km away, Tubou (178.81 W) more than 200 km.
    east, west = metrics.places_of([-16.8, -16.8], [-179.99, 180.01]).to_dict("records")
    assert east == west == {"country": "Fiji", "region": "Northern", "city": "Labasa"}
    names = metrics.places_of([-16.8, -17.0], [179.9, -178.9])
    assert names["city"].tolist() == ["Labasa", "Tubou"]


def test_fiji_and_the_poles():
    measured = metrics.geolocation_metrics(
        [-17, 90, -90, 90], [179.9, 0, 10, 77], [-17, 90, -90, -90], [-179.9, 180, 190, 0]
    )
    assert measured["acc_25km"] == 3 / 4
    assert measured["mean_km"] * 4 == pytest.approx(
        6371 * np.pi + 2 * 6371 * np.arcsin(np.cos(np.deg2rad(17)) * np.sin(np.deg2rad(0.1)))
    )
    assert place_accuracy([-17], [179.9], [-17], [-179.9])["country_acc"] == 1
    assert len(metrics.places_of([90, -90], [0, 180])) == 2


def test_some_rows_keep_the_draws_of_all():
    blocks, values = np.array(list("abcabcabd")), np.array([1.0, 2, 3, 4, np.inf, 6, 7, 8, np.nan])
    inside = np.array([True, True, False, True, True, False, False, False, False])  # blocks a and b only
    whole = Resamples(blocks, 40, 3)
    part = whole.within(inside)
    masked = np.where(inside, values, np.nan)
    np.testing.assert_array_equal(part.medians(values[inside]), whole.medians(masked))
    np.testing.assert_array_equal(part.means(values[inside]), whole.means(masked))
    assert (part.n_blocks, len(part), len(whole)) == (2, 4, 9)


def test_groups_by_hand():
    inside = {"left": np.arange(40) < 20, "one": np.arange(40) == 39, "none": np.zeros(40, bool)}
    km, right = np.arange(40.0), np.arange(40) < 20
    table = estimates_by_group(np.arange(40), inside, {"median_km": km, "right": right}, 100)
    assert table["group"].tolist() == ["left", "one"] and table["n"].tolist() == [20, 1]
    assert table["median_km"].tolist() == [9.5, 39] and table["right"].tolist() == [1, 0]
    # Clopper and Pearson: of 20 blocks without a miss the lower end is the 20th root of 0.025; one block says nothing.
    assert table["right_low"][0] == pytest.approx(0.025 ** (1 / 20)) and table["right_high"][0] == 1
    assert np.isnan(table["median_km_low"][1]) and table["median_km_low"][0] < 9.5 < table["median_km_high"][0]


def test_groups_of_nothing():
    table = estimates_by_group(np.zeros(0), {"all": np.zeros(0, bool)}, {"right": np.zeros(0)})
    assert table.columns.tolist() == ["group", "n", "right", "right_low", "right_high"] and table.empty
