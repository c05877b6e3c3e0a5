"""When a stage may be skipped: a key over all that its result depends on, and a sentence that says what changed.

The key covers the code cells (not the prose), the resolved parameters, the contents of the inputs, the package's
modules that the notebook imports, however indirectly, the versions of the libraries, the profile and the device. All
of it is told without running the notebook and without importing what it imports.
"""

import csv
import functools
import glob
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError
from geocbm.files import paths, read_json_or_empty, sha256_file, sha256_text, source
from geocbm.workbench.parameters import Cell, read_cells
from geocbm.workbench.stages import Chain, Stage

LIBRARIES = (
    "accelerate",
    "geoclip",
    "numpy",
    "pandas",
    "pillow",
    "plotly",
    "pyarrow",
    "reverse-geocode",
    "safetensors",
    "scikit-learn",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)
"""Libraries whose versions can change a result."""

_HASH_UP_TO = 256 * 2**20  # larger files of a model folder count by size and time of change
_FILES = {".csv", ".parquet", ".json", ".safetensors"}


def compute(chain: Chain, stage: Stage, folder: Path, profile: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a stage's result depends on, by subject, JSON-ready; the run's name is no part of it.

    Raises:
        MissingInputError: If a file that it reads is not there; the message names the command that makes it.
    """
    cells = [cell for cell in read_cells(stage.source) if cell.kind == "code"]
    return {
        "code": code_digest(cells),
        "parameters": {name: value for name, value in values.items() if name != "run"},
        "inputs": _input_digests(chain, stage, folder, profile, values),
        # Cell by cell, so that one cell that is no pure Python does not hide the imports of the others.
        "sources": source_digests([cell.source for cell in cells], stage.source),
        "libraries": library_versions(),
        "profile": profile,
        "device": device_class(),
    }


def code_digest(cells: Iterable[Cell]) -> str:
    """Digest of a notebook's code: comments, layout and the parameters cell do not count."""
    counted = [cell.source for cell in cells if "parameters" not in cell.tags and cell.source.strip()]
    return sha256_text("\n".join(map(source.syntax, counted)))


def source_digests(code: Iterable[str], file: Path = Path()) -> dict[str, str]:
    """Digests, by dotted name, of the package's modules that pieces of `code` depend on, directly or through others.

    ``package data`` stands for the files that are not Python; relative imports are seen from `file`.
    """
    first = [found for text in code for found in source.imported_files(text, file, source.PACKAGE)]
    root = source.PACKAGE.parent
    digests = {
        ".".join(found.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): digest
        for found, digest in source.module_digests(first, source.PACKAGE).items()
    }
    if digests:
        digests["package data"] = _package_data()
    return dict(sorted(digests.items()))


def _package_data() -> str:
    """Digest of the package's files that are not Python, such as bundled weights; page templates do not count."""
    entries = []
    for file in sorted([*source.PACKAGE.rglob("*"), *source.PACKAGE.with_name("geocbm_atlas").rglob("*")]):
        inside = file.relative_to(source.PACKAGE.parent).parts
        if file.is_file() and file.suffix not in {".py", ".pyc"} and "templates" not in inside:
            entries.append(f"{'/'.join(inside)} {digest_file(file)}")
    return sha256_text("\n".join(entries))


def digest_file(file: Path) -> str:
    """Hash of a file's content, computed once per process for as long as size and time of change stay."""
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest(file: Path, _size: int, _changed: int) -> str:
    return sha256_file(file)


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def device_class() -> str:
    """``cuda``, ``mps`` or ``cpu``, told without importing torch (which takes seconds)."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden not in {"", "-1"} and glob.glob("/dev/nvidia[0-9]*"):
        return "cuda"
    return "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else "cpu"


def _input_digests(chain: Chain, stage: Stage, folder: Path, profile: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Digests of everything that a stage of the run in `folder` reads."""
    found: dict[str, str] = {}
    for name in stage.reads:
        if name.startswith("parameter:"):
            parameter = name.removeprefix("parameter:")
            if values.get(parameter) not in (None, ""):
                found[name] = named_input(stage, parameter, str(values[parameter]))
        elif "*" in name or "[" in name:
            base, pattern = paths.data_root() / "runs", name.removeprefix("runs/*/")
            holders = [folder] if pattern == name else [base / run for run in paths.runs_in(base)]
            for file in sorted(file for holder in holders for file in holder.glob(pattern)):
                found[file.relative_to(folder if pattern == name else base).as_posix()] = digest_file(file)
        elif (folder / name).is_file():
            found[name] = digest_file(folder / name)
        else:
            from geocbm.workbench import rerun_command

            raise rerun_command.not_there(folder, name, chain.writer(name, stage.number), profile)
    return found


def named_input(stage: Stage, parameter: str, value: str) -> str:
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


def folder_digest(folder: Path) -> str:
    """Digest of a folder such as a model's: names and contents of all files below it."""
    entries = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        content = digest_file(file) if file.stat().st_size <= _HASH_UP_TO else _size_and_time(file)
        entries.append(f"{file.relative_to(folder).as_posix()} {content}")
    return sha256_text("\n".join(entries))


def table_digest(table: Path) -> str:
    """Digest of a CSV and of the sizes and times of the images it names."""
    entries = [digest_file(table)]
    # The table's own reader says what is wrong with a damaged one; its content is in the digest all the same.
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as stream, suppress(csv.Error):
        rows = csv.reader(stream)
        header = [name.strip().lower() for name in next(rows, [])]
        columns = [at for at, name in enumerate(header) if any(word in name for word in ("image", "path", "file"))]
        for row in rows:
            entries += [_size_and_time(table.parent / row[at]) for at in columns if at < len(row) and row[at]]
    return sha256_text("\n".join(entries))


def _size_and_time(file: Path) -> str:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return "absent"
    return f"{status.st_size} {status.st_mtime_ns}"


def stamp_file(folder: Path, number: str) -> Path:
    """Where a run keeps the key of a stage's last success, or what was asked for since."""
    return folder / "stamps" / f"{number}.json"


def hand_file(folder: Path, number: str) -> Path:
    """Where a notebook notes that it was run outside of the chain."""
    return folder / "by_hand" / f"{number}.json"


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
    """One sentence on why a stage whose key is now `key` must run again, or None when it may be skipped."""
    stamp = read_json_or_empty(stamp_file(folder, stage.number))
    old = stamp.get("key")
    if not isinstance(old, dict):
        return "never ran to its end"
    parts = [old.get(name, {}) for name in ("parameters", "inputs", "sources", "libraries")]
    if not all(isinstance(part, dict) for part in (*parts, stamp.get("outputs", {}))):
        return "its stamp is damaged"
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
    now = digests(files)
    for name in (*files, *sorted(before)):
        if name not in now:
            return f"output {name} is missing"
        if before.get(name) != now[name]:
            return f"output {name} was changed since"
    return None


def _difference(label: str, old: Mapping[str, Any], new: Mapping[str, Any], values: bool) -> str | None:
    """Say what differs between two mappings: the first name, and how many more."""
    changed = [name for name in sorted({*old, *new}) if old.get(name, ...) != new.get(name, ...)]
    if not changed:
        return None
    name = changed[0]
    if name not in old:
        how = "is new"
    elif name not in new:
        how = "is gone"
    else:
        how = f"changed {_short(old[name])} -> {_short(new[name])}" if values else "changed"
    more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    return f"{label} {name.removeprefix('parameter:')} {how}{more}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"...{text[-56:]}"
