"""Figures: description, data table, offline maps, and scripts that stay closed."""

import base64
import json
import re

import numpy as np
import pytest

from geocbm.workbench.report_figures import (
    TABLE_ROWS,
    data_table,
    figure_alt,
    figure_html,
    format_cell,
    online_map_problem,
    preview_html,
)

COAST = {"type": "scattergeo", "mode": "lines", "hoverinfo": "skip", "lat": [0, 1, None], "lon": [0, 1, None]}
POINTS = {"type": "scattergeo", "mode": "markers", "name": "tests", "lat": [10.5], "lon": [-3.25]}


def packed(values: np.ndarray) -> dict:
    typed = {"dtype": values.dtype.str[1:], "bdata": base64.b64encode(values.tobytes()).decode()}
    return typed | ({"shape": ", ".join(map(str, values.shape))} if values.ndim > 1 else {})


def test_alt_is_read_from_the_layout() -> None:
    assert figure_alt({"layout": {"meta": {"alt": " Two bars. "}}}) == "Two bars."
    assert figure_alt({"layout": {"meta": "words"}}) == figure_alt({}) == ""


def test_table_of_bars_takes_names_from_axes_and_unpacks_arrays() -> None:
    bundle = {
        "data": [{"type": "bar", "x": packed(np.array([1.23456, 2000.4])), "y": ["Peru<br>x", "Mali"]}],
        "layout": {"xaxis": {"title": {"text": "median <b>km</b>"}}},
    }
    assert data_table(bundle) == (["median km", "y"], [["1.235", "Peru, x"], ["2,000", "Mali"]], 2)


def test_table_of_several_traces_names_the_series() -> None:
    traces = [{"type": "scatter", "name": name, "x": [0, 1], "y": [2, 3]} for name in ("train", "val")]
    columns, rows, total = data_table({"data": traces})
    assert columns == ["series", "x", "y"] and total == 4
    assert rows[0] == ["train", "0", "2"] and rows[3] == ["val", "1", "3"]


def test_table_of_a_heat_map_is_long() -> None:
    grid = {"type": "heatmap", "x": ["a", "b"], "y": ["c"], "z": packed(np.array([[0.5, 1.0]]))}
    assert data_table({"data": [grid]})[1] == [["a", "c", "0.5"], ["b", "c", "1"]]


def test_coastlines_and_gaps_are_no_data() -> None:
    columns, rows, _ = data_table({"data": [COAST, POINTS]})
    assert columns == ["latitude", "longitude"] and rows == [["10.5", "-3.25"]]
    assert data_table({"data": [{"type": "scatter", "x": [1, None], "y": [1, None]}]})[2] == 1


def test_a_long_table_is_cut_and_says_so() -> None:
    bundle = {"data": [{"type": "scatter", "x": list(range(1234)), "y": list(range(1234))}]}
    assert len(data_table(bundle)[1]) == TABLE_ROWS
    assert f"The first {TABLE_ROWS} of 1,234 rows." in figure_html(bundle, "plot-1-0", "A line.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (3, "3"),
        (12345, "12,345"),
        (0.000123456, "0.0001235"),
        (True, "True"),
        ("<i>a</i>", "a"),
    ],
)
def test_cells_are_short(value: object, text: str) -> None:
    assert format_cell(value) == text


def test_figure_carries_its_description_and_cannot_close_the_script() -> None:
    hostile = "</script><script>alert(1)</script>"
    bundle = {"data": [{"type": "bar", "x": [1], "y": [hostile]}], "layout": {"width": 500}}
    html = figure_html(bundle, "plot-3-0", 'Says "hello" & <more>.')
    assert 'aria-label="Says &quot;hello&quot; &amp; &lt;more&gt;."' in html
    assert html.count("</script>") == 1 and "alert(1)</script>" not in html
    drawn = json.loads(re.search(r"Plotly\.newPlot\(place,(.*)\);}\]\);</script>", html).group(1))
    assert drawn["data"][0]["y"] == [hostile]
    assert "width" not in drawn["layout"] and "max-width:500px" in html
    assert drawn["config"]["plotlyServerURL"] == "" and drawn["config"]["displaylogo"] is False
    assert drawn["config"]["showSendToCloud"] is False
    assert bundle["layout"] == {"width": 500}, "the notebook's own figure is left as it was"


def test_preview_is_still_and_bare() -> None:
    bundle = {"data": [{"type": "heatmap", "z": [[1]]}], "layout": {"title": {"text": "T"}, "xaxis": {"title": "x"}}}
    html = preview_html(bundle, "preview-05", "One square.")
    drawn = json.loads(re.search(r"Plotly\.newPlot\(place,(.*)\);}\]\);</script>", html).group(1))
    assert drawn["config"]["staticPlot"] is True and drawn["data"][0]["showscale"] is False
    assert "title" not in drawn["layout"] and "title" not in drawn["layout"]["xaxis"]


def test_a_map_that_needs_the_network_is_named() -> None:
    offline = {"data": [COAST, POINTS], "layout": {"geo": {"visible": False}}}
    assert online_map_problem(offline) is None
    assert "coastline" in (online_map_problem({"data": [POINTS], "layout": {"geo": {"visible": False}}}) or "")
    assert "visible=False" in (online_map_problem({"data": [COAST, POINTS], "layout": {}}) or "")
    second = {
        "data": [COAST, POINTS | {"geo": "geo2"}],
        "layout": {"geo": {"visible": False}, "geo2": {"visible": False}},
    }
    assert "geo2" in (online_map_problem(second) or "")
    by_template = {"data": [COAST], "layout": {"template": {"layout": {"geo": {"visible": False}}}}}
    assert online_map_problem(by_template) is None
