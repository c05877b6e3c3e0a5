"""Uncertainty of the tiny run: the stored logits, the assessment, and its metrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from resampled import bootstrap, paired_difference, place_accuracy

from geocbm import metrics
from geocbm.errors import MismatchError, MissingInputError
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation.uncertainty import assessment, measures
from geocbm.files.stored import save_arrays
from geocbm.geocells.distribution import CellDistribution
from geocbm.models import stage2_inference
from geocbm.models.decoder import POINT_WORDS
from geocbm.run import stages
from geocbm.workbench.records import check_value


@pytest.fixture(scope="module")
def files(trained_run):
    return trained_run.files


def assessed(files):
    """The assessment of the run's own answers."""
    places = evaluation.main_predictions(files)
    own = evaluation.own_points(places)
    return assessment.assess(files, places["lat"].to_numpy(), places["lng"].to_numpy(), own=own, n_resamples=20)


@pytest.fixture(scope="module")
def found(files):
    return assessed(files)


@pytest.fixture(scope="module")
def figures(found):
    return measures.measure(found)


def rewrite(run, **changed):
    """Write the file of logits again with other entries."""
    with np.load(run.folder / "cell_scores.npz") as stored:
        content = dict(stored)
    save_arrays(run.folder / "cell_scores.npz", content | changed)
    return run.files


def test_stored_logits_give_the_stored_answers(files):
    stored = assessment.read_cell_scores(files)
    places = evaluation.main_predictions(files)
    assert stored["val"].shape == (len(files.rows["val"]), len(files.cells))
    assert stored["test"].dtype == np.float16
    probability = CellDistribution(stored["test"]).probabilities(slice(None))
    np.testing.assert_array_equal(probability.argmax(axis=1), places["cell"])
    np.testing.assert_allclose(probability.max(axis=1), places["confidence"], atol=1e-3)


def test_logits_of_no_rows_have_a_column_for_each_cell(files, trained_run):
    features = files.features("adapted")
    model = stages.load_stage2(files)
    inputs = stage2_inference.concept_input(model.config, stages.predict_concepts(files, features))
    assert stage2_inference.undecoded(model, inputs, features, np.array([], int))[0].shape == (0, len(files.cells))


def test_logits_of_another_run_are_refused(copied_run):
    with pytest.raises(MismatchError, match="other geocells; make it again with: geocbm run --run tiny --from 05"):
        assessment.read_cell_scores(rewrite(copied_run, cells_digest=np.asarray("else")))
    good = copied_run.files.cells.digest
    with pytest.raises(MismatchError, match="another val split"):
        assessment.read_cell_scores(rewrite(copied_run, cells_digest=np.asarray(good), val_rows=np.arange(3)))
    (copied_run.folder / "cell_scores.npz").unlink()
    with pytest.raises(MissingInputError, match="--from 05"):
        assessment.read_cell_scores(copied_run.files)


def test_the_assessment_is_of_the_test_split(files, found):
    test = files.rows["test"]
    assert found.n_val == len(files.rows["val"])
    assert list(found.points) == [name for name in POINT_WORDS if name not in ("own", "neighbours")]
    places = evaluation.main_predictions(files)
    np.testing.assert_array_equal(found.points[found.choice.point][0], places["lat"])
    np.testing.assert_array_equal(found.right, places["cell"] == places["true_cell"])
    assert all(len(lat) == len(test) and (np.abs(lat) <= 90).all() for lat, _ in found.points.values())
    assert [one.coverage for one in found.regions] == [0.8, 0.9, 0.95]
    country = files.cells.country[places["cell"]] == files.country[test]
    np.testing.assert_array_equal(found.named["country"]["single"], country)
    region = place_accuracy(places["lat"], places["lng"], files.lat[test], files.lng[test])["region_acc"]
    assert found.named["region"]["single"].mean() == pytest.approx(region)


def test_the_temperature_is_that_of_validation(files, found):
    stored = assessment.read_cell_scores(files)["val"]
    assert found.temperature == metrics.fit_temperature(stored, files.cell_label[files.rows["val"]])
    np.testing.assert_array_equal(
        found.named_probability["calibrated"].argsort()[-1:], found.confidence["probability"].argsort()[-1:]
    )


def test_tables_have_a_row_for_each_answer(found, figures):
    assert figures.calibration.index.tolist() == ["raw", "calibrated"]
    assert figures.coverage["coverage"].tolist() == [0.8, 0.9, 0.95]
    assert figures.points["point"].tolist() == list(found.points)
    own = figures.points.set_index("point").loc[found.choice.point]
    assert own["geoscore_change"] == own["geoscore_change_low"] == 0
    assert figures.named["level"].tolist() == ["country", "region"]
    assert figures.risk["name"].tolist() == [*found.confidence, "random", "oracle"]
    assert measures.localizability(found)["n"].sum() == len(found.right)
    assert list(measures.risk_curves(found))[-1].startswith("true error")


def test_metrics_are_those_of_the_plain_functions(found, figures):
    options = {"blocks": found.drawn}
    score = {name: metrics.geoscore(found.km(name)) for name in found.points}
    for row in figures.points.to_dict("records"):
        name = row["point"]
        km, own = found.km(name), score[found.choice.point]
        assert metrics.entry_of(row, "median_km") == bootstrap(km, statistic="median", **options)
        assert metrics.entry_of(row, "geoscore") == bootstrap(score[name], **options)
        assert metrics.entry_of(row, "geoscore_change") == paired_difference(score[name], own, **options)
    for one, row in zip(found.regions, figures.coverage.to_dict("records"), strict=True):
        assert metrics.entry_of(row, "nearest") == bootstrap(one.holds["nearest"], **options)
    right, row = found.named["country"], figures.named.to_dict("records")[0]
    assert metrics.entry_of(row, "change") == paired_difference(right["summed"], right["single"], **options)
    curve = next(iter(measures.risk_curves(found).values()))
    assert figures.risk["area"].iloc[0] == pytest.approx(curve["beyond_750km"].mean())


def test_records_are_figures_with_the_names_others_read(found, figures):
    kept = measures.records(figures)
    assert {"ece", "ece_calibrated", "coverage_80", "coverage_90", "coverage_95", "point_expected.geoscore"} <= set(
        kept
    )
    assert kept["coverage_90"]["value"] == pytest.approx(found.regions[1].holds["label"].mean())
    expected = metrics.expected_calibration_error(found.named_probability["raw"], found.right)
    assert kept["ece"] == pytest.approx(expected)
    km = found.km("mode")
    assert kept["point_mode.geoscore"]["value"] == pytest.approx(metrics.geoscore(km).mean())
    for key, value in kept.items():
        check_value(f"sure.{key}", value)


def test_a_missing_answer_is_a_miss_and_no_figure_that_is_infinite_is_kept(files):
    nowhere = np.full(len(files.rows["test"]), np.nan)
    missing = assessment.assess(files, nowhere, nowhere, n_resamples=20)
    figures = measures.measure(missing)
    kept = measures.records(figures)
    assert "point_argmax.median_km" not in kept
    assert kept["point_argmax.geoscore"]["value"] == 0
    assert kept["region_single"]["value"] == 0
    own = figures.points.set_index("point").loc["offset"]
    assert own["acc_750km"] == 0 and np.isinf(own["median_km"])


def test_an_empty_test_split_has_no_metrics(copied_run):
    files = copied_run.files
    nobody = np.array([], dtype=np.int64)
    files.pictures["test"] = nobody
    rewrite(copied_run, test_rows=nobody, test_logits=np.empty((0, len(files.cells)), np.float16))
    found = assessment.assess(files, np.zeros(0), np.zeros(0))
    measured = measures.measure(found)
    assert not found.regions
    for table in (measured.calibration, measured.coverage, measured.points, measured.named, measured.risk):
        assert table.empty
    assert measures.localizability(found).empty
    assert measures.records(measured) == {"temperature": found.temperature}


def test_photographs_in_one_block_have_no_intervals(files):
    found = assessed(files)
    measured = measures.measure(replace(found, drawn=metrics.Resamples(np.zeros(len(found.right)))))
    assert measured.points["geoscore_low"].isna().all()
    kept = measures.records(measured)
    assert kept["coverage_90"] == pytest.approx(found.regions[1].holds["label"].mean())
    for key, value in kept.items():
        check_value(f"sure.{key}", value)


def test_an_empty_validation_split_calibrates_nothing(copied_run):
    files = copied_run.files
    nobody = np.array([], dtype=np.int64)
    files.pictures["val"] = nobody
    with np.load(copied_run.folder / "cell_scores.npz") as stored:
        content = dict(stored) | {"val_rows": nobody, "val_logits": np.empty((0, len(files.cells)), np.float16)}
    save_arrays(copied_run.folder / "cell_scores.npz", content)
    places = evaluation.main_predictions(files)
    found = assessment.assess(files, places["lat"].to_numpy(), places["lng"].to_numpy())
    assert (found.temperature, found.regions) == (1.0, [])
    assert "area" not in found.confidence
    figures = measures.measure(found)
    kept = measures.records(figures)
    assert "ece" in kept and not {"ece_calibrated", "coverage_90", "temperature"} & set(kept)
    assert figures.coverage.empty
