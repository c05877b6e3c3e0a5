"""How sure the tiny run is: the stored logits, the assessment, and what the page says of it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geocbm import metrics, pipeline
from geocbm.errors import MismatchError, MissingInputError
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation import uncertainty as sure
from geocbm.models import stage2_inference
from geocbm.workbench.records import check_value


@pytest.fixture(scope="module")
def files(trained_run):
    return trained_run.files


def assessed(files):
    """The assessment of the run's own answers."""
    places = evaluation.main_predictions(files)
    own = evaluation.own_points(places)
    return sure.assess(files, places["lat"].to_numpy(), places["lng"].to_numpy(), own=own)


@pytest.fixture(scope="module")
def found(files):
    return assessed(files)


@pytest.fixture(scope="module")
def figures(found):
    return sure.measure(found, n=20)


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
    probability = sure.CellDistribution(stored["test"]).probabilities(slice(None))
    np.testing.assert_array_equal(probability.argmax(axis=1), places["cell"])
    np.testing.assert_allclose(probability.max(axis=1), places["confidence"], atol=1e-3)


def test_logits_of_no_rows_have_a_column_for_each_cell(files, trained_run):
    features = files.features("adapted")
    model = pipeline.load_stage2(files)
    inputs = stage2_inference.concept_input(model.config, pipeline.predict_concepts(files, features))
    assert stage2_inference.cell_logits(model, inputs, features, np.array([], int)).shape == (0, len(files.cells))


def test_logits_of_another_run_are_refused(copied_run):
    with pytest.raises(MismatchError, match="other geocells; make it again with: geocbm run --run tiny --from 05"):
        sure.read_cell_scores(rewrite(copied_run, cells_digest=np.asarray("else")))
    good = copied_run.files.cells.digest
    with pytest.raises(MismatchError, match="another val split"):
        sure.read_cell_scores(rewrite(copied_run, cells_digest=np.asarray(good), val_rows=np.arange(3)))
    (copied_run.folder / "cell_scores.npz").unlink()
    with pytest.raises(MissingInputError, match="--from 05"):
        sure.read_cell_scores(copied_run.files)


def test_the_assessment_is_of_the_test_split(files, found):
    test = files.rows["test"]
    assert found.n_val == len(files.rows["val"])
    assert list(found.points) == [name for name in sure.POINT_WORDS if name not in ("own", "neighbours")]
    places = evaluation.main_predictions(files)
    np.testing.assert_array_equal(found.points[found.choice.point][0], places["lat"])
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


def test_tables_have_a_line_for_each_answer(found, figures):
    assert len(sure.calibration_table(figures)) == 2
    assert sure.region_table(figures)["wanted"].tolist() == ["80%", "90%", "95%"]
    named = [sure.POINT_WORDS[name] for name in found.points]
    own = sure.POINT_WORDS[found.choice.point]
    shown = [f"{words} (the run's answer)" if words == own else words for words in named]
    assert sure.point_table(figures)["answer"].tolist() == shown
    assert (sure.point_table(figures)["change of the GeoScore"] == "").tolist() == [words == own for words in named]
    assert sure.point_differences(figures)["name"].tolist() == [words for words in named if words != own]
    assert sure.hierarchy_table(figures)["level"].tolist() == ["country", "region"]
    assert sure.risk_table(figures)["order"].tolist()[-2:] == ["random order", "true error"]
    assert sure.abstention_table(found)["answered"].tolist() == ["100%", "80%", "60%", "40%", "20%"]
    assert sure.localizability_table(found)["images"].iloc[0].startswith("part 1 of 4")
    assert list(sure.risk_curves(found))[-1].startswith("true error")


def test_figures_are_those_of_the_plain_functions(found, figures):
    options = {"blocks": found.blocks, "n": 20}
    score = {name: metrics.geoscore(found.km(name)) for name in found.points}
    for name, point in figures.points.items():
        assert point["median_km"] == metrics.bootstrap(found.km(name), statistic="median", **options)
        assert point["geoscore"] == metrics.bootstrap(score[name], **options)
        assert point["change"] == metrics.paired_difference(score[name], score[found.choice.point], **options)
    for one in found.regions:
        assert figures.coverage[one.coverage]["nearest"] == metrics.bootstrap(one.holds["nearest"], **options)
    right = found.named["country"]
    assert figures.named["country"]["change"] == metrics.paired_difference(right["summed"], right["single"], **options)
    curve = next(iter(sure.risk_curves(found).values()))
    assert figures.risk["area"].iloc[0] == pytest.approx(curve["beyond_750km"].mean())


def test_records_are_figures_with_the_names_others_read(found, figures):
    kept = sure.records(figures)
    assert {"ece", "ece_calibrated", "coverage_80", "coverage_90", "coverage_95", "point_expected.geoscore"} <= set(
        kept
    )
    assert kept["coverage_90"]["value"] == pytest.approx(found.regions[1].holds["label"].mean())
    expected = metrics.expected_calibration_error(found.confidence(False), found.right)
    assert kept["ece"] == pytest.approx(expected)
    km = found.km("mode")
    assert kept["point_mode.geoscore"]["value"] == pytest.approx(metrics.geoscore(km).mean())
    for key, value in kept.items():
        check_value(f"sure.{key}", value)


def test_a_missing_answer_is_a_miss_and_no_figure_that_is_infinite_is_kept(files):
    nowhere = np.full(len(files.rows["test"]), np.nan)
    missing = sure.assess(files, nowhere, nowhere)
    figures = sure.measure(missing, n=20)
    kept = sure.records(figures)
    assert "point_argmax.median_km" not in kept
    assert kept["point_argmax.geoscore"]["value"] == 0
    assert kept["region_single"]["value"] == 0
    assert sure.abstention_table(missing)["beyond 750 km"].iloc[0] == "100.0%"
    assert sure.point_table(figures)["within 750 km"].iloc[1] == "0.0%"
    assert sure.point_table(figures)["median error, km"].iloc[1] == "no answer [no answer, no answer]"
    texts = " ".join(
        table.to_string()
        for table in (
            *(write(figures) for write in (sure.point_table, sure.risk_table, sure.hierarchy_table)),
            *(write(missing) for write in (sure.abstention_table, sure.localizability_table)),
        )
    )
    assert not re.search(r"\b(inf|nan)\b", texts)


def test_an_empty_test_split_has_no_lines_and_says_so(copied_run):
    files = copied_run.files
    nobody = np.array([], dtype=np.int64)
    files.rows["test"] = nobody
    rewrite(copied_run, test_rows=nobody, test_logits=np.empty((0, len(files.cells)), np.float16))
    found = sure.assess(files, np.zeros(0), np.zeros(0))
    figures = sure.measure(found)
    assert found.remark.startswith("The test split is empty")
    assert not found.regions and sure.risk_curves(found) == {}
    for write in (sure.calibration_table, sure.region_table, sure.risk_table, sure.point_table, sure.hierarchy_table):
        assert write(figures).empty
    assert sure.point_differences(figures).columns.tolist() == ["name", "value", "low", "high"]
    assert sure.abstention_table(found).empty and sure.localizability_table(found).empty
    assert sure.records(figures) == {"temperature": found.temperature}


def test_photographs_in_one_block_have_no_intervals(files):
    found = assessed(files)
    figures = sure.measure(replace(found, blocks=np.zeros_like(found.blocks)))
    assert not any("[" in text for text in sure.point_table(figures)["GeoScore"])
    kept = sure.records(figures)
    assert kept["coverage_90"] == pytest.approx(found.regions[1].holds["label"].mean())
    for key, value in kept.items():
        check_value(f"sure.{key}", value)


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
    figures = sure.measure(found, n=20)
    kept = sure.records(figures)
    assert "ece" in kept and not {"ece_calibrated", "coverage_90", "temperature"} & set(kept)
    assert isinstance(sure.abstention_table(found), pd.DataFrame)
    assert sure.region_table(figures).empty
