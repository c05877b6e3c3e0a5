"""Figures of evaluation by place and by distance: what they draw and what they tell someone who cannot see them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geocbm import plots
from geocbm.plots import evaluation


def places():
    rows = [
        {"place": "Chile", "n": 9, "pooled": 1, "median_km": 300.0, "right": 0.5},
        {"place": "Fiji & co <b>", "n": 8, "pooled": 1, "median_km": 20.0, "right": 1.0},
        {"place": "2 countries with fewer than 5 images each", "n": 30, "pooled": 2, "median_km": np.inf, "right": 0.0},
    ]
    table = pd.DataFrame(rows)
    for name in ("median_km", "right"):
        table[f"{name}_low"] = table[name] / 2
        table[f"{name}_high"] = table[name] * 1.5
    table.loc[1:1, ["median_km_low", "median_km_high"]] = np.nan
    return table


def test_places_smallest_error_on_top_and_pooled_ones_last():
    fig = plots.place_breakdown(places())
    error, right = fig.data
    assert list(error.y) == [
        "Fiji &amp; co &lt;b&gt; (8)",
        "Chile (9)",
        "2 countries with fewer than 5 images each (30)",
    ]
    assert list(error.x) == [20.0, 300.0, None]  # no median where half do not answer
    assert list(error.error_x.array) == [0.0, 150.0, 0.0] and list(error.error_x.arrayminus) == [0.0, 150.0, 0.0]
    assert list(right.x) == [1.0, 0.5, 0.0]
    assert "[150 km, 450 km]" in error.customdata[1] and error.customdata[0] == "20.0 km (no interval)"
    alt = fig.layout.meta["alt"]
    assert "3 rows, a country each" in alt and "20.0 km (Fiji & co <b>)" in alt and "0.0 % to 100.0 %" in alt


def test_only_the_places_with_the_most_images_are_drawn(monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_PLACES", 1)
    fig = plots.place_breakdown(places(), "region")
    assert [text.split(" (")[0] for text in fig.data[0].y] == ["Chile", "2 countries with fewer than 5 images each"]
    assert fig.layout.title.text == "How good is it, region by region?"
    assert plots.place_breakdown(places().iloc[:1]).layout.height == 240
    with pytest.raises(ValueError, match="table is empty"):
        plots.place_breakdown(places().iloc[:0])


def test_nobody_answers():
    table = places().iloc[:1].assign(median_km=np.inf, median_km_low=np.inf, median_km_high=np.inf)
    fig = plots.place_breakdown(table)
    assert list(fig.data[0].x) == [None] and "no answer" in fig.layout.meta["alt"]


def test_errors_by_distance():
    rows = [
        {"bin": where, "n": n, "method": method, "median_km": km, "median_km_low": km / 2, "median_km_high": km * 2}
        for where, n, km in (("below 1 km", 1, 10.0), ("200 km and more", 1200, 500.0))
        for method in ("Stage 2", "nearest neighbour")
    ]
    fig = plots.errors_by_distance(pd.DataFrame(rows))
    assert [trace.name for trace in fig.data] == ["Stage 2", "nearest neighbour"]
    assert list(fig.data[0].y) == [10.0, 500.0] and list(fig.data[0].error_y.array) == [10.0, 500.0]
    assert fig.layout.scattermode == "group"  # side by side
    assert list(fig.data[0].x) == ["below 1 km<br>1 image", "200 km and more<br>1,200 images"]
    assert "Stage 2 10.0 km (below 1 km), 500 km (200 km and more)" in fig.layout.meta["alt"]
    with pytest.raises(ValueError, match="table is empty"):
        plots.errors_by_distance(pd.DataFrame())


@pytest.mark.parametrize("low", [9000.0, 95.0, 3.2, 0.01])
@pytest.mark.parametrize("factor", [1.0, 1.02, 1.5, 30.0, 1e6])
def test_every_axis_of_distances_has_ticks_to_read_it_by(low, factor):
    row = {"bin": "below 1 km", "n": 2, "method": "Stage 2", "median_km": low, "median_km_low": low}
    axis = plots.errors_by_distance(pd.DataFrame([row | {"median_km_high": low * factor}])).layout.yaxis
    start, end = axis.range
    assert start <= np.log10(low) and np.log10(low * factor) <= end
    inside = [tick for tick in np.log10(axis.tickvals) if start <= tick <= end]
    assert 2 <= len(inside) == len(axis.ticktext) <= 13


def test_a_forest_of_missing_answers_says_so_in_words():
    rows = pd.DataFrame(
        {
            "name": ["none", "some", "alone"],
            "value": [np.inf, 400.0, 300.0],
            "low": [np.inf, 350.0, np.nan],
            "high": [np.inf, np.inf, np.nan],
        }
    )
    fig = plots.forest(rows, "median error, km", log=True)
    assert (
        "none no answer [no answer, no answer]; some 400 [350, no answer]; alone 300 (no interval)."
        in fig.layout.meta["alt"]
    )
    assert list(fig.data[0].x) == [None, 400.0, 300.0]
    # The bar to infinity ends at the largest finite number; without an interval there is none.
    assert list(fig.data[0].error_x.array) == [0.0, 0.0, 0.0]
    assert list(fig.data[0].error_x.arrayminus) == [0.0, 50.0, 0.0]
    assert "inf" not in fig.to_json().replace("info", "")
    everyone = plots.forest(rows.iloc[:1], "median error, km", log=True)
    assert everyone.layout.xaxis.type == "log"


def test_a_forest_writes_all_values_to_the_same_place():
    rows = pd.DataFrame({"name": ["a", "b"], "value": [-1278.4, -4e-5], "low": [-1559, -1e-4], "high": [-954, 1e-5]})
    alt = plots.forest(rows, "change").layout.meta["alt"]
    assert "a -1,278 [-1,559, -954]; b 0 [0, 0]." in alt
    shares = pd.DataFrame({"name": ["a", "b"], "value": [0.0456, 0.128]})
    assert "a 0.046 (no interval); b 0.128 (no interval)." in plots.forest(shares, "x").layout.meta["alt"]


def test_empty_splits_are_left_out_of_curves():
    curves = plots.error_curves({"test": [], "val": [10.0, 30.0]})
    assert [trace.name for trace in curves.data] == ["val"]
    with pytest.raises(ValueError, match="is empty"):
        plots.error_curves({"test": []})


def test_a_forest_of_methods_has_a_dot_for_each_that_has_the_figure():
    table = pd.DataFrame(
        {
            "method": ["chance", "Stage 1", "Stage 2"],
            "median_km": [8000.0, np.nan, 450.0],
            "median_km_low": [7000.0, np.nan, 400.0],
            "median_km_high": [9000.0, np.nan, 500.0],
        }
    )
    fig = plots.method_forest(table, "median_km")
    names = {str(name) for trace in fig.data if trace.y is not None for name in trace.y}
    assert {"chance", "Stage 2"} <= names and "Stage 1" not in names
    assert fig.layout.xaxis.type == "log"
