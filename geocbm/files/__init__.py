"""Files that are either whole or absent: atomic writes and content hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from geocbm.errors import NoSpaceError, UnwritableError, UserError, first_line
from geocbm.files import paths
from geocbm.files.makers import first_to_run
from geocbm.files.owners import owner, right_to_replace


@contextmanager
def atomic_path(path: str | Path, n_bytes: int = 0) -> Iterator[Path]:
    """Give a temporary path beside `path`, with its suffix, that takes its place only if the block succeeds.

    The folder is created. Inside a run the run's lock is held, or has been handed down, when the file is replaced. At
    least `n_bytes` will be written.

    Raises:
        NoSpaceError: the disk is full; what was there before is whole.
        UnwritableError: the folder cannot be written.
        MismatchError: another process makes the run.
    """
    path = Path(path)
    with said_when_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if n_bytes > (free := shutil.disk_usage(path.parent).free):
            raise _no_space(path, n_bytes, free)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:80]}.{owner()}", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with said_when_full(path, n_bytes, temporary):
            yield temporary
        with right_to_replace(path), said_when_unwritable(path):
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        remove_if_possible(temporary)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside a new or empty one, whose place it takes only if the block succeeds."""
    folder = Path(folder)
    with said_when_unwritable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:80]}.{owner()}", dir=folder.parent))
    try:
        with said_when_full(folder):
            yield temporary
        with said_when_unwritable(folder):
            temporary.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_if_possible(temporary: Path) -> None:
    """Remove a file; on a disk that was closed meanwhile it stays, for the next start."""
    with suppress(OSError):
        temporary.unlink()


_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_CLOSED = {
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EIO,
}
# What libraries say that pass no error number on: safetensors, NumPy.
_FULL_WORDS = re.compile(r"No space left|Not enough free space|File too large|[Qq]uota exceeded|os error (28|27|122)\b")


def is_full(problem: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is that of a disk, a quota or a limit of files that is used up."""
    while problem is not None:
        if getattr(problem, "errno", None) in _FULL or _FULL_WORDS.search(str(problem)[:2000]):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


@contextmanager
def said_when_full(path: Path, n_bytes: int = 0, temporary: Path | None = None) -> Iterator[None]:
    """Let a `NoSpaceError` be what a full disk ends in, whichever library was writing `path` or its `temporary`."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:  # each library says in its own way that a disk is full
        if not is_full(problem):
            raise
        written = 0
        with suppress(OSError):
            written = (temporary or path).stat().st_size
        before = path.stat().st_size if path.is_file() else 0
        free = shutil.disk_usage(path.parent).free + (written if temporary else 0)
        raise _no_space(path, max(n_bytes, written + 1, before), free) from problem


def _no_space(path: Path, needed: int, free: int) -> NoSpaceError:
    found = f"{size_text(free)} are free" if needed > free else "a quota or limit of file sizes is used up"
    return NoSpaceError(
        f"the disk of {path.parent} is full: {path.name} needs at least {size_text(needed)}, {found}; what was there "
        "before is whole: make room and start the same command again"
    )


def size_text(n_bytes: int) -> str:
    """A number of bytes for a message."""
    return f"{n_bytes / 1e6:,.2f} MB" if n_bytes >= 1e5 else f"{n_bytes:,} bytes"


@contextmanager
def said_when_unwritable(path: Path) -> Iterator[None]:
    """Let a sentence be what a folder that cannot be written, or a full disk, ends in."""
    try:
        with said_when_full(path):
            yield
    except UserError:
        raise
    except OSError as problem:
        if problem.errno not in _CLOSED:
            raise
        raise UnwritableError(
            f"{path.name} cannot be written into {path.parent} ({problem.strerror}); make the folder writable, or name "
            "other folders with GEOCBM_DATA and GEOCBM_REPORTS"
        ) from problem


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Let a new path hold a file's content: by a hard link, for files are replaced and never changed in place.

    Where the file system has no links it is a copy of the same age.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


COMMAND_FILE = "command.json"
"""In the folder of a run: `command`, which makes the run from its beginning, written by whatever runs its notebooks.

It is read with the name of the folder in it, which may be a copy or may have been renamed.
"""


def run_command(folder: str | Path, notebook: str) -> str:
    """Command that makes what a notebook writes into the folder of a run, and all that depends on it.

    It has the options of the run, and begins with an earlier notebook where that must be run first.
    """
    folder = Path(folder).absolute()
    return f"{whole_command(folder)} --from {first_to_run(folder, notebook)}"


def whole_command(folder: Path) -> str:
    """The recorded command; of a run without one, of which no stage has begun, that of the profile of its name."""
    if command := read_json_or_empty(folder / COMMAND_FILE).get("command"):
        return re.sub(r"(?<= --run )\S+", lambda _: folder.name, str(command), count=1)
    is_profile = (paths.notebooks_folder() / "params" / f"{folder.name}.yaml").exists()
    return f"geocbm run{f' --profile {folder.name}' if is_profile else ''} --run {folder.name}"


def sha256_file(path: str | Path) -> str:
    """Hash the content of a file (hexadecimal SHA-256)."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hash a text in UTF-8 (hexadecimal SHA-256)."""
    return hashlib.sha256(text.encode()).hexdigest()


SEAL = "content_sha256"
"""Entry of a stored file with the digest of all its others."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal, which `files.stored.opened` holds against it."""
    bare = {name: value for name, value in content.items() if name != SEAL}
    plain = json.dumps(json.loads(json.dumps(bare)), sort_keys=True)  # as it will be read: its names are texts
    return bare | {SEAL: sha256_text(plain)}


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically; a seal in it is made anew."""
    if isinstance(content, dict) and SEAL in content:
        content = sealed(content)
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> Path:
    """Write a text in UTF-8, atomically, and return its path."""
    content = text.encode("utf-8")
    with atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file in UTF-8; whatever is wrong with its content raises a ValueError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json_or_empty(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; a file that is absent, damaged or something else reads as empty."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


MOST_YAML = 1 << 20
"""Characters of a text in YAML that are read."""


def read_yaml(text: str) -> Any:
    """Plain YAML of a person; `ValueError` for tags, aliases (some fill memory), names said twice and a huge text."""
    import yaml

    if len(text) > MOST_YAML:
        raise ValueError(f"it has {len(text):,} characters, at most {MOST_YAML:,} are read")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("aliases (*name) are not read; write the values out")
        _refuse_twins(yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as problem:
        mark = getattr(problem, "problem_mark", None)
        said = f"{getattr(problem, 'problem', problem)} (line {mark.line + 1})" if mark else first_line(problem)
        raise ValueError(said) from None


def _refuse_twins(node: Any) -> None:
    """Raise `ValueError` for a name that a mapping has twice: YAML keeps the last and drops the rest unsaid."""
    pairs = node.value if getattr(node, "id", "") == "mapping" else []
    names = [name.value for name, _ in pairs]
    if twins := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"{twins[0]!r} stands twice (line {node.start_mark.line + 1} and below); keep one of them")
    for child in [value for _, value in pairs] or (node.value if getattr(node, "id", "") == "sequence" else []):
        _refuse_twins(child)
