"""A real browser for the pages and for JupyterLab: Chromium, driven by Playwright."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tools.lab_server import NO_BROWSER, find_browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = find_browser()
    if found is None:
        (pytest.skip if os.environ.get("GEOCBM_BROWSER") == "optional" else pytest.fail)(NO_BROWSER)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()
