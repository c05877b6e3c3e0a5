"""Digests of code, packages, files, folders and tables: what a notebook depends on, told without running it."""

import csv
import functools
import glob
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

from geocbm.files import sha256_file, sha256_text, source
from geocbm.workbench.parameters import read_cells

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


def code_digest(py_file: Path) -> str:
    """Digest of a notebook's code: comments, layout, prose and the parameters cell do not count."""
    texts = []
    for cell in read_cells(py_file):
        if cell.kind == "code" and "parameters" not in cell.tags and cell.source.strip():
            texts.append(source.syntax(cell.source))
    return sha256_text("\n".join(texts))


def source_digests(py_file: Path, package: Path | None = None) -> dict[str, str]:
    """Digests of the package's modules that a notebook depends on, directly or through other modules.

    Args:
        py_file: the notebook's percent script.
        package: folder of the package; by default this one.

    Returns:
        Dotted module name to digest, and ``package data`` for the files that are not Python.
    """
    # Cell by cell, so that one cell that is no pure Python does not hide the imports of the others.
    code = [cell.source for cell in read_cells(py_file) if cell.kind == "code"]
    return _closure(code, py_file, package or source.PACKAGE)


def module_digests(module: str) -> dict[str, str]:
    """Digests of one module of this package and of all it imports from the package."""
    return _closure([f"import {module}"], Path(), source.PACKAGE)


def _closure(code: Iterable[str], file: Path, package: Path) -> dict[str, str]:
    """Follow the imports of pieces of code through the package."""
    first = [each for text in code for each in source.imported_files(text, file, package)]
    digests = {
        ".".join(found.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): digest
        for found, digest in source.module_digests(first, package).items()
    }
    if digests:
        digests["package data"] = _package_data(package)
    return dict(sorted(digests.items()))


def _package_data(package: Path) -> str:
    """Digest of the package's files that are not Python, such as bundled weights; page templates do not count."""
    entries = []
    atlas = package.with_name(f"{package.name}_atlas")
    for file in sorted([*package.rglob("*"), *atlas.rglob("*")]):
        inside = file.relative_to(package.parent).parts
        if file.is_file() and file.suffix not in {".py", ".pyc"} and "templates" not in inside:
            entries.append(f"{'/'.join(inside)} {digest_file(file)}")
    return sha256_text("\n".join(entries))


_digests: dict[tuple[str, int, int], str] = {}


def digest_file(file: Path) -> str:
    """Hash of a file's content, computed once per process for as long as size and time of change stay."""
    status = file.stat()
    mark = (str(file), status.st_size, status.st_mtime_ns)
    if mark not in _digests:
        _digests[mark] = sha256_file(file)
    return _digests[mark]


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result; none of them is imported."""
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
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    return "cpu"


def folder_digest(folder: Path) -> str:
    """Digest of a folder such as a model's: names and contents of all files below it."""
    entries = []
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            status = file.stat()
            small = status.st_size <= _HASH_UP_TO
            content = digest_file(file) if small else f"{status.st_size} {status.st_mtime_ns}"
            entries.append(f"{file.relative_to(folder).as_posix()} {content}")
    return sha256_text("\n".join(entries))


def table_digest(table: Path) -> str:
    """Digest of a CSV and of the sizes and times of the images it names."""
    entries = [digest_file(table)]
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            rows = csv.reader(stream)
            header = [name.strip().lower() for name in next(rows, [])]
            columns = [at for at, name in enumerate(header) if any(word in name for word in ("image", "path", "file"))]
            for row in rows:
                for at in columns:
                    if at < len(row) and row[at]:
                        entries.append(_stat_text(table.parent / row[at]))
    except csv.Error:
        pass  # the table's own reader says what is wrong with it; its content is in the digest all the same
    return sha256_text("\n".join(entries))


def _stat_text(file: Path) -> str:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return "absent"
    return f"{status.st_size} {status.st_mtime_ns}"
