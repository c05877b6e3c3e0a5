"""What the index pages say: a card per notebook, headline metrics with their intervals, provenance, and all runs."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from geocbm.data.concepts import GUESSED_BANNER
from geocbm.data.simulated import BANNER
from geocbm.errors import UserError
from geocbm.files import paths, read_json_or_empty
from geocbm.metrics.table import HEADLINES, metric
from geocbm.run import Run
from geocbm.workbench import stages, state
from geocbm.workbench.html import clean_html, clean_text, pictures, template
from geocbm.workbench.report_figures import PLOTLY_MIME, figure_meta, preview_html

_PREVIEW_BYTES = 1_500_000  # a heavier figure would make the index slow to open
# What a reader asks first comes first; anything else follows as the stamp has it.
_FACT_ORDER = (
    "notebook run profile status reason started seconds peak_memory_mib device seed geocbm commit "
    "parameters inputs outputs libraries sources"
)
_SOME_SIMULATED = (
    "Runs marked “simulated” were trained and measured on scenes drawn by the atlas simulator; their metrics say "
    "nothing about real streets."
)

CARDS = (
    "stage1.meta_top1",
    "stage1.meta_top5",
    "stage1.parent_top1",
    "stage2.median_km",
    "stage2.country_acc",
    "stage2.geoscore",
    "stage2.cell_top1",
    "baseline.nearest_neighbour.median_km",
    "baseline.nearest_neighbour.country_acc",
    "baseline.true_concepts.median_km",
    "sure.ece_calibrated",
    "sure.coverage_90",
    "truth.attention_pointing",
    "truth.pointing_game",
    "truth.pointing_chance",
    "intervene.none.median_km",
    "intervene.all.median_km",
    "truth.removed_all_median_km",
)
"""Metrics on the cards; each stands on the card of the notebook that has recorded it."""
_COMPARED = {
    "nearest_neighbour": "nearest neighbour",
    "true_concepts": "ceiling, all concepts known",
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
    return own.text(entry), f"95 %: {span}" if span else ""


def tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Headline metrics of a run with the baselines that put them in their place."""
    result = []
    for key in (key for key in HEADLINES if key in metrics):
        value, span = format_metric(key, metrics[key])
        others = {f"baseline.{baseline}.{key.split('.', 1)[1]}": words for baseline, words in _COMPARED.items()}
        beside = [(words, format_metric(own, metrics[own])[0]) for own, words in others.items() if own in metrics]
        result.append({"label": label(key), "value": value, "span": span, "beside": beside})
    return result


def nature(folder: Path) -> tuple[bool, bool]:
    """Whether the pictures of a run are simulated, and whether its concepts are guessed.

    Notebook 01 records in the report folder what its table says; a run that has not recorded it, such as one whose
    first notebook failed, is asked for its table.
    """
    said = read_json_or_empty(folder / "metrics.json")
    if "data.simulated" in said:
        return bool(said["data.simulated"]), bool(said.get("data.guessed"))
    try:
        run = Run(paths.data_root() / "runs" / folder.name)
        return run.simulated, run.guessed
    except UserError:
        return False, False  # there is no table yet, and so there are no pictures


def banner(folder: Path) -> str:
    """What the pages of a run, by its report folder, say on top: what its `nature` is; empty for a usual one."""
    return " ".join(text for text, so in zip((BANNER, GUESSED_BANNER), nature(folder), strict=True) if so)


def opening(notebook: Any) -> tuple[str, str]:
    """The question of a notebook (its first heading) and the first sentence after it; empty where there is none."""
    from nbconvert.filters import markdown2html_mistune

    for cell in notebook.cells:
        if cell.cell_type != "markdown" or not (heading := re.search(r"^#\s+(.+)$", cell.source, re.MULTILINE)):
            continue
        rest = cell.source[heading.end() :].strip()
        paragraph = next((part for part in re.split(r"\n\s*\n", rest) if part and not part.startswith("#")), "")
        title, prose = (clean_text(markdown2html_mistune(text)) for text in (heading[1], paragraph))
        sentence = re.match(r".+?[.?!](?=\s|$)", prose)
        return title, sentence[0] if sentence else prose
    return "", ""


def stage_entry(manifest: Mapping[str, Any], number: str) -> dict[str, Any]:
    """What the manifest says of the stage with this number; nothing of one that has not run."""
    return dict((manifest.get("stages") or {}).get(number) or {})


def _fact(value: Any) -> str:
    """One provenance value as text; a long digest is cut, since its beginning identifies it."""
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, str):
        return f"{value[:12]}..." if re.fullmatch(r"(sha256:)?[0-9a-f]{40,}", value) else value
    return json.dumps(value, ensure_ascii=False, default=str)


def provenance_facts(stamp: Mapping[str, Any]) -> list[tuple[str, str | list[tuple[str, str]]]]:
    """Lay a provenance stamp out: labels with a text, and behind them labels with a list of named texts."""
    facts = {key: value for key, value in stamp.items() if value not in (None, "", [], {})}
    ordered = dict.fromkeys([*(key for key in _FACT_ORDER.split() if key in facts), *facts])
    named = [(key.replace("_", " "), facts[key]) for key in ordered]
    plain = [(name, _fact(value)) for name, value in named if not isinstance(value, Mapping)]
    groups = [
        (name, [(str(part), _fact(entry)) for part, entry in value.items()])
        for name, value in named
        if isinstance(value, Mapping)
    ]
    return [*plain, *groups]


def _shown(notebook: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Displayed objects of a notebook with their metadata, in order."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                yield output["data"], output.get("metadata") or {}


def preview(notebook: Any, identifier: str) -> str:
    """A small still picture of a notebook: its marked figure, else its first figure, else its first image."""
    figures = [data[PLOTLY_MIME] for data, _ in _shown(notebook) if PLOTLY_MIME in data]
    light = [figure for figure in figures if len(json.dumps(figure)) < _PREVIEW_BYTES]
    chosen = next((figure for figure in light if figure_meta(figure)[1]), light[0] if light else None)
    if chosen is not None:
        return preview_html(chosen, identifier, figure_meta(chosen)[0] or "The first figure of the notebook")
    for data, metadata in _shown(notebook):
        for mime in ("image/png", "image/jpeg"):
            if mime in data and len(data[mime]) < _PREVIEW_BYTES:
                alt = str((metadata.get(mime) or {}).get("alt") or "The first image of the notebook")
                return f'<img src="data:{mime};base64,{data[mime].replace(chr(10), "")}" alt="{escape(alt)}">'
        image = re.search(r"<img\b[^>]*>", data.get("text/html", ""))
        if image and len(image[0]) < _PREVIEW_BYTES and pictures(image[0])[0][0].startswith("data:"):
            return clean_html(image[0])
    return ""


def _seconds(entry: Mapping[str, Any]) -> str:
    """Duration of a stage in words."""
    seconds = entry.get("seconds")
    if not isinstance(seconds, int | float):
        return ""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def run_date(manifest: Mapping[str, Any], folder: Path) -> str:
    """When a run was last touched, as ``23 November 2026, 15:24 UTC``: the newest start, else the time of its pages."""
    starts = [str(entry["started"]) for entry in (manifest.get("stages") or {}).values() if entry.get("started")]
    try:
        newest = max(starts) if starts else max(path.stat().st_mtime for path in folder.glob("*.ipynb"))
        when = datetime.fromisoformat(newest) if isinstance(newest, str) else datetime.fromtimestamp(newest, UTC)
    except ValueError:  # no notebooks, or a start that somebody has edited
        return max(starts, default="")
    when = when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def run_index(run: str, notebooks: list[tuple[Path, Any]], manifest: Mapping[str, Any], folder: Path) -> str:
    """The index page of one run; a failed one of its executed notebooks ends in ``.failed.ipynb``."""
    metrics = read_json_or_empty(folder / "metrics.json")
    wrong = state.wrong_states(paths.run_folder(run))
    cards: dict[str, dict[str, Any]] = {}
    # A failed execution sorts after the success it follows, and takes over its card.
    for path, notebook in sorted(notebooks, key=lambda item: (item[0].name.split(".")[0], ".failed" in item[0].name)):
        name = path.name.split(".")[0]
        number = name.split("_")[0]
        entry = stage_entry(manifest, number)
        failed = ".failed" in path.name
        title, sentence = opening(notebook)
        status = wrong[number].state if number in wrong else str(entry.get("status") or "fresh")
        recorded = read_json_or_empty(paths.run_folder(run) / "records" / f"{number}.json")
        shown = [key for key in CARDS if key in metrics and key in recorded and not failed]
        cards[name] = {
            "number": number,
            "title": title or name,
            "sentence": sentence,
            "href": path.with_suffix(".html").name,
            "status": "failed" if failed else status,
            "seconds": _seconds(entry),
            "preview": preview(notebook, f"preview-{number}"),
            "earlier": cards[name]["href"] if failed and name in cards else None,
            "figures": [(label(key), format_metric(key, metrics[key])[0]) for key in shown],
        }
    return template("run.html.j2").render(
        run=run,
        title=f"Run {run}",
        assets="../_assets",
        date=run_date(manifest, folder),
        profile=str(manifest.get("profile") or ""),
        tiles=tiles(metrics),
        simulated=banner(folder),
        cards=list(cards.values()),
        warning=state.remark(paths.run_folder(run)),
        files=[name for name in ("manifest.json", "metrics.json") if (folder / name).is_file()],
    )


def site_index(root: Path) -> str:
    """The page that lists all runs under the reports folder, the latest first."""
    rows: list[dict[str, Any]] = []
    for folder in [root / name for name in paths.runs_in(root, "index.html")]:
        notebooks = [path for path in folder.glob("*.ipynb") if re.match(rf"{stages.NUMBER}_", path.name)]
        if not notebooks:
            continue
        manifest = read_json_or_empty(folder / "manifest.json")
        metrics = read_json_or_empty(folder / "metrics.json")
        rows.append(
            {
                "run": folder.name,
                "href": f"{folder.name}/index.html",
                "date": run_date(manifest, folder),
                "order": max(path.stat().st_mtime for path in notebooks),
                "profile": str(manifest.get("profile") or ""),
                "stages": len({path.name.split(".")[0] for path in notebooks}),
                "failed": sorted({path.name.split("_")[0] for path in notebooks if ".failed" in path.name}),
                "warning": state.remark(paths.run_folder(folder.name)),
                "simulated": nature(folder)[0],
                "guessed": nature(folder)[1],
                "figures": [format_metric(key, metrics[key]) if key in metrics else ("", "") for key in HEADLINES],
            }
        )
    rows.sort(key=lambda row: (-row["order"], row["run"]))
    return template("site.html.j2").render(
        title="Reports",
        run="",
        assets="_assets",
        runs=rows,
        columns=[label(key) for key in HEADLINES],
        simulated=_SOME_SIMULATED if any(row["simulated"] for row in rows) else "",
    )
