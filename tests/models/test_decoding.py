"""The choice of a run: kept beside the checkpoint, used wherever the run answers, refused where it does not belong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_run import STAGE2, TinyRun

from geocbm.errors import MismatchError, MissingInputError
from geocbm.evaluation import methods as evaluation
from geocbm.explain.interventions import load_intervention_model
from geocbm.files import read_json, write_json
from geocbm.geodesy import haversine_km
from geocbm.metrics import geolocation_metrics, geoscore
from geocbm.models.stage2_config import ABLATION_MODES
from geocbm.predict import GeoCBM
from geocbm.run import predictions, stages


def fit(run: TinyRun, rows: str = "test", **settings):
    """Train Stage 2 of a run again with other settings; the head, its decoder and its answers."""
    files = run.files
    features = files.features("adapted")
    concepts = stages.predict_concepts(files, features)
    config = replace(STAGE2, **settings)
    head, _ = stages.fit_stage2(files, config, concepts, features)
    refiner, decoder = stages.load_refiner(files, config), predictions.load_decoder(files, head)
    places = predictions.predict_places(files, head, concepts, features, files.rows[rows], refiner, decoder)
    return head, decoder, places


@pytest.mark.parametrize("mode", ABLATION_MODES)
def test_every_mode_answers_the_point_that_is_best_on_validation(copied_run, mode) -> None:
    files = copied_run.files
    _, decoder, places = fit(copied_run, "val", ablation_mode=mode, answer_point="validation", refine_cells=1)
    val, choice = files.rows["val"], decoder.choice
    names = ["center", "offset", "neighbours", "mode", "expected_centers", "expected_places"]
    if mode in ("concept_only", "concept_scores"):  # they do not look at the picture, so at no neighbours
        names.remove("neighbours")
    assert list(choice.val_metrics) == names
    scores = {}
    for name in names:
        km = haversine_km(places[f"lat_{name}"], places[f"lng_{name}"], files.lat[val], files.lng[val])
        scores[name] = geoscore(km).mean()
        assert choice.val_metrics[name]["geoscore"] == pytest.approx(scores[name], rel=1e-5)
        assert choice.val_metrics[name]["median_km"] == pytest.approx(np.median(km), rel=1e-4)
    assert scores[choice.point] == pytest.approx(max(scores.values()))
    np.testing.assert_array_equal(places["lat"], places[f"lat_{choice.point}"])


def test_the_specification_answers_cell_and_offset(trained_run) -> None:
    assert STAGE2.answer_point == "argmax"
    places = evaluation.main_predictions(trained_run.files)
    np.testing.assert_array_equal(places["lat"], places["lat_offset"])
    assert predictions.read_choice(trained_run.files).point == "offset"


def test_stored_page_and_new_photographs_are_answered_alike(copied_run) -> None:
    files = copied_run.files
    head, decoder, places = fit(copied_run, answer_point="expected_places")
    test = files.rows["test"]
    model = GeoCBM.load(copied_run.folder)
    pictures = [copied_run.images / name for name in files.table["image_path"].iloc[test]]
    answers = model.predict(pictures)
    # The tiny model reads stored features in half precision; a training place is answered exactly or another one.
    same = [abs(answer.lat - lat) < 1e-4 for answer, lat in zip(answers, places["lat"], strict=True)]
    assert np.mean(same) > 0.7
    features = files.features("adapted")
    concepts = stages.predict_concepts(files, features)
    edited = load_intervention_model(files, features, concepts).predict(test)
    np.testing.assert_allclose(edited.lat, places["lat"], atol=1e-4)
    training = {round(lat, 4) for lat in files.lat[files.rows["train"]]}
    centers = {round(float(lat), 4) for lat in files.cells.latlng[0]}
    assert {round(float(lat), 4) for lat in edited.lat} <= training | centers
    assert head.config.answer_point == decoder.choice.setting


def test_the_file_says_what_was_chosen_and_why(copied_run) -> None:
    files = copied_run.files
    _, decoder, _ = fit(copied_run, answer_point="validation")
    content = read_json(files.path("stage2_decoding.json"))
    assert content["choice"]["point"] == decoder.choice.point == predictions.read_choice(files).point
    assert content["choice"]["n"] == len(files.rows["val"])
    assert set(content["labels"]) == {"made_from", "head_digest"}
    assert set(content["labels"]["made_from"]) == {"table", "splits", "cells", "stage0", "stage2"}
    val = files.rows["val"]
    features = files.features("adapted")
    concepts = stages.predict_concepts(files, features)
    head = stages.load_stage2(files)
    measured = predictions.predict_places(files, head, concepts, features, val, None, decoder)
    metrics = geolocation_metrics(measured["lat"], measured["lng"], files.lat[val], files.lng[val])
    assert content["choice"]["figures"][decoder.choice.point]["geoscore"] == pytest.approx(metrics["geoscore"])


def test_a_choice_for_another_head_or_other_splits_is_refused(copied_run) -> None:
    files = copied_run.files
    head = stages.load_stage2(files)
    path = files.path("stage2_decoding.json")
    good = path.read_text()
    write_json(path, json.loads(good) | {"labels": json.loads(good)["labels"] | {"head_digest": "else"}})
    with pytest.raises(MismatchError, match=r"another head .* geocbm run --run tiny --from 05"):
        predictions.load_decoder(files, head)
    made_from = json.loads(good)["labels"]["made_from"] | {"splits": "else"}
    write_json(path, json.loads(good) | {"labels": json.loads(good)["labels"] | {"made_from": made_from}})
    with pytest.raises(MismatchError, match="other splits"):
        predictions.load_decoder(files, head)
    write_json(path, {"choice": {"point": "middle"}, "labels": json.loads(good)["labels"]})
    with pytest.raises(MismatchError, match=r"damaged.* --from 05"):
        predictions.load_decoder(files, head)


def test_a_run_that_chose_needs_its_choice(copied_run) -> None:
    head, _, _ = fit(copied_run, answer_point="validation")
    copied_run.files.path("stage2_decoding.json").unlink()
    with pytest.raises(MissingInputError, match=r"stage2_decoding.json .* --from 05"):
        predictions.load_decoder(copied_run.files, head)


def test_without_a_validation_split_the_argmax_is_answered(copied_run) -> None:
    files = copied_run.files
    features = files.features("adapted")
    concepts = stages.predict_concepts(files, features)
    head = stages.load_stage2(files)
    head.config = replace(head.config, answer_point="validation")
    files.pictures["val"] = np.zeros(0, dtype=np.int64)
    decoder = predictions.make_decoder(files, head, concepts, features)
    assert decoder.choice.point == "offset" and "empty" in decoder.choice.remark
    places = predictions.predict_places(files, head, concepts, features, files.rows["test"], None, decoder)
    np.testing.assert_array_equal(places["lat"], places["lat_offset"])
