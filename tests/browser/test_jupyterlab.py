"""JupyterLab as a researcher meets it: Run All of every notebook on a finished run; a save reaches the script."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from geocbm.files import link_or_copy, paths

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
READY = """() => {
    const shown = window.jupyterapp && window.jupyterapp.shell.currentWidget;
    return Boolean(shown && shown.content && shown.content.model && shown.context.isReady
        && shown.sessionContext && shown.sessionContext.session && shown.sessionContext.session.kernel);
}"""

DONE = """() => {
    const code = window.jupyterapp.shell.currentWidget.content.model.toJSON().cells.filter(
        cell => cell.cell_type === "code" && [].concat(cell.source).join("").trim());
    return code.every(cell => cell.execution_count)
        || code.some(cell => cell.outputs.some(output => output.output_type === "error"));
}"""


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab on a copy of the project, with a copy of the newest run."""

    address: str
    token: str
    project: Path

    def open(self, browser: Browser, notebook: str) -> Page:
        page = browser.new_context(viewport={"width": 1500, "height": 1000}).new_page()
        page.goto(f"{self.address}lab/tree/notebooks/{notebook}?token={self.token}&reset")
        page.wait_for_function(READY, timeout=120_000)
        return page


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    runs = paths.finished_runs()
    assert runs, "there is no finished run to look at; make one with: make run"
    folder = tmp_path_factory.mktemp("lab")
    project = folder / "project"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, project / name)
    source, data = paths.data_root(), folder / "data"
    shutil.copytree(source / "runs" / runs[0], data / "runs" / runs[0], copy_function=link_or_copy)
    for beside in source.iterdir():
        if beside.name != "runs":
            (data / beside.name).symlink_to(beside)
    environment = os.environ | {
        "GEOCBM_DATA": str(data),
        "GEOCBM_REPORTS": str(folder / "reports"),
        "GEOCBM_ROOT": str(project),
        "PYTHONPATH": str(project),
        "JUPYTER_CONFIG_PATH": str(project / "tools" / "lab"),  # as `make lab` has it
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    environment.pop("GEOCBM_RUN", None)
    command = ["-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={project}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, *command], cwd=project, env=environment, stdout=log, stderr=log)
    try:
        yield Lab(*_address(folder, server), project)
    finally:
        server.terminate()
        server.wait(30)


def _address(folder: Path, server: subprocess.Popen[bytes]) -> tuple[str, str]:
    for _ in range(600):
        for file in (folder / "runtime").glob("jpserver-*.json"):
            if content := file.read_text(encoding="utf-8"):
                told = json.loads(content)
                return told["url"], told["token"]
        assert server.poll() is None, (folder / "log").read_text(encoding="utf-8")[-2000:]
        time.sleep(0.1)
    raise AssertionError("JupyterLab did not start within a minute")


def cells(page: Page) -> list[dict[str, Any]]:
    return page.evaluate("window.jupyterapp.shell.currentWidget.content.model.toJSON().cells")


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_run_all_ends_without_an_error(lab: Lab, browser: Browser, notebook: str) -> None:
    page = lab.open(browser, notebook)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(DONE, timeout=600_000)
    code = [cell for cell in cells(page) if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    errors = [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert not errors, f"{notebook}: {errors[0]['ename']}: {errors[0]['evalue']}"
    assert all(cell["execution_count"] for cell in code)
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.context.close()


def test_a_save_reaches_the_script_and_leaves_no_outputs_for_git(lab: Lab, browser: Browser) -> None:
    page = lab.open(browser, NOTEBOOKS[0])
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(DONE, timeout=120_000)
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
    script = lab.project / "notebooks" / NOTEBOOKS[0].replace(".ipynb", ".py")
    for _ in range(100):
        if words in script.read_text(encoding="utf-8"):
            break
        page.wait_for_timeout(100)
    assert words in script.read_text(encoding="utf-8")
    saved = json.loads((lab.project / "notebooks" / NOTEBOOKS[0]).read_text(encoding="utf-8"))
    assert any(words in "".join(cell["source"]) for cell in saved["cells"])
    assert not any(cell.get("outputs") for cell in saved["cells"] if "tags" not in cell["metadata"])
    page.context.close()


SHOWN = """() => [...document.querySelectorAll(".jupyter-widgets .js-plotly-plot")].map(
    plot => JSON.stringify(plot.data.map(trace => [trace.lat, trace.marker && trace.marker.color])))"""


@pytest.mark.parametrize(
    ("notebook", "control"),
    [
        ("01_data_exploration.ipynb", '.widget-dropdown:has-text("country") select'),
        ("02_geocells.ipynb", "[role=slider]"),
        ("04_stage1_concepts.ipynb", '.widget-dropdown:has-text("concept") select'),
    ],
)
def test_an_explorer_answers(lab: Lab, browser: Browser, notebook: str, control: str) -> None:
    page = lab.open(browser, notebook)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(DONE, timeout=600_000)
    first = page.locator(f".jupyter-widgets {control}").first
    first.scroll_into_view_if_needed(timeout=60_000)
    page.locator(
        ".jupyter-widgets .js-plotly-plot .scatterlayer, .jupyter-widgets .js-plotly-plot .geo"
    ).last.wait_for()
    wrong.clear()
    before = page.evaluate(SHOWN)
    if "select" in control:
        first.select_option(index=1)
    else:
        first.focus()
        page.keyboard.press("Home")
    page.wait_for_function(f"before => JSON.stringify(({SHOWN})()) !== JSON.stringify(before)", arg=before)
    assert not wrong, wrong[:3]
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.context.close()
