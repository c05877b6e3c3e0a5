"""Projects: a folder with the notebooks, profiles and settings of the installed package, to work in outside a clone."""

import shutil
from importlib import metadata
from pathlib import Path

from geocbm.errors import MissingInputError
from geocbm.files import paths

_SHARED = ("share", "geocbm")
"""Where a wheel puts what stands beside the package in a clone, see `data-files` in pyproject.toml."""
_PARTS = ("notebooks", "data/README.md", "reports/README.md", "tools/lab", ".gitignore")
_TEMPLATE = Path(__file__).with_name("templates") / "project.md"
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*_checkpoints")


def project_files() -> Path:
    """Folder with the files of a new project: the clone that the package lies in, or what the wheel installed."""
    clone = Path(__file__).resolve().parents[2]
    if (clone / "notebooks" / "chain.toml").is_file():
        return clone
    for file in metadata.files("geocbm") or []:
        if file.parts[-4:] == (*_SHARED, "notebooks", "chain.toml") and Path(str(file.locate())).is_file():
            return Path(str(file.locate())).resolve().parents[1]
    raise MissingInputError("this installation of geocbm has no notebooks; install it from its wheel or a clone")


def make_project(folder: Path) -> None:
    """Make a project in a new or empty folder; one that holds something is refused."""
    paths.check_new_folder("FOLDER", folder)
    source = project_files()
    for part in _PARTS:
        held, target = source / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if held.is_dir():
            shutil.copytree(held, target, ignore=_LEFT_OUT)
        else:
            shutil.copyfile(held, target)
    shutil.copyfile(_TEMPLATE, folder / "README.md")
