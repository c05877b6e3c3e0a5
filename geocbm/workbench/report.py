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

from jinja2 import FileSystemLoader
from nbconvert import HTMLExporter
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor

from geocbm.errors import MissingInputError, UserError
from geocbm.files import atomic_path, paths, sha256_file
from geocbm.workbench import site
from geocbm.workbench.formulas import markdown_html
from geocbm.workbench.html import clean_html, pictures
from geocbm.workbench.keys import read_json_or_empty
from geocbm.workbench.report_figures import PLOTLY_MIME, figure_alt, figure_html, online_map_problem
from geocbm.workbench.stages import NUMBER
from geocbm.workbench.sync import PairError, read_ipynb

NOTEBOOK_FILE = re.compile(rf"^(?P<number>{NUMBER})_(?P<name>.+?)(?P<failed>\.failed)?\.ipynb$")
_OWN_ASSETS = ("site.css", "site.js")
_SHOWN = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain")


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


class _Accessible(Preprocessor):
    """Make every output one piece of harmless HTML, and hold it to the rules of the reports.

    A figure becomes a `figure` element with its description; live controls go, for they are dead in a page.
    """

    def __init__(self, name: str, strict: bool) -> None:
        super().__init__()
        self._name, self._strict = name, strict

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        where = f"{self._name}, cell {index + 1}"
        if cell.cell_type == "markdown":
            try:
                prose = markdown_html(cell.source).replace("&#182;", "#")
            except UserError as problem:
                raise ReportError(f"{where}: {problem}") from None
            if self._strict and pictures(prose)[1]:
                raise ReportError(f"{where}: an image has no alternative text; write ![what it shows](...)")
            cell.html = clean_html(prose)
        elif cell.cell_type == "code":
            for position, output in enumerate(cell.outputs):
                if output.output_type in ("display_data", "execute_result"):
                    output.html = self._displayed(output, f"plot-{index + 1}-{position}", where)
        return cell, resources

    def _displayed(self, output: Any, identifier: str, where: str) -> str:
        """HTML of the best form of a displayed object: figure, HTML, image, Markdown or text."""
        bundle = output.data
        if PLOTLY_MIME in bundle:
            alt = figure_alt(bundle[PLOTLY_MIME])
            if self._strict and not alt:
                raise ReportError(f"{where}: a figure has no alternative text; show it with nb.show(figure, alt=...)")
            if self._strict and (problem := online_map_problem(bundle[PLOTLY_MIME])):
                raise ReportError(f"{where}: {problem}")
            return figure_html(bundle[PLOTLY_MIME], identifier, alt or "A figure of a notebook that failed.")
        if "application/vnd.jupyter.widget-view+json" in bundle:
            return ""
        kind = next((mime for mime in _SHOWN if mime in bundle), None)
        if kind is None:
            return ""
        if kind == "text/plain":
            return f"<pre>{ansi2html(bundle[kind])}</pre>"
        if kind.startswith("image/"):
            own = output.metadata.get(kind) or {}
            alt = str(own.get("alt") or output.metadata.get("alt") or "").strip()
            data = bundle[kind].replace("\n", "")
            data = base64.b64encode(bundle[kind].encode()).decode() if kind == "image/svg+xml" else data
            markup = f'<img src="data:{kind};base64,{data}" alt="{escape(alt)}">'
        else:
            text = bundle[kind] if kind == "text/html" else markdown_html(bundle[kind])
            markup = f'<div class="rich">{clean_html(text)}</div>'
        if self._strict and (undescribed := pictures(markup)[1]):
            raise ReportError(
                f"{where}: an image ({undescribed[0]}) has no alternative text; show it with nb.show_image(image, "
                "alt=...) or give its img an alt"
            )
        return markup


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
    exporter = HTMLExporter(extra_loaders=[FileSystemLoader(site.TEMPLATES)], template_file="notebook.html.j2")
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)
    exporter.register_preprocessor(_Accessible(executed.name, strict), enabled=True)
    exporter.environment.autoescape = True
    exporter.environment.globals |= {
        "title": site.opening(notebook).title or executed.stem,
        "run": run,
        "assets": Path(os.path.relpath(assets, html.parent)).as_posix(),
        "previous": previous,
        "following": following,
        "failed": ".failed" in executed.name,
        "facts": site.provenance_facts(dict(notebook.metadata.get("geocbm") or {}) | dict(provenance or {})),
        "simulated": site.simulated_banner(executed.parent),
        "source": executed.name if executed.parent.resolve() == html.parent.resolve() else None,
    }
    exporter.register_filter("highlight_code", Highlight2HTML(pygments_lexer="python"))
    # HTMLExporter's own method would parse the whole page once more to add alternative texts, which are there already.
    page, _ = super(HTMLExporter, exporter).from_notebook_node(notebook)
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
    sources = [
        Path(plotly.origin).parent / "package_data" / "plotly.min.js",
        *(site.TEMPLATES / name for name in _OWN_ASSETS),
    ]
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
    manifest = read_json_or_empty(folder / "manifest.json")
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
