"""Reports: executed notebooks as pages for readers without Python, opened from a folder and without a network."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError, UserError
from geocbm.files import atomic_path, sha256_file
from geocbm.workbench import paths, site
from geocbm.workbench.pairs import PairError, read_ipynb
from geocbm.workbench.report_figures import PLOTLY_MIME, figure_alt, figure_html, online_map_problem
from geocbm.workbench.report_html import clean_html, pictures, settle_carriage_returns
from geocbm.workbench.stages import NUMBER

NOTEBOOK_FILE = re.compile(rf"^(?P<number>{NUMBER})_(?P<name>.+?)(?P<failed>\.failed)?\.ipynb$")
_OWN_ASSETS = ("site.css", "site.js")


class ReportError(UserError, ValueError):
    """An executed notebook cannot become a page; the message names the notebook, the cell and the remedy."""


@dataclass(frozen=True)
class PageLink:
    """A neighbour in a run's row of pages.

    Attributes:
        href: address relative to the page that links.
        title: what the reader sees.
    """

    href: str
    title: str


def read_notebook(path: Path) -> Any:
    """Read an executed notebook.

    Raises:
        ReportError: If the file is not a notebook.
    """
    try:
        return read_ipynb(path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError:
        raise MissingInputError(f"{path.name} is not in {paths.portable(path.parent)}; execute it first") from None
    except (OSError, UnicodeDecodeError, PairError) as error:
        raise ReportError(f"{path.name} is not a readable notebook ({error}); execute it again") from None


def _picture(mime: str, bundle: Mapping[str, Any], metadata: Mapping[str, Any], where: str, strict: bool) -> str:
    """An image output as an `img` element with its description."""
    own = metadata.get(mime) if isinstance(metadata.get(mime), Mapping) else {}
    alt = str((own or {}).get("alt") or metadata.get("alt") or "").strip()
    if not alt and strict:
        raise ReportError(f"{where}: an image has no alternative text; show it with nb.show_image(image, alt=...)")
    content = bundle[mime]
    text = content if isinstance(content, str) else "".join(content)
    data = base64.b64encode(text.encode()).decode() if mime == "image/svg+xml" else text.replace("\n", "")
    return f'<img src="data:{mime};base64,{data}" alt="{escape(alt)}">'


def _rich_output(output: Mapping[str, Any], identifier: str, where: str, strict: bool) -> str:
    """The best form of a displayed object: figure, HTML, image, Markdown or text."""
    from nbconvert.filters import ansi2html

    from geocbm.workbench.formulas import markdown_html

    bundle = output["data"]
    if PLOTLY_MIME in bundle:
        figure = bundle[PLOTLY_MIME]
        alt = figure_alt(figure)
        if strict and not alt:
            raise ReportError(f"{where}: a figure has no alternative text; show it with nb.show(figure, alt=...)")
        if strict and (problem := online_map_problem(figure)):
            raise ReportError(f"{where}: {problem}")
        return figure_html(figure, identifier, alt or "A figure of a notebook that failed.")
    if "application/vnd.jupyter.widget-view+json" in bundle:
        return ""  # a live control is dead in a page, and its text form says nothing to a reader
    for mime in ("text/html", "text/markdown"):
        if mime in bundle:
            text = bundle[mime] if mime == "text/html" else markdown_html(bundle[mime])
            if strict and (undescribed := pictures(text)[1]):
                raise ReportError(f"{where}: an image ({undescribed[0]}) has no alternative text; give its img an alt")
            return f'<div class="rich">{clean_html(text)}</div>'
    for mime in ("image/svg+xml", "image/png", "image/jpeg"):
        if mime in bundle:
            return _picture(mime, bundle, output.get("metadata") or {}, where, strict)
    if "text/plain" in bundle:
        return f"<pre>{ansi2html(bundle['text/plain'])}</pre>"
    return ""


def _outputs(cell: Mapping[str, Any], number: int, name: str, strict: bool) -> list[str]:
    """HTML of a code cell's outputs, in order, with the pieces of a stream joined."""
    from nbconvert.filters import ansi2html

    parts: list[str] = []
    stream: tuple[str, str] = ("", "")

    def flush() -> None:
        nonlocal stream
        text = settle_carriage_returns(stream[1]).strip("\n")
        if text.strip():
            parts.append(f'<pre class="{stream[0]}" tabindex="0">{ansi2html(text)}</pre>')
        stream = ("", "")

    for position, output in enumerate(cell.get("outputs", [])):
        kind = output["output_type"]
        if kind == "stream":
            if output["name"] != stream[0]:
                flush()
            stream = (output["name"], stream[1] + output["text"])
            continue
        flush()
        if kind == "error":
            traceback = "\n".join(output.get("traceback") or [f"{output['ename']}: {output['evalue']}"])
            parts.append(f'<pre class="error" id="error" tabindex="0">{ansi2html(traceback)}</pre>')
        elif kind in ("display_data", "execute_result"):
            where = f"{name}, cell {number}"
            parts.append(_rich_output(output, f"plot-{number}-{position}", where, strict))
    flush()
    return [part for part in parts if part]


def _cells(notebook: Any, name: str, strict: bool) -> list[dict[str, Any]]:
    """Cells as the template wants them: prose, code and outputs as finished HTML."""
    from nbconvert.filters import Highlight2HTML

    from geocbm.workbench.formulas import markdown_html

    highlight = Highlight2HTML(pygments_lexer="python")
    cells: list[dict[str, Any]] = []
    for number, cell in enumerate(notebook.cells, start=1):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            try:
                prose = markdown_html(cell.source).replace("&#182;", "#")
            except UserError as problem:
                raise ReportError(f"{name}, cell {number}: {problem}") from None
            if strict and pictures(prose)[1]:
                raise ReportError(
                    f"{name}, cell {number}: an image has no alternative text; write ![what it shows](...)"
                )
            cells.append({"kind": "prose", "html": clean_html(prose)})
        elif cell.cell_type == "code" and cell.source.strip():
            lines = cell.source.count("\n") + 1
            parts = _outputs(cell, number, name, strict)
            code = highlight(cell.source)
            cells.append({"kind": "code", "html": code, "lines": lines, "tags": tags, "outputs": parts})
    return cells


def render_notebook(
    executed: Path,
    html: Path,
    assets: Path | None = None,
    *,
    run: str = "",
    previous: PageLink | None = None,
    following: PageLink | None = None,
    provenance: Mapping[str, Any] | None = None,
    strict: bool = True,
) -> Path:
    """Write one executed notebook as a page.

    Args:
        executed: the executed ``.ipynb``.
        html: the page to write, atomically.
        assets: folder of plotly.js and the site's own style and script; ``reports/_assets`` by default. It is filled
            when something is missing.
        run: name of the run, shown in the header.
        previous: the page before this one.
        following: the page after this one.
        provenance: what the manifest knows of this stage; joined with the stamp in the notebook's metadata.
        strict: refuse figures and images without alternative text and maps that need a network. A failed
            notebook is rendered without this.

    Returns:
        The path of the page.

    Raises:
        ReportError: If a figure or image is not described, or a map would stay empty offline.
    """
    executed, html = Path(executed), Path(html)
    assets = fill_assets(assets)
    notebook = read_notebook(executed)
    first = site.opening(notebook)
    stamp = dict(notebook.metadata.get("geocbm") or {}) | dict(provenance or {})
    page = site.template("notebook.html.j2").render(
        title=first.title or executed.stem,
        run=run,
        assets=Path(os.path.relpath(assets, html.parent)).as_posix(),
        previous=previous,
        following=following,
        cells=_cells(notebook, executed.name, strict),
        failed=".failed" in executed.name,
        facts=site.provenance_facts(stamp),
        simulated=site.simulated_banner(executed.parent),
        source=executed.name if executed.parent.resolve() == html.parent.resolve() else None,
    )
    with atomic_path(html) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return html


def fill_assets(folder: Path | None = None) -> Path:
    """Copy plotly.js of the installed package and the site's style and script into the assets folder.

    Args:
        folder: the folder; ``reports/_assets`` by default. Files that are already the same are left alone.

    Returns:
        The folder.
    """
    folder = Path(folder) if folder is not None else paths.reports_root() / "_assets"
    plotly = find_spec("plotly")
    if plotly is None or plotly.origin is None:
        raise ReportError("plotly is not installed; install the project's dependencies (make lab) and render again")
    own = Path(__file__).parent / "templates"
    sources = [Path(plotly.origin).parent / "package_data" / "plotly.min.js", *(own / name for name in _OWN_ASSETS)]
    for source in sources:
        target = folder / source.name
        if not target.is_file() or sha256_file(target) != sha256_file(source):
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
    return folder


def render_run(run: str) -> Path:
    """Render every executed notebook of a run and its index.

    A stage whose last execution failed gets a page of the failed notebook, and of the earlier success if there is one.

    Args:
        run: name of the run.

    Returns:
        ``reports/<run>/index.html``.

    Raises:
        MissingInputError: If the run has no executed notebook.
        ReportError: If a notebook breaks a rule of the reports.
    """
    folder = paths.report_folder(run)
    found = sorted(path for path in folder.glob("*.ipynb") if NOTEBOOK_FILE.match(path.name)) if folder.is_dir() else []
    if not found:
        raise MissingInputError(f"run {run!r} has no executed notebook; make them with: geocbm run --run {run}")
    assets = fill_assets()
    manifest = site.read_json_or_empty(folder / "manifest.json")
    pages = [(path, path.with_suffix(".html")) for path in found]
    links = [PageLink(html.name, site.opening(read_notebook(path)).title or path.stem) for path, html in pages]
    for position, (path, html) in enumerate(pages):
        number = path.name.split("_")[0]
        render_notebook(
            path,
            html,
            assets,
            run=run,
            previous=links[position - 1] if position else None,
            following=links[position + 1] if position + 1 < len(links) else None,
            provenance=site.stage_entry(manifest, number),
            strict=".failed" not in path.name,
        )
    wanted = {html.name for _, html in pages}
    for stale in folder.glob("*.html"):
        if NOTEBOOK_FILE.match(stale.with_suffix(".ipynb").name) and stale.name not in wanted:
            stale.unlink()  # a page whose notebook is gone would tell of a run that is no more
    page = site.run_index(run, [(path, read_notebook(path)) for path in found], manifest, folder)
    with atomic_path(folder / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / "index.html"


def render_site() -> Path:
    """Write ``reports/index.html``, the list of all runs with their headline figures, and fill ``reports/_assets``.

    Returns:
        The path of the page. It is written, and says so, also when there is no run yet.
    """
    root = paths.reports_root()
    fill_assets()
    page = site.site_index(root)
    with atomic_path(root / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return root / "index.html"
