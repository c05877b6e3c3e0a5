"""Figures of explanations against the truth: what they say in words, and that nothing is left out."""

from __future__ import annotations

import pandas as pd
import pytest

from geocbm.plots.explanations import MOST_CONCEPTS, pointing_by_concept, removal_curves


def concepts() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "concept": ["red <pole>", "sky"],
            "pairs": [5, 9],
            "named": [0.4, 0.9],
            "hit concept map": [0.0, 1.0],
            "hit attention": [0.2, 0.3],
            "hit a random patch": [0.1, 0.9],
        }
    )


def test_pointing() -> None:
    fig = pointing_by_concept(concepts())
    assert [trace.name for trace in fig.data] == ["concept map", "attention", "a random patch"]
    assert list(fig.data[0].y) == ["sky", "red &lt;pole&gt;"]  # the first to read is what chance hits most rarely
    alt = fig.layout.meta["alt"]
    assert "2 concepts" in alt and "50.0 %" in alt and "no better than chance for red <pole>" in alt
    assert list(fig.data[0].x) == [1, 0] and list(fig.data[2].x) == [0.9, 0.1]
    many = pd.concat([concepts().iloc[:1].assign(concept=f"pole {i}") for i in range(MOST_CONCEPTS + 2)])
    assert len(pointing_by_concept(many).data[0].y) == MOST_CONCEPTS
    with pytest.raises(ValueError, match="at least one concept"):
        pointing_by_concept(concepts().iloc[:0])


def test_removal() -> None:
    lines = [
        {"curve": curve, "order": order, "share": share, "value": 0.3 - share, "low": 0.1, "high": 0.4}
        for curve in ("deletion", "insertion")
        for order in ("map", "random patches")
        for share in (0.1, 0.2)
    ]
    fig = removal_curves(pd.DataFrame(lines), 0.31)
    named = [trace for trace in fig.data if trace.mode == "lines+markers"]
    assert len(named) == 4 and [trace.showlegend for trace in named] == [True, True, False, False]
    assert len(fig.data) == 8  # a band for each
    alt = fig.layout.meta["alt"]
    assert "31.0 % with all patches" in alt and "10.0 % (map, 20.0 % removed)" in alt and "left alone" in alt
    one = pd.DataFrame(lines).query("curve == 'deletion'").assign(low=float("nan"), high=float("nan"))
    assert len(removal_curves(one, 0.31).data) == 2
    with pytest.raises(ValueError, match="at least one curve"):
        removal_curves(pd.DataFrame(lines).iloc[:0], 0.3)
