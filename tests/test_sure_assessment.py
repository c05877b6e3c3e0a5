"""How sure the tiny run is: the stored logits, the assessment, and what the page says of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geocbm import evaluation, metrics, pipeline, stage2, sure
from geocbm.errors import MismatchError, MissingInputError
from geocbm.sure.assessment import POINT_WORDS


@pytest.fixture(scope="module")
def files(trained_run):
    return trained_run.files


@pytest.fixture(scope="module")
def found(files):
    places = evaluation.main_predictions(files)
    return sure.assess(files, places["lat"].to_numpy(), places["lng"].to_numpy())


def rewrite(run, **changed):
    """Write the file of logits again with other entries."""
    with np.load(run.folder / "cell_scores.npz") as stored:
        content = dict(stored)
    np.savez_compressed(run.folder / "cell_scores.npz", **(content | changed))
    return run.files


def test_stored_logits_give_the_stored_answers(files):
    stored = sure.read_cell_scores(files)
    places = evaluation.main_predictions(files)
    assert stored["val"].shape == (len(files.rows["val"]), len(files.cells))
    assert stored["test"].dtype == np.float16
    probability = sure.CellBelief(stored["test"]).probabilities(slice(None))
    np.testing.assert_array_equal(probability.argmax(axis=1), places["cell"])
    np.testing.assert_allclose(probability.max(axis=1), places["confidence"], atol=1e-3)


def test_logits_of_no_rows_have_a_column_for_each_cell(files, trained_run):
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    model = pipeline.load_stage2(files)
    inputs = stage2.concept_input(model.config, pipeline.predict_concepts(files, features))
    assert stage2.cell_logits(model, inputs, features, np.array([], int)).shape == (0, len(files.cells))


def test_logits_of_another_run_are_refused(copied_run):
    with pytest.raises(MismatchError, match="other geocells; make it again with: geocbm run --run tiny --only 05"):
        sure.read_cell_scores(rewrite(copied_run, cells_digest=np.asarray("else")))
    good = copied_run.files.cells.digest
    with pytest.raises(MismatchError, match="another val split"):
        sure.read_cell_scores(rewrite(copied_run, cells_digest=np.asarray(good), val_rows=np.arange(3)))
    (copied_run.folder / "cell_scores.npz").unlink()
    with pytest.raises(MissingInputError, match="--only 05"):
        sure.read_cell_scores(copied_run.files)


def test_the_assessment_is_of_the_test_split(files, found):
    test = files.rows["test"]
    assert found.n_val == len(files.rows["val"])
    assert list(found.points) == list(POINT_WORDS)
    places = evaluation.main_predictions(files)
    np.testing.assert_array_equal(found.points["argmax"][0], places["lat"])
    np.testing.assert_array_equal(found.right, places["cell"] == places["true_cell"])
    assert all(len(lat) == len(test) and (np.abs(lat) <= 90).all() for lat, _ in found.points.values())
    assert [one.coverage for one in found.regions] == [0.8, 0.9, 0.95]
    country = files.cells.country[places["cell"]] == files.country[test]
    np.testing.assert_array_equal(found.named["country"]["single"], country)
    region = metrics.place_accuracy(places["lat"], places["lng"], files.lat[test], files.lng[test])["region_acc"]
    assert found.named["region"]["single"].mean() == pytest.approx(region)
    assert "temperature" in found.remark


def test_the_temperature_is_that_of_validation(files, found):
    stored = sure.read_cell_scores(files)["val"]
    assert found.temperature == metrics.fit_temperature(stored, files.cell_label[files.rows["val"]])
    np.testing.assert_array_equal(found.confidence(True).argsort()[-1:], found.sureness["probability"].argsort()[-1:])


def test_tables_have_a_line_for_each_answer(found):
    assert len(sure.calibration_table(found)) == 2
    assert sure.region_table(found, n=20)["wanted"].tolist() == ["80%", "90%", "95%"]
    assert sure.point_table(found, n=20)["answer"].tolist() == list(POINT_WORDS.values())
    assert sure.point_table(found, n=20)["change of the GeoScore"].iloc[0] == ""
    assert sure.point_differences(found, n=20)["name"].tolist() == list(POINT_WORDS.values())[1:]
    assert sure.hierarchy_table(found, n=20)["level"].tolist() == ["country", "region"]
    assert sure.risk_table(found)["order"].tolist()[-2:] == ["random order", "true error"]
    assert sure.abstention_table(found)["answered"].tolist() == ["100%", "80%", "60%", "40%", "20%"]
    assert sure.localizability_table(found)["photographs"].iloc[0].startswith("part 1 of 4")
    assert list(sure.risk_curves(found))[-1].startswith("true error")


def test_records_are_figures_with_the_names_others_read(found):
    kept = sure.records(found, n=20)
    assert {"ece", "ece_calibrated", "coverage_80", "coverage_90", "coverage_95", "point_expected.geoscore"} <= set(
        kept
    )
    assert kept["coverage_90"]["value"] == pytest.approx(found.regions[1].holds["label"].mean())
    expected = metrics.expected_calibration_error(found.confidence(False), found.right)
    assert kept["ece"] == pytest.approx(expected)
    km = found.km("mode")
    assert kept["point_mode.geoscore"]["value"] == pytest.approx(metrics.geoscore(km).mean())


def test_a_missing_answer_is_a_miss_and_no_figure_that_is_infinite_is_kept(files):
    nowhere = np.full(len(files.rows["test"]), np.nan)
    missing = sure.assess(files, nowhere, nowhere)
    kept = sure.records(missing, n=20)
    assert "point_argmax.median_km" not in kept
    assert kept["point_argmax.geoscore"]["value"] == 0
    assert kept["region_single"]["value"] == 0
    assert sure.abstention_table(missing)["beyond 750 km"].iloc[0] == "100.0%"
    assert sure.point_table(missing, n=20)["within 750 km"].iloc[0] == "0.0%"


def test_an_empty_validation_split_calibrates_nothing_and_says_so(copied_run):
    files = copied_run.files
    nobody = np.array([], dtype=np.int64)
    files.rows["val"] = nobody
    with np.load(copied_run.folder / "cell_scores.npz") as stored:
        content = dict(stored) | {"val_rows": nobody, "val_logits": np.empty((0, len(files.cells)), np.float16)}
    np.savez_compressed(copied_run.folder / "cell_scores.npz", **content)
    places = evaluation.main_predictions(files)
    found = sure.assess(files, places["lat"].to_numpy(), places["lng"].to_numpy())
    assert (found.temperature, found.regions) == (1.0, [])
    assert found.remark.startswith("The validation split is empty")
    assert "area" not in found.sureness
    kept = sure.records(found, n=20)
    assert "ece" in kept and not {"ece_calibrated", "coverage_90", "temperature"} & set(kept)
    assert isinstance(sure.abstention_table(found), pd.DataFrame)
    assert sure.region_table(found).empty
