"""How long each explorer takes to answer in JupyterLab, on the newest finished run: `python -m tools.click_times`.

Measured in the browser: from the click, key or choice until nothing of the explorer changes any more and the last
change is painted. Beside it stands what does not depend on the machine's other work: the processor time that the kernel
and the page's main thread took, and the bytes that the kernel sent.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import Locator, Page, WebSocket, sync_playwright

from geocbm.files import paths
from tools.lab_server import NO_BROWSER, find_browser, lab_server, run_all, shut_down

WATCH = """part => {
    const area = part.closest(".jp-OutputArea-output"), clock = window.answer = {began: 0, first: 0, last: 0};
    for (const kind of ["pointerdown", "keydown", "change"])
        area.addEventListener(kind, () => { clock.began = clock.began || performance.now(); }, true);
    new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {  // after the next painting
        clock.last = performance.now();
        clock.first = clock.first || clock.last;
    }))).observe(area, {subtree: true, childList: true, attributes: true, characterData: true});
}"""
QUIET = """() => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel, clock = window.answer;
    return clock.last && kernel.status === "idle" && performance.now() - clock.last > 600;
}"""


SELECTORS = {
    "dropdown": '.widget-dropdown:has-text("{}") select',
    "list": '.widget-select:has-text("{}") select',
    "slider": '.widget-slider:has-text("{}") [role=slider]',
    "range": "input[type=range]",
    "field": '.widget-text:has-text("{}") input',
    "button": 'button:has-text("{}")',
    "file": "input[type=file]",
}


@dataclass(frozen=True)
class Control:
    """A control of an explorer and what is done to it.

    Attributes:
        notebook: beginning of the notebook's name.
        explorer: its name.
        kind: one of `SELECTORS`.
        name: its description or text; empty for the first of its kind.
        actions: options of a dropdown by number, keys, names of files, or None for a click.
    """

    notebook: str
    explorer: str
    kind: str
    name: str
    actions: Sequence[str | int | None]

    def locator(self, page: Page) -> Locator:
        """The control in an open notebook."""
        where = SELECTORS[self.kind].format(self.name)
        return page.locator(f".jupyter-widgets {where}, .jupyter-widgets{where}").first

    def act(self, page: Page, action: str | int | None) -> None:
        """Do one thing to it."""
        part = self.locator(page)
        if action is None:
            part.click()
        elif self.kind == "file":
            part.set_input_files({"name": str(action), "mimeType": "image/jpeg", "buffer": photograph()})
        elif isinstance(action, int):
            part.select_option(index=action)
        else:
            part.focus()
            page.keyboard.press(action)


@cache
def photograph() -> bytes:
    """A JPEG of 12 megapixels, as telephones make them."""
    small = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    content = BytesIO()
    Image.fromarray(small).resize((4000, 3000), Image.Resampling.BICUBIC).save(content, "JPEG")
    return content.getvalue()


CLICKS, UP, DOWN = (None,) * 3, ("ArrowUp",) * 3, ("ArrowDown",) * 3
CONTROLS = (
    Control("01", "data", "button", "next page", CLICKS),
    Control("01", "data", "dropdown", "concept", (1, 2, 0)),
    Control("01", "data", "dropdown", "country", (1, 2, 0)),
    Control("02", "cells", "slider", "min_samples_per_cell", ("Home", "ArrowRight", "ArrowRight")),
    Control("02", "cells", "dropdown", "cell", (1, 2, 3)),
    Control("04", "concepts", "dropdown", "concept", (1, 2, 3)),
    Control("04", "concepts", "dropdown", "pictures", (1, 2, 0)),
    Control("05", "batch", "dropdown", "gradient of", (1, 2, 0)),
    Control("05", "batch", "field", "draw", UP),
    Control("06_", "predictions", "list", "picture", DOWN),
    Control("06_", "predictions", "dropdown", "head", (1, 2, 3)),
    Control("06_", "predictions", "dropdown", "country", (1, 2, 3)),
    Control("08", "what_if", "range", "", ("Home", "End", "Home")),
    Control("08", "what_if", "button", "No concepts", CLICKS[:1]),
    Control("08", "what_if", "list", "picture", DOWN),
    Control("00", "photograph", "file", "", ("a.jpg", "b.jpg", "c.jpg")),
    Control("00", "guess", "field", "latitude", UP),
    Control("00", "guess", "button", "Guess", CLICKS[:1]),
    Control("00", "guess", "button", "Next picture", CLICKS[:1]),
)


@dataclass
class Cost:
    """What one action took: ms to first and last change, processor ms of page and kernel, messages, bytes."""

    first: float
    last: float
    page: float
    kernel: float
    messages: int
    received: int


class Meter:
    """What an open notebook has cost so far."""

    def __init__(self) -> None:
        self.messages, self.received = 0, 0

    def watch(self, page: Page) -> None:
        """Begin with a window that has no content yet."""
        self._protocol = page.context.new_cdp_session(page)
        self._protocol.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framesent", lambda _frame: self._count(0))
        socket.on("framereceived", lambda frame: self._count(len(frame)))

    def _count(self, size: int) -> None:
        self.messages, self.received = self.messages + 1, self.received + size

    def read(self) -> tuple[float, float, int, int]:
        """Processor ms of the page's main thread and of the kernel, messages, and bytes received."""
        told = self._protocol.send("Performance.getMetrics")["metrics"]
        page = next(each["value"] for each in told if each["name"] == "TaskDuration")
        kernel = 0.0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "ipykernel_launcher" in process.cmdline():
                    kernel += sum(process.cpu_times()[:2])
        return 1000 * page, 1000 * kernel, self.messages, self.received


def costs(page: Page, control: Control, meter: Meter) -> Iterator[Cost]:
    """What each action of a control took."""
    part = control.locator(page)
    if control.kind != "file":  # its field is hidden behind a button
        part.scroll_into_view_if_needed(timeout=60_000)
    part.evaluate(WATCH)
    page.wait_for_timeout(1500)
    for action in control.actions:
        page.evaluate("Object.assign(window.answer, {began: 0, first: 0, last: 0})")
        before = meter.read()
        control.act(page, action)
        page.wait_for_function(QUIET, timeout=60_000, polling=100)  # at every frame it would cost something itself
        clock = page.evaluate("window.answer")
        spent = [now - then for now, then in zip(meter.read(), before, strict=True)]
        yield Cost(clock["first"] - clock["began"], clock["last"] - clock["began"], *spent)  # type: ignore[arg-type]


HEADS = ("explorer", "control", "ms", "each", "first", "page", "kernel", "messages", "kB")
LINE = "{:12} {:22} {:>5} {:>20} {:>6} {:>5} {:>6} {:>8} {:>6}"


def told(control: Control, taken: Sequence[Cost]) -> str:
    """A line of the table: medians, and the time of each action."""
    middle = [median(getattr(cost, each.name) for cost in taken) for each in fields(Cost)]
    first, last, page, kernel, messages, received = (round(value) for value in middle)
    each = ", ".join(f"{cost.last:.0f}" for cost in taken)
    return LINE.format(
        control.explorer,
        control.name or control.kind,
        last,
        each,
        first,
        page,
        kernel,
        messages,
        round(received / 1000),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", default="", help="explorers to measure, with commas; all without")
    wanted = set(filter(None, parser.parse_args().only.split(",")))
    found, runs = find_browser(), paths.finished_runs()
    if found is None:
        sys.exit(NO_BROWSER)
    if not runs:
        sys.exit("there is no finished run to measure on; make one with: make run")
    controls = [control for control in CONTROLS if not wanted or control.explorer in wanted]
    print(f"Run {runs[0]}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. Medians of {len(UP)} actions:")
    print("ms until the last change (each) and the first, processor ms of page and kernel, messages, kB received")
    print(LINE.format(*HEADS))
    with tempfile.TemporaryDirectory() as folder, lab_server(Path(folder)) as lab, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for notebook in dict.fromkeys(control.notebook for control in controls):
            name = next((lab.project / "notebooks").glob(f"{notebook}*.ipynb")).name
            meter = Meter()
            page = lab.open(browser, name, watch=meter.watch)
            run_all(page)
            for control in (control for control in controls if control.notebook == notebook):
                print(told(control, list(costs(page, control, meter))), flush=True)
            shut_down(page)


if __name__ == "__main__":
    main()
