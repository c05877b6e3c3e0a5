"""The explorer of predictions: order and filters of the list, and what is shown of one picture."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from geocbm import plots
from geocbm.errors import ParameterError
from geocbm.evaluation.methods import main_predictions
from geocbm.geodesy import haversine_km
from geocbm.run import stages
from geocbm.workbench import explorers
from geocbm.workbench.explorers.answered_pictures import MEAN, PredictionExplorer, answered, patch_texts
from geocbm.workbench.explorers.picture_list import PictureList, filtered
from geocbm.workbench.explorers.shared import REPORTS, figure_widget

FRAME = pd.DataFrame(
    {
        "country": ["Peru", "Peru", "Chad", "Chad"],
        "concept": ["pole", "sign", "pole", "sign"],
        "km": [100.0, 800.0, 750.0, 5000.0],
        "confidence": [0.9, 0.9, 0.99, 0.1],
        "label": ["a", "b", "c", "d"],
    },
    index=[7, 3, 5, 1],
)


@pytest.fixture
def explorer(trained_run) -> PredictionExplorer:
    return PredictionExplorer(trained_run.files)


@pytest.mark.parametrize(
    ("order", "rows"),
    [
        ("worst and surest first", [5, 3, 1, 7]),  # 742.5, 720, 500, 90
        ("worst first", [1, 3, 5, 7]),
        ("best first", [7, 5, 3, 1]),
        ("surest first", [5, 7, 3, 1]),
        ("least sure first", [1, 7, 3, 5]),
        ("", [7, 3, 5, 1]),
    ],
)
def test_pictures_come_in_the_order_asked_for(order, rows):
    assert filtered(FRAME, order=order).index.tolist() == rows


def test_filters_are_joined_and_errors_are_bins():
    assert filtered(FRAME, country="Peru").index.tolist() == [7, 3]
    assert filtered(FRAME, country="Chad", concept="pole").index.tolist() == [5]
    assert filtered(FRAME, error="200 to 750 km").index.tolist() == [5]  # 750 is "up to"
    assert filtered(FRAME, error="750 to 2,500 km").index.tolist() == [3]
    assert filtered(FRAME, error="beyond 2,500 km", concept="pole").empty
    with pytest.raises(ParameterError, match="order='by name' is unknown"):
        filtered(FRAME, order="by name")
    with pytest.raises(ParameterError, match="error='small' is unknown"):
        filtered(FRAME, error="small")


def test_the_list_keeps_the_last_picture_where_none_passes():
    chosen = []
    pictures = PictureList(FRAME, lambda: chosen.append(pictures.row))
    assert pictures.row == 5 and chosen == []
    pictures.country.value = "Peru"
    assert pictures.row == 3 and [row for _, row in pictures.pictures.options] == [3, 7]
    pictures.error.value = "beyond 2,500 km"
    assert pictures.row == 3 and pictures.pictures.options == () and "0 of 4 pictures" in pictures.count.value
    assert pictures.country.value == "Peru" and ("Peru (0)", "Peru") in pictures.country.options
    pictures.error.value = "any"
    concepts = FRAME.loc[[3, 7], "concept"].value_counts().sort_index()
    assert [label for label, value in pictures.concept.options if value] == [f"{k} ({n})" for k, n in concepts.items()]
    pictures.pictures.value = 7
    assert chosen == [3, 7]
    with pytest.raises(ParameterError, match="frame has no rows"):
        PictureList(FRAME[:0], lambda: None)


def test_answers_are_those_of_the_run(trained_run):
    run = trained_run.files
    frame, places = answered(run), main_predictions(run)
    assert frame.index.tolist() == run.rows["test"].tolist()
    row, place = int(frame.index[0]), places.iloc[0]
    assert frame.at[row, "km"] == pytest.approx(
        float(haversine_km(place["lat"], place["lng"], run.lat[row], run.lng[row])), rel=1e-6
    )
    assert frame.at[row, "country"] == run.country[row]


def test_the_country_of_an_answer_is_the_one_that_holds_the_point(trained_run, monkeypatch):
    """The answered point may lie in another country than the likeliest cell, whose probability stands beside it."""
    places = main_predictions(trained_run.files)
    places.loc[0, ["lat", "lng", "true_lat", "true_lng"]] = [52.52, 13.40, 52.52, 13.40]  # Berlin
    places.loc[1, ["lat", "lng"]] = [0.0, -30.0]  # the middle of the Atlantic
    monkeypatch.setattr("geocbm.workbench.explorers.answered_pictures.main_predictions", lambda run: places)
    frame = answered(trained_run.files)
    assert frame["answer"].iloc[:2].tolist() == ["Germany", "no country"]
    sure = places["confidence"].iloc[0]
    assert frame["label"].iloc[0].startswith("0 km off: ")
    assert f", answered Germany (likeliest cell {sure:.0%}) · " in frame["label"].iloc[0]


def test_the_browser_hears_of_a_figure_when_it_is_whole(monkeypatch):
    opened = []
    monkeypatch.setattr("ipywidgets.Widget.open", lambda widget: opened.append(widget.get_state()))
    figure_widget(go.Figure(go.Bar(x=[1, 2], y=[3, 4])), 300)
    (state,) = [each for each in opened if "_widget_data" in each]
    assert len(state["_widget_data"]) == 1 and state["_widget_layout"]["width"] == 300


def test_another_picture_changes_everything_that_is_shown(explorer):
    figures = (explorer.distribution, explorer.attention, explorer.reasons)
    before, first = [figure.to_json() for figure in figures], explorer.row
    explorer.list.pictures.index = 1
    assert explorer.row == explorer.list.pictures.options[1][1] != first
    assert all(figure.to_json() != old for figure, old in zip(figures, before, strict=True))
    answer = explorer.model.predict(np.array([explorer.row]))
    assert explorer.distribution.data[3].lat[0] == pytest.approx(answer.lat[0], abs=1e-3)
    assert explorer.frame.at[explorer.row, "label"].split(":")[0] in explorer.status.value


def test_what_another_picture_changes_makes_the_figures_that_are_made_anew(explorer):
    explorer.list.pictures.index, explorer.head.value = 1, 0
    again = PredictionExplorer(explorer.run)
    again.head.value = 0
    again.list.pictures.index = 2
    again.list.pictures.index = 1
    assert again.row == explorer.row
    made = (
        plots.distribution_map(*explorer._answer(), "Distribution over the cells"),
        plots.patch_heat(*explorer._attention()),
        plots.contribution_bars(explorer._reasons(), explorer.reasons.layout.title.text),
    )
    for shown, new in zip((again.distribution, again.attention, again.reasons), made, strict=True):
        assert shown.layout.meta == new.layout.meta
        assert [image.source for image in shown.layout.images] == [image.source for image in new.layout.images]
        assert [each.text for each in shown.layout.annotations] == [each.text for each in new.layout.annotations]
        assert shown.layout.title.text == new.layout.title.text and shown.layout.height == new.layout.height
        assert shown.layout.xaxis.range == new.layout.xaxis.range
        for old, trace in zip(shown.data, new.data, strict=True):
            held, wanted = (each.to_plotly_json() for each in (old, trace))
            held.pop("uid", None)
            np.testing.assert_equal(held, wanted)


def test_a_live_figure_does_not_report_its_own_changes_to_the_kernel():
    module, plotlys = figure_widget(go.Figure(), 300)._esm, str(go.FigureWidget._esm)
    assert module.startswith(plotlys) and all(f"{name}(" in plotlys for name in REPORTS)
    for name in REPORTS:
        assert re.search(rf"^\w+\.prototype\.{name} = \(\) => {{}};$", module, re.MULTILINE)


def test_another_picture_is_one_message_for_each_figure(explorer, monkeypatch):
    sent = []
    monkeypatch.setattr("ipywidgets.Widget.send_state", lambda widget, key=None: sent.append((widget, key)))
    explorer.list.pictures.index = 1
    for figure in (explorer.distribution, explorer.attention, explorer.reasons):
        assert [key for widget, key in sent if widget is figure] == 2 * ["_py2js_update"]  # and that it is over


def test_each_head_has_its_attention_and_every_patch_its_text(explorer):
    run, row = explorer.run, explorer.row
    head, concepts = stages.load_stage2(run).eval(), stages.predict_concepts(run, run.features("adapted"))
    with torch.no_grad():
        own = head(concepts["concept_emb"][[row]], explorer.maps.read(np.array([row]))[1]).attention[0]  # (heads, P)
    shown = []
    for choice in [MEAN, *range(explorer.model.head.config.heads)]:
        explorer.head.value = choice
        shown.append(np.array(explorer.attention.data[0].z, dtype=float))
    np.testing.assert_allclose(np.mean(shown[1:], axis=0), shown[0], atol=2e-6)
    np.testing.assert_allclose(np.reshape(shown[1:], own.shape), own.numpy(), atol=2e-3)  # stored in half precision
    for one in shown:
        assert one.shape == tuple(explorer.maps.encoder.grid) and one.sum() == pytest.approx(1, abs=1e-4)
    text = explorer.attention.data[0].text[0][0]
    assert text.startswith(f"{shown[-1][0, 0]:.1%}, ") and any(name in text for name in run.concepts.metas)


def test_texts_of_patches_say_weight_and_times_the_mean():
    texts = patch_texts(np.array([0.5, 0.25, 0.25, 0.0]), ["a", "b", "c", "d"])
    expected = [("50.0%", "2.0", "a"), ("25.0%", "1.0", "b"), ("25.0%", "1.0", "c"), ("0.0%", "0.0", "d")]
    assert texts == [f"{weight}, {times} times the mean\n{words}" for weight, times, words in expected]


def test_contributions_are_of_the_mode_that_answered(explorer):
    assert explorer.model.head.config.ablation_mode in explorer.reasons.layout.title.text


def test_a_page_has_the_worst_and_the_best(trained_run, capsys):
    explorers.predictions(trained_run.files)
    said, frame = capsys.readouterr().out, answered(trained_run.files)
    assert said.startswith("worst and surest first:\n")
    assert frame.loc[frame["km"].idxmin(), "label"] in said.partition("best first:")[2]
