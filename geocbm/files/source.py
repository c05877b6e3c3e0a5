"""Source: which modules of a package a piece of code depends on, and their digests, told without importing any."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from pathlib import Path

from geocbm.files import sha256_text

PACKAGE = Path(__file__).resolve().parents[1]


def syntax(source: str) -> str:
    """The syntax tree as text, without comments, layout and docstrings; the source itself where it cannot be parsed."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)


def imported_files(source: str, file: Path = Path(), package: Path = PACKAGE) -> list[Path]:
    """Files of a package, and of its sibling `_atlas`, that code imports, also inside functions and for type checks.

    Relative imports are seen from `file`; code that cannot be parsed imports nothing.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    names: list[str] = []
    root = package.parent
    inside = file.relative_to(root).with_suffix("").parts if file.is_relative_to(root) else ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Level 1 is the module's own package, whether the file is a module or an __init__.
            base = inside[: len(inside) - node.level] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names += [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
    found: list[Path] = []
    for parts in (name.split(".") for name in names):
        if parts[0] in (package.name, f"{package.name}_atlas"):
            places = [root.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
            found += [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return [file for file in found if file.is_file()]


def module_digests(files: Iterable[Path], package: Path = PACKAGE) -> dict[Path, str]:
    """Digests of the code of some files and of all that they import from a package, directly or through others."""
    waiting = list(files)
    digests: dict[Path, str] = {}
    while waiting:
        file = waiting.pop()
        if file not in digests:
            status = file.stat()
            digests[file], further = _module(file, status.st_size, status.st_mtime_ns, package)
            waiting += further
    return digests


@functools.lru_cache(maxsize=512)
def _module(file: Path, _size: int, _changed: int, package: Path) -> tuple[str, tuple[Path, ...]]:
    source = file.read_text(encoding="utf-8")
    return sha256_text(syntax(source)), tuple(imported_files(source, file, package))
