"""`predict` over a folder, a feature store, the pages of a run: killed at any moment, the same command ends with the
answers, the store and the pages of one that nobody disturbed, to the byte.

Moments are drawn from the seconds of an undisturbed run, for a store and for pages from the first file on; the whole
group gets KILL, TERM, INT and HUP in turn. Two of five trials meet `geocbm predict` over a folder of photographs (lines
and a table), two the writing of a feature store, one the making of pages.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from geocbm.files import read_json, sha256_file
from geocbm.predict.context import FILE
from tests.soak import lives
from tests.soak.trial import PROFILE, Project, Trial

_SMALL = 10  # trials below which only pages are made, those of a chain without a model
_PATIENCE = 60.0
SIGNALS = ("KILL", "TERM", "INT", "HUP")
STORE = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from pathlib import Path
from geocbm.encoders.features import encode_features
from geocbm.run.encoding import load_image_encoder
files = sorted(Path(sys.argv[1]).glob("*")) * int(sys.argv[3])
digests = [f"{number:064x}" for number in range(len(files))]
encode_features(load_image_encoder("atlas"), files, digests, sys.argv[2], ("pooled", "tokens"), 16)
"""


def campaign(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Kill `predict`, the writing of a feature store and the making of pages."""
    draw = random.Random(seed)
    whole, _ = lives.undisturbed(folder.parent, small=count < _SMALL)
    if count < _SMALL:
        yield from _kill_each(_pages(whole), count, draw)
        return
    shares = (2 * count // 5, 2 * count // 5, count - 2 * (2 * count // 5))
    for work, number in zip((_predict, _store, _pages), shares, strict=True):
        yield from _kill_each(work(whole), number, draw)
    (whole.data / "runs" / PROFILE / FILE).unlink(missing_ok=True)  # of `predict`; other campaigns share the chain


@dataclass
class _Work:
    """Something else than a chain that may be killed.

    Attributes:
        kind: what it is.
        begin: starts it; called again after a kill, it is the same command.
        clear: lets it begin afresh.
        result: digests of what it leaves.
        project: whose processes it has.
        begun: whether it is past the start of Python and its libraries, where nothing is written.
    """

    kind: str
    begin: Callable[[], subprocess.Popen[str]]
    clear: Callable[[], None]
    result: Callable[[], dict[str, str]]
    project: Project
    begun: Callable[[], bool] = lambda: True


def _kill_each(work: _Work, count: int, draw: random.Random) -> Iterator[Trial]:
    """Kill it at moments drawn from an undisturbed run, each time followed by the same command."""
    work.clear()
    running = work.begin()
    while not work.begun() and running.poll() is None:
        time.sleep(0.01)
    began = time.monotonic()
    said = work.project.said(running)
    seconds, expected = time.monotonic() - began, work.result()
    yield Trial(f"undisturbed {work.kind}: from its beginning to its end", said.code == 0 and bool(expected), str(said))
    for number in range(count):
        name = SIGNALS[number % len(SIGNALS)]
        work.clear()
        running = work.begin()
        while not work.begun() and running.poll() is None:
            time.sleep(0.01)
        moment = draw.uniform(0, seconds)
        time.sleep(moment)
        late = running.poll() is not None
        with suppress(ProcessLookupError):
            os.killpg(running.pid, getattr(signal, f"SIG{name}"))
        ended = work.project.said(running, _PATIENCE)
        wrong = lives.unlike(ended, {0, 1, 128 + getattr(signal, f"SIG{name}")})
        wrong += [f"{process} is still there" for process in lives.survivors(work.project)]
        again = work.project.said(work.begin())
        wrong += [] if again.code == 0 else [f"the same command again: {again}"]
        found = work.result()
        wrong += [f"{each} differs" for each in sorted({*found, *expected}) if found.get(each) != expected.get(each)]
        what = f"{work.kind}: {name} after {moment:.2f} of {seconds:.2f} s{' (it had ended)' if late else ''}"
        yield Trial(what, not wrong, "; ".join(wrong) or f"{ended}; again: {again}")


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def _answers(folder: Path) -> dict[str, str]:
    """What is in the folder, but for how many answers the summary says were there before."""
    summary = read_json(folder / "a.summary.json")
    return _digests(folder) | {"a.summary.json": str({**summary, "answered_before": ""})}


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _predict(whole: Project) -> _Work:
    """Answers to all pictures of the world, as lines and as a page."""
    out, photos = whole.folder / "answers", whole.folder / "photos"
    pictures = sorted((whole.data / "atlas" / PROFILE / "images").iterdir())
    photos.mkdir()
    for number in range(3 * len(pictures)):
        shutil.copy(pictures[number % len(pictures)], photos / f"{number:04}.jpg")
    asked = [
        "predict",
        str(photos),
        "--run",
        PROFILE,
        "--json",
        str(out / "a.jsonl"),
        "--parquet",
        str(out / "a.parquet"),
    ]
    return _Work("predict", lambda: whole.start(*asked), lambda: _empty(out), lambda: _answers(out), whole)


def _store(whole: Project) -> _Work:
    """Features of many pictures, written by the encoder of the demonstration."""
    out, images = whole.folder / "stores", whole.data / "atlas" / PROFILE / "images"

    def begin() -> subprocess.Popen[str]:
        return whole.begin("-c", STORE, str(images), str(out), "4")

    return _Work("feature store", begin, lambda: _empty(out), lambda: _digests(out), whole, lambda: any(out.iterdir()))


def _pages(whole: Project) -> _Work:
    """The pages of a finished run."""

    def pages() -> list[Path]:
        return [path for path in whole.reports.rglob("*") if path.suffix in (".html", ".js", ".css")]

    def clear() -> None:
        for path in [*pages(), *whole.reports.glob("*/.made.json")]:
            path.unlink()

    def result() -> dict[str, str]:
        return {str(path.relative_to(whole.reports)): sha256_file(path) for path in pages()}

    return _Work("pages", lambda: whole.start(*lives.RUN), clear, result, whole, lambda: any(pages()))
