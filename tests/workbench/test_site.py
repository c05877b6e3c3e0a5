"""What the index pages say of numbers, stages, dates and notebooks."""

import json
import os
import re
from html import unescape
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from geocbm.evaluation.compare_runs.load_runs import FIRST_TABLE
from geocbm.files import read_json_or_empty
from geocbm.metrics.table import HEADLINES, known
from geocbm.plots.theme import ON_DARK
from geocbm.predict.pretrained import MEASURED
from geocbm.workbench import html, overview, site


def test_a_card_writes_a_metric_by_its_key_and_not_by_its_value() -> None:
    assert site.format_metric("stage2.median_km", 0.634) == ("0.6 km", "")
    assert site.format_metric("stage2.country_acc", 0.634) == ("63.4 %", "")
    assert site.format_metric("somebody.elses", 0.634) == ("0.634", "")
    assert site.format_metric("stage2.median_km", float("inf")) == ("none", "")


def test_intervals_are_shown_where_there_are_any() -> None:
    key = "stage2.country_acc"
    assert site.format_metric(key, {"value": 0.5, "low": 0.4, "high": 0.6}) == (
        "50.0 %",
        "95 %: 40.0 to 60.0 %",
    )
    assert site.format_metric(key, {"value": 0.5, "low": None, "high": None}) == ("50.0 %", "")


def test_tiles_put_baselines_beside_the_figure() -> None:
    metrics = {"stage1.meta_top1": 0.7, "baseline.nearest_neighbour.meta_top1": 0.4, "baseline.other.meta_top1": 0.1}
    assert site.tiles(metrics) == [
        {"label": "Concept right", "value": "70.0 %", "span": "", "beside": [("nearest neighbour", "40.0 %")]}
    ]
    assert site.tiles({}) == []


def test_every_headline_is_in_the_table_of_metrics() -> None:
    assert set(HEADLINES) <= set(site.CARDS)
    assert all(known(key) for key in (*site.CARDS, *overview.SHOWN, *FIRST_TABLE, *MEASURED))


def test_the_entry_of_a_stage() -> None:
    assert site.stage_entry({"stages": {"05": {"seconds": 1}}}, "05") == {"seconds": 1}
    assert site.stage_entry({"stages": {"04": {}}}, "05") == site.stage_entry({}, "05") == {}


def test_the_opening_of_a_notebook() -> None:
    cells = [
        new_code_cell("x = 1"),
        new_markdown_cell("# What is in `data`?\n\nA look, 1.5 times over, at *everything*. And more.\n\nNot this."),
    ]
    first = site.opening(new_notebook(cells=cells))
    assert first == ("What is in data?", "A look, 1.5 times over, at everything.")
    assert site.opening(new_notebook(cells=[new_code_cell("x")])) == ("", "")


def test_facts_come_plain_first_and_digests_short() -> None:
    facts = site.provenance_facts(
        {"inputs": {"a.csv": "b" * 64}, "seconds": 3.14159, "seed": 0, "device": "cpu", "x": None}
    )
    assert facts == [("seconds", "3.142"), ("device", "cpu"), ("seed", "0"), ("inputs", [("a.csv", "bbbbbbbbbbbb...")])]


def test_dates_are_in_words_and_utc(tmp_path: Path) -> None:
    def said(*starts: str | None) -> str:
        stages = {str(number): {"started": start} for number, start in enumerate(starts)}
        return site.run_date({"stages": stages}, tmp_path)

    assert said("2026-11-23T16:04:00+01:00", "2026-11-22T16:04:00+01:00") == "23 November 2026, 15:04 UTC"
    assert said("yesterday") == "yesterday" and said(None) == said() == ""
    (tmp_path / "01_x.ipynb").touch()
    os.utime(tmp_path / "01_x.ipynb", (0, 0))
    assert said() == "1 January 1970, 00:00 UTC"


def test_templates_escape_what_they_print() -> None:
    row = {"run": "<b>", "href": "x", "date": "", "profile": "", "stages": 1, "failed": [], "figures": []}
    row |= {"simulated": False, "guessed": False, "warning": ""}
    page = html.template("site.html.j2").render(
        title="R", run="", assets="_assets", runs=[row], columns=[], simulated=""
    )
    assert "&lt;b&gt;" in page and "<b></a>" not in page
    (shades,) = re.findall(r'data-shades="([^"]+)"', page)
    assert json.loads(unescape(shades))["#1F2933"] == "#E6EDF3"


def test_figures_have_the_same_shades_in_a_dark_jupyterlab_as_in_a_dark_page() -> None:
    assert '[style*="stroke: rgb(31, 41, 51)"] { stroke: #E6EDF3 !important; }' in html.explorers_css()
    assert html.explorers_css().count("!important") == 2 * len(ON_DARK) + 2  # and its ground


@pytest.mark.parametrize(("content", "read"), [('{"a.b": 1}', {"a.b": 1}), ("{damaged", {}), ("[1]", {}), (None, {})])
def test_a_damaged_file_of_one_run_reads_as_empty(tmp_path, content: str | None, read: dict[str, int]) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_text(content)
    assert read_json_or_empty(path) == read
