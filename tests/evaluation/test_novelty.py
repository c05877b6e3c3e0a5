"""What is unlike the training pictures is told by its distance to them, at a known rate of false alarms."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from geocbm import data
from geocbm.errors import ParameterError
from geocbm.evaluation import novelty
from geocbm.evaluation.novelty import NoveltyDetector
from geocbm.files import write_json
from geocbm.predict import GeoCBM


def spread(n: int, d: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def ranked(val_distance: np.ndarray) -> NoveltyDetector:
    return NoveltyDetector(
        np.zeros(1), np.eye(1), np.zeros((1, 1)), np.zeros((1, 1)), np.array([[0.0, 1.0]] * 2), val_distance, 1
    )


def test_the_distances_by_hand(monkeypatch):
    # Two pictures at -1 and 1 have variance 2: in that metric 3 lies 4 and 2 from them, divided by the root of 2. Its
    # cosine distance from the one is 0 and from the other 2.
    monkeypatch.setattr(novelty, "FLOOR", 0.0)
    detector = NoveltyDetector.fit(np.array([[-1.0], [1.0]]), np.array([[1.0]] * 5 + [[3.0]] * 4))
    assert detector.both_distances(np.array([[3.0], [1.0]])) == pytest.approx(
        np.array([[3 / 2**0.5, 1.0], [1 / 2**0.5, 1.0]]), rel=1e-3
    )
    # Over the validation photographs the first has the median of five at 1, and a spread of 2 sqrt(20/81) / sqrt(2).
    spread = 2**0.5 * (20 / 81) ** 0.5
    assert detector.scales[0] == pytest.approx([1 / 2**0.5, spread], rel=1e-3)
    assert detector.distances(np.array([[5.0]])) == pytest.approx([(5 - 1) / 2**0.5 / spread], rel=1e-2)


def test_the_larger_of_the_two_distances_counts():
    away = np.array([9.0, 0, 0, 0])
    detector = NoveltyDetector.fit(spread(200, 4) + away, spread(50, 4, seed=1) + away)
    asked = np.array([[90.0, 0, 0, 0], [-9.0, 0, 0, 0], [9.0, 0, 0, 0]])  # far along, the other way, in the middle
    both = (detector.both_distances(asked) - detector.scales[:, 0]) / detector.scales[:, 1]
    assert detector.distances(asked) == pytest.approx(both.max(axis=1))
    assert both[0, 0] > 5 > both[0, 1] and both[1, 1] > 5


def test_p_values_by_hand():
    detector = ranked(np.arange(1.0, 10.0))
    assert detector.p_values(np.array([0.0, 5.0, 9.0, 9.5])) == pytest.approx([1.0, 0.6, 0.2, 0.1])
    assert detector.level == pytest.approx(0.1)  # nine photographs know no lower one


@pytest.mark.parametrize(("n", "level"), [(9, 0.1), (24, 0.05), (99, 0.05), (199, 0.025), (750, 0.01)])
def test_the_level_follows_the_size_of_the_validation_split(n, level):
    assert ranked(np.zeros(n)).level == pytest.approx(level)


@pytest.mark.parametrize("n_val", [19, 199])
def test_false_alarms_are_no_more_frequent_than_the_level(n_val):
    rates = []
    for seed in range(40):
        drawn = spread(60 + n_val + 200, seed=seed) * np.linspace(0.1, 3, 8)
        detector = NoveltyDetector.fit(drawn[:60], drawn[60 : 60 + n_val])
        rates.append(np.mean([one.unlike for one in detector.judge(drawn[60 + n_val :])]))
    level = detector.level
    assert np.mean(rates) <= level + 3 * np.std(rates) / 40**0.5
    assert np.mean(rates) >= level / 3  # not by never saying so


def test_another_kind_is_told_by_directions_in_which_training_pictures_agree():
    """Far out along wide directions is usual; a little off the narrow one is not, though the cosine hardly changes."""
    wide = np.array([3.0, 3.0, 3.0, 0.01])
    train, val = spread(300, 4) * wide + [5, 5, 5, 1], spread(100, 4, seed=1) * wide + [5, 5, 5, 1]
    detector = NoveltyDetector.fit(train, val)
    home, other = detector.judge(np.array([[7.0, 7.0, 3.0, 1.0], [5.0, 5.0, 5.0, 2.0]]))
    assert not home.unlike and home.sentence() == ""
    assert other.unlike and other.p_value == pytest.approx(1 / 101) and other.distance > other.usual_distance + 3
    assert "unlike the training pictures" in other.sentence()


def test_too_few_to_tell():
    with pytest.raises(ParameterError, match="8 validation images"):
        NoveltyDetector.fit(spread(50), spread(8))
    with pytest.raises(ParameterError, match="1 training"):
        NoveltyDetector.fit(spread(1), spread(50))


def test_of_many_training_pictures_some_are_kept(monkeypatch):
    monkeypatch.setattr(novelty, "MOST_REFERENCES", 30)
    detector = NoveltyDetector.fit(spread(100), spread(20, seed=1))
    assert (len(detector.references), detector.n_train) == (30, 100)
    assert np.isfinite(detector.distances(spread(5, seed=2))).all()


def test_the_detector_of_a_run_rests_on_its_splits(trained_run):
    files = trained_run.files
    features = files.features("adapted")
    detector, lacks = novelty.read_novelty(files)
    assert lacks == "" and detector is not None
    assert (len(detector.references), len(detector.val_distance)) == (len(files.rows["train"]), len(files.rows["val"]))
    pooled = features.read("pooled", files.rows["val"]).numpy()
    np.testing.assert_allclose(np.sort(detector.distances(pooled)), detector.val_distance, rtol=1e-3, atol=1e-3)
    # Were they among the references, their own distance of 0 would pull the mean of ten down.
    leaked = NoveltyDetector.fit(features.read_all("pooled").numpy(), pooled)
    assert (leaked.scales[:, 0] < detector.scales[:, 0]).all()


def test_a_panorama_with_several_concepts_is_one_picture(trained_run):
    files = trained_run.files
    files.table["image_sha256"] = [f"{number // 2}" for number in range(len(files.table))]
    assert novelty.distinct_images(files, np.array([5, 4, 7, 8, 9])).tolist() == [5, 7, 8]


def test_a_detector_of_other_splits_or_features_is_refused(copied_run):
    files = copied_run.files
    path = files.path("features.json")
    content = json.loads(path.read_text())
    write_json(path, content | {"adapted": content["adapted"] | {"key": "other"}})
    assert "was made from other features" in novelty.read_novelty(files)[1]
    write_json(path, content)
    assert novelty.read_novelty(files)[1] == ""
    splits = files.path("splits.json")
    before = splits.read_text()
    splits.write_text(before + "\n")
    assert novelty.read_novelty(copied_run.files)[1] == ""  # the same splits, laid out otherwise
    parts = json.loads(before)
    parts["splits"]["test"], parts["splits"]["val"] = parts["splits"]["val"], parts["splits"]["test"]
    splits.write_text(json.dumps(parts))
    assert "was made from other splits" in novelty.read_novelty(copied_run.files)[1]
    splits.write_text(before)
    files.path(novelty.FILE).write_bytes(b"broken")
    assert "is damaged" in novelty.read_novelty(files)[1]
    files.path(novelty.FILE).unlink()
    assert "--from 05" in novelty.read_novelty(files)[1]


def test_a_photograph_of_another_kind_is_answered_without_a_promise(trained_run):
    """The run knows pictures of random colours; a black one is none of them."""
    model = GeoCBM.load(trained_run.folder)
    home = data.image_files(trained_run.files.table.iloc[trained_run.files.rows["train"]])
    known, black = model.predict([home[0], Image.new("RGB", (48, 40))])
    assert known.unlike is not None and not known.unlike.unlike and known.promise_holds is True
    assert black.unlike is not None and black.unlike.unlike and black.promise_holds is False
    assert "unlike the training pictures" in black.notes[0] and not any("unlike" in note for note in known.notes)
    content = json.loads(json.dumps(black.as_json()))
    assert content["promise_holds"] is False
    assert content["unlike"]["is_unlike"] is True and content["unlike"]["p_value"] == pytest.approx(0.1)


def test_a_run_that_cannot_tell_says_so(copied_run):
    copied_run.files.path(novelty.FILE).unlink()
    model = GeoCBM.load(copied_run.folder)
    (answer,) = model.predict(data.image_files(copied_run.files.table)[0])
    assert answer.unlike is None and answer.promise_holds is None
    assert any("is not measured" in note for note in answer.notes)
    assert answer.as_json()["unlike"] is None


def test_a_run_with_too_few_validation_photographs_says_so(copied_run, monkeypatch):
    files = copied_run.files
    features = files.features("adapted")
    monkeypatch.setattr(novelty, "FEWEST_VALIDATION", 10)
    said = novelty.save_novelty(files, features)
    assert "9 validation images" in said
    detector, lacks = novelty.read_novelty(files)
    assert detector is None and "9 validation images" in lacks
