"""All methods on the test split of the tiny run, and the table of them on answers that are known."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from tiny_run import PARENT_OF, PLACES, N

from geocbm import data
from geocbm.errors import MismatchError
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation.baselines import Prediction
from geocbm.files import lineage, write_json
from geocbm.files.stored import save_frame
from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
from geocbm.metrics import country_of, readable

GALLERY = np.array([*PLACES.values(), (64.15, -21.94)])  # with a place without pictures
SIMPLE = [
    "chance",
    "prior",
    "mean_colour",
    "gallery",
    "training_gallery",
    "nearest_neighbour",
    "knn",
    "linear_probe",
    "zero_shot_country",
    "zero_shot_concept",
    "country_centroid",
    "true_meta",
]


@pytest.fixture(autouse=True)
def small_gallery(monkeypatch):
    monkeypatch.setattr("geocbm.encoders.load_gallery", lambda: GALLERY)


@pytest.fixture
def files(trained_run):
    return trained_run.files


@pytest.fixture
def test_rows(files):
    return files.rows["test"]


def told(files, rows, degrees_north=0.0, name="stage2"):
    return Prediction(name, files.lat[rows] + degrees_north, files.lng[rows])


def test_all_simple_methods_answer_for_the_test_split(trained_run, files, test_rows):
    answers = {answer.name: answer for answer in evaluation.all_baselines(files, trained_run.cache)}
    assert list(answers) == SIMPLE
    train = files.rows["train"]
    for name, answer in answers.items():
        if name != "zero_shot_concept":
            assert len(answer.lat) == len(answer.lng) == len(test_rows)
    # None of these may ever answer a place of the test split.
    for name in ("chance", "prior", "mean_colour", "training_gallery", "nearest_neighbour", "knn"):
        assert set(answers[name].points["own"][0]) <= set(files.lat[train])
    assert set(answers["true_meta"].lat) <= set(files.lat[train])
    assert len(set(answers["prior"].lat)) == 1
    assert set(answers["gallery"].points["own"][0]) <= set(GALLERY[:, 0])
    assert set(answers["linear_probe"].country) <= set(PLACES)
    assert set(answers["zero_shot_country"].country) <= set(PLACES)
    assert set(answers["zero_shot_concept"].meta) <= set(range(6))


def test_oracles_answer_from_the_training_split_alone(trained_run, files, test_rows):
    answers = {answer.name: answer for answer in evaluation.all_baselines(files, trained_run.cache)}
    train, meta = files.rows["train"], files.meta_and_parent[0]
    for row, lat, lng in zip(test_rows, answers["country_centroid"].lat, answers["country_centroid"].lng, strict=True):
        mine = train[files.country[train] == files.country[row]]
        middle = latlng_to_cartesian(files.lat[mine], files.lng[mine]).mean(axis=0)
        assert (lat, lng) == pytest.approx(cartesian_to_latlng(middle), abs=1e-6)
    for row, lat in zip(test_rows, answers["true_meta"].lat, strict=True):
        assert lat in files.lat[train[meta[train] == meta[row]]]


def test_words_of_another_model_share_no_space_with_the_pictures(copied_run, folders):
    content = json.loads((copied_run.folder / "features.json").read_text())
    content["encoders"]["text_encoder"] = str(folders("siglip"))
    write_json(copied_run.folder / "features.json", content)
    names = [answer.name for answer in evaluation.all_baselines(copied_run.files, copied_run.cache)]
    assert names == [name for name in SIMPLE if not name.startswith("zero_shot")]


def test_ground_truth_adds_the_ceiling(copied_run, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(copied_run.images, world)
    path = copied_run.folder / "table.parquet"
    table = data.read_table(path)
    table.attrs["folder"] = str(world)
    data.save_table(table, path)
    with gzip.open(world / "ground_truth.jsonl.gz", "wt", encoding="utf-8") as stream:
        for pano_id, meta in zip(table["pano_id"], table["meta_name"], strict=True):
            seen = {"meta_name": meta, "parent_concept": PARENT_OF[meta], "box": [0.0, 0.0, 0.5, 0.5]}
            stream.write(json.dumps({"pano_id": pano_id, "concepts": [seen]}) + "\n")
    files = copied_run.files
    visible = evaluation.visible_concepts(files)
    assert visible.shape == (N, 3 * 6)
    expected = np.zeros((N, 6))
    expected[np.arange(N), files.meta_and_parent[0]] = 1
    np.testing.assert_array_equal(visible[:, :6], expected)
    np.testing.assert_allclose(visible[:, 6:12], expected / 2)  # root of a quarter of the picture
    answers = evaluation.all_baselines(files, copied_run.cache)
    assert [answer.name for answer in answers] == [*SIMPLE, "true_concepts"]
    # Here exactly the labelled concept is visible, so that the ceiling names every label.
    assert answers[-1].meta.tolist() == files.meta_and_parent[0][files.rows["test"]].tolist()


def test_data_of_a_user_have_no_ground_truth(files):
    assert evaluation.visible_concepts(files) is None


def test_the_answers_of_the_stages_are_those_they_stored(files, test_rows):
    stage1, stage2, variant = evaluation.stage_answers(files)
    assert variant.name == "variant_concept_only"
    with np.load(files.path("concept_scores.npz")) as scores:
        assert stage1.meta.tolist() == scores["meta"][test_rows].argmax(axis=1).tolist()
    stored = pd.read_parquet(files.path("predictions.parquet"))
    assert stage2.lat.tolist() == stored.loc[stored["mode"] == "both", "lat"].tolist()


def test_predictions_of_another_test_split_are_refused(copied_run):
    splits = json.loads(copied_run.files.path("splits.json").read_text())
    test, val = splits["splits"]["test"], splits["splits"]["val"]
    test[0], val[0] = val[0], test[0]
    write_json(copied_run.folder / "splits.json", splits)
    with pytest.raises(MismatchError, match=r"other splits than .* geocbm run --run tiny --from 02"):
        evaluation.main_predictions(copied_run.files)


def test_scores_of_another_table_are_refused(copied_run):
    made_from = np.asarray(lineage.as_text(copied_run.files.made_from("concept_scores.npz")))
    np.savez_compressed(copied_run.folder / "concept_scores.npz", meta=np.zeros((N - 1, 6)), made_from=made_from)
    with pytest.raises(MismatchError, match=r"shape \(59, 6\), its table has 60 rows .* --run tiny --from 04"):
        evaluation.stage_answers(copied_run.files)


def test_measures_of_answers_that_are_known(files, test_rows):
    meta = files.meta_and_parent[0][test_rows]
    answers = [  # not in the order of the page
        told(files, test_rows),
        Prediction("stage1", meta=meta),
        told(files, test_rows, 1.0, "prior"),
    ]
    table = evaluation.measure(evaluation.TruePlaces(files, 50), answers).set_index("name")
    assert list(table.index) == ["prior", "stage1", "stage2"]
    assert table.loc["stage2", ["median_km", "geoscore", "country_acc"]].tolist() == pytest.approx([0, 5000, 1])
    assert table.loc["prior", "median_km"] == pytest.approx(6371.0 * np.pi / 180, rel=1e-3)  # a degree of latitude
    assert table.loc["stage1", ["meta_top1", "meta_top1_high"]].tolist() == [1, 1]
    assert table.loc["stage1", ["median_km", "country_acc", "geoscore"]].isna().all()
    assert table.loc[["prior", "stage2"], "meta_top1"].isna().all()
    assert (table["median_km_low"].dropna() <= table["median_km"].dropna()).all()


@pytest.fixture
def measured():
    figures = {"median_km": (1234.4, 1000.0, 2000.0), "country_acc": (0.125, 0.1, 0.2), "geoscore": (np.nan,) * 3}
    row = {"name": "stage2", "method": "Stage 2"}
    for name, values in (figures | {"meta_top1": (np.nan,) * 3}).items():
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return pd.DataFrame([row, row | {"name": "chance", "method": "chance (a random training image)"}])


def test_the_table_in_words(measured):
    printed = readable(measured.drop(columns="name"))
    assert printed["method"].tolist() == ["Stage 2", "chance (a random training image)"]
    assert printed.iloc[0, 1:].tolist() == ["1,234 [1,000, 2,000]", "12.5 [10.0, 20.0]", "", ""]


def test_errors_are_given_for_methods_that_name_a_place(files, test_rows):
    answers = [told(files, test_rows, 1.0), Prediction("stage1", meta=np.zeros(len(test_rows), dtype=int))]
    errors = evaluation.errors_km(evaluation.TruePlaces(files, 1), answers)
    assert list(errors) == ["Stage 2"]
    assert errors["Stage 2"] == pytest.approx([111.19] * len(test_rows), rel=1e-3)


def test_an_answer_in_the_open_sea_names_no_country(files, test_rows):
    # Even where the true place has no country either: nothing is not the name of nothing.
    sea = Prediction("stage2", np.zeros(len(test_rows)), np.full(len(test_rows), -150.0))
    places = evaluation.TruePlaces(files, 20, 0)
    places.lat, places.lng, places.country = sea.lat, sea.lng, country_of(sea.lat, sea.lng)
    values = places.values(sea.lat, sea.lng)
    assert (values["median_km"] == 0).all() and not values["country_acc"].any()


def test_metrics_are_kept_with_intervals_a_stage_under_its_own_name(measured):
    kept = evaluation.records(pd.concat([measured, measured.iloc[:1].assign(name="variant_concept_only")]))
    assert set(kept) == {
        f"{prefix}.{name}"
        for prefix in ("baseline.chance", "stage2", "variant.concept_only")
        for name in ("median_km", "country_acc")
    }
    assert kept["stage2.median_km"] == {"value": 1234.4, "low": 1000.0, "high": 2000.0}
    assert kept["baseline.chance.country_acc"] == {"value": 0.125, "low": 0.1, "high": 0.2}


def test_a_recipe_of_a_run_of_before_is_passed_over(copied_run):
    path = copied_run.folder / "predictions.parquet"
    stored = pd.read_parquet(path)
    beside = stored[stored["main"]].assign(mode="recipe mine", main=False, lat=1.0)
    save_frame(path, pd.concat([stored, beside], ignore_index=True))
    names = [answer.name for answer in evaluation.stage_answers(copied_run.files)]
    assert names == ["stage1", "stage2", "variant_concept_only"]


def test_what_an_oracle_is_told_is_no_figure(files, test_rows):
    meta = files.meta_and_parent[0][test_rows]
    oracles = [
        Prediction("true_meta", files.lat[test_rows], files.lng[test_rows], files.country[test_rows], meta),
        Prediction("country_centroid", files.lat[test_rows], files.lng[test_rows], files.country[test_rows]),
    ]
    table = evaluation.measure(evaluation.TruePlaces(files, 20), oracles)
    assert table["name"].tolist() == ["country_centroid", "true_meta"]
    assert np.isnan(table["country_acc"][0]) and table["country_acc"][1] == 1
    assert np.isnan(table["meta_top1"][1])
    assert readable(table)["country right, %"].tolist() == ["", "100.0 [63.1, 100.0]"]  # eight blocks


def test_missing_answers_are_counted_and_written_in_words(files, test_rows):
    exact = told(files, test_rows)
    nowhere = Prediction("prior", np.full(len(test_rows), np.nan), exact.lng)
    table = evaluation.measure(evaluation.TruePlaces(files, 20), [exact, nowhere])
    assert table["n_missing"].tolist() == [len(test_rows), 0]
    assert readable(table)["median error, km"].iloc[0] == "no answer [no answer, no answer]"


def test_without_test_images_there_is_no_metric(copied_run):
    files = copied_run.files
    files.pictures["test"] = np.zeros(0, dtype=np.int64)
    nobody = np.zeros(0)
    answers = [Prediction("stage2", nobody, nobody), Prediction("stage1", meta=nobody)]
    table = evaluation.measure(evaluation.TruePlaces(files), answers)
    assert table["name"].tolist() == ["stage1", "stage2"] and table["n_missing"].tolist() == [0, 0]
    assert table[[*evaluation.METRICS]].isna().all(axis=None) and evaluation.records(table) == {}
    assert evaluation.all_baselines(files, copied_run.cache) == []
