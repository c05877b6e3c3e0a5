"""JupyterLab on a copy of the project and of the newest finished run, for tests and screenshots."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from geocbm.files import link_or_copy, paths

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = f"there is no browser on the PATH (looked for {', '.join(BROWSERS)}); Debian: apt install chromium"

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


def find_browser() -> str | None:
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    address: str
    token: str
    project: Path

    def open(
        self, browser: Browser, notebook: str, watch: Callable[[Page], None] | None = None, **context: Any
    ) -> Page:
        """A notebook with its kernel, in a window of its own; `watch` is given the window before it has content."""
        page = browser.new_context(**{"viewport": {"width": 1500, "height": 1000}} | context).new_page()
        page.set_default_timeout(120_000)  # other processes may have the cores
        if watch:
            watch(page)
        page.goto(f"{self.address}lab/tree/notebooks/{notebook}?token={self.token}&reset")
        page.wait_for_function(READY, timeout=120_000)
        return page


def run_all(page: Page, seconds: float = 600) -> None:
    """Run every cell of the open notebook and wait for the last."""
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(DONE, timeout=1000 * seconds)


def shut_down(page: Page) -> None:
    """End the kernel of the open notebook and close its window."""
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.context.close()


@contextmanager
def lab_server(folder: Path) -> Iterator[Lab]:
    """Start JupyterLab as `make lab` does, on a copy of the project in `folder` and on links to the newest run."""
    runs = paths.finished_runs()
    if not runs:
        raise FileNotFoundError("there is no finished run to look at; make one with: make run")
    project = folder / "project"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, project / name)
    source, data = paths.data_root(), folder / "data"
    shutil.copytree(source / "runs" / runs[0], data / "runs" / runs[0], copy_function=link_or_copy)
    pages = folder / "reports" / runs[0]
    shutil.copytree(paths.report_folder(runs[0]), pages, copy_function=link_or_copy, dirs_exist_ok=True)
    for beside in source.iterdir():
        if beside.name != "runs":
            (data / beside.name).symlink_to(beside)
    environment = os.environ | {
        "GEOCBM_DATA": str(data),
        "GEOCBM_REPORTS": str(folder / "reports"),
        "GEOCBM_ROOT": str(project),
        "PYTHONPATH": str(project),
        "JUPYTER_CONFIG_PATH": str(project / "tools" / "lab"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    environment.pop("GEOCBM_RUN", None)
    command = ["-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={project}"]
    command += ["--LabApp.expose_app_in_browser=True", *_port_of_its_own()]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, *command], cwd=project, env=environment, stdout=log, stderr=log)
    try:
        yield Lab(*_address(folder, server), project)
    finally:
        server.terminate()
        server.wait(30)


def _port_of_its_own() -> list[str]:
    """Options of a free port: of two servers that start at once and search from 8888, both may take 8888."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return [f"--ServerApp.port={free.getsockname()[1]}", "--ServerApp.port_retries=0"]


def _address(folder: Path, server: subprocess.Popen[bytes]) -> tuple[str, str]:
    for _ in range(600):
        for file in (folder / "runtime").glob("jpserver-*.json"):
            if content := file.read_text(encoding="utf-8"):
                told = json.loads(content)
                return told["url"], told["token"]
        if server.poll() is not None:
            raise RuntimeError((folder / "log").read_text(encoding="utf-8")[-2000:])
        time.sleep(0.1)
    raise TimeoutError("JupyterLab did not start within a minute")
