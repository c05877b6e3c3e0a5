"""Baselines on small data whose answers are known."""

import numpy as np
import pytest
from PIL import Image

from geocbm.evaluation import baselines
from geocbm.evaluation.baselines import Prediction


def test_prior_is_the_best_constant():
    lat, lng = [0, 0, 0, 50, 0.1], [0, 1, 2, 50, 1]
    prior = baselines.training_prior(lat, lng, 3, country=["b", "a", "b", "c", "b"], meta=[4, 4, 1, 1, 4])
    assert prior.lat.tolist() == [0] * 3 or prior.lat.tolist() == [0.1] * 3
    assert prior.lng.tolist() == [1] * 3
    assert prior.country.tolist() == ["b"] * 3
    assert prior.meta.tolist() == [4] * 3


def test_nearest_neighbour_by_cosine_and_by_distance():
    train = np.array([[1.0, 0.0], [0.0, 10.0]])
    query = np.array([[2.0, 3.0]])
    arguments = {"lat": [10, 20], "lng": [30, 40], "country": ["x", "y"], "meta": [0, 1]}
    cosine = baselines.nearest_neighbour(train, query, **arguments)
    assert (cosine.lat[0], cosine.lng[0], cosine.country[0], cosine.meta[0]) == (20, 40, "y", 1)
    euclidean = baselines.nearest_neighbour(train, query, metric="euclidean", **arguments)
    assert euclidean.country[0] == "x"


def test_chunks_change_nothing():
    generator = np.random.default_rng(0)
    train, query = generator.normal(size=(40, 5)), generator.normal(size=(23, 5))
    lat, lng = generator.uniform(-80, 80, 40), generator.uniform(-180, 180, 40)
    whole = baselines.nearest_neighbour(train, query, lat, lng)
    parts = baselines.nearest_neighbour(train, query, lat, lng, chunk=4)
    assert np.array_equal(whole.lat, parts.lat)
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    assert np.array_equal(whole.lat, lat[(query @ unit.T).argmax(axis=1)])


def test_several_neighbours_vote_and_meet_in_the_middle():
    train = np.array([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [-1.0, 0.0]])
    answer = baselines.nearest_neighbour(
        train, np.array([[1.0, 0.0]]), [0, 0, 0, 80], [0, 50, 52, 0], country=["a", "b", "b", "c"], k=3
    )
    assert answer.country[0] == "b"
    assert answer.lng[0] == 50


def test_gallery_answers_with_a_place_of_the_gallery():
    answer = baselines.gallery(np.array([[0.0, 5.0]]), np.eye(2), [1, 2], [3, 4])
    assert (answer.lat[0], answer.lng[0], answer.country) == (2, 4, None)


def test_mean_colours(tmp_path):
    Image.new("RGB", (40, 30), (255, 0, 51)).save(tmp_path / "red.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    colours = baselines.mean_colours([tmp_path / "red.png", tmp_path / "white.png"])
    assert colours == pytest.approx(np.array([[1, 0, 0.2], [1, 1, 1]]))


def test_concept_features_by_hand():
    visible = [
        [{"meta_name": "a", "box": [0, 0, 0.5, 0.5]}, {"meta_name": "b", "box": [0, 0, 1, 1], "area": 0.0625}],
        [],
        [{"meta_name": "elsewhere", "box": [0, 0, 1, 1]}],
    ]
    features = baselines.concept_features(visible, ["a", "b"])
    assert features[0].tolist() == [1, 1, 0.5, 0.25, 1, 0.5]
    assert not features[1:].any()


@pytest.mark.parametrize("method", [baselines.linear_probe, baselines.true_concepts])
def test_classifiers_learn_what_is_there(method):
    generator = np.random.default_rng(0)
    label = generator.integers(0, 3, 150)
    features = np.eye(3)[label] + generator.normal(0, 0.1, (150, 3))
    names = np.array(["x", "y", "z"])
    answer = method(
        features[:100],
        features[100:],
        country=names[label[:100]],
        meta=label[:100],
        cell=label[:100],
        cell_lat=[0, 10, 20],
        cell_lng=[5, 6, 7],
    )
    assert (answer.country == names[label[100:]]).mean() > 0.95
    assert (answer.meta == label[100:]).mean() > 0.95
    assert (answer.lat == np.array([0, 10, 20])[label[100:]]).mean() > 0.95


def test_classifier_with_one_class_and_without_centres():
    x = np.random.default_rng(0).normal(size=(5, 2))
    assert baselines.linear_probe(x, x, country=["only"] * 5).country.tolist() == ["only"] * 5
    with pytest.raises(ValueError, match="centres of the cells"):
        baselines.linear_probe(x, x, cell=[0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match="2 labels for 5 rows"):
        baselines.linear_probe(x, x, meta=[0, 1])


def test_table_by_hand():
    lat, lng = np.array([48.85, 48.85]), np.array([2.35, 2.35])
    exact = Prediction("exact", lat, lng, np.array(["France", "France"]), np.array([1, 2]))
    place_only = Prediction("berlin_half", np.array([48.85, 52.52]), np.array([2.35, 13.4]))
    table = baselines.table([exact, place_only], lat, lng, ["France", "France"], [1, 1], blocks=[0, 1], n=100)
    assert table["name"].tolist() == ["exact", "berlin_half"]
    assert table["median_km"][0] == 0
    assert table["geoscore"][0] == 5000
    assert table["meta_top1"][0] == 0.5
    assert table["country_acc"].tolist() == [1.0, 0.5]
    assert np.isnan(table["meta_top1"][1])
    assert table[["country_acc_low", "country_acc_high"]].isna().all(axis=None)  # two blocks are too few
    rows = baselines.forest_rows(table, "meta_top1")
    assert rows["name"].tolist() == ["exact"]
    entries = baselines.records(table)
    assert entries["baseline.exact.country_acc"] == 1.0
    assert "baseline.berlin_half.meta_top1" not in entries


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baselines.training_prior([], [], 1), "at least one"),
        (lambda: baselines.nearest_neighbour(np.eye(2), np.eye(3), [0, 0], [0, 0]), "2"),
        (lambda: baselines.nearest_neighbour(np.eye(2), np.eye(2), [0], [0]), "2 rows but lat has 1"),
        (lambda: baselines.nearest_neighbour(np.eye(2), np.eye(2), [0, 0], [0, 0], k=3), "k must lie"),
        (lambda: baselines.nearest_neighbour(np.eye(2), np.eye(2), [0, 0], [0, 0], metric="l1"), "'l1'"),
        (lambda: baselines.nearest_neighbour(np.full((1, 2), np.nan), np.eye(2), [0], [0]), "train_features"),
        (lambda: baselines.gallery(np.eye(2), np.eye(2), [0], [0]), "2 embeddings but 1 places"),
        (lambda: baselines.table([], [0], [0]), "at least one method"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_chance_copies_training_rows_whole_and_repeats_for_a_seed() -> None:
    lat, lng, country = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0]), np.array(["a", "b", "c"])
    first = baselines.chance(lat, lng, 3000, country, seed=4)
    again = baselines.chance(lat, lng, 3000, country, seed=4)
    assert first.lat is not None and first.lng is not None and first.country is not None
    np.testing.assert_array_equal(first.lat, again.lat)
    np.testing.assert_array_equal(first.lng, first.lat * 10)
    np.testing.assert_array_equal(first.country, country[first.lat.astype(int) - 1])
    # A third of the draws each, within five standard deviations (sqrt(3000 * 2/9) = 26).
    assert all(abs((first.country == name).sum() - 1000) < 130 for name in country)
