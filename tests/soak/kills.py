"""Whatever of a chain is killed, and however: no process stays, the next start clears up, and the same command ends as
if nothing had happened, `metrics.json`, weights, arrays and stores to the byte.

The chain is that of the notebooks from the table to the answers, with a world of 200 scenes and one or two epochs. One
life carries all kills: the same command is started again after each, and the next kill comes later. Moments are drawn
from the seconds of an undisturbed run. Each kill is one of KILL, TERM, INT and HUP, sent to the chain's process, to the
notebook's, to its kernel, or to all of them at once, every pair as often as the others. After a kill nothing may have
been said but one sentence, and every file is read by the library of its kind; at the end of a life all names of files,
and the bytes of those without times, are those of the undisturbed run.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.soak import lives
from tests.soak.trial import Project, Trial

SIGNALS = ("KILL", "TERM", "INT", "HUP")
TARGETS = ("chain", "notebook", "kernel", "group")
_A_LIFE = 40  # kills of one chain, at most
_SMALL = 10  # trials below which a chain of two pages will do
_PATIENCE = 120.0  # seconds in which a chain ends when it, or what works for it, was killed; it renders what it has


def campaign(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Kill chains; with few trials that of two pages without a model."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, stages = lives.undisturbed(folder.parent, small=count < _SMALL)
    yield from _chains(count, random.Random(seed), folder, whole, stages)


def _chains(
    count: int, draw: random.Random, folder: Path, whole: Project, stages: list[tuple[str, float, float]]
) -> Iterator[Trial]:
    ways = [(target, name) for target in TARGETS for name in SIGNALS] * (count // 16 + 1)
    if count >= _SMALL:
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
    before: dict[str, int] = field(default_factory=dict)  # what the last kill left, and when that was changed
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
        wrong = lives.unlike(said, codes if name == "KILL" else codes | {0})
        wrong += [f"{process} is still there" for process in lives.survivors(self.project)]
        wrong += lives.broken(self.project)
        now = lives.leftovers(self.project)
        if at:  # past the moment at which a start clears up
            wrong += [
                f"{left} was not removed by the next start" for left, _ in sorted(now.items() & self.before.items())
            ]
        self.before = now
        return Trial(what, not wrong, "; ".join(wrong) or str(said))
