"""The explorer of edits: sliders of all concepts, before and after, reset, any picture, every mode that allows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geocbm.explain import interventions
from geocbm.explain.concept_labels import intervention_values, read_concept_labels
from geocbm.explain.counterfactuals import find_counterfactuals
from geocbm.run import stages
from geocbm.workbench import explorers
from geocbm.workbench.explorers.concept_sliders import LEAST, WhatIfExplorer, on_scale


@pytest.fixture
def explorer(trained_run) -> WhatIfExplorer:
    return WhatIfExplorer(trained_run.files)


@pytest.mark.parametrize("live", [True, False])
def test_a_run_in_which_no_mode_reads_concepts_is_one_sentence(trained_run, monkeypatch, capsys, live):
    modes = interventions.trained_modes
    monkeypatch.setattr(interventions, "trained_modes", lambda *of: {"image_only": modes(*of)["both"]})
    monkeypatch.setattr("geocbm.workbench.explorers.concept_sliders.is_live", lambda: live)
    explorers.what_if(trained_run.files)
    said = capsys.readouterr().out
    assert ("no mode that reads concepts; train one with: geocbm run --run tiny --from 05" in said) == live
    assert said.count("\n") == 1


def move(explorer: WhatIfExplorer, column: int, value: float) -> None:
    """Move a slider as the browser does, which sends the values of all."""
    values = list(explorer.sliders.values)
    values[column] = value
    explorer.sliders.set_state({"values": values})


def test_sliders_begin_where_the_concepts_stand_and_hold_all_of_them(explorer):
    run = explorer.run
    names = [*run.concepts.metas, *(f"{parent} (parent)" for parent in run.concepts.parents)]
    assert explorer.sliders.names == names
    scores = explorer.model.scores[explorer.row].numpy()
    for value, score in zip(explorer.sliders.values, scores, strict=True):
        assert value == pytest.approx(max(score, 10**LEAST), rel=0.012)  # half a step of the logarithm
    assert explorer.edited == {} and "Concepts edited: 0" in explorer.status.value
    assert explorer.places.lat[0] == pytest.approx(explorer.places.lat[1])


def test_a_moved_slider_changes_the_answer_as_the_model_says(explorer, trained_run):
    run, row = trained_run.files, explorer.row
    features = run.features("adapted")
    model = interventions.load_intervention_model(run, features, stages.predict_concepts(run, features))
    move(explorer, 2, on_scale(0.8))
    scores = model.scores[[row]]
    edited = scores.clone()
    edited[0, 2] = on_scale(0.8)
    expected = model.predict(np.array([row, row]), torch.cat([scores, edited]))
    np.testing.assert_allclose(explorer.places.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert np.abs(expected.logits[1] - expected.logits[0]).max() > 1e-6
    assert explorer.edited == {2: on_scale(0.8)} and "Concepts edited: 1" in explorer.status.value
    assert explorer.map.data[3].lat[0] == pytest.approx(expected.lat[1], abs=1e-3)  # answer now
    before = next(trace for trace in explorer.map.data if trace.name == "answer before")
    assert before.lat[0] == pytest.approx(expected.lat[0], abs=1e-3)


def test_reset_brings_back_what_the_model_sees(explorer):
    start = explorer.sliders.values
    move(explorer, 0, 0.5)
    move(explorer, 4, 0.001)
    assert set(explorer.edited) == {0, 4}
    explorer.reset.click()
    assert explorer.sliders.values == start and explorer.edited == {}
    np.testing.assert_array_equal(explorer.places.logits[0], explorer.places.logits[1])


def test_a_slider_that_comes_back_is_no_edit_and_what_the_browser_rounds_neither(explorer):
    first = explorer.sliders.values[0]
    move(explorer, 0, first * (1 + 1e-7))
    assert explorer.edited == {}
    move(explorer, 0, 0.5)
    move(explorer, 0, first)
    assert explorer.edited == {}


def test_no_concepts_is_the_average_training_picture(explorer):
    explorer.ablate.click()
    baseline = explorer.model.baseline.numpy()
    assert explorer.edited == pytest.approx(dict(enumerate(baseline.tolist())))
    assert explorer.sliders.values == [on_scale(value) for value in baseline]


def test_any_picture_can_be_edited_and_begins_unedited(explorer):
    run = explorer.run
    assert sorted(explorer.list.frame.index) == list(range(60))
    move(explorer, 1, 0.7)
    train = int(run.rows["train"][0])
    explorer.list.pictures.value = train
    assert explorer.row == train and explorer.edited == {}
    assert str(run.table["meta_name"].iloc[train]) in explorer.picture.value


def test_every_trained_mode_that_reads_concepts_is_offered(explorer):
    assert explorer.mode.options == ("both", "concept_only")  # those that the tiny run trained
    move(explorer, 1, 0.7)
    both = explorer.places.logits
    explorer.mode.value = "concept_only"
    assert explorer.edited == {1: 0.7} and np.abs(explorer.places.logits - both).max() > 0
    assert "concept_only" in explorer.map.layout.title.text


def test_find_shows_the_sliders_whose_name_has_the_text(explorer):
    everything = explorer.sliders.order
    assert len(everything) == 6  # the families too only where the mode reads them
    explorer.search.value = "POLE"
    assert {explorer.sliders.names[column] for column in explorer.sliders.order} == {"red pole", "photo pole"}
    explorer.search.value = ""
    assert explorer.sliders.order == everything


def test_a_page_has_the_list_of_edits(trained_run, capsys):
    run = trained_run.files
    explorers.what_if(run)
    assert capsys.readouterr().out.startswith("In JupyterLab")
    model = interventions.linear_cbm(run, run.features("adapted"), stages.predict_concepts(run, run.features()))
    values = intervention_values(model.scores.numpy(), read_concept_labels(run), run.rows["val"], run.rows["train"])
    explorers.what_if(run, find_counterfactuals(run, model, run.rows["test"], values, count=2, exchanges=1))
    assert "[figure] World map of the probabilities of cells for 2 pictures" in capsys.readouterr().out
