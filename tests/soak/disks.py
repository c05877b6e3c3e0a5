"""A full or closed disk ends in one sentence that names the folder, what was needed and what is free; what was whole
stays whole, and the same command goes on when there is room.

Data and reports of one chain lie on a small disk in memory each (tmpfs, in a mount namespace of its own). Half of the
sizes are for data, half for reports, drawn between next to nothing and what an undisturbed run takes. The chain begins
with the smallest two; whenever a disk is full, that one grows to its next size and the same command is given again,
until the chain is through. After each end every file is read by the library of its kind, nothing that was there is gone
and no half-written file is left; at last all names of files, and the bytes of those without times, are those of the
undisturbed run. Beside it both disks are made read-only (that of reports also while the chain runs), folders are closed
by their permissions, and a limit of file sizes stands for a quota.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from geocbm.files.owners import die_with_parent
from tests.soak import lives
from tests.soak.trial import PROFILE, Project, Said, Trial, has_traceback, two_pages

_PAGE = 4096
_SMALL = 10  # trials below which a chain of two pages will do
_FULL = re.compile(
    r"(/\S+)( is full: .+)? needs? (at least )?[\d,.]+ ([MG]B|bytes).* free|(/\S+) is full: .* a quota or limit"
)
_CLOSED = re.compile(r"cannot be written into (/\S+) \(.+\); make the folder writable")
_NOBODY = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
"""As somebody whom permissions hold; root they do not."""


def campaign(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Let disks run full and be closed."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    yield from _quotas(max(1, count // 10), draw, two_pages(folder / "quota"))
    yield from _permissions(two_pages(folder / "permissions"))
    whole, _ = lives.undisturbed(folder.parent, small=count < _SMALL)
    if (holder := _holder()) is None:
        yield Trial("mounts: not allowed on this machine, no disk was filled", True, "skipped")
        return
    try:
        place = folder / "life"
        shutil.copytree(whole.folder / "notebooks", place / "notebooks")
        life = _Life(_Disks(place, holder.pid), whole)
        yield from life.closed()
        yield from life.grow(count // 2, draw)
        yield life.end()
    finally:
        holder.kill()
        holder.wait()


def _holder() -> subprocess.Popen[bytes] | None:
    """A process that keeps a mount namespace in which this user may mount; None where that is not allowed."""
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return None
    said = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "try", "/mnt"], capture_output=True)
    if said.returncode != 0:
        return None
    words = ["unshare", "-rm", "sleep", "infinity"]
    holder = subprocess.Popen(words, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    time.sleep(0.5)
    return holder


class _Disks:
    """A project whose data and reports lie on disks that can be seen by its own processes only."""

    def __init__(self, place: Path, holder: int) -> None:
        self.inside = ("nsenter", "--preserve-credentials", "-U", "-m", "-t", str(holder), "--")
        self.project = Project(place, self.inside)
        self.seen = Project(Path(f"/proc/{holder}/root{place}"))  # the same from here
        self.sizes = dict.fromkeys(("data", "reports"), _PAGE)
        assert self.project.environment  # which makes the folders
        for disk in self.sizes:
            self._mount("-t", "tmpfs", "-o", f"size={_PAGE}", disk, str(place / disk))

    def _mount(self, *words: str) -> bool:
        return subprocess.run([*self.inside, "mount", *words], capture_output=True).returncode == 0

    def resize(self, disk: str, size: int) -> None:
        """Give a disk so many bytes."""
        self.sizes[disk] = size
        assert self._mount("-o", f"remount,size={size}", str(self.project.folder / disk))

    def close(self, disk: str, patience: float = 60.0) -> bool:
        """Make a disk read-only, as soon as nobody has a file open for writing."""
        end = time.monotonic() + patience
        while not self._mount("-o", "remount,ro", str(self.project.folder / disk)):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def open(self, disk: str) -> None:
        """Let a disk be written to again."""
        assert self._mount("-o", "remount,rw", str(self.project.folder / disk))


@dataclass
class _Life:
    """One chain on two disks that are too small for it."""

    disks: _Disks
    whole: Project

    def closed(self) -> Iterator[Trial]:
        """Both disks read-only at the start, that of reports also later (a run's lock keeps that of data open)."""
        for disk in self.disks.sizes:
            self.disks.resize(disk, 10 * _used(self.whole.folder / disk) + 100 * _PAGE)
        for disk in self.disks.sizes:
            self.disks.close(disk)
            before = lives.names(self.disks.seen)
            said = self.disks.project.geocbm(*lives.RUN)
            yield self._judge(f"read-only: {disk}, before the start", said, _CLOSED, disk, before)
            self.disks.open(disk)
        before = lives.names(self.disks.seen)
        chain = self.disks.project.start(*lives.RUN)
        while chain.poll() is None and lives.under_way(self.disks.project) in ("", "--"):
            time.sleep(0.05)
        if self.disks.close("reports"):
            what = f"read-only: reports, while {lives.under_way(self.disks.project)} was under way"
            yield self._judge(what, self.disks.project.said(chain), _CLOSED, "reports", before)
        lives.survivors(self.disks.project, 0)
        self.disks.open("reports")

    def grow(self, count: int, draw: random.Random) -> Iterator[Trial]:
        """So many sizes for each disk, from too small to enough; it goes on from what the read-only disks left."""
        rest = {}
        for disk in self.disks.sizes:
            least, most = _used(self.disks.seen.folder / disk) // _PAGE, _used(self.whole.folder / disk) // _PAGE
            pages = sorted(draw.uniform(least, max(least + count, most)) for _ in range(count))
            rest[disk] = [int(page) * _PAGE for page in pages] + [3 * most * _PAGE]
            self.disks.resize(disk, rest[disk].pop(0))
        while True:
            before, sizes = lives.names(self.disks.seen), dict(self.disks.sizes)
            said = self.disks.project.geocbm(*lives.RUN)
            if said.code == 0:
                self.said = said
                return
            named = [disk for disk in sizes if f"{self.disks.project.folder}/{disk}" in said.err]
            disk = named[-1] if named else "data"
            what = f"full: {disk} with {sizes[disk] / 1e6:.2f} of {_used(self.whole.folder / disk) / 1e6:.2f} MB"
            yield self._judge(what, said, _FULL, disk, before)
            if not rest[disk]:
                raise AssertionError(f"{disk} is still too small: {said}")
            self.disks.resize(disk, rest[disk].pop(0))

    def end(self) -> Trial:
        """What came of it when there was room at last."""
        wrong = lives.differences(self.disks.seen, self.whole) + lives.survivors(self.disks.project)
        if (self.disks.seen.data / "runs" / PROFILE / "features.json").exists():
            verified = self.disks.project.geocbm("verify", PROFILE)
            wrong += [] if verified.code == 0 else [str(verified)]
        return Trial("end of a life: the same command with room enough", not wrong, "; ".join(wrong) or str(self.said))

    def _judge(self, what: str, said: Said, sentence: re.Pattern[str], disk: str, before: set[str]) -> Trial:
        wrong = _told(said, sentence, self.disks.project.folder / disk)
        wrong += lives.broken(self.disks.seen)
        wrong += [f"{name} is left over" for name in sorted(lives.leftovers(self.disks.seen))]
        now = lives.names(self.disks.seen)
        # The state of a training that has come to its end since is no longer needed.
        ended = {name for name in before if name.replace(".resume.", ".") in now}
        wrong += [f"{name} is gone" for name in sorted(before - now - ended) if ".failed." not in name]
        return Trial(what, not wrong, "; ".join(wrong) or str(said))


def _told(said: Said, sentence: re.Pattern[str], folder: Path) -> list[str]:
    """What is wrong with what was said of a folder that could not be written."""
    lines = [line for line in said.err.splitlines() if line.startswith("geocbm: ") and sentence.search(line)]
    wrong = [] if said.code in (1, 2) else [f"exit {said.code}"]
    if not any(str(folder) in line for line in lines):
        wrong.append(f"no sentence names the folder, what was needed and what is free: {said.err[-400:]}")
    return wrong + ([f"a bare traceback: {said.err[-800:]}"] if has_traceback(said.err) else [])


def _used(folder: Path) -> int:
    """Bytes that the files of a folder take on a disk of pages."""
    return sum(-(-path.lstat().st_size // _PAGE) * _PAGE for path in folder.rglob("*")) + _PAGE


def _permissions(project: Project) -> Iterator[Trial]:
    """Folders that are closed by their permissions; the same command when they are open again."""
    assert project.environment
    somebody = Project(project.folder, _NOBODY if os.geteuid() == 0 else ())
    for name in ("data", "reports"):
        folder = project.folder / name
        folder.chmod(0o555)
        held = subprocess.run([*somebody.inside, "touch", str(folder / "try")], capture_output=True).returncode != 0
        said = somebody.geocbm(*lives.RUN) if held else None
        folder.chmod(0o755)
        if said is None:
            (folder / "try").unlink(missing_ok=True)
            yield Trial(f"permissions: {name}: do not hold this user", True, "skipped")
            continue
        wrong = _told(said, _CLOSED, folder)
        wrong += [f"{left} is left over" for left in sorted(lives.leftovers(project))]
        yield Trial(f"permissions: {name} closed", not wrong, "; ".join(wrong) or str(said))
    said = somebody.geocbm(*lives.RUN)
    yield Trial("permissions: all open again", said.code == 0, str(said))


def _quotas(count: int, draw: random.Random, project: Project) -> Iterator[Trial]:
    """A limit of file sizes, as a quota gives, and the same command without it."""
    if not shutil.which("prlimit"):
        return
    for _ in range(count):
        limit = draw.randrange(10, 3000)
        bounded = Project(project.folder, ("prlimit", f"--fsize={limit}"))
        said = bounded.geocbm(*lives.RUN)
        wrong = _told(said, _FULL, project.folder) + lives.broken(project)
        wrong += [f"{left} is left over" for left in sorted(lives.leftovers(project))]
        yield Trial(f"quota: files of {limit} bytes at most", not wrong, "; ".join(wrong) or str(said))
    said = project.geocbm(*lives.RUN)
    yield Trial("quota: the same command without a limit", said.code == 0, str(said))
