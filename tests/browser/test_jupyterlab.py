"""JupyterLab as a researcher meets it: Run All of every notebook on a finished run; a save reaches the script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from tools.lab_server import DONE, ROOT, Lab, lab_server, run_all, shut_down

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_server(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


def cells(page: Page) -> list[dict[str, Any]]:
    return page.evaluate("window.jupyterapp.shell.currentWidget.content.model.toJSON().cells")


DRAWN = """() => {
    const plots = [...document.querySelectorAll(".jupyter-widgets .js-plotly-plot")];
    return plots.length && plots.every(plot => plot.calcdata);
}"""
SHOWN = """() => [...document.querySelectorAll(".jupyter-widgets .js-plotly-plot")].map(plot => JSON.stringify(
    [(plot.layout.shapes || []).map(dot => [dot.xanchor, dot.yanchor]), plot.data.map(trace => [
        trace.lat, trace.x, trace.marker && trace.marker.color,
        trace.z && trace.z.length < 100 && Array.from(trace.z, row => Array.from(row))])]))"""

DRAGGED = """async () => {
    const sheet = new OffscreenCanvas(64, 48), drawn = sheet.getContext("2d"), dragged = new DataTransfer();
    drawn.fillStyle = "rgb(200, 30, 30)";
    drawn.fillRect(0, 0, 64, 48);
    dragged.items.add(new File([await sheet.convertToBlob()], "red.png"));
    return dragged;
}"""


def dropdown(name: str) -> str:
    return f'.widget-dropdown:has-text("{name}") select'


OPERATED = {  # notebook: a control of each of its explorers, and the key pressed there; a choice needs none
    "00_start_here": [
        ("button:has-text('Choose a photograph')", "file"),
        (".geocbm-drop", "drop"),
        ('.widget-text:has-text("latitude") input', "ArrowUp"),
    ],
    "01_data_exploration": [(dropdown("country"), "")],
    "02_geocells": [("[role=slider]", "Home")],
    "03_stage0_pretraining": [(dropdown("weights"), "")],
    "04_stage1_concepts": [(dropdown("concept"), "")],
    "05_stage2_geolocation": [(dropdown("gradient of"), "")],
    "06_evaluation": [
        (dropdown("head"), ""),
        (".widget-select select", "ArrowDown"),  # a key that JupyterLab has a shortcut for
    ],
    "08_interventions": [("input[type=range]", "Home")],
}


def operate(page: Page, control: str, key: str, folder: Path) -> None:
    """Use a control of an explorer and wait until a figure is another one."""
    first = page.locator(f".jupyter-widgets {control}, .jupyter-widgets{control}").first
    first.scroll_into_view_if_needed(timeout=60_000)
    page.wait_for_function(DRAWN)
    before = page.evaluate(SHOWN)
    if key == "file":
        side = 2000  # more bytes than the server takes in one message
        noise = np.random.default_rng(0).bytes(3 * side * side)
        Image.frombytes("RGB", (side, side), noise).save(folder / "noise.png", compress_level=0)
        with page.expect_file_chooser() as chooser:
            first.click()
        chooser.value.set_files(folder / "noise.png")
    elif key == "drop":
        first.dispatch_event("drop", {"dataTransfer": page.evaluate_handle(DRAGGED)})
    elif key:
        first.focus()
        page.keyboard.press(key)
    else:
        first.select_option(index=1)
    page.wait_for_function(f"before => JSON.stringify(({SHOWN})()) !== JSON.stringify(before)", arg=before)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_run_all_ends_without_an_error_and_explorers_answer(
    lab: Lab, browser: Browser, tmp_path: Path, notebook: str
) -> None:
    page = lab.open(browser, f"{notebook}.ipynb")
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(DONE, timeout=600_000)
    code = [cell for cell in cells(page) if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    errors = [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert not errors, f"{notebook}: {errors[0]['ename']}: {errors[0]['evalue']}"
    assert all(cell["execution_count"] for cell in code)
    wrong.clear()
    for control, key in OPERATED.get(notebook, []):
        operate(page, control, key, tmp_path)
        assert not wrong, f"{notebook}, {control}: {wrong[:3]}"
    shut_down(page)


def test_a_save_reaches_the_script_and_leaves_no_outputs_for_git(lab: Lab, browser: Browser) -> None:
    page = lab.open(browser, f"{NOTEBOOKS[0]}.ipynb")
    run_all(page, 120)
    words = "A sentence that was written in JupyterLab."
    page.evaluate(
        """words => {
            const first = window.jupyterapp.shell.currentWidget.content.model.cells.get(0).sharedModel;
            first.setSource(first.getSource() + "\\n\\n" + words);
        }""",
        words,
    )
    page.locator(".jp-Notebook").click()
    page.keyboard.press("Control+s")
    script = lab.project / "notebooks" / f"{NOTEBOOKS[0]}.py"
    for _ in range(100):
        if words in script.read_text(encoding="utf-8"):
            break
        page.wait_for_timeout(100)
    assert words in script.read_text(encoding="utf-8")
    saved = json.loads((lab.project / "notebooks" / f"{NOTEBOOKS[0]}.ipynb").read_text(encoding="utf-8"))
    assert any(words in "".join(cell["source"]) for cell in saved["cells"])
    assert not any(cell.get("outputs") for cell in saved["cells"] if "tags" not in cell["metadata"])
    page.context.close()
