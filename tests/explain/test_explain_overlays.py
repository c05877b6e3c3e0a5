"""Pictures that are explained one by one: which, and what is laid over them; and the card of a whole run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from geocbm import explain, pipeline
from geocbm.evaluation import methods as evaluation
from geocbm.explain import overlays
from geocbm.explain import trust_card as card
from geocbm.explain.probes import Reading
from geocbm.models.stage1 import Stage1Config

if TYPE_CHECKING:
    from tiny_run import TinyRun


def test_examples_are_the_nearest_and_the_farthest_of_the_sure(trained_run: TinyRun) -> None:
    files = trained_run.files
    meta = files.meta_and_parent[0]
    rows = np.unique(meta, return_index=True)[1][:6]  # six concepts
    places = pd.DataFrame(
        {
            "row": rows,
            "confidence": [0.9, 0.8, 0.7, 0.6, 0.1, 0.1],
            "true_lat": 0.0,
            "true_lng": 0.0,
            "lat": [3.0, 1.0, 4.0, 2.0, 0.0, 80.0],
            "lng": 0.0,
        }
    )
    assert explain.example_rows(files, places, 4) == [rows[i] for i in (1, 2, 3, 0)]
    assert explain.answers_off(places, [int(rows[1])]) == ["answer 111 km off"]
    assert explain.row_captions(files, [0]) == ["red pole, France"]


def test_examples_show_each_concept_once_while_there_are_others(trained_run: TinyRun) -> None:
    files = trained_run.files
    places = evaluation.main_predictions(files)
    chosen = explain.example_rows(files, places, 3)
    assert len(chosen) == 3 and len({files.table["meta_name"].iloc[row] for row in chosen}) == 3
    assert set(chosen) <= set(files.rows["test"].tolist())
    assert len(explain.example_rows(files, places, 1000)) == len(places)


def test_attention_is_shown_as_mean_and_by_head(trained_run: TinyRun) -> None:
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    concepts = pipeline.predict_concepts(files, features)
    encoder = pipeline.load_stage0(files)[1]
    model = explain.load_intervention_model(files, features, concepts)
    rows = files.rows["test"][:2].tolist()
    found = overlays.attention_overlays(files, encoder, model, rows, ["one", "two"])
    heads = model.head.config.heads
    assert found.captions == ["mean: one", *(f"head {i}" for i in range(1, heads + 1)), "mean: two"]
    assert all(grid.shape == tuple(encoder.grid) and grid.sum() == pytest.approx(1, abs=1e-5) for grid in found.grids)
    assert np.mean(found.grids[1 : heads + 1], axis=0) == pytest.approx(found.grids[0], abs=1e-5)
    blind = explain.load_intervention_model(files, features, concepts, "stage2_concept_only")
    assert overlays.attention_overlays(files, encoder, blind, rows, ["one", "two"]).pictures == []


def test_concept_maps_are_those_of_the_most_probable_concepts(trained_run: TinyRun) -> None:
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    encoder = pipeline.load_stage0(files)[1]
    rows = files.rows["test"][:2].tolist()
    n_metas = len(files.concepts.metas)
    scores = np.random.default_rng(0).random((len(files.table), n_metas + 3))
    with_maps, _ = pipeline.fit_stage1(files, Stage1Config(epochs=1, bottleneck="patch"), features, name=None)
    found = overlays.concept_overlays(files, encoder, with_maps, features, scores, rows, most=2)
    assert len(found.pictures) == 4 and found.boxes == [None] * 4
    best = files.concepts.metas[int(scores[rows[0], :n_metas].argmax())]
    assert found.captions[0].startswith(best + " ") and not found.captions[0].endswith("(not there)")
    assert all(grid.sum() == pytest.approx(1, abs=1e-5) and (grid >= 0).all() for grid in found.grids)
    gradients = overlays.concept_overlays(files, encoder, pipeline.load_stage1(files), features, scores, rows)
    assert len(gradients.grids) == 6 and all((grid >= 0).all() for grid in gradients.grids)


def test_the_box_is_the_largest_of_the_concept_in_what_the_model_sees() -> None:
    scene = {
        "concepts": [
            {"meta_name": "palm", "box": [0, 0, 0.5, 1]},
            {"meta_name": "sign", "boxes": [[0.0, 0.0, 0.1, 0.1], [0.5, 0.2, 0.9, 0.4]]},
        ]
    }
    whole = (0.0, 0.0, 1.0, 1.0)
    assert overlays._box_of(scene, "sign", whole) == (0.5, 0.2, 0.9, 0.4)
    assert overlays._box_of(scene, "sign", (0.5, 0.0, 1.0, 1.0)) == pytest.approx((0.0, 0.2, 0.8, 0.4))
    assert overlays._box_of(scene, "palm", (0.5, 0.0, 1.0, 1.0)) is None
    assert overlays._box_of(scene, "cactus", whole) is None


def test_the_card_of_a_run_has_a_line_for_each_question_that_was_asked(trained_run: TinyRun) -> None:
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    model = explain.linear_cbm(files, features, pipeline.predict_concepts(files, features))
    test = files.rows["test"]
    cells = evaluation.main_predictions(files)["cell"].to_numpy()
    pooled = features.read_all("pooled").numpy()
    told = explain.measure_told(files, model, explain.read_concept_labels(files), pooled, cells, n_resamples=20)
    left = explain.ablate_all_concepts(files, model, test, 20)
    lines = explain.card_lines(told, left)
    assert len(lines) == 5 and lines[0].verdict == card.YES
    assert next(line for line in lines if "only what the concepts tell" in line.question).verdict == card.UNKNOWN
    unseen = replace(told, readings={"prior": Reading(np.zeros(len(test), bool), np.full(len(test), np.nan))})
    assert [line.verdict for line in explain.card_lines(unseen, left)] == [card.YES, *[card.UNKNOWN] * 4]
    figure = {"value": 0.9, "low": 0.85, "high": 0.95}
    known = explain.card_lines(
        told,
        left,
        pointing={"map": figure, "chance": {"value": 0.1}, "centre": {"value": 0.2}},
        deletion={"random": figure},
        stability={},
    )
    assert [line.verdict for line in (known[0], known[1], known[-1])] == [card.YES, card.YES, card.UNKNOWN]
    assert len(explain.card_table(known)) == 8
