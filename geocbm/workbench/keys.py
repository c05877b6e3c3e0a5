"""When a stage may be skipped: a key over all that its result depends on, and a sentence that says what changed.

The key covers the code cells (not the prose), the resolved parameters, the contents of the inputs, the package's
modules that the notebook imports, however indirectly, the versions of the libraries, the profile and the device.
"""

import fnmatch
from collections.abc import Iterable, Mapping
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


def input_digests(chain: Chain, stage: Stage, run: str, profile: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Digests of everything that a stage reads.

    Raises:
        MissingInputError: If a file is not there; the message names the command that makes it.
    """
    found: dict[str, str] = {}
    folder = paths.run_folder(run)
    for name in stage.reads:
        if name.startswith("parameter:"):
            parameter = name.removeprefix("parameter:")
            if values.get(parameter) not in (None, ""):
                found[name] = _named_input(stage, parameter, str(values[parameter]))
        elif "*" in name or "[" in name:
            across = name.startswith("runs/")
            base = paths.data_root() / "runs" if across else folder
            for file in sorted(base.glob(name.removeprefix("runs/"))):
                found[file.relative_to(base).as_posix()] = digest_file(file)
        else:
            file = folder / name
            if not file.is_file():
                from geocbm.workbench import rerun_command

                writer = chain.writer(name)
                command = rerun_command.remedy(folder, writer.number if writer else stage.number, profile)
                raise MissingInputError(f"{name!r} of run {run!r} is not there yet; make it with: {command}")
            found[name] = digest_file(file)
    return found


def own_inputs(stage: Stage, folder: Path) -> dict[str, str]:
    """Digests of what a stage reads of its own run, as far as it is there."""
    files = {
        file.relative_to(folder).as_posix(): file
        for name in stage.reads
        if not name.startswith(("parameter:", "runs/"))
        for file in sorted(folder.glob(name))
    }
    return {name: digest_file(file) for name, file in files.items() if file.is_file()}


def is_own_input(stage: Stage, name: str) -> bool:
    """Whether the name of an input in a stamp means a file of the run itself."""
    own = [each for each in stage.reads if not each.startswith(("parameter:", "runs/"))]
    return any(fnmatch.fnmatch(name, each) for each in own)


def _named_input(stage: Stage, parameter: str, value: str) -> str:
    """Digest of the file or folder that a parameter names; the name itself where it is a model on a hub."""
    place = paths.locate(value)
    if place.is_dir():
        return folder_digest(place)
    if place.is_file():
        return digest_file(place) if place.suffix.lower() != ".csv" else table_digest(place)
    if value.startswith(("/", ".", "~", "data/")) or place.suffix.lower() in {
        ".csv",
        ".parquet",
        ".json",
        ".safetensors",
    }:
        raise MissingInputError(
            f"{parameter}={value!r} of {stage.notebook} does not exist; give the path of a file or folder that is there"
        )
    return f"name {value}"


def compute(chain: Chain, stage: Stage, run: str, profile: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a stage's result depends on, by subject; the run's name is no part of it.

    Returns:
        ``code``, ``parameters``, ``inputs``, ``sources``, ``libraries``, ``profile``, ``device``: JSON-ready.
    """
    return {
        "code": code_digest(stage.source),
        "parameters": {name: value for name, value in values.items() if name != "run"},
        "inputs": input_digests(chain, stage, run, profile, values),
        "sources": source_digests(stage.source),
        "libraries": library_versions(),
        "profile": profile,
        "device": device_class(),
    }


def stamp_file(stage: Stage, run: str) -> Path:
    """Where the key of a stage's last success is kept."""
    return paths.run_folder(run) / "stamps" / f"{stage.number}.json"


def read_json_or_empty(file: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file reads as empty, since a run grows notebook by notebook.

    So does a damaged one: it must not keep the pages of all other runs from being made (page 10 names it).
    """
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_stamp(stage: Stage, run: str) -> dict[str, Any] | None:
    """The stamp of a stage's last success, or None when there is none that can be read."""
    stamp = read_json_or_empty(stamp_file(stage, run))
    return stamp if isinstance(stamp.get("key"), dict) else None


def written_files(stage: Stage, folder: Path) -> dict[str, Path]:
    """What a stage writes into the folder of a run, by portable name; what it promises need not exist."""
    files = {name: folder / name for name in (*stage.promised, f"records/{stage.number}.json")}
    for pattern in (*stage.optional, f"remarks/{stage.number}.json"):
        for file in sorted(folder.glob(pattern)):
            if ".resume." not in file.name:  # the state of a training under way, which is no result
                files.setdefault(file.relative_to(folder).as_posix(), file)
    return files


def output_files(stage: Stage, run: str) -> dict[str, Path]:
    """What a stage leaves behind: its files, its records and the executed notebook, by portable name."""
    page = paths.report_folder(run) / f"{stage.notebook}.ipynb"
    return written_files(stage, paths.run_folder(run)) | {page.name: page}


def output_digests(stage: Stage, run: str) -> dict[str, str | None]:
    """Digests of a stage's outputs; None for a file that is not there."""
    return {name: digest_file(file) if file.is_file() else None for name, file in output_files(stage, run).items()}


def stale_reason(
    stamp: Mapping[str, Any] | None, key: Mapping[str, Any], outputs: Mapping[str, str | None]
) -> str | None:
    """One sentence on why a stage must run again, or None when it may be skipped.

    Args:
        stamp: stamp of the last success, or None.
        key: what `compute` says now.
        outputs: what `output_digests` says now.
    """
    if stamp is None:
        return "never ran to its end"
    old = stamp["key"]
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
    return _changed_output(stamp.get("outputs", {}), outputs)


def _changed_output(before: Mapping[str, str], now: Mapping[str, str | None]) -> str | None:
    """Which output is not as the last success left it."""
    for name, digest in now.items():
        if digest is None:
            return f"output {name} is missing"
        if before.get(name) != digest:
            return f"output {name} was changed since"
    gone = sorted(set(before) - set(now))
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


def downstream(chain: Chain, stages: Iterable[Stage]) -> set[str]:
    """Numbers of the stages that read, directly or through others, what the given stages write."""
    dirty = {stage.number for stage in stages}
    for stage in chain.stages:  # in order of execution, so one pass is enough
        for name in stage.reads:
            writers = {other.number for other in chain.stages if _writes(other, name)}
            if writers & dirty:
                dirty.add(stage.number)
    return dirty


def feeds(chain: Chain, writer: Stage, reader: Stage) -> bool:
    """True when the reader depends on the writer directly."""
    return reader.number in downstream(Chain((writer, reader), chain.atlas), [writer])


def _writes(stage: Stage, name: str) -> bool:
    if name in stage.writes or any(fnmatch.fnmatch(name, pattern) for pattern in stage.optional):
        return True
    pattern = name.removeprefix("runs/*/")
    return bool({"*", "["} & set(name)) and any(
        fnmatch.fnmatch(each, pattern) for each in (*stage.writes, f"records/{stage.number}.json")
    )
