"""Every page of the newest run as readers meet it: from a folder, wide and narrow, light and dark, by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from geocbm.files import paths

pytestmark = pytest.mark.browser
WIDE, NARROW = 1280, 390
VIEWS = [(WIDE, "light", "dark"), (NARROW, "dark", "light")]
"""Width, colours in which the page is opened and examined, and those to which it is switched in between."""
TOO_WIDE = """() => [...document.querySelectorAll("main *, header *")]
    .filter(part => part.getBoundingClientRect().right > document.documentElement.clientWidth + 1
        && !part.closest(".rich, .scroll, pre, .formula, .js-plotly-plot, .skip, [hidden], details:not([open])"))
    .slice(0, 3).map(part => part.outerHTML.slice(0, 120))"""


def pages() -> list[Path]:
    runs = paths.finished_runs()
    folder = paths.report_folder(runs[0]) if runs else paths.reports_root()
    return [paths.reports_root() / "index.html", *sorted(folder.glob("*.html"))]


def opened(browser: Browser, page: Path, width: int, scheme: str) -> tuple[Page, list[str]]:
    """The page, and what it complained of or asked a network for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    context.set_default_timeout(120_000)  # other processes may have the cores
    sheet, wrong = context.new_page(), []
    sheet.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    sheet.on("pageerror", lambda error: wrong.append(str(error)))
    sheet.on(
        "request", lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else wrong.append(asked.url)
    )
    sheet.goto(page.as_uri())
    waiting = sheet.locator(".plotly-graph-div:not(.js-plotly-plot):not(.undrawn)")
    expect(waiting).to_have_count(0, timeout=120_000)
    return sheet, wrong


def test_there_are_pages() -> None:
    assert len(pages()) > 12, "there is no rendered run to look at; make one with: make run"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_page_is_whole_and_accessible(browser: Browser, page: Path) -> None:
    for width, scheme, other in VIEWS:
        sheet, wrong = opened(browser, page, width, scheme)
        if width == WIDE and page.name[:2] not in ("in", "00"):
            answer = sheet.locator(".answer")
            assert answer.count() == 1, f"{page.name} does not begin with its answer"
            assert answer.bounding_box()["y"] < 600, f"{page.name}: the answer stands below the first screen"
        for colours in (other, scheme):
            sheet.emulate_media(color_scheme=colours)
            view = f"{page.name} at {width} px, {colours}"
            assert not wrong, f"{view}: {wrong}"
            assert sheet.locator(".undrawn").count() == 0, f"{view}: a figure was not drawn"
            assert not (wide := sheet.evaluate(TOO_WIDE)), f"{view}: wider than the window: {wide}"
        sheet.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        found = Axe().run(sheet, options={"preload": False}).response["violations"]
        serious = [
            f"{rule['id']}: {node['html'][:160]}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]
        assert not serious, f"{view}: {serious[:5]} and {len(serious[5:])} more"
        sheet.context.close()


def test_a_table_is_sorted_by_keyboard_and_restored(browser: Browser) -> None:
    page = next(page for page in pages() if page.name.startswith("06_"))
    sheet, _ = opened(browser, page, WIDE, "light")
    table = sheet.locator("table:has(.sorter)").last
    column = "rows => rows.map(row => row.cells[0].textContent)"
    before = table.locator("tbody tr").evaluate_all(column)
    head = table.locator(".sorter").first
    for expected in (sorted(before, key=str.lower), sorted(before, key=str.lower, reverse=True), before):
        head.focus()
        sheet.keyboard.press("Enter")
        shown = table.locator("tbody tr").evaluate_all(column)
        assert [text.lower() for text in shown] == [text.lower() for text in expected]
    sheet.context.close()


def test_the_sheets_of_the_field_guide_are_searched(browser: Browser) -> None:
    page = next(page for page in pages() if page.name.startswith("09_"))
    sheet, _ = opened(browser, page, WIDE, "light")
    name = sheet.locator("details.sheet.country h3").first.evaluate("head => head.firstChild.textContent.trim()")
    field = sheet.get_by_role("searchbox").first
    field.fill(name)
    shown = sheet.locator(".sheets").first.locator("details.sheet:not([hidden])")
    texts = shown.evaluate_all("sheets => sheets.map(sheet => sheet.textContent)")
    assert texts and all(name in text for text in texts)
    field.fill("no such clue")
    assert shown.count() == 0
    sheet.context.close()


def test_the_wheel_scrolls_the_page_over_a_map(browser: Browser) -> None:
    page = next(page for page in pages() if page.name.startswith("01_"))
    sheet, _ = opened(browser, page, WIDE, "light")
    place = sheet.locator(".js-plotly-plot").first
    place.scroll_into_view_if_needed()
    box, before = place.bounding_box(), sheet.evaluate("window.scrollY")
    sheet.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    sheet.mouse.wheel(0, 400)
    for _ in range(50):
        if sheet.evaluate("window.scrollY") > before:
            break
        sheet.wait_for_timeout(100)
    assert sheet.evaluate("window.scrollY") > before
    sheet.context.close()
