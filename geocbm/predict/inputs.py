"""What `geocbm predict` is asked for: photographs, options, and the places where it shall write."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.data.images.bounds import MOST_BYTES
from geocbm.data.images.photographs import ENDINGS, is_photograph, quoted
from geocbm.errors import ParameterError, UserError, printable
from geocbm.files import engine, sha256_text

if TYPE_CHECKING:
    from geocbm.predict.model import GeoCBM

STANDARD = "-"
"""Standard input as a photograph, standard output as a file."""
SIDECARS = (".xmp", ".aae", ".thm", ".json", ".ini", ".db")
"""Files that cameras, phones and file managers put beside pictures."""
_NAMED = 3


@dataclass(frozen=True)
class PredictRequest:
    """What the command is asked for."""

    photos: Sequence[str]  # pictures, folders of pictures, or "-" for one from standard input
    run: str = "demo"  # the trained run that answers
    top: int = 5  # how many places, countries and concepts to name
    json: Path | None = None  # a list, or one answer a line (.jsonl); "-" is standard output, instead of text
    parquet: Path | None = None
    html: Path | None = None  # page with maps and pictures, complete in itself
    remarks: tuple[str, ...] = ()  # sentences on the run that go with every answer
    out: Path | None = None  # .csv or .geojson, a row or a point for each answer
    attention: bool = False  # keep the attention and the maps of the concepts in files
    clues: Sequence[str] = ()  # concepts that a person sees in the photographs
    not_clues: Sequence[str] = ()  # and concepts that a person does not see
    shards: Path | None = None  # folder of tables, in place of one file
    engine: str = ""  # text of the engine whose workers answer, see `geocbm.files.engine`

    def made_by(self, model: str) -> dict[str, Any]:
        """What answers of this request depend on beside the photographs, by the `model`'s digest."""
        given = [sorted(map(str.casefold, names)) for names in (self.clues, self.not_clues)]
        own = {"given_clues": given} if any(given) else {}
        return {"run": self.run, "top": self.top, "model": model} | own

    def prepare(self, model: GeoCBM) -> None:
        """Let a model answer with the remarks and clues of this request."""
        model.remarks = tuple(dict.fromkeys((*model.remarks, *self.remarks)))
        model.set_clues(self.clues, self.not_clues)

    @property
    def in_text(self) -> bool:
        """Whether standard output takes sentences, not a JSON list."""
        return self.json != Path(STANDARD)

    @property
    def json_file(self) -> Path | None:
        """The file of `json`; None for standard output."""
        return self.json if self.in_text else None

    def check(self, is_launched: bool) -> None:
        """Refuse what cannot be carried out (`ParameterError`), before anything is computed."""
        if self.top < 1:
            raise ParameterError(f"--top={self.top} names nothing; give at least 1")
        if self.json is not None and self.json.suffix.lower() == ".parquet":
            raise ParameterError(f"--json={self.json} is the name of a table; give it as --parquet")
        if (is_launched or self.shards) and STANDARD in self.photos:
            raise ParameterError("- is a picture for one process; give files or folders to several")
        self._check_shards(is_launched)
        if self.out is not None and self.out.suffix.lower() not in (".csv", ".geojson"):
            raise ParameterError(f"--out={self.out} is no table and no map; name a .csv or a .geojson")
        places = {"json": self.json_file, "parquet": self.parquet, "html": self.html, "out": self.out}
        for option, place in places.items():
            if place == Path(STANDARD):
                raise ParameterError(f"--{option}=- would be a file of that name; standard output takes --json only")
            if place is not None:
                _check_output(f"--{option}={place}", place)

    def _check_shards(self, is_launched: bool) -> None:
        if self.engine:
            engine.checked(self.engine)
        if self.engine and self.shards is None:
            raise ParameterError(f"--engine={self.engine} answers in ranges; give --parquet FOLDER/ for their tables")
        others = {"json": self.json, "html": self.html, "out": self.out}
        if self.shards is not None and (beside := [name for name, place in others.items() if place is not None]):
            raise ParameterError(f"--parquet {self.shards}/ takes no --{beside[0]} beside it; ask for one of the two")
        if self.shards is not None and is_launched:
            raise ParameterError(
                f"--parquet {self.shards}/ is for the workers of an engine; start one process, with --engine"
            )
        if self.shards is not None:
            _check_output(f"--parquet={self.shards}/", self.shards / "0.parquet")


def _check_output(named: str, path: Path) -> None:
    if path.is_dir():
        raise ParameterError(f"{named} is a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        raise ParameterError(f"{named} is no file; give the name of one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Files are written beside their place and then moved there.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as problem:
        raise ParameterError(f"{named} cannot be written ({problem.strerror}); give another place") from None


@dataclass(frozen=True)
class PhotoFolder:
    """A folder, as far as it was looked into: folders inside it are not."""

    folder: Path
    photographs: tuple[Path, ...]  # files that are taken for photographs, by name
    left_out: tuple[str, ...]  # names of all other entries; those of folders end with a slash

    @classmethod
    def look_into(cls, folder: Path) -> PhotoFolder:
        """Tell the photographs of a folder from its other files; `UserError` if there is none."""
        try:
            entries = [(file, file.is_dir()) for file in sorted(folder.iterdir())]
        except OSError as error:
            raise UserError(f"the folder {quoted(folder)} cannot be read ({error.strerror}); check it") from None
        taken, others = [], []
        for file, inner in entries:
            if inner or not is_photograph(file.name):
                others.append(f"{file.name}/" if inner else file.name)
            else:
                taken.append(file)
        found = cls(folder, tuple(taken), tuple(others))
        if not taken:
            remark = f" ({found.remark()})" if others else ""
            raise UserError(
                f"the folder {quoted(folder)} holds no picture{remark}, and folders inside it are not looked into; "
                f"name a folder with files such as {', '.join(ENDINGS[:4])}, or the files themselves"
            )
        return found

    def by_kind(self) -> dict[str, list[str]]:
        """Names of what was left out, by kind: hidden files, folders, sidecars, and the rest by suffix."""
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self.left_out:
            suffix = Path(name).suffix.lower()
            kind = "sidecar" if suffix in SIDECARS else printable(suffix) or "without suffix"
            groups["hidden" if name.startswith(".") else "folder" if name.endswith("/") else kind].append(name)
        return dict(sorted(groups.items()))

    def remark(self) -> str:
        """A sentence that counts what was left out by kind and names some of it; empty where nothing was."""
        parts = []
        for kind, names in self.by_kind().items():
            listed = ", ".join(printable(name) for name in names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            parts.append(f"{len(names)} {kind} ({listed})")
        return f"left out of {quoted(self.folder)}: {'; '.join(parts)}" if parts else ""


def photographs(
    names: Sequence[str], folders: list[PhotoFolder], say: Callable[[str, str], None]
) -> Iterator[str | Path | bytes]:
    """The named files, the photographs inside the named folders, and what comes on standard input.

    `folders` takes the folders that were looked into, `say` the names that give no photograph, each with the reason.
    """
    taken = False
    for name in names:
        try:
            if name == STANDARD:
                if taken:
                    raise ParameterError("standard input holds one picture; name - once")
                taken = True
                yield _standard_input()
            elif os.path.isdir(name):  # which, unlike a Path, takes names of any length
                folders.append(PhotoFolder.look_into(Path(name)))
                yield from folders[-1].photographs
            else:
                yield name
        except (UserError, ValueError) as problem:
            say(name, str(problem))


def _standard_input() -> bytes:
    if sys.stdin.isatty():
        raise ParameterError("- reads a picture from standard input, but none comes; pipe one into geocbm predict -")
    content = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ParameterError(f"standard input is longer than {MOST_BYTES >> 20} MiB; give the name of the file")
    return content


def path_of(source: Any) -> str:
    """Path of a photograph as it was given; what is no text in the file system's encoding becomes question marks."""
    return STANDARD if isinstance(source, bytes) else str(source).encode("utf-8", "replace").decode("utf-8")


def photo_key(source: Any) -> str | None:
    """16 hexadecimal digits of a photograph's path, size and time of change; None where there is no such file."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()[:16]
    try:
        state = os.stat(source)
    except (OSError, ValueError):
        return None
    return sha256_text(json.dumps([path_of(source), state.st_size, state.st_mtime_ns]))[:16]
