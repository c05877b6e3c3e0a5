"""Whose a file is: who is writing it, whether that process still may, and what dead processes have left behind.

A process that makes a run holds the run's lock and leaves its mark in it. The mark is handed down to the processes that
work for it; none of them replaces a file once another process has taken the lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

from geocbm.errors import MismatchError, ParameterError, printable
from geocbm.files import paths

LOCK = ".lock"
"""File in the folder of a run whose holder alone makes the run."""
_HELD = "GEOCBM_HELD"
"""Environment variable: a line for each lock that this process, or the one it works for, holds: mark, space, path."""
_OWNED = re.compile(r"(?:geocbm|\..*\.)-?([0-9a-f]{6})-(\d+)-\w{8}(?:\..*)?")
_CLOCKS = 10.0  # seconds by which the clocks of processes and of files may differ
_PATIENCE = 2.0  # seconds for which somebody else may hold a lock just to replace one file


@cache
def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def owner() -> str:
    """Mark of this process, for names of what it will remove again."""
    return f"{_machine()}-{os.getpid()}-"


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder that bears the mark of this process, for a `with` block."""
    return tempfile.TemporaryDirectory(prefix=f"geocbm-{owner()}")


def remove_leftovers(*folders: Path) -> None:
    """Remove what processes of this machine that are no more have left in these folders and in the temporary one."""
    for folder in (Path(tempfile.gettempdir()), *folders):
        with contextlib.suppress(OSError):
            for path in list(folder.iterdir()):
                found = _OWNED.fullmatch(path.name)
                if found and found[1] == _machine() and _is_over(int(found[2]), path):
                    _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_over(process: int, path: Path) -> bool:
    """Whether the process that made a file has ended; one that began after the file has only got its number."""
    import psutil

    try:
        return psutil.Process(process).create_time() > path.lstat().st_mtime + _CLOCKS
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):
        return False


def hold_lock(stream: IO[Any], patience: float = 0.0) -> bool:
    """Lock an open file for this process until the file is closed or the process ends, however it ends.

    False when another process still holds the lock after `patience` seconds. True on Windows, which has no such lock.
    """
    try:
        import fcntl
    except ImportError:
        return True
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        else:
            return True


def _holder(lock: Path) -> str:
    """Number and command of the process whose mark stands in a lock, for a message; nothing where none can tell."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError, ValueError):
        machine, number, _ = lock.read_text(encoding="utf-8").split("-")
        if machine == _machine() and not _is_over(int(number), lock):
            words = psutil.Process(int(number)).cmdline()
            first = next((place for place, word in enumerate(words) if Path(word).name == "geocbm"), 0)
            return f", {number} ({printable(' '.join([Path(words[first]).name, *words[first + 1 :]]))})"
    return ""


@contextlib.contextmanager
def only_one(file: Path, what: str) -> Iterator[None]:
    """Hold a lock for the block, or refuse (ParameterError); it ends with the process, however that ends."""
    from geocbm.files import said_when_unwritable

    with said_when_unwritable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a", encoding="utf-8")
    with stream:
        if not hold_lock(stream, _PATIENCE):
            by = f"another process{_holder(file)}"
            raise ParameterError(f"{what} is being made by {by}; wait for it or choose another --run")
        before = os.environ.get(_HELD, "")
        mark = f"{owner()}{time.time_ns()}"
        with said_when_unwritable(file):
            stream.truncate(0)
            stream.write(mark)
            stream.flush()
        os.environ[_HELD] = f"{before}\n{mark} {file.absolute()}"
        try:
            yield
        finally:
            os.environ[_HELD] = before


@contextlib.contextmanager
def right_to_replace(path: Path) -> Iterator[None]:
    """Hold the lock of the run to which a file belongs while the file is replaced.

    A MismatchError where another process makes the run, or has taken over what this one works for.
    """
    held = [line.partition(" ")[::2] for line in os.environ.get(_HELD, "").splitlines() if line]
    for mark, name in held:
        with contextlib.suppress(OSError):
            if Path(name).read_text(encoding="utf-8") == mark:
                continue
        raise MismatchError(
            f"{path.name} is not written: another process has taken over {paths.portable(Path(name).parent)} since; "
            "let it end, then start the same command again"
        )
    place = path.absolute()
    run = next((folder for folder in place.parents if folder.parent == paths.data_root() / "runs"), None)
    lock = run / LOCK if run else None
    if lock is None or str(lock) in {name for _, name in held} or not lock.is_file():
        yield
        return
    with lock.open("r+b") as stream:
        if not hold_lock(stream, _PATIENCE):
            raise MismatchError(
                f"{path.name} is not written: run {lock.parent.name!r} is being made by another "
                f"process{_holder(lock)}; wait for it"
            )
        yield


def die_with_parent() -> None:
    """Let the operating system kill this process as soon as the one that started it is gone, where it can."""
    if sys.platform == "linux":
        parent_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(parent_signal, signal.SIGKILL)
