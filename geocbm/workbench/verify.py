"""`geocbm verify`: whether the files of a run are still those that its manifest names."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from geocbm.errors import UserError
from geocbm.files import paths, sha256_file, whole_command
from geocbm.files.stored import opened, recorded
from geocbm.workbench import keys, rerun_command
from geocbm.workbench.stages import read_chain


def verify(run: str) -> tuple[int, list[str]]:
    """Compute the digests of all that the manifest of a run names again.

    These are the files, records and executed notebooks that its stages wrote, the files, tables and models that they
    read, its feature stores and its metrics.

    Returns:
        How many were looked at, and a sentence on each that no longer matches, with the command that mends it.
    """
    folder, report = paths.run_folder(run), paths.report_folder(run)
    first = partial(rerun_command.remedy, folder, "01")
    with opened(report / "manifest.json", first) as manifest:
        stages = {str(number): dict(entry) for number, entry in manifest["stages"].items()}
    looked, wrong = 0, []
    for number, entry in sorted(stages.items()):
        for name, said in _of_stage(run, number, entry):
            looked += 1
            if said:
                wrong.append(f"{number}: {name} {said}; mend it with: {rerun_command.remedy(folder, number)}")
    for name, check in {"feature stores": _check_stores, "metrics.json": _check_metrics}.items():
        looked += 1
        try:
            check(run)
        except UserError as problem:
            wrong.append(f"{name}: {problem}")
    return looked, wrong


def _of_stage(run: str, number: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name of each thing that a stage wrote or read, and what is wrong with it, if anything."""
    folder = paths.run_folder(run)
    for name, digest in dict(entry.get("outputs", {})).items():
        place = (paths.report_folder(run) if name.endswith(".ipynb") else folder) / name
        yield name, _differs(place, digest)
    stage = read_chain().stage(number)
    for name, digest in dict(entry.get("inputs", {})).items():
        parameter = name.removeprefix("parameter:")
        if parameter == name:
            places = (folder / name, folder.parent / name)  # of this run, or of any by its name
            said = _differs(next((place for place in places if place.is_file()), places[0]), digest)
            yield name, said and f"{said} since it was read"
        elif not str(value := entry["parameters"].get(parameter, "")).startswith(".../"):
            try:
                same = keys.named_input(stage, parameter, str(value)) == digest
                yield f"{parameter}={value}", "" if same else "is not what was read"
            except UserError as problem:
                yield f"{parameter}={value}", str(problem)


def _differs(place: Path, digest: str) -> str:
    if not place.is_file():
        return "is missing"
    return "" if sha256_file(place) == digest else "was changed"


def _check_stores(run: str) -> None:
    from geocbm.encoders.features import FeatureStore
    from geocbm.run import Run
    from geocbm.run.encoding import store_folder

    files = Run(paths.run_folder(run))
    for kind in ("vanilla", "adapted"):
        if store := store_folder(files, kind):  # one that is gone is made again when it is needed
            FeatureStore.open(store, files.table["image_sha256"].tolist())


def _check_metrics(run: str) -> None:
    folder = paths.run_folder(run)
    with opened(paths.report_folder(run) / "metrics.json", partial(whole_command, folder)) as metrics:
        if metrics != recorded(folder):
            raise ValueError("it is not what the notebooks recorded")
