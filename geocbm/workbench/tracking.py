"""The rendered pages of a run as an artifact of Weights & Biases, in the mode that its stages were tracked in."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from geocbm.workbench import paths


def report_mode(values: Iterable[Mapping[str, Any]]) -> str:
    """Most public mode among the parameters of the stages: "online", "offline" or "disabled".

    Args:
        values: parameters of each stage.
    """
    modes = {str(each.get("tracking", "disabled")) for each in values}
    return next((mode for mode in ("online", "offline") if mode in modes), "disabled")


def report_files(run: str) -> dict[str, Path]:
    """Pages of a run and the scripts and styles they need, by their names in the artifact.

    The names keep the pages' relative links alive: `<run>/index.html` finds `../_assets/`.
    """
    folder, assets = paths.report_folder(run), paths.reports_root() / "_assets"
    found = {f"{run}/{page.name}": page for page in sorted(folder.glob("*.html"))}
    return found | {f"_assets/{file.name}": file for file in sorted(assets.glob("*")) if file.is_file()}


def log_report(run: str, values: Iterable[Mapping[str, Any]], report: Callable[[str], None] = print) -> bool:
    """Log the pages of a run as an artifact of type "report"; a failure of tracking is told and fails nothing.

    Args:
        run: name of the run, already rendered.
        values: parameters of each stage; without a tracked stage nothing happens.
        report: called with a sentence when something goes otherwise than asked.

    Returns:
        Whether the pages were logged.
    """
    mode = report_mode(values)
    if mode == "disabled":
        return False
    from geocbm.training.tracking import PROJECT, tracking_mode, wandb_arguments, wandb_folders

    folder = paths.run_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    import wandb

    try:
        with wandb_folders(folder):
            arguments = wandb_arguments(folder.resolve(), run, "report", tracking_mode(mode, report))
            with wandb.init(project=PROJECT, **arguments) as started:
                artifact = wandb.Artifact(f"report-{run}", type="report", description=f"Pages of the run {run}")
                for name, file in report_files(run).items():
                    artifact.add_file(str(file), name=name)
                started.log_artifact(artifact)
    except (wandb.errors.Error, OSError, ValueError) as problem:
        report(f"the pages were not logged to Weights & Biases: {str(problem).splitlines()[0]}")
        return False
    return True
