"""Pictures with several concepts: of each a row for every label, but one place, and so one answer that is measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny_run import train_tiny_run

from geocbm.data.concept_list import ABSENT
from geocbm.data.concepts import SEPARATOR, UNKNOWN
from geocbm.evaluation import concept_floor, methods, proximity, stage_metrics
from geocbm.evaluation.uncertainty import assessment
from geocbm.explain import concept_labels
from geocbm.explain.field_guide import evidence
from geocbm.explain.field_guide.guide import FieldGuide
from geocbm.metrics import error_km, geoscore
from geocbm.run import Run, predictions, stages


@pytest.fixture(scope="module")
def run(tmp_path_factory, folders) -> Run:
    """A tiny run in which every third of sixty pictures has three labels: 100 rows."""
    return train_tiny_run(tmp_path_factory.mktemp("several"), folders("clip"), several=True).files


def test_a_picture_has_one_row_among_the_pictures_and_as_many_as_labels_among_the_rows(run):
    assert len(run.table) == 100
    assert sum(len(run.rows[split]) for split in ("train", "val", "test")) == 100
    assert sum(len(run.pictures[split]) for split in ("train", "val", "test")) == 60
    for split, pictures in run.pictures.items():
        assert len(set(run.table["pano_id"].iloc[pictures])) == len(pictures)
        assert set(run.table["pano_id"].iloc[pictures]) == set(run.table["pano_id"].iloc[run.rows[split]])
    assert run.labels_at(run.pictures["train"]).sum() == len(run.rows["train"])


def test_views_of_one_panorama_are_pictures_of_their_own(run):
    other = Run(run.folder, run.cache)
    other.table = run.table.assign(image_path=[f"images/{row}.jpg" for row in range(100)])
    assert all(np.array_equal(other.pictures[split], run.rows[split]) for split in run.rows)


def test_the_likeliest_label_by_hand(run):
    first = int(np.flatnonzero(run.table["pano_id"].duplicated(keep=False))[0])
    labels = np.flatnonzero(run.labels_at(np.array([first]))[0])
    assert len(labels) == 3
    scores = np.zeros((100, len(run.concepts.metas)))
    scores[first, labels] = (0.1, 0.3, 0.2)
    other = np.setdiff1d(np.arange(len(run.concepts.metas)), labels)[0]
    scores[first, other] = 0.9  # no label, however likely
    assert run.likeliest_label(scores, np.array([first])).tolist() == [labels[1]]


def test_places_are_measured_once_for_each_picture(run):
    test = run.pictures["test"]
    truth, places = methods.TruePlaces(run, 20), methods.main_predictions(run)
    assert len(truth) == len(places) == len(test) < len(run.rows["test"])
    table = methods.measure(truth, methods.stage_answers(run)).set_index("name")
    km = error_km(places["lat"], places["lng"], run.lat[test], run.lng[test])
    assert table.loc["stage2", "median_km"] == pytest.approx(np.median(km))
    assert table.loc["stage2", "geoscore"] == pytest.approx(geoscore(km).mean())
    found = assessment.assess(run, places["lat"], places["lng"], n_resamples=20)
    assert len(proximity.nearest_train_km(run)) == len(test)
    assert found.n_val == len(run.pictures["val"]) and len(found.right) == len(test)


def test_a_concept_is_named_right_if_it_is_among_the_labels_of_its_picture(run):
    scores, test = predictions.read_concept_scores(run)["meta"], run.pictures["test"]
    label_of = run.table.groupby("pano_id")["meta_name"].agg(set)
    names = [run.concepts.metas[meta] for meta in scores[test].argmax(axis=1)]
    right = np.mean([name in label_of[pano] for name, pano in zip(names, run.table["pano_id"].iloc[test], strict=True)])
    table = methods.measure(methods.TruePlaces(run, 20), methods.stage_answers(run)).set_index("name")
    assert table.loc["stage1", "meta_top1"] == pytest.approx(right)
    predicted = predictions.read_concept_scores(run)
    measured = stage_metrics.measure_concepts(run, stages.load_stage1(run), predicted, test, 20)
    assert measured["meta_top1"]["value"] == pytest.approx(right)
    floor = concept_floor.measure_floor(run, "mlp", scores, run.features("adapted"), 20)
    assert floor.n == len(run.pictures["val"])


def test_stage_1_learns_from_every_label_and_stage_2_from_every_picture(run):
    features = run.features("adapted")
    assert len(stages.prepare_stage1(run, stages.Stage1Config(), features, None).train.rows) == len(run.rows["train"])
    concepts = stages.predict_concepts(run, features)
    head = stages.prepare_stage2(run, stages.Stage2Config(), concepts, features, None)
    assert np.array_equal(head.train.rows, run.pictures["train"])
    assert len(run.cells.sample_to_cell) == len(run.pictures["train"])


def test_labels_of_all_rows_and_what_was_looked_for_in_vain_are_known(run):
    other = Run(run.folder, run.cache)
    metas, row = other.concepts.metas, 0
    labels = other.labels_at(np.array([row]))[0]
    missing = [metas[meta] for meta in np.flatnonzero(~labels)]
    other.table = other.table.assign(**{ABSENT: SEPARATOR.join(missing)})
    known = concept_labels.read_concept_labels(other)
    assert known.present[row, : len(metas)].tolist() == labels.tolist()
    assert known.known[row].all()  # and with all metas all parents
    parents = {other.concepts.meta_to_parent[metas[meta]] for meta in np.flatnonzero(labels)}
    assert known.present[row, len(metas) :].tolist() == [name in parents for name in other.concepts.parents]
    plain = concept_labels.read_concept_labels(run)
    assert np.array_equal(plain.known, plain.present) and not plain.complete


def test_the_field_guide_counts_labels_and_pictures(run):
    guide = FieldGuide(run, min_samples=1)
    assert guide.counts.sum() == 100 and guide.images.sum() == 60
    sheets = guide.country_sheets()
    assert [sheet.n for sheet in sheets] == [12] * 5 and all(len(sheet.lat) == 12 for sheet in sheets)


def test_reliability_of_pictures_with_two_labels_and_with_none():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)  # the last one is unknown
    table = evidence.concept_reliability(np.ones((1, 3)), np.array(["A"]), labels, np.array([0, 2, 2, 2]))
    assert table["n_test"].tolist() == [2, 1, 1]
    assert table["recall"].tolist() == [0.5, 0.0, 1.0]
    assert table["precision"].iloc[[0, 2]].tolist() == [1.0, 0.5]  # of two that are known the third is named once right
    assert table["confused_with"].tolist() == [2, -1, -1]  # beside another label nothing is confused


def test_pictures_without_a_known_concept_count_for_no_concept(run):
    other = Run(run.folder, run.cache)
    known = run.table["pano_id"] != "p00"
    names = {name: run.table[name].where(known, UNKNOWN) for name in ("meta_name", "parent_concept")}
    other.table, other.concepts = run.table.assign(**names), run.concepts
    counts = evidence.count_table(other.country, other.meta_and_parent[0], np.unique(other.country), 6)
    assert counts.sum() == 97 and (other.meta_and_parent[0] == -1).sum() == 3


def test_examples_of_a_sheet_are_the_likeliest_pictures_each_once(run):
    guide = FieldGuide(run, min_samples=1, pictures=2)
    for sheet in guide.concept_sheets():
        labelled = run.labels_at(np.arange(100))[:, sheet.meta]
        score = pd.Series(guide.scores[labelled, sheet.meta], run.table["pano_id"][labelled]).groupby(level=0).first()
        shown = run.table["pano_id"].iloc[list(sheet.rows)].tolist()
        assert sorted(score[shown]) == sorted(score.nlargest(2)) and len(set(shown)) == 2
