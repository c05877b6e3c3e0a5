"""The README's pictures, from the newest finished run: `make screenshots`."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from geocbm.files import paths
from tools.lab_server import NO_BROWSER, ROOT, find_browser, lab_server, run_all, shut_down

DOCS = ROOT / "docs"
COLOURS, LARGEST = 128, 250_000
WIDTH, HEIGHT = 1200, 900
PAGES = {  # picture: (page, what is opened and scrolled to)
    "index": ("index.html", None),
    "where_it_looks": ("07_interpretability.html", None),
    "field_guide": ("09_field_guide.html", "details.sheet.country"),
}
EXPLORERS = {"lab": "02_geocells.ipynb"}  # one that needs no training


def keep(name: str, shot: bytes) -> None:
    """Write a screenshot with few colours, so that git carries little."""
    picture = Image.open(io.BytesIO(shot), formats=["PNG"]).convert("RGB")
    small = picture.quantize(COLOURS, dither=Image.Dither.NONE)
    file = DOCS / f"{name}.png"
    small.save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)}: {size / 1000:.0f} kB")
    if size > LARGEST:
        sys.exit(f"{file.name} has {size:,} bytes, more than the {LARGEST:,} that a picture of the README may have")


def settle(page: Page) -> None:
    """Wait until figures are drawn."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)


def shoot_pages(browser: Browser, site: Path) -> None:
    """Pictures of the first screens of some pages."""
    page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}).new_page()
    for name, (file, target) in PAGES.items():
        page.goto((site / file).as_uri())
        settle(page)
        if target:
            page.locator(target).first.evaluate("sheet => { sheet.open = true; sheet.scrollIntoView(); }")
            settle(page)
        keep(name, page.screenshot())


def shoot_lab(browser: Browser) -> None:
    """Pictures of explorers in JupyterLab."""
    with tempfile.TemporaryDirectory() as folder, lab_server(Path(folder)) as lab:
        for name, notebook in EXPLORERS.items():
            page = lab.open(browser, notebook, viewport={"width": WIDTH + 200, "height": HEIGHT + 100})
            run_all(page)
            page.locator(".jupyter-widgets .js-plotly-plot").first.scroll_into_view_if_needed(timeout=60_000)
            settle(page)
            keep(name, page.screenshot())
            shut_down(page)


def main() -> None:
    """Take all pictures."""
    found, runs = find_browser(), paths.finished_runs()
    if found is None:
        sys.exit(NO_BROWSER)
    if not runs:
        sys.exit("there is no finished run to take pictures of; make one with: make run")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        shoot_pages(browser, paths.reports_root() / runs[0])
        shoot_lab(browser)


if __name__ == "__main__":
    main()
