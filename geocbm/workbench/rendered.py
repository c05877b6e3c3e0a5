"""Whether the pages of a run are made: a mark, written last, has the digests of what they are made from and of them."""

from pathlib import Path

from geocbm.files import paths, write_json
from geocbm.workbench import html, keys
from geocbm.workbench.stages import NUMBER_GLOB

MARK = ".made.json"
"""In the folder of a run's pages."""
_CODE = ("report", "report_figures", "site", "html")


def mark(run: str) -> None:
    """Say that all pages of a run are made of what there is now."""
    write_json(paths.report_folder(run) / MARK, _digests(run))


def is_made(run: str) -> bool:
    """Whether the pages of a run, the files beside them and the list of runs are whole and up to date."""
    site = paths.reports_root() / "index.html"
    return site.is_file() and keys.read_json_or_empty(paths.report_folder(run) / MARK) == _digests(run)


def _digests(run: str) -> dict[str, str]:
    """Digests of notebooks, metrics, templates and the code around them; of pages and the files that they load."""
    folder, assets = paths.report_folder(run), paths.reports_root() / "_assets"
    found = {*folder.glob(f"{NUMBER_GLOB}_*.ipynb"), *folder.glob("*.html"), folder / "metrics.json", *assets.glob("*")}
    code = [Path(__file__).with_name(f"{name}.py") for name in _CODE]
    return keys.digests(
        {f"{file.parent.name}/{file.name}": file for file in {*found, *code, *html.TEMPLATES.glob("*")}}
    )
