"""Bounds for pictures from strangers: regular files of limited size, and a limit on what is decoded at one time."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BufferedReader
from pathlib import Path

from geocbm.errors import MissingInputError, UserError

MOST_BYTES = 1 << 30  # of one file
MOST_AT_ONCE = 1 << 30  # bytes that all threads together may hold while they decode; a larger picture waits for all
_LARGE_FILE = 1 << 25  # bytes; some readers take a whole file into memory, larger ones are read one at a time

_held = 0
_changed = threading.Condition()
_large_file = threading.Lock()


@contextmanager
def open_regular(path: Path, called: str) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file and tell its size in bytes; a pipe or a device is refused before a byte of it is read.

    Raises:
        UserError: it is no file, or too long; `MissingInputError` where there is none. Messages call it `called`.
    """
    try:
        # Without waiting: opening a pipe would else hang until somebody writes into it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(f"{called} does not exist; check the name") from None
    except PermissionError:
        raise UserError(f"{called} may not be read; change its permissions") from None
    except (OSError, ValueError) as error:  # a name too long, or with a null byte; a socket
        raise UserError(
            f"{called} cannot be opened ({getattr(error, 'strerror', None) or error}); check the name"
        ) from None
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        os.close(handle)
        raise UserError(f"{called} is no file; give a picture, or a folder of pictures")
    with os.fdopen(handle, "rb") as stream:
        if state.st_size > MOST_BYTES:
            raise UserError(
                f"{called} has {state.st_size >> 20:,} MiB, at most {MOST_BYTES >> 20:,} are read; give a smaller copy"
            )
        with _large_file if state.st_size > _LARGE_FILE else nullcontext():
            yield stream, state.st_size


@contextmanager
def room(n_bytes: int) -> Iterator[None]:
    """Wait until so many bytes fit beside those that other threads hold, or until none holds any."""
    global _held
    with _changed:
        _changed.wait_for(lambda: not _held or _held + n_bytes <= MOST_AT_ONCE)
        _held += n_bytes
    try:
        yield
    finally:
        with _changed:
            _held -= n_bytes
            _changed.notify_all()
