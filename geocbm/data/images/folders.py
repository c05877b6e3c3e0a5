"""Folders of photographs: which files are taken, and the names of those that are not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from geocbm.data.images.photographs import ENDINGS, printable, quoted
from geocbm.errors import UserError

SIDECARS = (".xmp", ".aae", ".thm", ".json", ".ini", ".db")
"""Files that cameras, phones and file managers put beside pictures."""
_NAMED = 3


@dataclass(frozen=True)
class PhotoFolder:
    """A folder, as far as it was looked into."""

    folder: Path
    photographs: tuple[Path, ...]  # files that are taken for photographs, by name
    left_out: tuple[str, ...] = ()  # names of all other entries; those of folders end with a slash

    def remark(self) -> str:
        """A sentence that counts what was left out by kind and names some of it; empty where nothing was."""
        parts = []
        for kind, names in self._by_kind().items():
            listed = ", ".join(printable(name) for name in names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            parts.append(f"{len(names)} {kind} ({listed})")
        return f"left out of {quoted(self.folder)}: {'; '.join(parts)}" if parts else ""

    def counts(self) -> dict[str, int]:
        """How many entries were left out, by kind."""
        return {kind: len(names) for kind, names in self._by_kind().items()}

    def _by_kind(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self.left_out:
            groups[_kind(name)].append(name)
        return dict(sorted(groups.items()))


def look_into(folder: Path) -> PhotoFolder:
    """Tell the photographs of a folder from its other files; folders inside it are not looked into."""
    try:
        entries = [(file, file.is_dir()) for file in sorted(folder.iterdir())]
    except OSError as error:
        raise UserError(f"the folder {quoted(folder)} cannot be read ({error.strerror}); check it") from None
    # Files that begin with "._" are what a Mac writes beside each file of a foreign disk.
    taken = [
        file
        for file, inner in entries
        if not inner and file.suffix.lower() in ENDINGS and not file.name.startswith("._")
    ]
    chosen = set(taken)
    others = [f"{file.name}/" if inner else file.name for file, inner in entries if file not in chosen]
    found = PhotoFolder(folder, tuple(taken), tuple(others))
    if not taken:
        remark = f" ({found.remark()})" if others else ""
        raise UserError(
            f"the folder {quoted(folder)} holds no picture{remark}, and folders inside it are not looked into; name a "
            f"folder with files such as {', '.join(ENDINGS[:4])}, or the files themselves"
        )
    return found


def _kind(name: str) -> str:
    """What is counted together: hidden files, folders, sidecars, and the rest by suffix."""
    if name.startswith("."):
        return "hidden"
    if name.endswith("/"):
        return "folder"
    suffix = Path(name).suffix.lower()
    return "sidecar" if suffix in SIDECARS else printable(suffix) or "without suffix"
