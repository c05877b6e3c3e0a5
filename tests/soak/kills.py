"""Whatever is killed, and however: no process stays, the next start clears up, and the same command ends as if nothing
had happened, `metrics.json`, weights and stores to the byte.

Moments are drawn from the seconds of an undisturbed run: first of a chain (the notebooks that write what others read,
with a profile of 200 scenes and one or two epochs), where one life carries many kills: the same command is started
again after each, and the next kill comes later. Each kill is one of KILL, TERM, INT and HUP, sent to the chain's
process, to that of the notebook, to its kernel, or to all of them at once. After a kill every file is read by the
library of its kind; at the end of a life all names of files, and the bytes of those without times, are those of the
undisturbed run. Ten further kills meet `geocbm predict` over a folder, ten the writing of a feature store, five the
making of pages.
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
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from geocbm.files import sha256_file
from tests.soak import lives
from tests.soak.trial import PROFILE, ROOT, Project, Said, Trial, has_traceback

SIGNALS = ("KILL", "TERM", "INT", "HUP")
TARGETS = ("chain", "notebook", "kernel", "group")
_A_LIFE = 14  # kills of one chain, at most
_SMALL = 10  # trials below which a chain of two pages will do
_PATIENCE = 120.0  # seconds in which a chain ends when it, or what works for it, was killed; it renders what it has
STORE = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from pathlib import Path
from geocbm.encoders.features import encode_features
from geocbm.run.encoding import load_encoder
files = sorted(Path(sys.argv[1]).glob("*")) * int(sys.argv[3])
digests = [f"{number:064x}" for number in range(len(files))]
encode_features(load_encoder("atlas"), files, digests, sys.argv[2], ("pooled", "tokens"), 16)
"""


def campaign(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Kill chains, `predict`, the writing of a feature store and the making of pages."""
    draw = random.Random(seed)
    folder.mkdir(exist_ok=True)
    whole, stages = lives.undisturbed(folder.parent, small=count < _SMALL)
    others = [0, 0, 0] if count < _SMALL else [round(count * share / 65) for share in (10, 10, 5)]
    yield from _chains(count - sum(others), draw, folder, whole, stages)
    for work, number in zip((_predict, _store, _pages), others, strict=True):
        if number:
            yield from _kill_each(work(whole), number, draw)


def _chains(
    count: int, draw: random.Random, folder: Path, whole: Project, stages: list[tuple[str, float, float]]
) -> Iterator[Trial]:
    ways = [(target, name) for target in TARGETS for name in SIGNALS] * (count // 16 + 1)
    draw.shuffle(ways)
    done = number = 0
    while done < count:
        number += 1
        place = folder / f"life{number}"
        shutil.copytree(whole.folder / "notebooks", place / "notebooks")
        life = _Life(Project(place), stages, ways[done : done + min(_A_LIFE, count - done)], draw)
        for trial in life.kills():
            done += 1
            yield trial
        yield life.end(whole)
        shutil.rmtree(place)


@dataclass
class _Life:
    """A chain that is killed again and again, and started again by the same command."""

    project: Project
    stages: list[tuple[str, float, float]]  # of an undisturbed run: name, begin and seconds
    ways: list[tuple[str, str]]
    draw: random.Random
    before: set[str] = field(default_factory=set)  # what the last kill left
    done: int = 0

    def kills(self) -> Iterator[Trial]:
        """One trial for each kill that met the chain alive."""
        end = self.stages[-1][1] + self.stages[-1][2]
        chain = self.project.start(*lives.RUN)
        for (target, name), moment in zip(self.ways, sorted(self.draw.uniform(0, end) for _ in self.ways), strict=True):
            stage, began, _ = next(each for each in reversed(self.stages) if each[1] <= moment)
            self._wait_for(chain, stage)
            time.sleep(moment - began)
            victims = self._victims(chain, target)
            if not victims:
                break  # the chain has come to its end
            at = lives.under_way(self.project)
            for victim in victims:
                with suppress(psutil.Error):
                    victim.send_signal(getattr(signal, f"SIG{name}"))
            self.done += 1
            what = f"chain: {name} to {target}, {moment - began:.1f} s into {at or 'the start'}"
            if target in ("notebook", "kernel") and name != "KILL" and self._goes_on(chain, at):
                yield Trial(what, True, "it was not heard, and the chain went on")
                continue
            yield self._judge(what, chain, target, name, at)
            chain = self.project.start(*lives.RUN)
        self.chain = chain

    def end(self, whole: Project) -> Trial:
        """What became of it after the last kill."""
        said = self.project.said(self.chain)
        wrong = [] if said.code == 0 else [str(said)]
        wrong += lives.differences(self.project, whole) + lives.survivors(self.project)
        return Trial(f"end of a life: after {self.done} kills", not wrong, "; ".join(wrong) or str(said))

    def _wait_for(self, chain: subprocess.Popen[str], stage: str) -> None:
        order = [name for name, _, _ in self.stages]
        while chain.poll() is None:
            now = lives.under_way(self.project)
            if now in order and order.index(now) >= order.index(stage):
                return
            time.sleep(0.05)

    def _victims(self, chain: subprocess.Popen[str], target: str) -> list[psutil.Process]:
        """The processes that a kill is for; waits until there is one, or the chain has ended."""
        said = {"notebook": ("geocbm.workbench.execute", "atlas make"), "kernel": ("ipykernel_launcher",)}
        while chain.poll() is None:
            with suppress(psutil.Error):
                root = psutil.Process(chain.pid)
                family = root.children(recursive=True)
                if target == "chain":
                    return [root]
                if target == "group":
                    return [root, *family]
                for process in family:
                    words = " ".join(process.cmdline())
                    if any(word in words for word in said[target]):
                        return [process]
            time.sleep(0.05)
        return []

    def _goes_on(self, chain: subprocess.Popen[str], at: str) -> bool:
        """Whether the chain comes to its next notebook after a signal that a program may ignore."""
        end = time.monotonic() + _PATIENCE
        while chain.poll() is None and time.monotonic() < end:
            if lives.under_way(self.project) not in (at, lives.RENDERING):
                return True
            time.sleep(0.05)
        return chain.poll() is None

    def _judge(self, what: str, chain: subprocess.Popen[str], target: str, name: str, at: str) -> Trial:
        try:
            said = self.project.said(chain, _PATIENCE)
        except subprocess.TimeoutExpired:
            return Trial(what, False, f"the chain did not end within {_PATIENCE:g} s")
        codes = {1} if target in ("notebook", "kernel") else {128 + getattr(signal, f"SIG{name}"), 1}
        wrong = _unlike(said, codes if name == "KILL" else codes | {0})
        wrong += [f"{process} is still there" for process in lives.survivors(self.project)]
        wrong += lives.broken(self.project)
        now = lives.leftovers(self.project)
        if at:  # past the moment at which a start clears up
            wrong += [f"{left} was not removed by the next start" for left in sorted(now & self.before)]
        self.before = now
        return Trial(what, not wrong, "; ".join(wrong) or str(said))


def _unlike(said: Said, codes: set[int]) -> list[str]:
    """What a command that was ended should not have said."""
    wrong = [] if said.code in codes else [f"exit {said.code} is none of {sorted(codes)}: {said.sentence}"]
    if 0 < said.code < 128 and not said.sentence.startswith("geocbm: "):
        wrong.append(f"exit {said.code} without a sentence: {said.err[-200:]}")
    # Before the first line of the package an interrupt is answered by Python itself.
    if has_traceback(said.err) and f"{ROOT}/geocbm" in said.err:
        wrong.append(f"a bare traceback: {said.err[-600:]}")
    return wrong


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
        wrong = _unlike(ended, {0, 1, 128 + getattr(signal, f"SIG{name}")})
        wrong += [f"{process} is still there" for process in lives.survivors(work.project)]
        again = work.project.said(work.begin())
        wrong += [] if again.code == 0 else [f"the same command again: {again}"]
        found = work.result()
        wrong += [f"{each} differs" for each in sorted({*found, *expected}) if found.get(each) != expected.get(each)]
        what = f"{work.kind}: {name} after {moment:.2f} of {seconds:.2f} s{' (it had ended)' if late else ''}"
        yield Trial(what, not wrong, "; ".join(wrong) or f"{ended}; again: {again}")


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


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
    return _Work("predict", lambda: whole.start(*asked), lambda: _empty(out), lambda: _digests(out), whole)


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
