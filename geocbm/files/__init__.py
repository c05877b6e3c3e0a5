"""Files that are either whole or absent: atomic writes and content hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from geocbm.files import paths
from geocbm.files.makers import first_to_run


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, with its suffix, that takes its place only if the block succeeds.

    The folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Let a new path hold a file's content: by a hard link, for files are replaced and never changed in place.

    Where the file system has no links it is a copy of the same age.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


COMMAND_FILE = "command.json"
"""In the folder of a run: `command`, which makes the run from its beginning, written by whatever runs its notebooks."""


def run_command(path: str | Path, notebook: str) -> str:
    """Command that makes a file of a run, and all that depends on it, with the options of the run.

    It begins with an earlier notebook than the one that writes the file where that must be run first.
    """
    folder = Path(path).absolute().parent
    return f"{_whole_command(folder)} --from {first_to_run(folder, notebook)}"


def _whole_command(folder: Path) -> str:
    """The recorded command; of a run without a record its profile and name, as far as they can be told."""
    try:
        return str(read_json(folder / COMMAND_FILE)["command"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    profile = ""
    for stamp in sorted((folder / "stamps").glob("*.json")):
        try:
            profile = str(read_json(stamp).get("profile") or profile)
        except (OSError, ValueError, AttributeError):
            continue
    if not profile and (paths.notebooks_folder() / "params" / f"{folder.name}.yaml").exists():
        profile = folder.name
    return f"geocbm run{f' --profile {profile}' if profile else ''} --run {folder.name}"


def remake_advice(path: str | Path, notebook: str) -> str:
    """Say which command makes a file of a run, which the notebook of that number writes, again."""
    return f"Run notebook {notebook} again: {run_command(path, notebook)}."


def sha256_file(path: str | Path) -> str:
    """Hash the content of a file (hexadecimal SHA-256)."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hash a text in UTF-8 (hexadecimal SHA-256)."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file in UTF-8."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def hold_lock(stream: IO[Any]) -> bool:
    """Lock an open file for this process until the file is closed or the process ends, however it ends.

    Returns:
        False when another process holds the lock. True on Windows, which has no such lock.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
