"""What a run has so far, for the page that greets a reader."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geocbm.files import read_json
from geocbm.workbench import paths, stages

HEADLINES = (
    ("data.images", "images", "count"),
    ("data.countries", "countries", "count"),
    ("data.metas", "metas", "count"),
    ("cells.n", "geocells", "count"),
    ("stage1.meta_top1", "labelled concept named right", "share"),
    ("stage1.parent_top1", "its parent named right", "share"),
    ("stage2.median_km", "median error", "km"),
    ("stage2.country_acc", "country named right", "share"),
    ("stage2.geoscore", "GeoScore (0 to 5000)", "count"),
    ("baseline.nearest_neighbour.median_km", "median error of the nearest picture", "km"),
    ("baseline.true_concepts.median_km", "median error if all concepts were known", "km"),
)
"""Key in the records of a run, what it is in words, and how to print it."""


def question(stage: stages.Stage) -> str:
    """The title of a notebook, read from its source."""
    for line in stage.source.read_text(encoding="utf-8").splitlines():
        if line.startswith("# # "):
            return line.removeprefix("# # ").strip()
    return stage.title


def status(run: str) -> pd.DataFrame:
    """One row per notebook of the chain: its number, name, question, and whether this run has what it writes.

    Args:
        run: name of the run; a run that does not exist yet has nothing.

    Returns:
        Columns `number, notebook, question, state` ("done", "partly" or "not yet"), in reading order.
    """
    folder = paths.run_folder(run)
    rows = []
    for stage in sorted(stages.read_chain().stages, key=lambda stage: stage.number):
        present = [(folder / name).exists() for name in stage.writes]
        present += [(folder / "records" / f"{stage.number}.json").exists()] if not stage.writes else []
        state = "done" if all(present) else "partly" if any(present) else "not yet"
        rows.append({"number": stage.number, "notebook": stage.notebook, "question": question(stage), "state": state})
    return pd.DataFrame(rows)


def records(run: str) -> dict[str, Any]:
    """All figures the notebooks of a run have recorded so far, by dotted key."""
    figures: dict[str, Any] = {}
    for path in sorted((paths.run_folder(run) / "records").glob("*.json")):
        content = read_json(path)
        figures.update(content.get("metrics", content))
    return figures


def headlines(run: str) -> pd.DataFrame:
    """The headline figures of a run in words; an empty table when there are none yet."""
    figures = records(run)
    rows = []
    for key, words, kind in HEADLINES:
        if key not in figures:
            continue
        entry = figures[key]
        value, interval = entry, ""
        if isinstance(entry, dict):
            value = entry["value"]
            interval = f"{printed(entry['low'], kind)} to {printed(entry['high'], kind)}"
        rows.append({"figure": words, "value": printed(value, kind), "95 % interval": interval})
    return pd.DataFrame(rows, columns=["figure", "value", "95 % interval"])


def printed(value: float, kind: str) -> str:
    """A number for a reader: a share in percent, a distance in km, or a count."""
    if kind == "share":
        return f"{100 * value:.1f} %"
    if kind == "km":
        return f"{value:,.0f} km" if value >= 10 else f"{value:.1f} km"
    return f"{value:,.0f}"
