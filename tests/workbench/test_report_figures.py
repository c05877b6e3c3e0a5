"""Figures: description, data table, offline maps, and scripts that stay closed."""

import json
import re

from geocbm.workbench.report_figures import figure_html, figure_meta, online_map_problem, preview_html

COAST = {"type": "scattergeo", "mode": "lines", "hoverinfo": "skip", "lat": [0, 1, None], "lon": [0, 1, None]}
POINTS = {"type": "scattergeo", "mode": "markers", "name": "tests", "lat": [10.5], "lon": [-3.25]}


def test_words_are_read_from_the_layout() -> None:
    assert figure_meta({"layout": {"meta": {"alt": " Two bars. ", "preview": True}}}) == ("Two bars.", True)
    assert figure_meta({"layout": {"meta": "words"}}) == figure_meta({}) == ("", False)


def test_figure_carries_its_description_and_cannot_close_the_script() -> None:
    hostile = "</script><script>alert(1)</script>"
    bundle = {"data": [{"type": "bar", "x": [1], "y": [hostile]}], "layout": {"width": 500}}
    html = figure_html(bundle, "plot-3-0", 'Says "hello" & <more>.')
    assert 'aria-label="Says &quot;hello&quot; &amp; &lt;more&gt;."' in html
    assert html.count("</script>") == 1 and "alert(1)</script>" not in html
    drawn = json.loads(re.search(r'data-of="[^"]+">(.*)</script>', html).group(1))
    assert drawn["data"][0]["y"] == [hostile]
    assert "width" not in drawn["layout"] and "max-width:500px" in html
    assert drawn["config"]["plotlyServerURL"] == "" and drawn["config"]["displaylogo"] is False
    assert drawn["config"]["showSendToCloud"] is False
    assert bundle["layout"] == {"width": 500}, "the notebook's own figure is left as it was"


def test_preview_is_still_and_bare() -> None:
    bundle = {"data": [{"type": "heatmap", "z": [[1]]}], "layout": {"title": {"text": "T"}, "xaxis": {"title": "x"}}}
    html = preview_html(bundle, "preview-05", "One square.")
    drawn = json.loads(re.search(r'data-of="[^"]+">(.*)</script>', html).group(1))
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
