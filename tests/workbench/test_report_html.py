"""What may stay in a page, and what must go."""

import os
import signal

import pytest

from geocbm.workbench import html
from geocbm.workbench.html import clean_html, pictures

DOT = "data:image/gif;base64,R0lGODlhAQABAAAAACw="


@pytest.mark.parametrize(
    "dangerous",
    [
        "<script>alert(1)</script>",
        "<style>@import url(http://example.org/x.css)</style>",
        '<p onclick="alert(1)">x</p>',
        '<a href="javascript:alert(1)">x</a>',
        '<a href="data:text/html,x">x</a>',
        '<iframe src="http://example.org"></iframe>',
        '<img alt="x" src="http://example.org/x.png">',
        '<img alt="x" src="//example.org/x.png">',
        '<img alt="x" src="data:text/html,x">',
        '<p style="background-image: url(http://example.org/x.png)">x</p>',
        '<link rel="stylesheet" href="http://example.org/x.css">',
        '<form action="http://example.org"><input></form>',
    ],
)
def test_nothing_that_runs_or_fetches_survives(dangerous: str) -> None:
    cleaned = clean_html(dangerous)
    for word in ("alert", "example.org", "javascript", "text/html", "<iframe", "<form", "<style", "<script"):
        assert word not in cleaned


def test_what_a_report_needs_survives() -> None:
    body = "<tbody><tr><td>1</td></tr></tbody>"
    table = f'<table class="dataframe"><thead><tr><th scope="col">a</th></tr></thead>{body}</table>'
    assert clean_html(table) == table
    assert f'src="{DOT}"' in clean_html(f'<img alt="a dot" src="{DOT}">')
    assert 'src="pictures/a.png"' in clean_html('<img alt="a" src="pictures/a.png">')
    assert 'href="https://example.org/"' in clean_html('<a href="https://example.org/">x</a>')
    assert "color:red" in clean_html('<b style="color: red">x</b>').replace(" ", "")


def test_pictures_without_description_are_found() -> None:
    found = pictures('<img src="a.png" alt="a"><p><img src="b.png"><img src="c.png" alt="  "></p>')
    assert found == [("a.png", "a"), ("b.png", ""), ("c.png", "")]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no such signal")
def test_a_signal_that_arrives_while_html_is_cleaned_is_not_lost(monkeypatch):
    def end(number, frame):
        raise SystemExit(3)

    def keep(tag, attribute, value):
        os.kill(os.getpid(), signal.SIGUSR1)
        return value

    monkeypatch.setattr(html, "_keep_attribute", keep)
    before = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(SystemExit):
            clean_html('<img alt="a" src="a.png">')
    finally:
        signal.signal(signal.SIGUSR1, before)
