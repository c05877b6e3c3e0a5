"""What-if: edits of single pictures, and the map that follows them in a page."""

import json

import numpy as np
import pytest
from PIL import Image

from geocbm import plots
from geocbm.explain import interventions
from geocbm.explain.concept_labels import intervention_values, read_concept_labels
from geocbm.explain.counterfactuals import (
    STRENGTHS,
    Edit,
    edit_table,
    exchange,
    find_counterfactuals,
)
from geocbm.plots.counterfactuals import ANSWER, BARS, CELLS, TRUTH

PICTURE = Image.new("RGB", (48, 48), (90, 140, 90))


@pytest.fixture(scope="module")
def world(trained_run, features, concepts):
    files = trained_run.files
    model = interventions.linear_cbm(files, features, concepts)
    # One epoch teaches nothing; weights of some size make an edit visible.
    model.head.cell_head.weight.data.copy_(_weights(model.head.cell_head.weight.shape))
    labels = read_concept_labels(files)
    values = intervention_values(model.scores.numpy(), labels, files.rows["val"], files.rows["train"])
    return files, model, values


def _weights(shape):
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_an_edit_moves_scores_evenly_in_their_logarithms():
    edit = Edit("x", np.array([0.01, np.nan, 0.4]))
    steps = edit.at(np.array([0.16, 0.5, 0.1]), (0.0, 0.5, 1.0)).numpy()
    np.testing.assert_allclose(steps, [[0.16, 0.5, 0.1], [0.04, 0.5, 0.2], [0.01, 0.5, 0.4]], rtol=1e-6)


def test_an_exchange_takes_one_away_and_puts_the_other_in_its_place(world):
    files, model, values = world
    vocabulary, scores = files.concepts, model.scores[0].numpy()
    parents = vocabulary.parent_index
    first = 0
    sibling = next(m for m in range(1, 6) if parents[m] == parents[first])
    stranger = next(m for m in range(1, 6) if parents[m] != parents[first])
    edit = exchange(scores, first, sibling, values, vocabulary)
    assert np.flatnonzero(~np.isnan(edit.target)).tolist() == sorted([first, sibling])
    assert edit.target[first] <= scores[first] and edit.target[sibling] >= scores[first]
    assert edit.label == f"{vocabulary.metas[first]} → {vocabulary.metas[sibling]}"
    across = exchange(scores, first, stranger, values, vocabulary)
    touched = {first, stranger, 6 + parents[first], 6 + parents[stranger]}
    assert set(np.flatnonzero(~np.isnan(across.target))) == touched


def test_found_begin_with_the_picture_as_it_is_seen(world):
    files, model, values = world
    found = find_counterfactuals(files, model, files.rows["test"], values, count=2, exchanges=1)
    assert len({one.row for one in found}) == 2
    for one in found:
        seen = model.predict(np.array([one.row]))
        assert [edit.label for edit in one.edits][-1] == "without any concept"
        for edit, places in zip(one.edits, one.answers, strict=True):
            assert len(places.lat) == len(STRENGTHS), edit.label
            np.testing.assert_allclose(places.logits[0], seen.logits[0], atol=1e-5)
        np.testing.assert_allclose(one.answers[-1].logits[-1], model.head.cell_head.bias.detach(), atol=1e-4)
    table = edit_table(found, files)
    assert len(table) == sum(len(one.edits) for one in found)
    assert table["moved"].between(0, 1).all() and (table["moved_km"] >= 0).all()
    assert table["after_probability"].between(0, 1).all() and set(table["after"]) <= set(files.cells.country)


def test_the_controls_of_the_figure_hold_what_the_model_answers(world):
    files, model, values = world
    found = find_counterfactuals(files, model, files.rows["test"], values, count=2, exchanges=1)
    places = [(files.lat[one.row], files.lng[one.row]) for one in found]
    fig = plots.what_if(found, STRENGTHS, files.cells, places, [PICTURE] * 2)
    assert fig.data[0].mode == "lines", "the first trace must be lines for maps to draw offline"
    buttons = fig.layout.updatemenus[0].buttons
    assert len(buttons) == sum(len(one.edits) for one in found)
    number = len(found[0].edits)  # the first edit of the second picture
    start, layout, traces = buttons[number].args
    assert list(traces) == [CELLS, ANSWER, TRUTH, BARS]
    assert start["lat"][2] == [round(places[1][0], 3)] and "Picture 2" in layout["annotations"][0]["text"]
    slider = layout["sliders"][0]
    answer = found[1].answers[0]
    for step, strength, s in zip(slider["steps"], STRENGTHS, range(len(STRENGTHS)), strict=True):
        assert step["label"] == f"{strength:.0%}" and step["args"][1] == [CELLS, ANSWER, BARS]
        assert step["args"][0]["lat"][1] == [round(float(answer.lat[s]), 3)]
        assert sum(step["args"][0]["customdata"][0]) <= 1.02
    assert fig.data[ANSWER].lat[0] == round(float(found[0].answers[0].lat[0]), 3)
    assert len(json.dumps(json.loads(fig.to_json()))) < 600_000
    assert "2 pictures" in fig.layout.meta["alt"]
    with pytest.raises(ValueError, match="at least one counterfactual"):
        plots.what_if([], STRENGTHS, files.cells, [], [])
