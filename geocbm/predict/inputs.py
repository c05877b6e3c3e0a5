"""The photographs that `geocbm predict` is given, and the places where it shall write."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import ParameterError, UserError

if TYPE_CHECKING:
    from geocbm.data.images.folders import PhotoFolder

STANDARD = "-"
"""Standard input as a photograph, standard output as a file."""


def photographs(
    names: list[str], folders: list[PhotoFolder], say: Callable[[str, str], None]
) -> Iterator[str | Path | bytes]:
    """The named files, the photographs inside the named folders, and what comes on standard input.

    Args:
        names: as they were given.
        folders: takes the folders that were looked into.
        say: takes a name and the sentence that says why it gives no photograph.
    """
    from geocbm.data.images.folders import look_into

    taken = False
    for name in names:
        try:
            if name == STANDARD:
                if taken:
                    raise ParameterError("standard input holds one picture; name - once")
                taken = True
                yield _standard_input()
            elif Path(name).is_dir():
                folders.append(look_into(Path(name)))
                yield from folders[-1].photographs
            else:
                yield name
        except (UserError, ValueError) as problem:
            say(name, str(problem))


def _standard_input() -> bytes:
    from geocbm.data.images.photographs import MOST_BYTES

    if sys.stdin.isatty():
        raise ParameterError("- reads a picture from standard input, but none comes; pipe one into geocbm predict -")
    content = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ParameterError(f"standard input is longer than {MOST_BYTES >> 20} MiB; give the name of the file")
    return content


def names_of(source: Any) -> tuple[str, str]:
    """Name of a photograph and its whole path as it was given."""
    if isinstance(source, bytes):
        return STANDARD, STANDARD
    # A name that is no text in the file system's encoding is written with question marks.
    path = str(source).encode("utf-8", "replace").decode("utf-8")
    return Path(path).name, path


def check_output(option: str, path: Path | None) -> None:
    """Refuse a place where no file can be written, before anything is computed.

    Raises:
        ParameterError: it is a folder, no file, or cannot be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise ParameterError(f"--{option}={path} is a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        raise ParameterError(f"--{option}={path} is no file; give the name of one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Files are written beside their place and then moved there.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as problem:
        raise ParameterError(f"--{option}={path} cannot be written ({problem.strerror}); give another place") from None
