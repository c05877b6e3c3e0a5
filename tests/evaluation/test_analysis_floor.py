"""Where Stage 1 names nothing beyond the most frequent concept, the run says so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from geocbm import data
from geocbm.evaluation import concept_floor
from geocbm.evaluation.concept_floor import ConceptFloor
from geocbm.files import lineage, write_json
from geocbm.metrics import NOT_MEASURED
from geocbm.predict import GeoCBM


def figure(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def floor(over: dict, probe: dict, bottleneck: str = "patch") -> ConceptFloor:
    return ConceptFloor(76, bottleneck, 0.38, 0.38 - over["value"], 0.662, over, probe)


def test_at_the_majority_class_the_sentence_says_what_to_set():
    """38.0 % where the most frequent class has 38.0 and a probe 66.2: nothing was learned."""
    found = floor(figure(0.0, -0.03, 0.03), figure(-0.282, -0.4, -0.16))
    assert found.names_nothing
    said = found.sentence()
    for words in ("names nothing beyond", "+0.0 [-3.0, +3.0] points", "38.0%", "66.2%", "--set 04.bottleneck=mlp"):
        assert words in said
    assert "04.bottleneck" not in floor(figure(0.0, -0.03, 0.03), NOT_MEASURED, "mlp").sentence()


def test_without_an_interval_nothing_is_claimed():
    """On pictures of too few places there is no interval, and 50 points more are no proof that nothing was learned."""
    found = floor(figure(0.5, np.nan, np.nan), NOT_MEASURED, "mlp")
    assert found.names_nothing and found.sentence().startswith("it cannot be said that Stage 1 names anything beyond")


def test_below_a_probe_is_another_finding():
    found = floor(figure(0.2, 0.1, 0.3), figure(-0.28, -0.4, -0.16))
    assert not found.names_nothing and found.below_probe
    assert "fewer concepts than a linear classifier does (-28.0 [-40.0, -16.0] points)" in found.sentence()


@pytest.mark.parametrize("probe", [figure(0.02, -0.05, 0.09), figure(-0.02, -0.09, 0.05), NOT_MEASURED])
def test_nothing_is_said_of_a_stage_that_is_better_than_its_floor(probe):
    assert floor(figure(0.2, 0.1, 0.3), probe).sentence() == ""


def test_blocks_too_few_for_an_interval_prove_nothing():
    nan = float("nan")
    assert "(no interval)" in floor(figure(0.1, nan, nan), NOT_MEASURED).sentence()
    assert ConceptFloor(0, "mlp", nan, nan, nan, figure(nan, nan, nan), NOT_MEASURED).sentence() == ""


def test_the_floor_of_a_run_by_hand(trained_run, monkeypatch):
    files = trained_run.files
    features = files.features("adapted")
    meta, val, train = files.meta_and_parent[0], files.rows["val"], files.rows["train"]
    monkeypatch.setattr(concept_floor, "spatial_blocks", lambda lat, lng: np.arange(len(lat)))
    frequent = np.bincount(meta[train]).argmax()
    always = np.tile(np.eye(6)[frequent], (len(meta), 1))
    found = concept_floor.measure_floor(files, "mlp", always, features, n_resamples=50)
    assert found.named == found.frequent == pytest.approx((meta[val] == frequent).mean())
    assert found.over_frequent["value"] == 0 and found.names_nothing
    perfect = concept_floor.measure_floor(files, "mlp", np.eye(6)[meta], features, n_resamples=50)
    assert perfect.named == 1 and perfect.over_frequent["value"] == pytest.approx(1 - found.frequent)
    assert not perfect.names_nothing and perfect.sentence() == ""
    assert 0 <= found.probe <= 1
    assert found.over_probe["value"] == pytest.approx(found.named - found.probe)


def test_prediction_says_it_again_of_this_stage_only(copied_run):
    files = copied_run.files
    found = floor(figure(0.0, -0.03, 0.03), NOT_MEASURED)
    concept_floor.save_floor(files.path(concept_floor.FILE), files, found)
    model = GeoCBM.load(copied_run.folder)
    (answer,) = model.predict(data.image_files(files.table)[0])
    assert found.sentence() in answer.notes
    path = files.path(concept_floor.FILE)
    content = json.loads(path.read_text())
    write_json(path, content | {lineage.KEY: content[lineage.KEY] | {"stage1": "another"}})
    assert concept_floor.read_floor(copied_run.files) == ""
    write_json(path, content)
    assert concept_floor.read_floor(copied_run.files) == found.sentence()
    path.write_text("[]")
    assert concept_floor.read_floor(copied_run.files) == ""
