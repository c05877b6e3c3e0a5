"""Where a run's files lie: every folder of the project, found from three roots that the environment may move.

No folder is created here.
"""

import os
import re
from pathlib import Path

from geocbm.errors import ParameterError

COPY_MARK = "lab.json"
"""In the folder of a copy of a run, made to look at the run without changing it."""
RUN_NAMES = "up to 80 letters, digits, dots, dashes and underscores, beginning with a letter or digit"
"""What a run can be called: a path separator would lead out of the folders of runs."""
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def _named(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().resolve() if value else None


def project_root() -> Path:
    """Folder that holds ``notebooks/``.

    The environment variable ``GEOCBM_ROOT`` names it; else the nearest folder at or above the working folder
    with a ``notebooks/chain.toml``; else the folder that holds the package.
    """
    here = Path.cwd().resolve()
    above = (folder for folder in (here, *here.parents) if (folder / "notebooks" / "chain.toml").is_file())
    return _named("GEOCBM_ROOT") or next(above, Path(__file__).resolve().parents[2])


def data_root() -> Path:
    """Folder of data and runs: ``GEOCBM_DATA``, or ``data/`` of the project."""
    return _named("GEOCBM_DATA") or project_root() / "data"


def reports_root() -> Path:
    """Folder of the rendered reports: ``GEOCBM_REPORTS``, or ``reports/`` of the project."""
    return _named("GEOCBM_REPORTS") or project_root() / "reports"


def notebooks_folder() -> Path:
    """Folder of the notebooks, their ``.py`` pairs and ``chain.toml``."""
    return project_root() / "notebooks"


def check_run_name(run: str) -> str:
    """Return ``run`` when it can be the name of a run, see `RUN_NAMES`."""
    if not isinstance(run, str) or not _RUN_NAME.fullmatch(run):
        raise ParameterError(f"run={run!r} cannot name a run: use {RUN_NAMES}")
    return run


def check_new_folder(name: str, folder: Path) -> None:
    """Refuse a folder that holds something, or a file in its place; the error has the name of the argument."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        held = "is not empty" if folder.is_dir() else "is a file"
        raise ParameterError(f"{name}={folder} {held}, and nothing there is written over; give a new folder")


def run_folder(run: str) -> Path:
    """Folder of one run's artifacts, ``data/runs/<run>``."""
    return data_root() / "runs" / check_run_name(run)


def runs_in(root: Path, holding: str = "") -> list[str]:
    """Names of the runs that have a folder in `data/runs` or `reports`, with such a file in it, in alphabetical order.

    A folder that no run can be called after, such as `demo (copy)`, is passed over.
    """
    found = {path.relative_to(root).parts[0] for path in root.glob(f"*/{holding}")}
    return sorted(filter(_RUN_NAME.fullmatch, found))


def finished_runs() -> list[str]:
    """Names of the runs that were trained to their end, the newest first; copies are none of them."""
    root, last = data_root() / "runs", "predictions.parquet"
    found = [name for name in runs_in(root, last) if not (root / name / COPY_MARK).exists()]
    return sorted(found, key=lambda name: -(root / name / last).stat().st_mtime)


def report_folder(run: str) -> Path:
    """Folder of one run's rendered notebooks, ``reports/<run>``."""
    return reports_root() / check_run_name(run)


def cache_folder() -> Path:
    """Folder of the encoded features, ``data/cache``, shared by all runs."""
    return data_root() / "cache"


def portable(path: Path | str) -> str:
    """Name of ``path`` that does not tell where this machine keeps the project.

    POSIX text relative to the root when the path lies under one of the three roots (the data and reports roots read
    ``data/...`` and ``reports/...`` wherever they are), else only the file's name behind ``.../``.
    """
    resolved = Path(path).resolve()
    for prefix, root in (("data", data_root()), ("reports", reports_root()), ("", project_root())):
        if resolved.is_relative_to(root.resolve()):
            return (Path(prefix) / resolved.relative_to(root.resolve())).as_posix()
    return f".../{resolved.name}"


def locate(path: str | Path) -> Path:
    """Absolute path of a file that a parameter names.

    A path that begins with ``data/`` means the data root, wherever that is. Other relative paths mean the working
    folder when the file is there, else the project root.
    """
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    if path.parts[:1] == ("data",):
        return data_root().joinpath(*path.parts[1:])
    return path.resolve() if path.exists() else project_root() / path


def as_environment() -> dict[str, str]:
    """The three roots as environment variables, so that a child process means the same folders."""
    roots = {"GEOCBM_ROOT": project_root(), "GEOCBM_DATA": data_root(), "GEOCBM_REPORTS": reports_root()}
    return {variable: str(root) for variable, root in roots.items()}
