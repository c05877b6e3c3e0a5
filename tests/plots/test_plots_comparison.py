"""Figures of several runs: what they draw, and that their alt texts carry the numbers."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from geocbm import plots
from geocbm.workbench.report_figures import online_map_problem

DIFFERENCES = pd.DataFrame(
    {
        "run": ["a", "a", "b", "b"],
        "panel": ["median error, km", "GeoScore, points"] * 2,
        "value": [-40.0, 10.0, 30.0, -5.0],
        "low": [-60.0, -10.0, 10.0, np.nan],
        "high": [-20.0, 30.0, 50.0, np.nan],
        "better": [1, 0, -1, 0],
    }
)
REGIONS = pd.DataFrame(
    {
        "lat": [10.0, -20.0, 0.0],
        "lng": [0.0, 50.0, 20.0],
        "images": [9, 1, 4],
        "country": ["Chad", "<Réunion>", "Congo"],
        "gain": [120.0, -400.0, 0.0],
    }
)
CURVES = pd.DataFrame(
    {
        "run": ["a", "a", "b", "a", "a"],
        "stage": ["Stage 1", "Stage 1", "Stage 1", "Stage 2", "Stage 2"],
        "quantity": ["loss", "loss", "loss", "loss", "median error, km"],
        "epoch": [1, 2, 1, 1, 1],
        "value": [3.0, 2.5, 2.75, 9.0, 800.0],
    }
)


def alt(fig):
    json.loads(fig.to_json())  # a page stores it as such
    return fig.layout.meta["alt"]


def test_differences_have_a_panel_per_figure_and_a_colour_per_verdict():
    fig = plots.compare_differences(DIFFERENCES, "base")
    assert {each.text for each in fig.layout.annotations} == {"median error, km", "GeoScore, points"}
    drawn = {(trace.name, trace.xaxis): trace for trace in fig.data}
    assert set(drawn) == {
        ("better", "x"), ("worse", "x"), ("no difference beyond noise", "x2"),
    }  # fmt: skip
    better = drawn["better", "x"]
    assert (list(better.x), list(better.y)) == ([-40], ["a"])
    assert (list(better.error_x.array), list(better.error_x.arrayminus)) == ([20], [20])
    noise = drawn["no difference beyond noise", "x2"]
    assert noise.error_x.array[0] == 20 and np.isnan(noise.error_x.array[1])  # without an interval there is no bar
    assert sum(bool(trace.showlegend) for trace in fig.data) == 3
    assert len({trace.marker.color for trace in fig.data}) == 3
    assert [shape.x0 for shape in fig.layout.shapes] == [0, 0]
    assert alt(fig) == (
        "Differences of 2 runs to base, intervals in brackets: a median error, km -40 [-60, -20]; a GeoScore, points "
        "+10 [-10, +30]; b median error, km +30 [+10, +50]; b GeoScore, points -5 (no interval)."
    )
    assert alt(plots.compare_differences(DIFFERENCES[:0], "base")) == "No other run can be compared with base."


def test_the_first_run_stands_on_top():
    fig = plots.compare_differences(DIFFERENCES, "base")
    assert list(fig.layout.yaxis.categoryarray) == ["b", "a"]  # the first category is drawn at the bottom


def test_a_map_of_gains_needs_no_network_and_has_a_menu_of_runs():
    fig = plots.gain_map({"a": REGIONS, "b": REGIONS[:1]}, "base")
    assert online_map_problem(json.loads(fig.to_json())) is None
    assert [trace.visible for trace in fig.data] == [None, None, True, False]
    (menu,) = fig.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["a", "b"]
    assert [button.args[0]["visible"] for button in menu.buttons] == [
        [True, True, True, False],
        [True, True, False, True],
    ]
    points = fig.data[2]
    assert list(points.marker.color) == [120, -400, 0]
    assert points.marker.cmax == -points.marker.cmin == pytest.approx(np.quantile([0, 120, 400], 0.9))
    assert list(points.text) == ["Chad, 9 images", "&lt;Réunion&gt;, 1 image", "Congo, 4 images"]
    assert alt(fig) == (
        "World map of mean gain in GeoScore over base, by region: a gains in 1 of 3 regions and loses in 1; b gains in "
        "1 of 1 region and loses in 0."
    )


def test_a_map_of_one_run_has_no_menu():
    assert not plots.gain_map({"a": REGIONS}, "base").layout.updatemenus
    assert (
        alt(plots.gain_map({}, "base")) == "World map without regions: no run has its test images in common with base."
    )


def test_histories_have_a_panel_per_stage_and_quantity_and_one_entry_per_run():
    fig = plots.compare_histories(CURVES)
    titles = [annotation.text for annotation in fig.layout.annotations]
    assert titles == ["Stage 1: loss", "Stage 2: loss", "Stage 2: median error, km"]
    drawn = sorted((trace.xaxis, trace.name, list(trace.y)) for trace in fig.data)
    assert drawn == [("x", "a", [3.0, 2.5]), ("x", "b", [2.75]), ("x2", "a", [9.0]), ("x3", "a", [800.0])]
    assert sum(trace.showlegend for trace in fig.data) == 2
    assert alt(fig) == (
        "Learning curves of 2 runs; at the end: a Stage 1 loss 2.5; b Stage 1 loss 2.75; a Stage 2 loss 9; "
        "a Stage 2 median error, km 800."
    )
    assert alt(plots.compare_histories(CURVES[:0])) == "No run has a history yet."


def test_more_runs_than_colours_are_told_apart_by_their_lines():
    many = pd.concat([CURVES[:2].assign(run=f"run {number}") for number in range(10)])
    fig = plots.compare_histories(many)
    assert len({(trace.line.color, trace.line.dash) for trace in fig.data}) == 10
