"""A run's pages: rendered from executed notebooks made by hand, read back as a browser would load them."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from geocbm import cli
from geocbm.data import table as tables
from geocbm.data.simulated import BANNER
from geocbm.errors import MissingInputError, UserError
from geocbm.workbench import report, site
from geocbm.workbench.html import ANSWER_MIME, table_html
from geocbm.workbench.report_figures import PLOTLY_MIME

DOT = "R0lGODlhAQABAAAAACw="


class Loads(HTMLParser):
    """Collects what a page would load, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "src" or (name == "href" and tag != "a"):
                self.loaded.append(value or "")
            elif name == "href":
                self.links.append(value or "")


def figure(alt: str | None = "Two bars, 1 and 2.", **meta: object) -> dict:
    layout = {"meta": ({"alt": alt} if alt else {}) | meta}
    return {"data": [{"type": "bar", "x": ["a", "b"], "y": [1, 2]}], "layout": layout}


def shown(data: dict, metadata: dict | None = None):
    return new_output("display_data", data=data, metadata=metadata or {})


def write(path: Path, *outputs: object, title: str = "Where does it *think* it is?", stamp: dict | None = None) -> Path:
    intro = new_markdown_cell(f"# {title}\n\nIt looks at **patches**. Then it decides.\n\n<script>alert(1)</script>")
    parameters = new_code_cell("epochs: int = 4  # passes", metadata={"tags": ["parameters"]})
    code = new_code_cell("figure_of(table)", outputs=list(outputs))
    notebook = new_notebook(cells=[intro, parameters, code], metadata={"geocbm": stamp} if stamp else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOCBM_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    return tmp_path / "reports"


@pytest.fixture
def run(reports: Path) -> Path:
    folder = reports / "smoke"
    write(folder / "01_data_exploration.ipynb", shown({PLOTLY_MIME: figure()}), title="What is in the data?")
    write(
        folder / "05_stage2_geolocation.ipynb",
        new_output("stream", name="stdout", text="epoch 1\n"),
        new_output("stream", name="stdout", text="epoch 2\n10 %\r50 %\r100 %\n"),
        shown({PLOTLY_MIME: figure("The first."), "text/plain": "Figure"}),
        shown({PLOTLY_MIME: figure("The chosen one.", preview=True)}),
        shown({"text/html": "<table><tr><td>safe</td></tr></table><script>alert(2)</script>"}),
        shown({"image/png": DOT}, {"image/png": {"alt": "A dot"}}),
        stamp={"parameters": {"epochs": 4}, "libraries": {"torch": "2.14.1"}, "code": "a" * 64},
    )
    write(
        folder / "06_evaluation.failed.ipynb",
        new_output("error", ename="ValueError", evalue="too few", traceback=["ValueError: too few"]),
        shown({PLOTLY_MIME: figure(None)}),
        title="How good?",
    )
    stages = {"05": {"status": "skipped", "seconds": 141.2, "started": "2026-11-23T15:04:00+00:00", "device": "cpu"}}
    (folder / "manifest.json").write_text(json.dumps({"profile": "demo", "stages": stages}))
    metrics = {
        "stage2.median_km": {"value": 812.3, "low": 700.1, "high": 930.2},
        "stage2.country_acc": 0.634,
        "baseline.nearest_neighbour.median_km": 1500,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_every_page_loads_only_files_that_lie_beside_it(run: Path, reports: Path) -> None:
    assert report.render_run("smoke") == run / "index.html"
    assert report.render_site() == reports / "index.html"
    pages = sorted(reports.rglob("*.html"))
    assert len(pages) == 5
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loads = Loads()
        loads.feed(text)
        assert any(name.endswith("plotly.min.js") for name in loads.loaded)
        for address in loads.loaded:
            if not address.startswith("data:"):
                assert (page.parent / address).is_file(), f"{page.name} loads {address}"
        for address in loads.links:
            if not address.startswith(("#", "http")):
                assert (page.parent / address).is_file(), f"{page.name} links to {address}"
        assert not re.search(r"@import|url\(\s*['\"]?http|alert\(", text)
        assert "No alternative text" not in text and "No description has been provided" not in text
    style = (reports / "_assets" / "site.css").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|https?:", style)


def test_every_page_of_a_simulated_run_says_so(run: Path, reports: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    write(reports / "real" / "01_data_exploration.ipynb")
    for folder, simulated in ((run, 1), (reports / "real", 0)):
        (folder / "metrics.json").write_text(json.dumps(metrics | {"data.simulated": simulated}))
        report.render_run(folder.name)
    report.render_site()
    pages = sorted(run.glob("*.html"))
    assert len(pages) == 4
    for page in pages:
        assert page.read_text(encoding="utf-8").count('<p class="banner simulated"') == 1, page.name
    for page in (reports / "real").glob("*.html"):
        assert "simulated" not in page.read_text(encoding="utf-8")
    index = (reports / "index.html").read_text(encoding="utf-8")
    assert index.count('<p class="banner simulated"') == 1 and index.count('<span class="tag">simulated</span>') == 1


def test_every_page_of_a_run_says_that_its_concepts_are_guessed(run: Path, reports: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for simulated in (0, 1):
        said = metrics | {"data.simulated": simulated, "data.guessed": 1}
        (run / "metrics.json").write_text(json.dumps(said))
        report.render_run(run.name)
        report.render_site()
        for page in run.glob("*.html"):
            text = page.read_text(encoding="utf-8")
            assert text.count("Guessed concepts:") == 1 and text.count("Simulated world:") == simulated, page.name
        index = (reports / "index.html").read_text(encoding="utf-8")
        assert index.count('<span class="tag">concepts guessed</span>') == 1


def test_a_run_that_has_recorded_nothing_is_asked_for_its_table(run: Path, reports: Path, tmp_path: Path) -> None:
    assert site.banner(run) == ""  # there is no table yet
    texts = dict.fromkeys(
        ("pano_id", "image_path", "meta_name", "parent_concept", "country", "note", "image_sha256"), "a"
    )
    table = pd.DataFrame([texts | {"lat": 1.0, "lng": 2.0}])
    table.attrs = {"simulated": True}
    (tmp_path / "data" / "runs" / "smoke").mkdir(parents=True)
    tables.save_table(table, tmp_path / "data" / "runs" / "smoke" / "table.parquet")
    assert site.banner(run) == BANNER


def test_the_page_of_a_notebook(run: Path) -> None:
    report.render_run("smoke")
    page = (run / "05_stage2_geolocation.html").read_text(encoding="utf-8")
    assert "Where does it think it is?" in page and "epoch 1\nepoch 2" in page
    assert page.count("data-of=") == 2 and 'aria-label="The chosen one."' in page
    assert 'alt="A dot"' in page and "<td>safe</td>" in page
    assert 'rel="prev"' in page and 'href="01_data_exploration.html"' in page and 'rel="next"' in page
    assert "2.14.1" in page and "aaaaaaaaaaaa..." in page and "cpu" in page
    assert '<details class="code">' in page
    identifiers = re.findall(r'data-of="(plot-[^"]+)"', page)
    assert len(identifiers) == len(set(identifiers)) == 2


def test_a_page_begins_with_its_answer_and_folds_its_set_up(reports: Path) -> None:
    said = {ANSWER_MIME: {}, "text/html": "<p><strong>Half &lt;b&gt; of them.</strong></p>", "text/plain": "Half."}
    path = write(
        reports / "smoke" / "05_stage2_geolocation.ipynb",
        shown({PLOTLY_MIME: figure("The first.")}),
        shown({PLOTLY_MIME: figure("The chosen one.", preview=True)}),
        shown(said),
    )
    notebook = nbformat.read(path, 4)
    notebook.cells[2:2] = [new_markdown_cell("## A batch\n\nEight."), new_markdown_cell("## The $x$ & the `y`")]
    nbformat.write(notebook, path)
    report.render_run("smoke")
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    order = ("<h1", "Half &lt;b&gt; of them.", 'aria-label="The chosen one."', "<summary>Parameters, files", "<h2 id")
    assert sorted(order, key=page.index) == list(order)
    assert page.count("Half &lt;b&gt; of them.") == 1
    assert page.count('data-figure="plot-5-1"') == 2 and page.count('data-of="plot-5-1"') == 1
    for anchor in re.findall(r'<li><a href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    assert "On this page" in page and page.index('<details class="setup">') < page.index("epochs")


def test_a_section_whose_tables_are_empty_is_not_there(reports: Path) -> None:
    empty = shown({"text/html": table_html(pd.DataFrame(), "Runs & verdicts")})
    path = write(reports / "smoke" / "10_compare_runs.ipynb")
    notebook = nbformat.read(path, 4)
    for title, outputs in (("Empty", [empty, empty]), ("Half", [empty, shown({"text/plain": "5"})]), ("Own code", [])):
        notebook.cells += [new_markdown_cell(f"## {title}?"), new_code_cell("1"), new_code_cell("2", outputs=outputs)]
    nbformat.write(notebook, path)
    page = report.render_notebook(path).read_text(encoding="utf-8")
    assert "Empty?" not in page and page.count("nothing to show") == 1
    assert all(f"{title}?" in page for title in ("Half", "Own code"))


def test_nothing_but_the_scripts_of_the_site_can_run(run: Path, reports: Path) -> None:
    report.render_run("smoke")
    report.render_site()
    for page in reports.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
        assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1].split("script-src")[1]
        assert all("src=" in tag or "application/json" in tag for tag in re.findall(r"<script[^>]*>", text))


def test_rendering_again_gives_the_same_bytes_and_forgets_stale_pages(run: Path) -> None:
    report.render_run("smoke")
    before = {path.name: path.read_bytes() for path in run.glob("*.html")}
    (run / "09_gone.html").write_text("old")
    (run / "notes.html").write_text("mine")
    report.render_run("smoke")
    after = {path.name: path.read_bytes() for path in run.glob("*.html")}
    assert after.pop("notes.html") == b"mine"
    assert after == before


def test_the_index_of_a_run(run: Path) -> None:
    page = report.render_run("smoke").read_text(encoding="utf-8")
    assert "812 km" in page and "95 %: 700 to 930 km" in page and "63.4 %" in page and "1,500 km" in page
    assert "It looks at patches." in page and "Then it decides" not in page
    assert 'aria-label="The chosen one."' in page and 'aria-label="The first."' not in page
    assert "skipped · 2.4 min" in page and "23 November 2026, 15:04 UTC" in page
    assert 'class="card failed"' in page and 'href="06_evaluation.failed.html"' in page


def test_a_failure_takes_the_card_and_keeps_the_earlier_success(run: Path) -> None:
    write(run / "06_evaluation.ipynb", shown({PLOTLY_MIME: figure("Earlier.")}), title="How good?")
    page = report.render_run("smoke").read_text(encoding="utf-8")
    assert page.count("<article") == 3
    assert 'href="06_evaluation.failed.html"' in page and 'href="06_evaluation.html"' in page
    failed = (run / "06_evaluation.failed.html").read_text(encoding="utf-8")
    assert 'id="error"' in failed and "ValueError: too few" in failed


def test_the_list_of_runs(run: Path, reports: Path) -> None:
    assert "There is no run yet" in report.render_site().read_text(encoding="utf-8")
    report.render_run("smoke")
    page = report.render_site().read_text(encoding="utf-8")
    assert 'href="smoke/index.html"' in page and "812 km" in page and "06 failed" in page
    shutil.copytree(run, reports / "smoke (copy)")  # its name cannot be a run's
    assert report.render_site().read_text(encoding="utf-8") == page and cli.main(["render"]) == 0


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (shown({PLOTLY_MIME: figure(None)}), "figure has no alternative text"),
        (shown({"image/png": DOT}), "has no alternative text"),
        (shown({"text/html": '<img src="data:image/gif;base64,R0l">'}), "give its img an alt"),
        (
            shown(
                {
                    PLOTLY_MIME: {
                        "data": [{"type": "scattergeo", "lat": [1], "lon": [1]}],
                        "layout": {"meta": {"alt": "Map."}},
                    }
                }
            ),
            "coastline",
        ),
    ],
)
def test_what_cannot_be_described_or_drawn_is_refused(output: object, words: str, reports: Path) -> None:
    source = write(reports / "smoke" / "03_stage0.ipynb", output)
    page = source.with_suffix(".html")
    with pytest.raises(UserError, match=words) as caught:
        report.render_notebook(source)
    assert "03_stage0.ipynb, cell 3" in str(caught.value)
    assert not page.exists()


def test_a_live_control_leaves_no_trace(reports: Path) -> None:
    widget = shown({"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "HBox(children=())"})
    source = write(reports / "smoke" / "03_stage0.ipynb", widget)
    assert "HBox" not in report.render_notebook(source).read_text(encoding="utf-8")


def test_missing_and_broken_notebooks_are_one_sentence(reports: Path) -> None:
    with pytest.raises(MissingInputError, match="geocbm run --run nothing"):
        report.render_run("nothing")
    broken = reports / "smoke" / "01_data.ipynb"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    with pytest.raises(report.ReportError, match=r"01_data\.ipynb is not a readable notebook"):
        report.render_run("smoke")
    with pytest.raises(MissingInputError, match=r"02_gone\.ipynb"):
        report.render_notebook(broken.with_name("02_gone.ipynb"))


def test_assets_are_copied_once_and_mended(reports: Path) -> None:
    folder = report.fill_assets()
    assert folder == reports / "_assets"
    assert (folder / "plotly.min.js").stat().st_size > 1_000_000
    os.utime(folder / "plotly.min.js", (1, 1))
    (folder / "site.css").write_text("broken")
    report.fill_assets()
    assert (folder / "plotly.min.js").stat().st_mtime == 1
    assert (folder / "site.css").read_text(encoding="utf-8") != "broken"
