"""Which metrics the index pages show, written as the table of metrics says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geocbm.metrics.table import metric

HEADLINES: dict[str, str] = {
    "stage1.meta_top1": "04",
    "stage1.meta_top5": "04",
    "stage1.parent_top1": "04",
    "stage2.median_km": "05",
    "stage2.country_acc": "05",
    "stage2.geoscore": "05",
    "stage2.cell_top1": "05",
    "baseline.nearest_neighbour.median_km": "06",
    "baseline.nearest_neighbour.country_acc": "06",
    "baseline.true_concepts.median_km": "06",
    "sure.ece_calibrated": "06",
    "sure.coverage_90": "06",
    "truth.attention_pointing": "07",
    "truth.pointing_game": "07",
    "truth.pointing_chance": "07",
    "intervene.none.median_km": "08",
    "intervene.all.median_km": "08",
    "truth.removed_all_median_km": "08",
}
"""Metrics on the cards, and the number of the notebook whose card shows each."""
TILES = ("stage2.median_km", "stage2.country_acc", "stage2.geoscore", "stage1.meta_top1", "stage1.parent_top1")
_COMPARED = {
    "nearest_neighbour": "nearest neighbour",
    "true_concepts": "ceiling, true concepts known",
    "prior": "always the same answer",
}


def label(key: str) -> str:
    """What a metric is called at the beginning of a line."""
    name = metric(key).label
    return name[:1].upper() + name[1:]


def format_metric(key: str, entry: Any) -> tuple[str, str]:
    """Format an entry of `metrics.json` in the unit of its key, as text and a text of the interval (or nothing)."""
    own = metric(key)
    span = own.interval(entry)
    return own.text(entry["value"] if isinstance(entry, Mapping) else entry), f"95 %: {span}" if span else ""


def tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Headline figures of a run with the baselines that put them in their place."""
    result = []
    for key in TILES:
        if key not in metrics:
            continue
        value, span = format_metric(key, metrics[key])
        name = key.split(".", 1)[1]
        beside = [
            (words, format_metric(key, metrics[f"baseline.{baseline}.{name}"])[0])
            for baseline, words in _COMPARED.items()
            if f"baseline.{baseline}.{name}" in metrics
        ]
        result.append({"label": label(key), "value": value, "span": span, "beside": beside})
    return result
