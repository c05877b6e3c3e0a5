"""Looking at a finished run without changing it: a notebook opened without a run works on a copy made of links.

The copy `<run>-lab` costs no space: every file is a hard link, and as all files are replaced and never written in
place, what a notebook writes there is its own. `publish` makes a run of its own of it.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import link_or_copy, paths, read_json_or_empty, write_json
from geocbm.files.owners import LOCK
from geocbm.workbench import html, state
from geocbm.workbench.parameters import Parameter, parameters_of_source
from geocbm.workbench.stages import number_of

RUN = "GEOCBM_RUN"
"""Environment variable: the run of notebooks that are opened without one. nbval sets it; no copy is made then."""
_CHOSEN = ".lab.json"  # beside the runs: what was picked in a notebook
_SUFFIX = "-lab"


def chosen_run() -> str:
    """The run that was picked, else the newest finished one.

    Raises:
        MissingInputError: there is no finished run.
    """
    runs = paths.finished_runs()
    if not runs:
        raise MissingInputError(
            "there is no finished run to look at; make one with: geocbm run (or name yours in the parameters cell)"
        )
    picked = str(read_json_or_empty(paths.data_root() / "runs" / _CHOSEN).get("run"))
    return picked if picked in runs else runs[0]


def open_copy(run: str) -> str:
    """Name of a finished run's copy to work on, made anew when the run was and nothing in the copy was changed."""
    source, name = paths.run_folder(run), _copy_name(run)
    folder = paths.run_folder(name)
    made = read_json_or_empty(folder / paths.COPY_MARK).get("files") or {}
    if made == _files(source):
        return name
    if made and any(_changed(folder, made)):
        html.put(
            f"<p>Run {run!r} was made anew since {name!r} was copied from it. What you changed there is kept; "
            f"<code>lab.reset({run!r})</code> begins again.</p>",
            f"run {run!r} was made anew since {name!r} was copied from it; lab.reset({run!r}) begins again",
        )
        return name
    reset(run)
    return name


def reset(run: str) -> str:
    """Make the copy of a run anew, dropping what was changed in it; its name."""
    source, name = paths.run_folder(run), _copy_name(run)
    folder = paths.run_folder(name)
    if folder.exists() and not (folder / paths.COPY_MARK).is_file():
        raise ParameterError(f"run {name!r} is no copy of {run!r} but a run of its own; rename or remove it")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, copy_function=link_or_copy, ignore=shutil.ignore_patterns(LOCK))
    write_json(folder / paths.COPY_MARK, {"from": run, "files": _files(source)})
    return name


def publish(copy: str, run: str) -> Path:
    """Make a run of its own of a copy such as `demo-lab`, which is gone then.

    Raises:
        ParameterError: there is no such copy, or there is a run of this name.
    """
    folder, target = paths.run_folder(copy), paths.run_folder(run)
    if not (folder / paths.COPY_MARK).is_file():
        raise ParameterError(f"copy={copy!r} is no copy of a run; copies are called <run>{_SUFFIX}")
    if target.exists():
        raise ParameterError(f"run={run!r} is there already; choose another name, or remove {paths.portable(target)}")
    (folder / paths.COPY_MARK).unlink()
    return folder.rename(target)


def parameters_to_use(
    name: str, run: str, values: Mapping[str, Any], declared: Mapping[str, Parameter]
) -> dict[str, Any]:
    """Parameters with which a run was made, but for those that the parameters cell now gives otherwise.

    Of the `values` in the cell (or of papermill) those count as given that differ from the cell as it stood when the
    run was made: the executed notebook `name` beside its page keeps it. Where that is gone or damaged, it is what
    differs from the script, as `declared`.
    """
    recorded = state.recorded_parameters(paths.run_folder(run), number_of(name))
    executed = paths.report_folder(run) / f"{name}.ipynb"
    before = _declared_in(executed) or {key: one.default for key, one in declared.items()}
    own = {key: value for key, value in values.items() if key in before and value != before[key]}
    return {**values, **{key: value for key, value in recorded.items() if key in declared}, **own}


def picker() -> None:
    """Show from which run the notebooks open, with a choice; the next "Run All" takes it."""
    runs = paths.finished_runs()
    if not html.interactive() or len(runs) < 2:
        return
    import ipywidgets
    from IPython.display import display

    choice = ipywidgets.Dropdown(options=runs, value=chosen_run(), description="run")

    def keep(change: Mapping[str, Any]) -> None:
        write_json(paths.data_root() / "runs" / _CHOSEN, {"run": change["new"]})

    choice.observe(keep, names="value")
    display(ipywidgets.HBox([choice, ipywidgets.Label("choose, then Run All again")]))


def _declared_in(executed: Path) -> dict[str, Any]:
    """Defaults in the parameters cell of an executed notebook; none where it cannot be read."""
    with suppress(Exception):  # a damaged file may hold anything
        for cell in read_json_or_empty(executed).get("cells", []):
            if "parameters" in cell.get("metadata", {}).get("tags", []):
                source = "".join(cell["source"])
                return {key: one.default for key, one in parameters_of_source(source, executed.name).items()}
    return {}


def _copy_name(run: str) -> str:
    return f"{run[: 80 - len(_SUFFIX)]}{_SUFFIX}"


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and time of each file, by its name in the folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK]
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    return {name: [one.st_size, one.st_mtime_ns] for name, one in stats.items()}


def _changed(folder: Path, made: Mapping[str, list[int]]) -> list[str]:
    now = _files(folder)
    return [name for name in {*now, *made} - {paths.COPY_MARK} if now.get(name) != made.get(name)]
