"""Reports: executed notebooks as pages for readers without Python, opened from a folder and without a network."""

import base64
import re
import shutil
from collections.abc import Mapping, Sequence
from html import escape, unescape
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader
from nbconvert import HTMLExporter
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor

from geocbm.errors import MissingInputError, ParameterError, UserError
from geocbm.files import atomic_path, paths, read_json_or_empty, sha256_file, whole_command, write_text
from geocbm.plots.theme import ON_DARK
from geocbm.workbench import site
from geocbm.workbench.html import ANSWER_MIME, TEMPLATES, clean_html, clean_text, pictures
from geocbm.workbench.report_figures import PLOTLY_MIME, figure_html, figure_meta, online_map_problem
from geocbm.workbench.stages import NUMBER
from geocbm.workbench.sync import PairError, read_ipynb

_NOTEBOOK_FILE = re.compile(rf"{NUMBER}_.+\.ipynb")
_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>', re.DOTALL)
_NOTHING = re.compile(r'<div class="rich"><p>[^<]*: nothing to show\.</p></div>')
_SHOWN = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain")


class ReportError(UserError, ValueError):
    """An executed notebook cannot become a page; the message names the notebook, the cell and the remedy."""


def read_notebook(path: Path) -> Any:
    """Read an executed notebook; one that is absent or cannot be read is refused with what to do."""
    try:
        return read_ipynb(path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError:
        raise MissingInputError(f"{path.name} is not in {paths.portable(path.parent)}; execute it first") from None
    except (OSError, UnicodeDecodeError, PairError) as error:
        raise ReportError(f"{path.name} is not a readable notebook ({error}); execute it again") from None


def formula_html(latex: str, display: bool) -> str:
    r"""A LaTeX formula as MathML, for a line of its own (`display`) or within one; browsers draw it without a script.

    What the converter does not know (it has no `\arg`, `\tag` or `aligned`; `\operatorname{arg\,max}`, `\text{}` and
    `align` it has) is a ParameterError.
    """
    from latex2mathml.converter import convert

    try:
        markup = convert(latex.strip(), display="block" if display else "inline")
    except Exception as problem:  # the converter has an error class for each way in which LaTeX may be wrong
        raise ParameterError(f"the formula {latex.strip()!r} cannot be read ({type(problem).__name__})") from None
    if "\\" in markup:
        command = markup[markup.index("\\") :].split("<")[0]
        raise ParameterError(
            f"the formula {latex.strip()!r} uses {command!r}, which pages cannot draw; write it otherwise"
        )
    return markup


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return formula_html(body, display=False)

    def block_math(self, body: str) -> str:
        return f'<div class="formula">{formula_html(body, display=True)}</div>'


def markdown_html(text: str) -> str:
    """Markdown with formulas as HTML; not yet cleaned."""
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(text)


def _without_empty_sections(cells: Sequence[Any]) -> list[Any]:
    """The cells, but for sections in which there are tables, and nothing in any: such as those of a single run."""
    begins = [at for at, cell in enumerate(cells) if cell.cell_type == "markdown" and cell.source.startswith("## ")]
    kept = list(cells[: begins[0]]) if begins else list(cells)
    for begin, end in pairwise([*begins, len(cells)]):
        outputs = [output for cell in cells[begin:end] for output in cell.get("outputs", ())]
        shown = [text for output in outputs if (text := str(output.get("html") or output.get("text", ""))).strip()]
        if not shown or not all(map(_NOTHING.fullmatch, shown)):
            kept += cells[begin:end]
    return kept


class _Accessible(Preprocessor):
    """Make every output one piece of harmless HTML, and hold it to the rules of the reports.

    A figure becomes a `figure` element with its description; live controls go, for they are dead in a page. What a
    notebook that failed shows is not refused.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._strict = name, ".failed" not in name

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """All cells, and what the page's first screen is made of: see `notebook.html.j2`."""
        self._answer = self._picture = ""
        nb, resources = super().preprocess(nb, resources)
        nb.cells = _without_empty_sections(nb.cells)
        prose = [index for index, cell in enumerate(nb.cells) if cell.cell_type == "markdown"]
        headings = "".join(nb.cells[index].html for index in prose)
        nb.metadata["page"] = {
            "opening": prose[1] if prose[1:] else len(nb.cells),  # title, parameters and `notebook.start`
            "answer": self._answer + self._picture if self._answer else "",
            "contents": [
                (unescape(anchor), clean_text(text).rstrip("# ,")) for anchor, text in _HEADING.findall(headings)
            ],
        }
        return nb, resources

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        where = f"{self._name}, cell {index + 1}"
        if cell.cell_type == "markdown":
            try:
                prose = markdown_html(cell.source).replace("&#182;", "#")
            except UserError as problem:
                raise ReportError(f"{where}: {problem}") from None
            if self._strict and not all(alt for _, alt in pictures(prose)):
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
            return self._figure(bundle[PLOTLY_MIME], identifier, where)
        if ANSWER_MIME in bundle:
            self._answer = clean_html(bundle["text/html"])
            return ""
        kind = next((mime for mime in _SHOWN if mime in bundle), None)
        if kind is None or "application/vnd.jupyter.widget-view+json" in bundle:
            return ""
        if kind == "text/plain":
            return f"<pre>{ansi2html(bundle[kind])}</pre>"
        if kind.startswith("image/"):
            own = output.metadata.get(kind) or {}
            alt = str(own.get("alt") or output.metadata.get("alt") or "").strip()
            drawing = kind == "image/svg+xml"
            data = base64.b64encode(bundle[kind].encode()).decode() if drawing else bundle[kind].replace("\n", "")
            markup = f'<img src="data:{kind};base64,{data}" alt="{escape(alt)}">'
        else:
            text = bundle[kind] if kind == "text/html" else markdown_html(bundle[kind])
            markup = f'<div class="rich">{clean_html(text)}</div>'
        undescribed = [source[:60] for source, alt in pictures(markup) if not alt]
        if self._strict and undescribed:
            raise ReportError(
                f"{where}: an image ({undescribed[0]}) has no alternative text; show it with nb.show_image(image, "
                "alt=...) or give its img an alt"
            )
        return markup

    def _figure(self, figure: dict[str, Any], identifier: str, where: str) -> str:
        alt, preview = figure_meta(figure)
        if self._strict and not alt:
            raise ReportError(f"{where}: a figure has no alternative text; show it with nb.show(figure, alt=...)")
        if self._strict and (problem := online_map_problem(figure)):
            raise ReportError(f"{where}: {problem}")
        markup = figure_html(figure, identifier, alt or "A figure of a notebook that failed.")
        if preview and not self._picture:
            self._picture = markup.partition("<script")[0]  # the same place once more; its data stand further down
        return markup


def render_notebook(
    executed: Path, siblings: Sequence[Mapping[str, str]] = (), provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write one executed notebook of a run as a page beside it, whose path is returned.

    `siblings` are `href` and `title` of the pages of the run in order, this one among them; `provenance` is what the
    manifest knows of the stage, joined with the stamp in the notebook's metadata.

    Raises:
        ReportError: If a figure or image is not described, or a map would stay empty offline.
    """
    notebook = read_notebook(executed)
    exporter = HTMLExporter(extra_loaders=[FileSystemLoader(TEMPLATES)], template_file="notebook.html.j2")
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)
    exporter.register_preprocessor(_Accessible(executed.name), enabled=True)
    exporter.environment.autoescape = True
    exporter.environment.globals |= {
        "title": site.opening(notebook)[0] or executed.stem,
        "run": executed.parent.name,
        "assets": "../_assets",
        "shades": ON_DARK,
        "siblings": siblings,
        "place": next((at for at, page in enumerate(siblings) if page["href"] == f"{executed.stem}.html"), None),
        "failed": ".failed" in executed.name,
        "facts": site.provenance_facts(dict(notebook.metadata.get("geocbm") or {}) | dict(provenance or {})),
        "simulated": site.banner(executed.parent),
        "source": executed.name,
    }
    exporter.register_filter("highlight_code", Highlight2HTML(pygments_lexer="python"))
    # HTMLExporter's own method would parse the whole page once more to add alternative texts, which are there already.
    page, _ = super(HTMLExporter, exporter).from_notebook_node(notebook)
    return write_text(executed.with_suffix(".html"), page)


def fill_assets() -> Path:
    """Copy plotly.js of the installed package and the site's style and script into ``reports/_assets``, its path.

    Files that are already the same are left alone.
    """
    folder = paths.reports_root() / "_assets"
    script = Path(str(files("plotly"))) / "package_data" / "plotly.min.js"
    for source in (script, TEMPLATES / "site.css", TEMPLATES / "site.js"):
        target = folder / source.name
        if not target.is_file() or sha256_file(target) != sha256_file(source):
            with atomic_path(target, source.stat().st_size) as temporary:
                shutil.copyfile(source, temporary)
    return folder


def render_run(run: str) -> Path:
    """Render every executed notebook of a run and its index, ``reports/<run>/index.html``, whose path is returned.

    A stage whose last execution failed gets a page of the failed notebook, and of the earlier success if there is one.

    Raises:
        MissingInputError: If the run has no executed notebook.
        ReportError: If a notebook breaks a rule of the reports.
    """
    folder = paths.report_folder(run)
    found = [path for path in sorted(folder.glob("*.ipynb")) if _NOTEBOOK_FILE.fullmatch(path.name)]
    if not found:
        command = whole_command(paths.run_folder(run))
        raise MissingInputError(f"run {run!r} has no executed notebook; make them with: {command}")
    fill_assets()
    manifest = read_json_or_empty(folder / "manifest.json")
    notebooks = [(path, read_notebook(path)) for path in found]
    links = [
        {"href": path.with_suffix(".html").name, "title": site.opening(notebook)[0] or path.stem}
        for path, notebook in notebooks
    ]
    for path in found:
        render_notebook(path, links, site.stage_entry(manifest, path.name.split("_")[0]))
    for page in folder.glob("*.html"):
        source = page.with_suffix(".ipynb")
        if _NOTEBOOK_FILE.fullmatch(source.name) and source not in found:
            page.unlink()  # a page whose notebook is gone would tell of a run that is no more
    return write_text(folder / "index.html", site.run_index(run, notebooks, manifest, folder))


def render_site() -> Path:
    """Write ``reports/index.html``, the list of all runs, if any, with their headline metrics, and fill ``_assets``."""
    fill_assets()
    return write_text(paths.reports_root() / "index.html", site.site_index(paths.reports_root()))
