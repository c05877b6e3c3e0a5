"""When a stage may be skipped: a key over all that its result depends on, and a sentence that says what changed.

The key covers the code cells (not the prose), the resolved parameters, the contents of the inputs, the package's
modules that the notebook imports, however indirectly, the versions of the libraries, the profile and the device.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError
from geocbm.files import paths, read_json
from geocbm.workbench.fingerprint import (
    code_digest,
    device_class,
    digest_file,
    folder_digest,
    library_versions,
    source_digests,
    table_digest,
)
from geocbm.workbench.stages import Chain, Stage

_FILES = {".csv", ".parquet", ".json", ".safetensors"}


def read_json_or_empty(file: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file reads as empty, since a run grows notebook by notebook.

    So does a damaged one: it must not keep the pages of all other runs from being made (page 10 names it).
    """
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def stamp_file(folder: Path, number: str) -> Path:
    """Where a run keeps the key of a stage's last success, or what was asked for since."""
    return folder / "stamps" / f"{number}.json"


def hand_file(folder: Path, number: str) -> Path:
    """Where a notebook notes that it was run outside of the chain."""
    return folder / "by_hand" / f"{number}.json"


def parameters_of(note: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in a stamp, which may be of a stage that was only begun, or in a note of `hand_file`."""
    key = note.get("key")
    finished = key.get("parameters") if isinstance(key, dict) else None
    return dict(finished or note.get("asked") or note.get("parameters") or {})


def input_digests(chain: Chain, stage: Stage, folder: Path, profile: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Digests of everything that a stage of the run in `folder` reads.

    Raises:
        MissingInputError: If a file is not there; the message names the command that makes it.
    """
    found: dict[str, str] = {}
    for name in stage.reads:
        if name.startswith("parameter:"):
            parameter = name.removeprefix("parameter:")
            if values.get(parameter) not in (None, ""):
                found[name] = _named_input(stage, parameter, str(values[parameter]))
        elif "*" in name or "[" in name:
            base = paths.data_root() / "runs" if name.startswith("runs/") else folder
            for file in sorted(base.glob(name.removeprefix("runs/"))):
                found[file.relative_to(base).as_posix()] = digest_file(file)
        elif (folder / name).is_file():
            found[name] = digest_file(folder / name)
        else:
            from geocbm.workbench import rerun_command

            command = rerun_command.remedy(folder, chain.writer(name, stage.number), profile)
            raise MissingInputError(f"{name!r} of run {folder.name!r} is not there yet; make it with: {command}")
    return found


def own_inputs(stage: Stage, folder: Path) -> dict[str, str]:
    """Digests of what a stage reads of its own run, as far as it is there."""
    files = {file.relative_to(folder).as_posix(): file for name in own_reads(stage) for file in folder.glob(name)}
    return {name: digest_file(file) for name, file in sorted(files.items()) if file.is_file()}


def own_reads(stage: Stage) -> list[str]:
    """Names and patterns of the files of its own run that a stage reads."""
    return [name for name in stage.reads if not name.startswith(("parameter:", "runs/"))]


def _named_input(stage: Stage, parameter: str, value: str) -> str:
    """Digest of the file or folder that a parameter names; the name itself where it is a model on a hub."""
    place = paths.locate(value)
    if place.is_dir():
        return folder_digest(place)
    if place.is_file():
        return digest_file(place) if place.suffix.lower() != ".csv" else table_digest(place)
    if value.startswith(("/", ".", "~", "data/")) or place.suffix.lower() in _FILES:
        raise MissingInputError(
            f"{parameter}={value!r} of {stage.notebook} does not exist; give the path of a file or folder that is there"
        )
    return f"name {value}"


def compute(chain: Chain, stage: Stage, folder: Path, profile: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a stage's result depends on, by subject; the run's name is no part of it.

    Returns:
        ``code``, ``parameters``, ``inputs``, ``sources``, ``libraries``, ``profile``, ``device``: JSON-ready.
    """
    return {
        "code": code_digest(stage.source),
        "parameters": {name: value for name, value in values.items() if name != "run"},
        "inputs": input_digests(chain, stage, folder, profile, values),
        "sources": source_digests(stage.source),
        "libraries": library_versions(),
        "profile": profile,
        "device": device_class(),
    }


def written_files(stage: Stage, folder: Path) -> dict[str, Path]:
    """What a stage writes into the folder of a run, by portable name; what it promises need not exist."""
    files = {name: folder / name for name in (*stage.promised, stage.record)}
    for pattern in (*(name for name in stage.writes if "*" in name), f"remarks/{stage.number}.json"):
        for file in sorted(folder.glob(pattern)):
            if ".resume." not in file.name:  # the state of a training under way, which is no result
                files.setdefault(file.relative_to(folder).as_posix(), file)
    return files


def output_files(stage: Stage, folder: Path) -> dict[str, Path]:
    """What a stage leaves behind: its files, its records and the executed notebook, by portable name."""
    page = paths.report_folder(folder.name) / f"{stage.notebook}.ipynb"
    return written_files(stage, folder) | {page.name: page}


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Digests of the files that are there."""
    return {name: digest_file(file) for name, file in files.items() if file.is_file()}


def stale_reason(stage: Stage, folder: Path, key: Mapping[str, Any]) -> str | None:
    """One sentence on why a stage of a run must run again, or None when it may be skipped.

    Args:
        stage: the notebook.
        folder: folder of the run's files.
        key: what `compute` says now.
    """
    stamp = read_json_or_empty(stamp_file(folder, stage.number))
    old = stamp.get("key")
    if not isinstance(old, dict):
        return "never ran to its end"
    for name in ("profile", "device"):
        if old.get(name) != key[name]:
            return f"{name} changed {old.get(name)} -> {key[name]}"
    if reason := _difference("parameter", old.get("parameters", {}), key["parameters"], values=True):
        return reason
    if old.get("code") != key["code"]:
        return "code of the notebook changed"
    for subject, label in (("inputs", "input"), ("sources", "code"), ("libraries", "library")):
        if reason := _difference(label, old.get(subject, {}), key[subject], values=subject == "libraries"):
            return reason
    return _changed_output(stamp.get("outputs", {}), output_files(stage, folder))


def _changed_output(before: Mapping[str, str], files: Mapping[str, Path]) -> str | None:
    """Which output is not as the last success left it."""
    for name, file in files.items():
        if not file.is_file():
            return f"output {name} is missing"
        if before.get(name) != digest_file(file):
            return f"output {name} was changed since"
    gone = sorted(set(before) - set(files))
    return f"output {gone[0]} is missing" if gone else None


def _difference(label: str, old: Mapping[str, Any], new: Mapping[str, Any], values: bool) -> str | None:
    """Say what differs between two mappings: the first name, and how many more."""
    changed = [name for name in sorted({*old, *new}) if old.get(name, ...) != new.get(name, ...)]
    if not changed:
        return None
    name = changed[0]
    spoken = name.removeprefix("parameter:")
    if name not in old:
        text = f"{label} {spoken} is new"
    elif name not in new:
        text = f"{label} {spoken} is gone"
    elif values:
        text = f"{label} {spoken} changed {_short(old[name])} -> {_short(new[name])}"
    else:
        text = f"{label} {spoken} changed"
    return text + (f" (and {len(changed) - 1} more)" if len(changed) > 1 else "")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"...{text[-56:]}"
