"""`geocbm predict`: where photographs from outside the table were taken."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import ParameterError, UserError

if TYPE_CHECKING:
    from geocbm.predict import Answer, Reply

STANDARD_INPUT = "-"


def configure_predict(parser: argparse.ArgumentParser) -> None:
    """Arguments of `geocbm predict`."""
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="pictures, folders of pictures, or - for one from standard input")
    add("--run", default="demo", help="the trained run that answers (default: demo)")
    add("--top", type=int, default=5, help="how many places, countries and concepts to name (default: 5)")
    add("--json", type=Path, metavar="FILE", help="also write the answers to this file")
    add("--html", type=Path, metavar="FILE", help="also write one page with maps and pictures, complete in itself")


def predict(arguments: argparse.Namespace) -> int:
    """Answer for pictures; a picture that cannot be read gets one sentence, the others are still answered."""
    from geocbm.predict import GeoCBM
    from geocbm.runs import RunFiles
    from geocbm.simulated import TRAINED_ON
    from geocbm.workbench import paths

    if arguments.top < 1:
        raise ParameterError(f"--top={arguments.top} names nothing; give at least 1")
    for option in ("json", "html"):
        _check_output(option, getattr(arguments, option))
    # Before torch is imported: whoever has no trained run should not wait for that.
    RunFiles(paths.run_folder(arguments.run)).need("stage2.safetensors")
    failed = _Failures()
    photos = list(_photos(arguments.photos, failed))
    if not photos:
        return 1
    warnings.filterwarnings("ignore", module="PIL")  # what matters in an odd file is said in a note
    model = GeoCBM.load(arguments.run)
    if model.files.simulated:
        print(f"geocbm: beware: {TRAINED_ON}", file=sys.stderr)
    with ExitStack() as outputs:
        to_json = outputs.enter_context(_JsonList(arguments.json)) if arguments.json else None
        page = None
        if arguments.html:
            from geocbm.workbench.photo_page import PhotoPage

            page = PhotoPage(model)
        for reply in _progress(model.predict_each(photos, arguments.top, keep_seen=page is not None), len(photos)):
            name, path = _names(reply.source)
            if reply.answer is None:
                failed.say(_about(reply))
            else:
                print(in_words(path, reply.answer), flush=True)
                if to_json:
                    to_json.add({"photo": name, "path": path} | reply.answer.as_json())
            if page:
                page.add(path, reply, "" if reply.answer else _about(reply))
        if page:
            page.write(arguments.html)
            if page.left_out:
                print(f"geocbm: {arguments.html} shows the first {page.shown} of {len(photos)}", file=sys.stderr)
    return 1 if failed.count else 0


class _Failures:
    """Sentences about what could not be answered, on the error stream, and their number."""

    def __init__(self) -> None:
        self.count = 0

    def say(self, sentence: str) -> None:
        """Say one."""
        self.count += 1
        print(f"geocbm: {sentence}", file=sys.stderr, flush=True)


def _about(reply: Reply) -> str:
    """Why a photograph has no answer; content from standard input is called by that name."""
    return str(reply.problem).replace("the picture", "standard input", 1 if isinstance(reply.source, bytes) else 0)


def _photos(names: list[str], failed: _Failures) -> Iterator[str | Path | bytes]:
    """The named files, the photographs inside the named folders, and what comes on standard input."""
    from geocbm.photo_folders import look_into

    taken = False
    for name in names:
        try:
            if name == STANDARD_INPUT:
                if taken:
                    raise ParameterError("standard input holds one picture; name - once")
                taken = True
                yield _standard_input()
            elif Path(name).is_dir():
                found = look_into(Path(name))
                if found.left_out:
                    print(f"geocbm: {found.remark()}", file=sys.stderr, flush=True)
                yield from found.photographs
            else:
                yield name
        except (UserError, ValueError) as problem:
            failed.say(str(problem))


def _standard_input() -> bytes:
    from geocbm.photographs import MOST_BYTES

    if sys.stdin.isatty():
        raise ParameterError("- reads a picture from standard input, but none comes; pipe one into geocbm predict -")
    content = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ParameterError(f"standard input is longer than {MOST_BYTES >> 20} MiB; give the name of the file")
    return content


def _names(source: Any) -> tuple[str, str]:
    """Name of a photograph and its whole path as it was given."""
    if isinstance(source, bytes):
        return STANDARD_INPUT, STANDARD_INPUT
    # A name that is no text in the file system's encoding is written with question marks.
    path = str(source).encode("utf-8", "replace").decode("utf-8")
    return Path(path).name, path


def _progress(replies: Iterator[Reply], total: int) -> Iterator[Reply]:
    """The same, with a progress bar on the error stream when that is a terminal and the answers go elsewhere."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    return iter(tqdm(replies, total=total, unit="photo", disable=hidden))


def _check_output(option: str, path: Path | None) -> None:
    """Refuse a place where no file can be written, before anything is computed."""
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


class _JsonList:
    """A list of answers written one by one, so that thousands need no memory; the file appears when it is whole."""

    def __init__(self, path: Path) -> None:
        from geocbm.files import atomic_path

        self._whole = atomic_path(path)
        self._count = 0

    def __enter__(self) -> _JsonList:
        self._stream = self._whole.__enter__().open("w", encoding="utf-8")
        self._stream.write("[")
        return self

    def add(self, entry: dict[str, Any]) -> None:
        """Write one entry."""
        self._stream.write(",\n" if self._count else "\n")
        self._stream.write(json.dumps(entry, ensure_ascii=False, sort_keys=True))
        self._count += 1

    def __exit__(self, *problem: Any) -> None:
        self._stream.write("\n]\n")
        self._stream.close()
        self._whole.__exit__(*problem)


def in_words(name: str, answer: Answer) -> str:
    """One answer as a few lines of text."""
    from geocbm.photographs import printable
    from geocbm.predict.answers import in_degrees

    near = f", near {answer.place.words()}" if answer.place.words() else ""
    lines = [f"{printable(name)}: {in_degrees(answer.lat, answer.lng)}{near}"]
    places = "; ".join(
        f"{cell.country} {cell.best:.0%} ({_around(cell.place.words(False))}cell {cell.cell})" for cell in answer.cells
    )
    lines.append(f"  places: {places}")
    lines.append(f"  countries: {_shares(answer.countries)}")
    if answer.countries_differ:
        lines.append(f"    {answer.countries_differ}")
    if answer.regions:
        sizes = "; ".join(
            f"{region.coverage:.0%} in {len(region.cells)} cell{'s'[: len(region.cells) != 1]}, "
            f"{region.area_km2:,.0f} km²"
            for region in answer.regions
        )
        lines.append(f"  region{' (not promised)' if answer.promise_holds is False else ''}: {sizes}")
    lines.append(f"  concepts: {_shares(answer.concepts)}")
    lines += [f"  note: {note}" for note in answer.notes]
    return "\n".join(lines)


def _around(place: str) -> str:
    return f"around {place}, " if place else ""


def _shares(named: tuple[tuple[str, float], ...]) -> str:
    return "; ".join(f"{name} {share:.0%}" for name, share in named)
