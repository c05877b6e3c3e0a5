"""Every method is decoded alike: what it answers is chosen on validation, and the strongest baseline with it."""

from __future__ import annotations

import numpy as np
import pytest
from resampled import paired_difference
from tiny_run import PLACES

from geocbm import metrics
from geocbm.evaluation import decodings
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation.baselines import Prediction, Task, linear
from geocbm.models.decoder import PointChoice
from geocbm.workbench.records import check_key, check_value

GALLERY = np.array([*PLACES.values(), (64.15, -21.94)])


@pytest.fixture(autouse=True)
def small_gallery(monkeypatch):
    monkeypatch.setattr("geocbm.encoders.load_gallery", lambda: GALLERY)


@pytest.fixture(scope="module")
def files(trained_run):
    return trained_run.files


@pytest.fixture(scope="module")
def answers(trained_run, files):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geocbm.encoders.load_gallery", lambda: GALLERY)
        simple = evaluation.all_baselines(files, trained_run.cache)
    return simple + evaluation.stage_answers(files)


def known(name: str, score: float, point: str = "own") -> Prediction:
    """A method that had a GeoScore on validation."""
    choice = PointChoice(point, "validation", 9, {point: {"geoscore": score, "median_km": 1.0}})
    return Prediction(name, np.zeros(1), np.zeros(1), points={point: (np.zeros(1), np.zeros(1))}, choice=choice)


def test_baselines_answer_the_point_with_the_best_geoscore_on_validation(files, answers) -> None:
    several = {answer.name: answer for answer in answers if len(answer.points) > 1}
    assert {"prior", "gallery", "training_gallery", "knn", "linear_probe", "stage2"} <= set(several)
    assert list(several["linear_probe"].points) == [
        "center",
        "neighbours",
        "mode",
        "expected_centers",
        "expected_places",
    ]
    for name, answer in several.items():
        np.testing.assert_array_equal(answer.lat, answer.points[answer.choice.point][0])
        scores = {point: own["geoscore"] for point, own in answer.choice.val_metrics.items()}
        assert set(scores) == set(answer.points)
        if not name.startswith(("stage", "variant")):
            assert scores[answer.choice.point] == pytest.approx(max(scores.values()))


def test_a_better_point_on_test_does_not_change_the_choice(files) -> None:
    """On validation the own place is far off, on test it is right: the choice is validation's."""
    task = Task.of(files)
    known, test = task.split("val"), task.split("test")
    logits = np.zeros((len(known), len(files.cells)))
    logits[np.arange(len(logits)), known.cell] = 9
    seen = Prediction("knn", np.zeros(len(known)), np.zeros(len(known)), cell_logits=logits)
    asked = Prediction("knn", test.lat, test.lng, cell_logits=np.zeros((len(test), len(files.cells))))
    assert task.decode(seen, asked).choice.point != "own"


def test_a_method_that_names_places_has_its_validation_metrics(files) -> None:
    task = Task.of(files)
    known = task.split("val")
    exact, test = Prediction("chance", known.lat, known.lng), Prediction("chance", np.ones(3), np.ones(3))
    answer = task.decode(exact, test)
    assert answer.choice.val_metrics == {"own": {"geoscore": 5000, "median_km": 0}}
    assert answer.lat.tolist() == [1, 1, 1] and answer.points["own"][0].tolist() == [1, 1, 1]
    assert task.decode(None, Prediction("stage1", meta=np.zeros(3))).choice is None


def test_the_strongest_baseline_is_that_of_validation_and_no_oracle_or_stage() -> None:
    methods = [known("chance", 500), known("linear_probe", 2900), known("knn", 2800), known("true_concepts", 4000)]
    methods += [known("stage2", 3000), Prediction("zero_shot_concept")]
    assert decodings.strongest_baseline(methods).name == "linear_probe"
    unseen = Prediction("knn", choice=PointChoice("own", "validation", 0, {}))
    assert decodings.strongest_baseline([unseen, known("stage2", 3000)]) is None


def test_the_difference_is_paired_over_blocks(files) -> None:
    test = files.rows["test"]
    lat, lng = files.lat[test], files.lng[test]
    near, far = Prediction("stage2", lat, lng), Prediction("linear_probe", lat - 1, lng, detail="C = 1")
    gains = decodings.over_baseline(evaluation.TruePlaces(files, 50), [near, far], far)
    assert list(gains) == ["stage2"] and decodings.over_baseline(evaluation.TruePlaces(files), [near], None) == {}
    degree = np.pi / 180 * 6371
    assert gains["stage2"]["median_km_change"]["value"] == pytest.approx(-degree)
    assert gains["stage2"]["geoscore_change"]["value"] == pytest.approx(5000 - 5000 * np.exp(-degree / 1492.7))
    blocks = metrics.spatial_blocks(lat, lng)
    km = [metrics.error_km(one.lat, one.lng, lat, lng) for one in (near, far)]
    assert gains["stage2"]["median_km_change"] == paired_difference(*km, blocks, "median", n=50)


def test_the_table_has_every_point_of_every_method(files, answers) -> None:
    measured = decodings.measure_decodings(evaluation.TruePlaces(files, 20), answers)
    table = decodings.decoding_table(measured, "geoscore")
    assert table.index.tolist()[-2:] == ["Stage 2", "Stage 2, concept_only"]
    assert (measured.groupby("name")["chosen"].sum() == 1).all()
    stage2 = measured[(measured["name"] == "stage2") & measured["chosen"]]
    assert stage2["point"].item() == "offset"  # the tiny run answers as the specification does
    assert table.loc["Stage 2", "cell and offset"] == stage2["geoscore"].item()
    probe = measured[(measured["name"] == "linear_probe") & measured["chosen"]]
    own = evaluation.measure(evaluation.TruePlaces(files, 20), answers).set_index("name").loc["linear_probe"]
    assert probe["geoscore"].item() == pytest.approx(own["geoscore"])
    assert probe["median_km_low"].item() == pytest.approx(own["median_km_low"], nan_ok=True)
    assert own["answered"] != ""


def test_records_have_their_rows_in_the_table_of_metrics(files, answers) -> None:
    measured = decodings.measure_decodings(evaluation.TruePlaces(files, 20), answers)
    strongest = decodings.strongest_baseline(answers)
    gains = decodings.over_baseline(evaluation.TruePlaces(files, 20), answers, strongest)
    assert list(gains) == ["stage2", "variant_concept_only"]
    kept = decodings.records(measured, answers, gains)
    assert {"decode.stage2.offset.geoscore", "decode.linear_probe.center.median_km"} <= set(kept)
    assert {"over_baseline.geoscore_change", "over_baseline.variant_concept_only.median_km_change"} <= set(kept)
    assert kept[f"baseline.{strongest.name}.strongest"] == 1
    assert kept["decode.stage2.offset.chosen"] == 1 and kept["decode.stage2.center.chosen"] == 0
    for key, value in kept.items():
        check_value(check_key(key), value)
        assert metrics.table.known(key), key


def test_without_a_validation_split_methods_answer_their_argmax(copied_run) -> None:
    files = copied_run.files
    files.pictures["val"] = np.zeros(0, dtype=np.int64)
    simple = {answer.name: answer for answer in evaluation.all_baselines(files, copied_run.cache)}
    points = {name: simple[name].choice.point for name in ("prior", "gallery", "knn", "linear_probe")}
    assert points == {"prior": "own", "gallery": "own", "knn": "own", "linear_probe": "neighbours"}
    assert decodings.strongest_baseline(list(simple.values())) is None


def test_the_probe_of_a_run_is_that_of_its_features(trained_run, files, answers) -> None:

    vanilla = files.features("vanilla").read_all("pooled").numpy()
    train, val, test = (files.rows[split] for split in ("train", "val", "test"))
    probe = linear.fit_probe(vanilla[train], files.country[train], vanilla[val], files.country[val])
    answer = next(answer for answer in answers if answer.name == "linear_probe")
    assert answer.country.tolist() == probe.names(vanilla[test]).tolist()
