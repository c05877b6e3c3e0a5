"""What a run has recorded: metrics and remarks of its notebooks, and where each result came from.

Metrics are one file of records per notebook, merged into ``reports/<run>/metrics.json``; provenance is stamped into the
executed notebook and kept in ``manifest.json``.
"""

import json
import math
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from typing import Any

from geocbm import __version__
from geocbm.errors import ParameterError
from geocbm.files import paths, read_json, read_json_or_empty, write_json, write_text
from geocbm.files.stored import recorded
from geocbm.workbench import html, keys
from geocbm.workbench.stages import NUMBER_GLOB, Stage

_MANIFEST = threading.Lock()  # stages that run side by side may end at once
_PAGES_MARK = ".made.json"
"""In the folder of a run's pages, written last: digests of what they are made from and of them."""
_PAGES_CODE = ("report", "report_figures", "site", "html")


def check_key(key: str) -> str:
    """A key, refused unless it is letters, digits, dashes and underscores with dots between them, at least one."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+", key):
        raise ParameterError(f"record {key!r} needs a dotted name such as 'stage2.median_km'")
    return key


def check_value(key: str, value: Any) -> float | int | dict[str, float]:
    """A finite number, or a dict of ``value``, ``low`` and ``high``, as plain Python numbers; else refused."""
    if isinstance(value, Mapping):
        if set(value) != {"value", "low", "high"}:
            raise ParameterError(f"record {key!r} has the entries {sorted(value)}; an interval has value, low and high")
        return {name: float(_number(key, value[name])) for name in ("value", "low", "high")}
    return _number(key, value)


def _number(key: str, value: Any) -> float | int:
    if hasattr(value, "item") and getattr(value, "size", 1) in (1,):
        value = value.item()  # NumPy and torch scalars
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ParameterError(f"record {key!r}={value!r} is not a finite number; leave out what was not measured")
    return int(value) if isinstance(value, int) else float(value)


def write_remarks(run: str, number: str, remarks: Sequence[str]) -> None:
    """Keep what a notebook says to whoever runs it; without remarks those of an earlier execution are removed."""
    file = _remarks_file(run, number)
    if remarks:
        write_json(file, list(remarks))
    else:
        file.unlink(missing_ok=True)


def read_remarks(run: str, number: str) -> list[str]:
    """What a notebook said to whoever runs it."""
    file = _remarks_file(run, number)
    try:
        return [str(one) for one in read_json(file)] if file.is_file() else []
    except (ValueError, TypeError):  # it is said again when the notebook runs again
        return []


def _remarks_file(run: str, number: str) -> Path:
    return paths.run_folder(run) / "remarks" / f"{number}.json"


def merge(run: str) -> None:
    """Write the metrics of a run's notebooks into ``reports/<run>/metrics.json``.

    A notebook that ran again replaces its own metrics; the ones it no longer measures vanish.
    """
    write_json(paths.report_folder(run) / "metrics.json", recorded(paths.run_folder(run)))


def now() -> str:
    """The time in UTC as ISO text, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str | None:
    """The project's git commit, with ``+changes`` when the working tree differs from it; None outside git."""
    root = paths.project_root()
    if not (root / ".git").exists():
        return None
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=20, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+changes" if changes.strip() else "")


def _portable(value: Any) -> Any:
    """A value, or only what is portable of it when it is an absolute path."""
    return paths.portable(value) if isinstance(value, str) and Path(value).is_absolute() else value


def _joined(outputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs with neighbouring pieces of one stream as one; where a kernel cuts what it prints is a matter of time."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        if joined and output["output_type"] == "stream" and output.get("name") == joined[-1].get("name"):
            text = "".join([*joined[-1]["text"], *output["text"]])
            joined[-1] = joined[-1] | {"text": text.splitlines(keepends=True)}
        else:
            joined.append(output)
    return joined


def stamp_notebook(executed: Path, target: Path, stamp: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Move what papermill wrote to its place, with its provenance in ``metadata.geocbm`` and no folder of this machine.

    Absolute paths among the resolved parameters `values` are replaced in the text.
    """
    text = executed.read_text(encoding="utf-8")
    roots = {Path.home(): "~", paths.project_root(): ".", paths.reports_root(): "reports", paths.data_root(): "data"}
    places = {str(root): name for root, name in roots.items() if root.name}
    for value in values.values():
        if _portable(value) != value and len(Path(value).parts) > 2:
            places[value] = _portable(value)
    for folder in sorted(places, key=len, reverse=True):
        # Inside JSON a path reads as JSON writes it; the folder must not be cut out of a longer name.
        written = json.dumps(folder, ensure_ascii=False)[1:-1]
        for end in ("/", '"', "'", '\\"', " ", "\\n"):
            text = text.replace(written + end, places[folder] + end)
    content = json.loads(text)
    content["metadata"]["geocbm"] = dict(stamp)
    # Times and paths of the execution, of which the stamp says more.
    for metadata in (content["metadata"], *(cell.get("metadata", {}) for cell in content["cells"])):
        metadata.pop("papermill", None)
        metadata.pop("execution", None)
    # Names that each execution draws anew: of the cell that papermill puts in, and of controls that no cell shows.
    for cell in content["cells"]:
        if "injected-parameters" in cell.get("metadata", {}).get("tags", ()):
            cell["id"] = "injected-parameters"
        if "outputs" in cell:
            cell["outputs"] = _joined(cell["outputs"])
    if "application/vnd.jupyter.widget-view+json" not in text:
        content["metadata"].pop("widgets", None)
    write_text(target, json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    executed.unlink(missing_ok=True)


def stage_stamp(
    stage: Stage, run: str, key: Mapping[str, Any], values: Mapping[str, Any], started: str, seconds: float, peak: int
) -> dict[str, Any]:
    """What the manifest and the executed notebook say of one execution; ``peak`` is its memory in bytes."""
    return {
        "notebook": stage.notebook,
        "run": run,
        "profile": key["profile"],
        "started": started,
        "seconds": round(seconds, 2),
        "peak_memory_mib": round(peak / 2**20),
        "device": key["device"],
        "seed": values.get("seed"),
        "geocbm": __version__,
        "commit": commit(),
        "code": key["code"],
        "parameters": {name: _portable(value) for name, value in values.items()},
        "inputs": dict(key["inputs"]),
        "sources": dict(key["sources"]),
        "libraries": dict(key["libraries"]),
    }


def _stamped(run: str, number: str) -> dict[str, Any]:
    """What the executed notebook of a stage and its stamp say, for a manifest that was lost."""
    found = [file for file in paths.report_folder(run).glob(f"{number}_*.ipynb") if ".failed" not in file.name]
    stamp = dict(read_json_or_empty(found[0]).get("metadata", {}).get("geocbm") or {}) if found else {}
    outputs = read_json_or_empty(keys.stamp_file(paths.run_folder(run), number)).get("outputs")
    return stamp | ({"outputs": outputs} if stamp and outputs else {})


def write_stage(run: str, profile: str, number: str, entry: Mapping[str, Any] | None, status: str, reason: str) -> None:
    """Put a stage's entry into ``reports/<run>/manifest.json``; None keeps what the manifest says already.

    The `status` is ``fresh``, ``skipped``, ``taken over`` or ``failed``, `reason` why it ran or did not.
    """
    file = paths.report_folder(run) / "manifest.json"
    with _MANIFEST:
        manifest = read_json_or_empty(file)
        known = manifest.get("stages")
        known = known.items() if isinstance(known, dict) else ()  # what is damaged is told by stamps and pages
        stages = {each: said for each, said in known if isinstance(said, dict)}
        old = dict(entry) if entry is not None else dict(stages.get(number) or _stamped(run, number))
        stages[number] = old | {"status": status, "reason": reason}
        updated = {"run": run, "profile": profile, "geocbm": __version__, "stages": stages}
        if updated != manifest:
            write_json(file, updated)


def mark_pages(run: str) -> None:
    """Say that all pages of a run are made of what there is now."""
    write_json(paths.report_folder(run) / _PAGES_MARK, _page_digests(run))


def pages_made(run: str) -> bool:
    """Whether the pages of a run, the files beside them and the list of runs are whole and up to date."""
    site = paths.reports_root() / "index.html"
    return site.is_file() and read_json_or_empty(paths.report_folder(run) / _PAGES_MARK) == _page_digests(run)


def _page_digests(run: str) -> dict[str, str]:
    """Digests of notebooks, metrics, templates and the code around them; of pages and the files that they load."""
    folder, assets = paths.report_folder(run), paths.reports_root() / "_assets"
    found = {*folder.glob(f"{NUMBER_GLOB}_*.ipynb"), *folder.glob("*.html"), folder / "metrics.json", *assets.glob("*")}
    code = [Path(__file__).with_name(f"{name}.py") for name in _PAGES_CODE]
    return keys.digests(
        {f"{file.parent.name}/{file.name}": file for file in {*found, *code, *html.TEMPLATES.glob("*")}}
    )
