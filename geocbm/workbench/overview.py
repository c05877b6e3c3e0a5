"""What a run has so far, for the page that greets a reader."""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from geocbm.errors import UserError
from geocbm.files import paths, read_json_or_empty
from geocbm.files.progress import is_live
from geocbm.files.stored import recorded
from geocbm.metrics.table import HEADLINES, metric
from geocbm.workbench import stages, state
from geocbm.workbench.html import rows_html

SHOWN = (
    *("data.images", "data.countries", "data.metas", "cells.n"),
    *HEADLINES,
    *("baseline.nearest_neighbour.median_km", "baseline.true_concepts.median_km"),
)
"""Keys in the records of a run, in the order in which notebook 00 shows them."""


def question(stage: stages.Stage) -> str:
    """The title of a notebook, read from its source."""
    for line in stage.source.read_text(encoding="utf-8").splitlines():
        if line.startswith("# # "):
            return line.removeprefix("# # ").strip()
    return stage.title


def status(run: str) -> pd.DataFrame:
    """A row per notebook in reading order: `number, notebook, question, state` (see `geocbm.workbench.state`)."""
    chain = stages.read_chain()
    states = state.run_states(paths.run_folder(run), chain)
    rows = [
        (stage.number, stage.notebook, question(stage), states[stage.number].state)
        for stage in sorted(chain.stages, key=lambda stage: stage.number)
    ]
    return pd.DataFrame(rows, columns=["number", "notebook", "question", "state"])


def directory(run: str, status: pd.DataFrame, explorable: Mapping[str, str]) -> str:
    """The notebooks of a run as an HTML table with links to them and, from their questions, to their pages.

    Links lead from where the reader is: from the folder of the notebooks in JupyterLab, else from that of the pages,
    which for a copy made for looking are those of the run that it was copied from. `status` is of `status`,
    `explorable` says by number what can be explored in the notebook.
    """
    pages = paths.report_folder(read_json_or_empty(paths.run_folder(run) / paths.COPY_MARK).get("from", run))
    here = paths.notebooks_folder() if is_live() else pages
    rows, link = [], Markup('<a href="{}">{}</a>')
    for number, name, asked, how in status.itertuples(index=False, name=None):
        page = asked
        if (pages / f"{name}.ipynb").is_file() or here == pages:
            page = link.format(Path(os.path.relpath(pages / f"{name}.html", here)).as_posix(), asked)
        rows.append((link.format(f"{name}.ipynb", number), page, explorable.get(number, ""), how))
    return rows_html(("notebook", "question", "to explore there", "state"), rows, f"Notebooks of run {run}")


def headlines(run: str) -> pd.DataFrame:
    """The headline metrics of a run in words; an empty table when there are none yet.

    Raises:
        DamagedError: a file of recorded metrics is not whole.
    """
    figures = recorded(paths.run_folder(run))
    known = [(metric(key), figures[key]) for key in SHOWN if key in figures]
    rows = [(own.label, own.text(entry), own.interval(entry)) for own, entry in known]
    return pd.DataFrame(rows, columns=["metric", "value", "95 % interval"])


def table_of_runs() -> list[str]:
    """Lines of `geocbm list`: a table of the runs, the newest last, and what of them is not as it was made."""
    rows, remarks = [], []
    root = paths.data_root() / "runs"
    for folder in [root / name for name in paths.runs_in(root)]:
        made = max((file.stat().st_mtime for file in folder.glob("records/*.json")), default=folder.stat().st_mtime)
        when = datetime.fromtimestamp(made).isoformat(" ", "minutes")
        stamps = sorted((folder / "stamps").glob("*.json"))
        profile = read_json_or_empty(stamps[-1]).get("profile", "?") if stamps else "?"
        damage, shown = "", "-"
        try:
            figures = recorded(folder)
            told = [f"{metric(key).label} {metric(key).text(figures[key])}" for key in HEADLINES[:4] if key in figures]
            shown = "; ".join(told) or shown
        except UserError as problem:  # costs this run its metrics, and not the list
            damage = str(problem)
        page = paths.report_folder(folder.name) / "index.html"
        rows.append((when, folder.name, profile, _state_of(folder), shown, page))
        remarks.append((when, state.remark(folder) or damage))
    titles = ("when", "run", "profile", "state", "headline", "page")
    table = [titles, *((*row[:5], row[5].as_uri() if row[5].is_file() else "-") for row in sorted(rows))]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines += [f"beware: {remark}" for _, remark in sorted(remarks) if remark]
    found = [*root.glob("[!.]*/"), *paths.reports_root().glob("[!_.]*/")]
    odd = [repr(paths.portable(each)) for each in sorted(found) if each.name not in paths.runs_in(each.parent)]
    passed = [f"passed over: {', '.join(odd)}; rename to show: a run's name has {paths.RUN_NAMES}"] if odd else []
    return (lines if rows else []) + passed


def _state_of(folder: Path) -> str:
    """How far a run is, in a few words."""
    states = [each.state for each in state.run_states(folder).values()]
    counts = [f"{states.count(state.DONE)} of {len(states)} done"]
    counts += [f"{states.count(each)} {each}" for each in (state.CHANGED, state.STALE) if each in states]
    copied = read_json_or_empty(folder / paths.COPY_MARK).get("from")
    return ", ".join(([f"copy of {copied}"] if copied else []) + counts)
