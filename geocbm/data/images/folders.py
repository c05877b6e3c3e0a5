"""Folders of photographs: which files are taken, and the names of those that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geocbm.data.images.photographs import ENDINGS, printable, quoted
from geocbm.errors import UserError

SIDECARS = (".xmp", ".aae", ".thm", ".json", ".ini", ".db")
"""Files that cameras, phones and file managers put beside pictures."""
_NAMED = 3


@dataclass(frozen=True)
class PhotoFolder:
    """A folder, as far as it was looked into.

    Attributes:
        folder: the folder.
        photographs: files that are taken for photographs, by name.
        left_out: names of all other entries; those of folders end with a slash.
    """

    folder: Path
    photographs: tuple[Path, ...]
    left_out: tuple[str, ...] = ()

    def remark(self) -> str:
        """A sentence that counts what was left out by suffix and names some of it; empty where nothing was."""
        if not self.left_out:
            return ""
        groups: dict[str, list[str]] = {}
        for name in self.left_out:
            groups.setdefault(kind_of(name), []).append(name)
        parts = [f"{len(names)} {kind} ({_some(names)})" for kind, names in sorted(groups.items())]
        return f"left out of {quoted(self.folder)}: {'; '.join(parts)}"

    def counts(self) -> dict[str, int]:
        """How many entries were left out, by kind."""
        return dict(sorted(Counter(kind_of(name) for name in self.left_out).items()))


def look_into(folder: Path) -> PhotoFolder:
    """Tell the photographs of a folder from its other files; folders inside it are not looked into.

    Raises:
        UserError: there is no photograph, or the folder may not be read.
    """
    try:
        entries = [(file, file.is_dir()) for file in sorted(folder.iterdir())]
    except OSError as error:
        raise UserError(f"the folder {quoted(folder)} cannot be read ({error.strerror}); check it") from None
    taken = tuple(file for file, inner in entries if not inner and _is_photograph(file))
    others = tuple(f"{file.name}/" if inner else file.name for file, inner in entries if file not in set(taken))
    found = PhotoFolder(folder, taken, others)
    if not taken:
        remark = f" ({found.remark()})" if others else ""
        raise UserError(
            f"the folder {quoted(folder)} holds no picture{remark}, and folders inside it are not looked into; name a "
            f"folder with files such as {', '.join(ENDINGS[:4])}, or the files themselves"
        )
    return found


def kind_of(name: str) -> str:
    """What is counted together: hidden files, folders, sidecars, and the rest by suffix."""
    if name.startswith("."):
        return "hidden"
    if name.endswith("/"):
        return "folder"
    suffix = Path(name).suffix.lower()
    return "sidecar" if suffix in SIDECARS else printable(suffix) or "without suffix"


def _is_photograph(file: Path) -> bool:
    # Files that begin with "._" are what a Mac writes beside each file of a foreign disk.
    return file.suffix.lower() in ENDINGS and not file.name.startswith("._")


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(printable(name) for name in names[:_NAMED])
    return listed + (", ..." if len(names) > _NAMED else "")
