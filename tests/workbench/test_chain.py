"""The smoke chain through papermill, as a user starts it, and the site it renders."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from geocbm.metrics.table import RATE, known, metric
from geocbm.workbench.stages import number_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]*_*.py"))]
RELOADS = re.compile(r"""(?:src|href)=["'](?P<link>[^"'#]+)["']|url\((?P<url>[^)]+)\)|@import\s+(?P<imported>\S+)""")

pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder whose data/ and reports/ the chain writes to; `make test` shares it with nbval."""
    shared = os.environ.get("GEOCBM_TEST_ROOT")
    return Path(shared) if shared else tmp_path_factory.mktemp("chain")


def geocbm(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GEOCBM_DATA": str(home / "data"), "GEOCBM_REPORTS": str(home / "reports")}
    return subprocess.run(
        [sys.executable, "-m", "geocbm", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def report(home: Path) -> Path:
    """Reports of the smoke run."""
    done = geocbm(home, "run", "--profile", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{home / 'reports' / 'smoke' / 'index.html'}" in done.stdout.splitlines()[-1]
    return home / "reports" / "smoke"


def stages_said(output: str, word: str) -> set[str]:
    """Numbers of the stages whose line holds a word."""
    return {line[1:].partition("]")[0] for line in output.splitlines() if line.startswith("[") and word in line}


def test_every_notebook_has_run_and_has_a_page(report: Path) -> None:
    for page in PAGES:
        assert (report / f"{page}.ipynb").exists(), page
        assert (report / f"{page}.html").exists(), page
    assert not list(report.glob("*.failed.*"))


def test_a_second_run_skips_everything_and_says_so(home: Path, report: Path) -> None:
    again = geocbm(home, "run", "--profile", "smoke")
    assert again.returncode == 0, again.stderr
    assert stages_said(again.stdout, "skipped") >= {number_of(page) for page in PAGES}
    assert not stages_said(again.stdout, "running")


def test_a_parameter_of_05_reruns_what_depends_on_it_and_nothing_else(home: Path, report: Path) -> None:
    planned = geocbm(home, "run", "--profile", "smoke", "--set", "05.epochs=7", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert stages_said(planned.stdout, "would run") == {"05"}
    assert stages_said(planned.stdout, "may run") == {"06", "06b", "07", "07b", "08", "09", "10", "00"}
    assert stages_said(planned.stdout, "would be skipped") == {"01", "02", "03", "04"}
    assert "epochs" in next(line for line in planned.stdout.splitlines() if line.startswith("[05]"))


def test_the_map_of_the_geocells_is_a_picture_of_the_run(home: Path, report: Path) -> None:
    with Image.open(home / "data" / "runs" / "smoke" / "visualizations" / "geocells_map.png") as picture:
        assert picture.format == "PNG" and picture.width == 2000


def test_no_stage_is_trained_upon_a_stage_of_other_splits(home: Path, report: Path) -> None:
    """New splits under Stages 0 and 1 that have seen what is now the test split."""
    ask = ("run", "--profile", "smoke", "--run", "leak", "--no-render")
    taken = geocbm(home, *ask, "--reuse", "smoke", "--only", "01,02,03,04,05")
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert stages_said(taken.stdout, "taken over from run smoke") == {"01", "02", "03", "04", "05"}
    leaking = geocbm(home, *ask, "--only", "01,02,05", "--set", "01.seed=1")
    assert leaking.returncode == 1, leaking.stdout
    assert "was made from other splits than the run has now" in leaking.stderr
    assert "geocbm run --profile smoke --run leak --set 01.seed=1 --from 03" in leaking.stderr
    assert "Traceback" not in leaking.stderr
    listed = geocbm(home, "list").stdout
    assert "run 'leak' is not as it was made: 03 stale (made from another splits.json)" in listed


def test_the_figures_others_read_are_there(report: Path) -> None:
    figures = json.loads((report / "metrics.json").read_text())
    for key in (
        "stage1.meta_top1",
        "stage1.parent_top1_marginal",
        "stage1.semantic_close",
        "stage2.cell_top1",
        "stage2.median_km",
        "stage2.acc_750km",
        "stage2.geoscore",
        "stage2.country_acc",
        "baseline.prior.median_km",
        "baseline.mean_colour.country_acc",
        "baseline.nearest_neighbour.meta_top1",
        "baseline.gallery.median_km",
        "baseline.true_concepts.median_km",
        "variant.both.median_km",
        "variant.concept_only.geoscore",
        "variant.image_only.median_km",
        "variant.concept_scores.geoscore",
        "variant.hybrid.median_km",
        "bottleneck.mlp.meta_top1",
    ):
        assert key in figures, key
    for key in (
        "cells.oracle_median_km",
        "stage0.recall_1",
        "stage0.retrieval_km",
        "stage0.class_mean_meta",
        "stage1.meta_top5",
        "stage1.parent_top1",
        "stage1.parent_top5",
        "stage1.parent_macro_recall",
        "stage1.semantic_close",
        "stage1.semantic_close_random",
        "stage2.cell_top1",
        "variant.both.geoscore",
        "bottleneck.mlp.meta_top1",
    ):
        assert figures[key]["low"] <= figures[key]["value"] <= figures[key]["high"], key
    for key, figure in figures.items():
        value = figure["value"] if isinstance(figure, dict) else figure
        # Completeness sets what concepts give against what everything gives, and may exceed 1.
        if metric(key).unit == RATE and not metric(key).change and "completeness" not in key:
            assert 0 <= value <= 1, (key, value)


def test_every_metric_has_a_row_in_the_table(report: Path) -> None:
    keys = json.loads((report / "metrics.json").read_text())
    assert [key for key in keys if not known(key)] == []


@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2"])
def test_every_stage_has_learned_something(home: Path, report: Path, stage: str) -> None:
    folder = home / "data" / "runs" / "smoke"
    before = json.loads((folder / f"{stage}.json").read_text())["initial"]["loss"]
    after = pd.read_parquet(folder / f"history_{stage}.parquet")["val_loss"].min()
    assert after < 0.99 * before


def test_the_site_needs_no_network(report: Path) -> None:
    pages = [*report.glob("*.html"), report.parent / "index.html"]
    assert len(pages) == len(PAGES) + 2
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
            for match in RELOADS.finditer(tag):
                link = match["link"] or match["url"] or match["imported"]
                if link.startswith("data:"):
                    continue
                assert not re.match(r"(https?:)?//", link), (page.name, link[:80])
                assert (page.parent / link).exists(), (page.name, link[:80])
        assert "No alternative text" not in text


def test_every_page_says_that_the_world_is_simulated(report: Path) -> None:
    for page in [*report.glob("*.html"), report.parent / "index.html"]:
        text = page.read_text(encoding="utf-8")
        assert text.count('<p class="banner simulated"') == 1, page.name
        # What a reader sees: no code, no style, and of figures the hover texts and labels.
        seen = re.sub(r'<details class="code">.*?</details>|<section class="provenance".*', "", text, flags=re.DOTALL)
        # Benchmarks of photographs keep their name.
        seen = re.sub(r"Photographs: (Im2GPS3k|YFCC4k)|photographs, harder or easier ones", "", seen)
        assert not (left := re.findall(r".{60}[Pp]hotograph.{40}", seen)), (page.name, left[:3])
    assert "scenes" in (report / "01_data_exploration.html").read_text(encoding="utf-8")


def test_every_figure_and_picture_tells_what_it_shows(report: Path) -> None:
    figures = 0
    for page in PAGES:
        notebook = json.loads((report / f"{page}.ipynb").read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                figure = output.get("data", {}).get("application/vnd.plotly.v1+json")
                if figure is not None:
                    figures += 1
                    assert len(figure["layout"]["meta"]["alt"]) > 20, page
        html = (report / f"{page}.html").read_text(encoding="utf-8")
        for image in re.findall(r"<img\b[^>]*>", html):
            assert re.search(r'alt="[^"]{10,}"', image), (page, image[:120])
    assert figures > 20


def test_maps_draw_without_a_base_map_from_the_network(report: Path) -> None:
    for page in ("01_data_exploration", "02_geocells", "05_stage2_geolocation"):
        notebook = json.loads((report / f"{page}.ipynb").read_text(encoding="utf-8"))
        maps = [
            output["data"]["application/vnd.plotly.v1+json"]
            for cell in notebook["cells"]
            for output in cell.get("outputs", [])
            if "scattergeo" in json.dumps(output.get("data", {}).get("application/vnd.plotly.v1+json", {}))
        ]
        assert maps, page
        for figure in maps:
            assert figure["data"][0]["type"] == "scattergeo"
            assert figure["data"][0]["mode"] == "lines"
            assert figure["layout"]["geo"]["visible"] is False


def test_provenance_is_stamped_and_knows_no_machine(home: Path, report: Path) -> None:
    manifest = (report / "manifest.json").read_text(encoding="utf-8")
    stages = json.loads(manifest)["stages"]
    assert {number_of(page) for page in PAGES} <= set(stages)
    for number in ("03", "04", "05"):
        assert stages[number]["seconds"] > 0
        assert stages[number]["inputs"]
        assert stages[number]["outputs"]
    assert str(home) not in manifest
    assert str(ROOT) not in manifest


def test_a_parameter_that_trains_nothing_makes_pages_anew_from_the_same_weights(home: Path, report: Path) -> None:
    """The last test of this file: it leaves the run with another number of resamples in 04."""
    weights = home / "data" / "runs" / "smoke" / "stage1.safetensors"
    before = weights.read_bytes()
    again = geocbm(home, "run", "--profile", "smoke", "--only", "04", "--set", "04.bootstrap=60", "--no-render")
    assert again.returncode == 0, again.stderr
    assert stages_said(again.stdout, "bootstrap") == {"04"}
    page = (report / "04_stage1_concepts.ipynb").read_text(encoding="utf-8")
    assert page.count("trained before with the same settings") == 1 and "epoch 1/" not in page
    assert weights.read_bytes() == before
