"""The benchmarks run at a tiny size, so that they cannot rot."""

from __future__ import annotations

import re


def test_geocells(capsys):
    from benchmarks import geocells

    geocells.main(["--points", "3000", "--countries", "6", "--per-cell", "100", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert re.search(r"3,000 points, 6 countries, towns: (\d+) cells of \1 asked for", printed)
    assert re.search(r"600 points, 6 countries, even: (\d+) cells of \1 asked for", printed)
    assert printed.count("floor:") == 2 and "15,000 points" in printed and "to stay below 2 GB" in printed
