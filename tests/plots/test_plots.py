"""Figures: what they draw, that maps need no network, and that each says in words what it shows."""

import base64
import io
import json
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from geocbm import plots
from geocbm.data.concepts import ConceptVocabulary
from geocbm.geocells import Geocells
from geocbm.geodesy import latlng_to_cartesian

GENERATOR = np.random.default_rng(0)
N = 60
LAT, LNG = GENERATOR.uniform(-50, 70, N), GENERATOR.uniform(-170, 170, N)
PARENTS = ["poles", "signs", "<b>soil</b>"]
METAS = ["white pole", "brown pole", "yellow sign", "blue sign", "red soil", "grey soil"]
OWNER = np.array([0, 0, 1, 1, 2, 2])
META = GENERATOR.integers(0, 6, N)
NAMED = np.where(GENERATOR.random(N) < 0.6, META, GENERATOR.integers(0, 6, N))
TABLE = pd.DataFrame(
    {
        "lat": LAT,
        "lng": LNG,
        "country": np.array(["Japan", "Chile & more", "Kenya"])[META % 3],
        "meta_name": np.array(METAS)[META],
        "parent_concept": np.array(PARENTS)[OWNER[META]],
    }
)
CELLS = Geocells(
    centers=latlng_to_cartesian(LAT[:7], LNG[:7]),
    country=np.array(["Japan"] * 7),
    counts=np.arange(1, 8),
    sample_to_cell=np.arange(N) % 7,
    scale_km=np.linspace(5, 50, 7),
    settings={},
)


def rows_at(lat, lng):
    """Rows of a table at these places, whose pictures are not there."""
    rows = pd.DataFrame({"lat": lat, "lng": lng, "country": "Chile", "meta_name": "Bollard", "image_path": "gone.png"})
    rows.attrs["folder"] = "nowhere"
    return rows


PREDICTED = (np.where(np.arange(N) == 0, np.nan, np.clip(LAT + GENERATOR.normal(0, 8, N), -90, 90)), LNG)
KM = np.abs(GENERATOR.normal(0, 900, N))
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "train_meta": [3.0, 2.0, 1.0],
        "train_loss": [6.0, 4.0, 2.0],
        "val_loss": [6.5, 5.0, 4.5],
        "lr": [1e-4] * 3,
    }
)
PICTURES = [GENERATOR.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(4)]
GRIDS = [GENERATOR.random((3, 4)) for _ in range(4)]
FOREST = pd.DataFrame(
    {"name": ["ours", "prior"], "value": [300.0, 4000.0], "low": [250.0, np.nan], "high": [380.0, np.nan]}
)

MAPS = {
    "cells": lambda: plots.cell_map(CELLS, TABLE),
    "errors": lambda: plots.error_map(*PREDICTED, rows_at(LAT, LNG)),
}
FIGURES = MAPS | {
    "hierarchy": lambda: plots.hierarchy(TABLE),
    "imbalance": lambda: plots.imbalance(TABLE["meta_name"]),
    "countries": lambda: plots.country_bars(TABLE["country"]),
    "sizes": lambda: plots.cell_sizes(CELLS.counts),
    "quantization": lambda: plots.error_curves({"centre of the true cell": KM}, "Its centre", "distance to it"),
    "losses": lambda: plots.loss_curves(HISTORY),
    "retrieval": lambda: plots.retrieval_bars({"recall_1": 0.1, "x_km": 0.5}, {"recall_1": 0.3, "x_km": 0.4}),
    "metas": lambda: plots.per_meta_accuracy(TABLE["meta_name"], META == NAMED, TABLE["parent_concept"]),
    "confusion": lambda: plots.confusion(META, NAMED, METAS, OWNER, PARENTS),
    "drift": lambda: plots.prototype_drift(METAS, np.linspace(0.5, 1, 6)),
    "curves": lambda: plots.error_curves({"ours": KM, "prior": np.full(N, np.nan)}),
    "forest": lambda: plots.forest(FOREST, "median error in km", highlight="ours", log=True),
    "attention": lambda: plots.attention_overlay(
        PICTURES, GRIDS, ["a & b", "c", "d", "e"], boxes=[(0, 0, 0.5, 0.5), None, None, None]
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_what_it_shows_and_is_light_and_repeatable(name):
    figure = FIGURES[name]()
    assert isinstance(figure, go.Figure)
    alt = figure.layout.meta["alt"]
    assert alt.endswith(".")
    assert len(alt) > 60
    assert re.search(r"\d", alt), "the sentence names a key number"
    assert "nan" not in alt.lower().split()
    assert figure.layout.title.text
    text = figure.to_json()
    assert len(text) < 200_000
    assert "http" not in text
    assert "<b>soil" not in text
    assert text == FIGURES[name]().to_json()


@pytest.mark.parametrize("name", MAPS)
def test_maps_draw_without_a_network(name):
    figure = MAPS[name]()
    first = figure.data[0]
    assert (first.type, first.mode) == ("scattergeo", "lines")
    assert figure.layout.geo.visible is False
    assert figure.layout.geo.fitbounds is False
    assert all(trace.type == "scattergeo" for trace in figure.data)
    drawn = [trace for trace in figure.data if trace.mode == "markers"]
    assert drawn
    assert all(-90 <= lat <= 90 for trace in drawn for lat in trace.lat)


def test_outline_lies_on_the_earth_and_knows_some_coasts():
    coast = plots.base_map().data[0]
    points = [(lat, lng) for lat, lng in zip(coast.lat, coast.lon, strict=True) if lat == lat]  # gaps are NaN
    assert all(-90 <= lat <= 90 and -180 <= lng <= 180 for lat, lng in points)
    for lat, lng in ((-34.4, 18.4), (36.0, -5.6), (-55.0, -66.0)):  # Cape, Gibraltar, Tierra del Fuego
        assert min((lat - a) ** 2 + (lng - b) ** 2 for a, b in points) < 2.5


def test_error_map_counts_missing_predictions_and_bands():
    figure = plots.error_map([0, 0, np.nan], [0, 30, 0], rows_at([0, 0, 0], [0.1, 0, 0]))
    assert "1 prediction missing" in figure.layout.meta["alt"]
    names = {trace.name for trace in figure.data if trace.mode == "markers"}
    assert names == {"up to 25 km", "beyond 2,500 km"}
    lines = next(trace for trace in figure.data if trace.name == "beyond 2,500 km" and trace.mode == "lines")
    assert list(lines.lon) == [0, 30, None]


def test_points_of_the_error_map_carry_place_and_picture(tmp_path):
    Image.new("RGB", (400, 200), "red").save(tmp_path / "a.png")
    table = rows_at([0, 0], [0.1, 0.2]).assign(country=["Chile", "Peru"], meta_name=["Bollard", "<a href=x>"])
    table["image_path"], table.attrs["folder"] = ["a.png", "gone.png"], str(tmp_path)
    figure = plots.error_map([0, 0], [0, 0.1], table)
    (points,) = (trace for trace in figure.data if trace.mode == "markers")
    assert points.text == ("Bollard, Chile: off by 11.1 km", "&lt;a href=x&gt;, Peru: off by 11.1 km")
    with Image.open(io.BytesIO(base64.b64decode(points.customdata[0].split(",")[1])), formats=["JPEG"]) as small:
        assert small.size == (120, 60)
    assert points.customdata[1] == ""


def test_loss_curves_start_with_the_total_and_name_its_course():
    figure = plots.loss_curves(HISTORY)
    assert [note.text for note in figure.layout.annotations] == ["loss", "meta"]
    assert "from 6 to 2" in figure.layout.meta["alt"]
    assert [3, 2, 1] in [list(line.y) for line in figure.data if line.xaxis == "x2"]
    with pytest.raises(ValueError, match="its columns are: epoch"):
        plots.loss_curves(HISTORY[["epoch"]])


def test_a_loss_between_0_and_1_is_no_rate():
    before = {"anchor": 0.108, "recall_1": 0.1, "retrieval_km": 0.9, "meta_top1": 0.5}
    after = {"anchor": 0.05, "recall_1": 0.25, "retrieval_km": 0.4, "meta_top1": 0.6}
    figure = plots.retrieval_bars(before, after)
    assert [list(bars.x) for bars in figure.data] == [["recall at 1"]] * 2
    assert "10.8" not in figure.to_json()


def test_panels_of_training_have_the_unit_of_their_metric():
    history = pd.DataFrame(
        {"val_loss": [0.9], "val_anchor": [0.108], "val_recall_5": [0.5], "val_median_km": [0.7], "val_own": [0.3]}
    )
    figure = plots.loss_curves(history)

    def middle(axis):
        return round(sum(axis.domain) / 2, 6)

    names = {(round(note.x, 6), round(note.y, 6)): note.text for note in figure.layout.annotations}
    panels = {}
    for line in figure.data:
        x, y = (figure.layout[axis[0] + "axis" + axis[1:]] for axis in (line.xaxis, line.yaxis))
        panels[names[middle(x), round(y.domain[1], 6)]] = line.y[0]
    assert figure.layout.template.layout.yaxis.exponentformat == "power"  # no "108m" for an anchor loss of 0.108
    assert panels == {"loss": 0.9, "anchor": 0.108, "recall at 5, %": 50, "median error, km": 0.7, "own": 0.3}


def test_error_curves_count_the_missing_as_never_reached():
    figure = plots.error_curves({"half": [0.5, 10.0, np.nan, np.inf]})
    assert max(figure.data[0].y) == 0.5
    assert "25.0 % within 25 km" not in figure.layout.meta["alt"]
    assert "50.0 % within 25 km" in figure.layout.meta["alt"]
    assert {shape.x0 for shape in figure.layout.shapes} == {np.log10(km) for km in (1, 25, 200, 750, 2500)}


def test_confusion_by_hand():
    figure = plots.confusion([0, 0, 0, 2], [0, 1, 2, 2], METAS, OWNER, PARENTS)
    grid = figure.data[0]
    assert list(grid.z[0]) == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-3)
    assert grid.z[2][0] is None
    alt = figure.layout.meta["alt"]
    assert "50.0 % get the right meta" in alt
    assert "25.0 % another meta of the same parent" in alt
    perfect = plots.confusion([0, 1], [0, 1], METAS, OWNER, PARENTS)
    assert "100.0 % get the right meta" in perfect.layout.meta["alt"]


def test_accuracy_is_sorted_and_counts_its_images():
    figure = plots.per_meta_accuracy(["x", "x", "y", "z", "z"], [0, 0, 1, 1, 0], ["p"] * 5)
    assert [name for name, _ in figure.data[0].customdata] == ["y", "z", "x"]
    assert list(figure.data[0].y) == [1, 0.5, 0]
    alt = figure.layout.meta["alt"]
    assert figure.layout.xaxis.ticktext == ("y", "z", "x") and figure.layout.xaxis.tickvals == (1, 2, 3)
    assert figure.layout.legend.yanchor == "bottom" and figure.layout.legend.y > 1  # not over the names
    assert "y 100.0 % of 1" in alt
    assert "1 are never named rightly" in alt


def test_bars_have_their_names_where_there_is_room():
    few, many = (plots.prototype_drift([f"c{i}" for i in range(n)], np.linspace(0, 1, n)) for n in (30, 31))
    assert few.layout.xaxis.ticktext[:2] == ("c0", "c1") and many.layout.xaxis.ticktext is None


def test_a_forest_writes_long_names_whole():
    name = "likeliest cell, nearest training pictures inside it"
    figure = plots.forest(pd.DataFrame({"name": [name], "value": [1.0]}), "x")
    assert figure.data[0].y == (name,) and figure.layout.annotations[0].y == name


def test_forest_has_a_bar_only_where_there_is_an_interval():
    figure = plots.forest(FOREST, "median error in km", highlight="ours")
    assert list(figure.data[0].error_x.array) == [80, 0]
    assert list(figure.data[0].error_x.arrayminus) == [50, 0]
    assert "ours 300 [250, 380]; prior 4,000 (no interval)" in figure.layout.meta["alt"]
    with pytest.raises(ValueError, match="name"):
        plots.forest(pd.DataFrame({"value": [1.0]}), "x")


def test_country_bars_open_to_all_countries():
    figure = plots.country_bars([f"land {i}" for i in range(42)] + ["land 0"])
    assert list(figure.data[0].x) == [2] + [1] * 41
    assert figure.layout.yaxis.range == (39.5, -0.5)
    (button,) = figure.layout.updatemenus[0].buttons
    assert button.label == "and 2 more countries, 2 images"
    assert button.args[0]["yaxis.range"] == [41.5, -0.5]
    assert button.args2[0] == {"yaxis.range": [39.5, -0.5], "height": figure.layout.height}
    assert not plots.country_bars(["Chile", "Peru"]).layout.updatemenus


def test_attention_pictures_are_jpeg_and_the_hottest_patch_is_the_lightest():
    figure = plots.attention_overlay(PICTURES[:1], GRIDS[:1])
    assert [trace.source[:23] for trace in figure.data] == ["data:image/jpeg;base64,"]
    grid = np.zeros((4, 4))
    grid[1, 2] = 3.0
    heat = np.asarray(plots.blend_heat(np.full((80, 80, 3), 90, dtype=np.uint8), grid)).sum(axis=2)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (row // 20, column // 20) == (1, 2)
    with pytest.raises(ValueError, match="attention must be a grid"):
        plots.blend_heat(PICTURES[0], -np.ones((2, 2)))
    with pytest.raises(ValueError, match="uint8"):
        plots.blend_heat(np.zeros((4, 4, 3)), grid)
    with pytest.raises(ValueError, match="1 images, 2 grids"):
        plots.attention_overlay(PICTURES[:1], GRIDS[:2])


def test_contact_sheet_shows_what_it_can(tmp_path):
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    files = [tmp_path / "a.png", tmp_path / "broken.jpg", PICTURES[1]]
    sheet = plots.contact_sheet(files, ["one", "two", "a caption that is much too long for its picture"], 2, 50)
    assert sheet.size == (8 + 2 * 58, 8 + 2 * (50 + 18 + 8))
    assert sheet.getpixel((8 + 58 + 25, 8 + 25)) == (196, 202, 208)
    assert sheet.getpixel((8 + 25, 8 + 25)) != (255, 255, 255)
    with pytest.raises(ValueError, match="caption for each"):
        plots.contact_sheet(files, ["one"])


@pytest.mark.parametrize(
    "call",
    [
        lambda: plots.imbalance([]),
        lambda: plots.error_curves({}),
        lambda: plots.retrieval_bars({"km": 3000.0}, {"km": 2000.0}),
    ],
)
def test_nothing_to_draw_is_said(call):
    with pytest.raises(ValueError, match=r"column|empty|share no rate"):
        call()


def test_template_travels_with_the_figure():
    layout = json.loads(plots.imbalance(["a", "b"]).to_json())["layout"]
    assert layout["template"]["layout"]["colorway"][0] == plots.PALETTE[0]
    assert layout["template"]["layout"]["plot_bgcolor"] == "white"


def test_a_link_in_a_name_stays_text():
    link = '<a href="https://x.example">Bollard</a>'
    words = ConceptVocabulary((link, "Pole"), ("Posts",), {link: "Posts", "Pole": "Posts"})
    fig = plots.prototype_similarity(np.eye(2), words)
    assert fig.data[0].x[0].startswith("&lt;a href") and fig.data[0].y[0].startswith("&lt;a href")
    from geocbm.plots.theme import finish

    assert finish(go.Figure(), f"<b>{link}</b><br>", "alt").layout.title.text.startswith("<b>&lt;a href")


def test_words_given_for_an_axis_or_a_legend_stay_text():
    hostile = "<span style='color:red'>x"
    states = pd.DataFrame({"number": ["01"], "notebook": ["01_a"], "question": ["?"], "state": [hostile]})
    steps = {"policy": ["a", "a"], "n": [0, 1], "median_km": [2.0, 1.0]}
    curve = pd.DataFrame(steps | {"median_km_low": [1.0, 1.0], "median_km_high": [3.0, 2.0]})
    figures = (
        plots.error_curves({"ours": KM}, label=hostile),
        plots.country_bars(TABLE["country"], noun=hostile),
        plots.intervention_curves(curve, {}, noun=hostile),
        plots.chain_status(states),
    )
    for figure in figures:
        axis, names = figure.layout.xaxis.title.text or "", [trace.name or "" for trace in figure.data]
        assert "<span" not in axis + "".join(names)
        assert "&lt;span" in axis + "".join(names)


def test_many_points_are_drawn_without_webgl():
    rows = np.arange(1500)
    pairs = {"meta_name": rows.astype(str), "country": "A", "labels": 5, "log_odds_z": rows / 100}
    agreement = plots.clue_agreement(pd.DataFrame(pairs | {"contribution": rows / 1000}))
    history = pd.DataFrame({"epoch": np.arange(1, 1201), "train_loss": 1.0, "val_loss": 2.0})
    for figure in (agreement, plots.loss_curves(history)):
        assert {trace.type for trace in figure.data} == {"scatter"}
