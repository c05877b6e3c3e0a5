"""What the pages compute from trained stages, held against numbers worked out by hand."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_run import N

from geocbm import metrics
from geocbm.evaluation import stage_metrics
from geocbm.geodesy import haversine_km
from geocbm.run import encoding, predictions, stages

METRICS = {
    *("meta_top1", "meta_top5", "meta_macro_recall", "semantic_close", "semantic_close_random"),
    *("parent_top1", "parent_top1_marginal", "parent_top5", "parent_macro_recall"),
}


@pytest.fixture(scope="module")
def files(trained_run):
    return trained_run.files


@pytest.fixture(scope="module")
def features(trained_run, files):
    return files.features("adapted")


@pytest.fixture(scope="module")
def predicted(files, features):
    embeddings = stages.predict_concepts(files, features)
    return predictions.predict_places(files, stages.load_stage2(files), embeddings, features, files.rows["test"])


def test_nearest_neighbour_takes_the_place_of_the_most_similar_training_image(files):
    train, test = files.rows["train"], files.rows["test"]
    pooled = np.zeros((N, N))
    pooled[train, train] = 1.0
    pooled[test, train[5]] = 3.0  # longer, but of the same direction
    km = stage_metrics.nearest_neighbour_km(pooled, files, test)
    expected = haversine_km(files.lat[test], files.lng[test], files.lat[train[5]], files.lng[train[5]])
    np.testing.assert_allclose(km, expected)


def test_concept_probabilities_of_every_row(files, features, trained_run):
    model = stages.load_stage1(files)
    concepts = predictions.concept_probabilities(model, features)
    assert (concepts["meta"].shape, concepts["parent"].shape) == ((N, 6), (N, 3))
    np.testing.assert_allclose(concepts["meta"].sum(axis=1), 1, atol=1e-5)
    with np.load(trained_run.folder / "concept_scores.npz") as stored:
        np.testing.assert_allclose(stored["meta"], concepts["meta"], atol=1e-5)
    test = files.rows["test"]
    figures = stage_metrics.measure_concepts(files, model, concepts, test)
    assert set(figures) == METRICS
    assert figures["meta_top1"]["value"] == pytest.approx(
        (concepts["meta"][test].argmax(axis=1) == files.meta_and_parent[0][test]).mean()
    )


def test_pictures_are_parted_by_their_scores(files):
    test, named = files.rows["test"], files.named_metas
    perfect = stage_metrics.measure_presence(files, {"meta": named.astype(float)}, test)
    assert set(perfect) == {"mean_ap", "micro_ap", "macro_f1"}  # the pictures have no ground truth
    assert perfect["mean_ap"]["value"] == perfect["micro_ap"] == perfect["macro_f1"] == 1
    # Where all scores are equal every picture is called, and the precision is the share of pictures that show it.
    flat = stage_metrics.measure_presence(files, {"meta": np.full(named.shape, 0.5)}, test)
    share = named[test].mean(axis=0)
    assert flat["mean_ap"]["value"] == pytest.approx(share[share > 0].mean())
    assert flat["micro_ap"] == pytest.approx(1 / 6)
    assert flat["macro_f1"] == pytest.approx((2 * share / (1 + share))[share > 0].mean())
    assert stage_metrics.measure_presence(files, {}, test[:0]) == {}


def test_concepts_stand_beside_the_most_frequent_class(files):
    rows = files.rows["test"]
    meta = files.meta_and_parent[0]
    frequent = np.bincount(meta[files.rows["train"]]).argmax()
    table = stage_metrics.concept_table(files, {"meta_top1": 0.125, "meta_top5": 1.0}, rows)
    assert table["value"].tolist() == ["12.5 %", "100.0 %"]
    assert table["most frequent class"].tolist() == [f"{100 * (meta[rows] == frequent).mean():.1f} %", ""]


def test_a_prototype_without_residual_did_not_move(files):
    model = copy.deepcopy(stages.load_stage1(files))
    with torch.no_grad():
        model.delta_meta.zero_()
        model.delta_meta[2] = -2 * model.meta_base[2]
    cosine = stage_metrics.prototype_cosine(model)
    assert np.delete(cosine, 2) == pytest.approx([1.0] * 5, abs=1e-5)
    assert cosine[2] < 0.99


def test_places_lie_on_the_sphere_and_attention_sums_to_one(files, predicted):
    rows = files.rows["test"]
    assert predicted["attention"].shape == (len(rows), 16)
    np.testing.assert_allclose(predicted["attention"].sum(axis=1), 1, atol=1e-5)
    assert (np.diff(predicted["cell_probability"], axis=1) <= 0).all()
    assert (abs(predicted["lat"]) <= 90).all() and (abs(predicted["lng"]) <= 180).all()
    np.testing.assert_allclose(
        predicted["km"], haversine_km(predicted["lat"], predicted["lng"], files.lat[rows], files.lng[rows])
    )


def test_the_centre_of_the_right_cell_has_the_oracle_error(files):
    rows = files.rows["val"]
    named = {"cell": files.cell_label[rows][:, None], "km": np.zeros(len(rows))}
    km = stage_metrics.moved_km(files, named, rows)["cell centre"]
    np.testing.assert_allclose(km, files.oracle_error_km(files.cells, rows), atol=1e-6)


def test_metrics_of_places_with_their_labels():
    measured = {"median_km": 1234.4, "acc_1km": 0.125, "geoscore": 4999.6, "n": 1500, "n_missing": 0}
    table = stage_metrics.place_table(measured)
    assert dict(table.to_numpy().tolist()) == {
        "median error": "1,234 km",
        "within 1 km": "12.5 %",
        "GeoScore": "5,000",
        "images": "1,500",
    }


def test_examples_are_the_best_and_the_worst_of_the_most_certain(files):
    rows = files.rows["train"][:16]
    encoder = encoding.load_stage0(files)[1]
    places = {
        "cell_probability": np.r_[np.full(4, 0.9), np.full(12, 0.1)][:, None],
        "km": np.r_[30.0, 10.0, 40.0, 20.0, np.zeros(6), np.full(6, 9e3)],
        "attention": np.full((16, 16), 1 / 16),
    }
    pictures, grids, captions = stage_metrics.attention_examples(files, encoder, places, rows, 4)
    assert [caption.split(": ")[1] for caption in captions] == ["10 km off", "20 km off", "30 km off", "40 km off"]
    assert captions[0].startswith(f"{files.table['meta_name'].iloc[rows[1]]}, {files.country[rows[1]]}")
    assert all(isinstance(picture, Image.Image) and picture.size == (32, 32) for picture in pictures)
    assert {grid.shape for grid in grids} == {(4, 4)}


@pytest.mark.parametrize("rows", [1, 3, 4, 5])
def test_few_images_are_not_shown_twice(files, rows):
    chosen = files.rows["test"][:rows]
    places = {
        "cell_probability": np.ones((rows, 1)),
        "km": np.arange(1.0, rows + 1) * 100,
        "attention": np.full((rows, 16), 1 / 16),
    }
    captions = stage_metrics.attention_examples(files, encoding.load_stage0(files)[1], places, chosen, 6)[2]
    assert [caption.split(": ")[1] for caption in captions] == [f"{100 * (i + 1)} km off" for i in range(rows)]


def test_stored_predictions_have_a_row_per_image_and_mode(files, predicted, trained_run):
    stored = pd.read_parquet(trained_run.folder / "predictions.parquet")
    rows = files.rows["test"]
    assert stored.groupby("mode").size().to_dict() == {"both": len(rows), "concept_only": len(rows)}
    main = stored[stored["main"]]
    assert set(main["mode"]) == {"both"}
    assert main["row"].tolist() == rows.tolist()
    assert main["pano_id"].tolist() == files.table["pano_id"].iloc[rows].tolist()
    np.testing.assert_allclose(main["lat"], predicted["lat"], atol=1e-3)
    np.testing.assert_allclose(main["confidence"], predicted["cell_probability"][:, 0], atol=1e-5)
    assert main["true_cell"].tolist() == files.cell_label[rows].tolist()


def test_the_interval_of_the_average_precision_is_about_its_value():
    """Pictures that a resample holds twice lift its average precision: without a correction one interval in four misses
    that of the world (with it one in seven: of few pictures the value itself is too high), and some their own value."""
    generator = np.random.default_rng(0)

    def world(n: int) -> tuple[np.ndarray, np.ndarray]:
        there = generator.random((n, 6)) < 0.15
        return generator.normal(size=(n, 6)) + 1.2 * there, there

    truth = float(np.mean(metrics.average_precision(*world(40_000))))
    held = []
    for trial in range(60):
        drawn = metrics.Resamples(np.arange(80), 100, trial)
        macro = stage_metrics._precision("", *world(80), drawn)["mean_ap"]
        assert macro["low"] <= macro["value"] <= macro["high"]
        held.append(macro["low"] <= truth <= macro["high"])
    assert np.mean(held) > 0.8
