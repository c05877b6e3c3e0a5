"""The README's table of methods, written from `metrics.json` of a run: `python tools/readme_table.py demo`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError
from geocbm.files import read_json
from geocbm.metrics import interval_text

Metrics = Mapping[str, Any]

ROWS = {
    "baseline.chance": "chance (a random training image)",
    "baseline.mean_colour": "mean colour, 1-NN",
    "baseline.prior": "always the same answer",
    "baseline.gallery": "gallery of 100,000 places, Stage 0",
    "baseline.training_gallery": "gallery of the training places, Stage 0",
    "baseline.nearest_neighbour": "1-NN on the frozen backbone",
    "baseline.knn": "nearest neighbours on the frozen backbone",
    "baseline.linear_probe": "linear probe on the frozen backbone",
    "stage1": "**Stage 1**",
    "stage2": "**Stage 2**",
    "variant.concept_scores": "Stage 2, `concept_scores` (strict)",
    "variant.hybrid": "Stage 2, `hybrid`",
    "variant.both": "Stage 2, `both`",
    "recipe.seed": "Stage 2, recipe `seed`",
    "baseline.country_centroid": "oracle: told the country",
    "baseline.true_meta": "oracle: told the label alone",
    "baseline.true_concepts": "oracle: all concepts known",
}
"""Prefixes of keys, and what the README calls them, in its order."""

COLUMNS = {
    "median_km": ("median error, km", "{:,.0f}", 1.0),
    "country_acc": ("country right, %", "{:.1f}", 100.0),
    "geoscore": ("GeoScore", "{:,.0f}", 1.0),
    "meta_top1": ("labelled concept right, %", "{:.1f}", 100.0),
}
TOLD = {("baseline.country_centroid", "country_acc"), ("baseline.true_meta", "meta_top1")}
_OWN = {"stage1": ("meta_top1",), "stage2": ("median_km", "country_acc", "geoscore")}


def figure(entry: Any, form: str, factor: float = 1.0) -> str:
    """A metric with its interval, `454 [372, 529]`; empty where there is none."""
    return "" if entry is None else interval_text(entry, lambda value: form.format(factor * value))


def answered(metrics: Metrics, method: str) -> str:
    """Which point of its distribution a method answers, in words; empty where it has no choice."""
    from geocbm.evaluation.decodings import POINT_COLUMNS

    chosen = [point for point in POINT_COLUMNS if metrics.get(f"decode.{method}.{point}.chosen") == 1]
    several = [point for point in POINT_COLUMNS if f"decode.{method}.{point}.geoscore" in metrics]
    return POINT_COLUMNS[chosen[0]] if chosen and several else ""


def method_table(metrics: Metrics) -> str:
    """The table in Markdown, with the paired difference to the strongest baseline below the bold row.

    Args:
        metrics: content of `reports/<run>/metrics.json` after notebook 06.
    """
    lines = [
        "| method | place answered | " + " | ".join(words for words, *_ in COLUMNS.values()) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for prefix, words in ROWS.items():
        cells, measured = [], False
        for name, (_, form, factor) in COLUMNS.items():
            own = name in _OWN.get(prefix, COLUMNS)
            text = figure(metrics.get(f"{prefix}.{name}") if own else None, form, factor)
            measured = measured or bool(text)
            text = "told" if (prefix, name) in TOLD else text
            cells.append(f"**{text}**" if text and words.startswith("**") else text)
        if measured and not _is_main(metrics, prefix):
            place = answered(metrics, prefix.replace("baseline.", "").replace(".", "_"))
            lines.append(f"| {words} | {place} | {' | '.join(cells)} |")
        if prefix == "stage2" and (difference := _difference(metrics)):
            lines.append(difference)
    return "\n".join(lines)


def _is_main(metrics: Metrics, prefix: str) -> bool:
    """Whether a mode is that of the bold row."""
    names = ("median_km", "geoscore")
    return prefix.startswith("variant.") and all(metrics[f"{prefix}.{n}"] == metrics.get(f"stage2.{n}") for n in names)


def _difference(metrics: Metrics) -> str:
    gains = {name: metrics.get(f"over_baseline.{name}_change") for name in ("median_km", "geoscore")}
    name = strongest(metrics)
    if not name or not any(gains.values()):
        return ""
    words = ROWS.get(f"baseline.{name}", name.replace("_", " "))
    texts = {key: figure(gain, "{:+z,.0f}") for key, gain in gains.items()}
    return (
        f"| *Stage 2 minus the strongest baseline ({words}), paired* | | "
        + " | ".join(f"*{texts[key]}*" if texts.get(key) else "" for key in COLUMNS)
        + " |"
    )


def strongest(metrics: Metrics) -> str:
    """Name of the baseline with the best GeoScore on validation; empty where none was chosen."""
    found = [key for key in metrics if key.startswith("baseline.") and key.endswith(".strongest")]
    return found[0].split(".")[1] if found else ""


def sentence(metrics: Metrics) -> str:
    """Whether Stage 2 is better than the strongest baseline beyond noise, in a sentence."""
    gains = {name: metrics.get(f"over_baseline.{name}_change") for name in ("median_km", "geoscore")}
    parts = []
    for gain, better, words in zip(gains.values(), (-1, 1), ("median error", "GeoScore"), strict=True):
        if isinstance(gain, Mapping):
            clear = gain["low"] > 0 or gain["high"] < 0
            side = "better" if better * gain["value"] > 0 else "worse"
            parts.append(f"{words} {side} beyond noise" if clear else f"no difference in {words} beyond noise")
    return f"Stage 2 against the {strongest(metrics).replace('_', ' ')}: {'; '.join(parts)}." if parts else ""


def main(arguments: list[str] | None = None) -> None:
    """Print the table of a run."""
    from geocbm.files import paths

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="demo", help="name of the run")
    path = Path(paths.report_folder(parser.parse_args(arguments).run)) / "metrics.json"
    if not path.exists():
        raise MissingInputError(f"{path} does not exist yet; make it with: geocbm run --profile demo")
    metrics = read_json(path)
    print(method_table(metrics), sentence(metrics), sep="\n\n")


if __name__ == "__main__":
    main()
