"""What a run has so far, for the page that greets a reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from geocbm.files import paths, read_json
from geocbm.metrics.table import metric
from geocbm.workbench import stages, state

HEADLINES = (
    "data.images",
    "data.countries",
    "data.metas",
    "cells.n",
    "stage1.meta_top1",
    "stage1.parent_top1",
    "stage2.median_km",
    "stage2.country_acc",
    "stage2.geoscore",
    "baseline.nearest_neighbour.median_km",
    "baseline.true_concepts.median_km",
)
"""Keys in the records of a run, in the order in which they are shown."""


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
        Columns `number, notebook, question, state` ("done", "partly", "not yet", "changed by hand" or "stale", see
        `geocbm.workbench.state`), in reading order.
    """
    chain = stages.read_chain()
    states = state.run_states(paths.run_folder(run), chain)
    rows = [
        (stage.number, stage.notebook, question(stage), states[stage.number].state)
        for stage in sorted(chain.stages, key=lambda stage: stage.number)
    ]
    return pd.DataFrame(rows, columns=["number", "notebook", "question", "state"])


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
    for key in HEADLINES:
        if key in figures:
            own, entry = metric(key), figures[key]
            value = entry["value"] if isinstance(entry, dict) else entry
            rows.append({"figure": own.label, "value": own.text(value), "95 % interval": own.interval(entry)})
    return pd.DataFrame(rows, columns=["figure", "value", "95 % interval"])


def summary(folder: Path) -> list[str]:
    """Lines of `geocbm list` on one run: how far it is, its headline metrics, and what of it is stale.

    Args:
        folder: folder of the run's files.
    """
    stamps = sorted((folder / "stamps").glob("*.json"))
    profile = read_json(stamps[-1]).get("profile", "?") if stamps else "?"
    figures = "; ".join(f"{row.figure} {row.value}" for row in headlines(folder.name).itertuples())
    states = [each.state for each in state.run_states(folder).values()]
    counts = [f"{states.count(state.DONE)} stages done"]
    counts += [f"{states.count(each)} {each}" for each in (state.CHANGED, state.STALE) if each in states]
    line = f"{folder.name}  (profile {profile}, {', '.join(counts)})  {figures}".rstrip()
    return [line, warning] if (warning := state.remark(folder)) else [line]
