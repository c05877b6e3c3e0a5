"""Every method is decoded alike: what it answers is chosen on validation, and the strongest baseline with it."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_run import PLACES

from geocbm import metrics
from geocbm.evaluation import baselines
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation.baselines import Prediction
from geocbm.evaluation.methods import Validation, decoded, own_place
from geocbm.evaluation.uncertainty import PointChoice
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
        simple = evaluation.simple_methods(files, trained_run.cache)
    return simple + evaluation.with_points(files, evaluation.stage_answers(files))


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
        scores = {point: own["geoscore"] for point, own in answer.choice.figures.items()}
        assert set(scores) == set(answer.points)
        if not name.startswith(("stage", "variant")):
            assert scores[answer.choice.point] == pytest.approx(max(scores.values()))


def test_a_better_point_on_test_does_not_change_the_choice(files) -> None:
    """Validation says cell 0, the test images lie in cell 1: the choice is validation's."""
    validation = Validation.of(files)
    n, n_cells = len(files.rows["test"]), len(files.cells)
    logits = np.zeros((len(validation.cell), n_cells))
    logits[np.arange(len(logits)), validation.cell] = 9
    truth = {"own": (files.lat[files.rows["test"]], files.lng[files.rows["test"]])}
    nowhere = {"own": (np.zeros(len(logits)), np.zeros(len(logits)))}
    answer = decoded(validation, Prediction("knn"), (logits, np.zeros((n, n_cells))), (nowhere, truth))
    assert answer.choice.point != "own"


def test_a_method_that_names_places_has_its_validation_figures(files) -> None:
    validation = Validation.of(files)
    exact, test = Prediction("chance", validation.lat, validation.lng), Prediction("chance", np.ones(3), np.ones(3))
    answer = own_place(validation, exact, test)
    assert answer.choice.figures == {"own": {"geoscore": 5000, "median_km": 0}}
    assert answer.lat.tolist() == [1, 1, 1] and answer.points["own"][0].tolist() == [1, 1, 1]


def test_the_strongest_baseline_is_that_of_validation_and_no_oracle_or_stage() -> None:
    methods = [known("chance", 500), known("linear_probe", 2900), known("knn", 2800), known("true_concepts", 4000)]
    methods += [known("stage2", 3000), Prediction("zero_shot_concept")]
    assert evaluation.strongest_baseline(methods).name == "linear_probe"
    unseen = Prediction("knn", choice=PointChoice("own", "validation", 0, {}))
    assert evaluation.strongest_baseline([unseen, known("stage2", 3000)]) is None
    assert "no baseline is chosen" in evaluation.over_baseline_words(None, {})


def test_the_difference_is_paired_over_blocks(files) -> None:
    test = files.rows["test"]
    lat, lng = files.lat[test], files.lng[test]
    near, far = Prediction("stage2", lat, lng), Prediction("linear_probe", lat - 1, lng, detail="C = 1")
    gains = evaluation.over_baseline(files, near, far, n=50)
    degree = np.pi / 180 * 6371
    assert gains["median_km"]["value"] == pytest.approx(-degree)
    assert gains["geoscore"]["value"] == pytest.approx(5000 - 5000 * np.exp(-degree / 1492.7))
    blocks = metrics.spatial_blocks(lat, lng)
    km = [metrics.error_km(one.lat, one.lng, lat, lng) for one in (near, far)]
    assert gains["median_km"] == metrics.paired_difference(*km, blocks, "median", n=50)
    said = evaluation.over_baseline_words(far, gains)
    assert said.count("better, beyond noise") == 2 and "linear probe, C = 1" in said
    said = evaluation.over_baseline_words(near, evaluation.over_baseline(files, near, near, n=50))
    assert said.count("no difference beyond noise") == 2
    said = evaluation.over_baseline_words(near, evaluation.over_baseline(files, far, near, n=50))
    assert said.count("worse, beyond noise") == 2


def test_the_table_has_every_point_of_every_method_and_marks_the_answer(files, answers) -> None:
    figures = evaluation.decoding_figures(files, answers, n=20)
    table = evaluation.decoding_table(figures, "geoscore").set_index("method")
    assert table.index.tolist()[-2:] == ["Stage 2", "Stage 2, concept_only"]
    assert all(sum("«" in text for text in row) == 1 for row in table.to_numpy())
    assert table.loc["Stage 2", "cell and offset"].startswith("«")  # the tiny run answers as the specification does
    probe = figures[(figures["name"] == "linear_probe") & figures["chosen"]]
    measured = evaluation.measure(files, answers, n_resamples=20).set_index("name").loc["linear_probe"]
    assert probe["geoscore"].item() == pytest.approx(measured["geoscore"])
    assert probe["median_km_low"].item() == pytest.approx(measured["median_km_low"], nan_ok=True)
    assert measured["answered"] != ""


def test_records_have_their_rows_in_the_table_of_metrics(files, answers) -> None:
    figures = evaluation.decoding_figures(files, answers, n=20)
    model = next(answer for answer in answers if answer.name == "stage2")
    strongest = evaluation.strongest_baseline(answers)
    gains = evaluation.heads_over_baseline(files, answers, strongest, n=20)
    assert gains["stage2"] == evaluation.over_baseline(files, model, strongest, n=20)
    assert evaluation.heads_table(gains)["head"].tolist() == ["Stage 2", "Stage 2, concept_only"]
    assert evaluation.heads_over_baseline(files, answers, None) == {} and evaluation.heads_table({}).empty
    kept = {}
    evaluation.record_decodings(kept.__setitem__, figures, model, strongest, gains)
    assert {"decode.stage2.offset.geoscore", "decode.linear_probe.center.median_km"} <= set(kept)
    assert {"over_baseline.geoscore_change", "over_baseline.variant_concept_only.median_km_change"} <= set(kept)
    assert kept[f"baseline.{strongest.name}.strongest"] == 1
    assert kept["decode.stage2.offset.chosen"] == 1 and kept["decode.stage2.center.chosen"] == 0
    for key, value in kept.items():
        check_value(check_key(key), value)
        assert metrics.table.known(key), key


def test_without_a_validation_split_methods_answer_their_argmax(copied_run) -> None:
    files = copied_run.files
    files.rows["val"] = np.zeros(0, dtype=np.int64)
    simple = {answer.name: answer for answer in evaluation.simple_methods(files, copied_run.cache)}
    points = {name: simple[name].choice.point for name in ("prior", "gallery", "knn", "linear_probe")}
    assert points == {"prior": "own", "gallery": "own", "knn": "own", "linear_probe": "neighbours"}
    assert evaluation.strongest_baseline(list(simple.values())) is None


def test_the_probe_of_a_run_is_that_of_its_features(trained_run, files, answers) -> None:

    vanilla = files.features("vanilla").read_all("pooled").numpy()
    train, val, test = (files.rows[split] for split in ("train", "val", "test"))
    probe = baselines.fit_probe(vanilla[train], files.country[train], vanilla[val], files.country[val])
    answer = next(answer for answer in answers if answer.name == "linear_probe")
    assert answer.country.tolist() == probe.names(vanilla[test]).tolist()
