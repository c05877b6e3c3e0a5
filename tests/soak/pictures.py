"""A picture gives the pixels that were put into it, or a sentence; no program is started; memory stays under 2 GB.

Files of every format and mode that Pillow writes, under any name, whole, cut, changed and with something behind their
end, of known pixels; orientations, animations, transparency, 16 bits, positions and hostile texts in EXIF; bombs, what
is no picture and what is no file. Each goes through the one door (`read_photograph`, `open_picture`, the check of a
table) in a process of its own and through `geocbm predict`, with a stand-in for Ghostscript on the PATH. Pixels are
compared with those computed by hand. Last, several pictures of 13,000 x 13,000 are asked about at once.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from geocbm.data.checks import inspect_image
from geocbm.data.images.photographs import open_picture, read_photograph
from geocbm.errors import UserError
from tests.soak.picture_files import KINDS, Case
from tests.soak.trial import Elsewhere, Lost, Trial
from tests.tiny_models import save_model
from tests.tiny_run import train_tiny_run

BATCH = 100
"""Pictures that one `geocbm predict` is asked about."""
MOST_KB = 2_000_000
NAMES = ("{}", "<b>{}", "a\nb{}", "\x1b[31m{}", "{{{{x}}}}{}", "\u202e{}", "é {}", "$(id){}", "%s{}")


Seen = tuple[str, Path, dict[str, Any], str]
"""Kind, file, what the door makes of it, what is wrong with that."""


def look(path: str) -> dict[str, Any]:
    """What the door makes of a file: its pixels, notes and place, or the sentence; `wrong` where doors differ."""
    try:
        photo = read_photograph(path)
    except UserError as problem:
        found: dict[str, Any] = {"problem": str(problem)}
    except Exception as error:  # what must never come out
        return {"wrong": f"{type(error).__name__}: {error}"}
    else:
        found = {"pixels": np.asarray(photo.picture), "notes": photo.notes, "place": photo.own_place}
    try:
        other = np.asarray(open_picture(path))
        if "problem" in found or not np.array_equal(other, found["pixels"]):
            found["wrong"] = "the door of tables gives another picture"
    except UserError as problem:
        if "problem" not in found:
            found["wrong"] = f"the door of tables refuses it: {problem}"
    except Exception as error:  # what must never come out
        found["wrong"] = f"{type(error).__name__}: {error}"
    _, trouble = inspect_image(Path(path))
    if bool(trouble) != ("problem" in found):
        found["wrong"] = f"the check of tables says {trouble!r}"
    return found


class Looker(Elsewhere):
    """Looks at files in another process."""

    def __init__(self) -> None:
        super().__init__(look, 60)

    def __call__(self, path: Path) -> dict[str, Any]:
        try:
            return super().__call__(path)
        except Lost as reason:
            return {"wrong": str(reason)}


def judge(case: Case, found: dict[str, Any]) -> str:
    """What is not as it must be, if anything."""
    if "wrong" in found:
        return str(found["wrong"])
    if "problem" in found:
        return _judge_sentence(case, str(found["problem"]))
    if wrong := _judge_pixels(case, found["pixels"]):
        return wrong
    notes = " ".join(found["notes"])
    if case.noted not in notes:
        return f"notes: {notes!r}"
    if not notes.isprintable() or "script" in notes:
        return f"notes hold texts of the file: {notes!r}"
    place = found["place"]
    wrong = not case.any_pixels and (place is None) != (case.place is None)
    wrong = wrong or (case.place is not None and not np.allclose(place, case.place, atol=1e-6))
    return f"place {place} instead of {case.place}" if wrong else ""


def _judge_sentence(case: Case, said: str) -> str:
    if case.said is None:
        return f"refused: {said}"
    if not said.isprintable() or len(said) > 700:
        return f"no sentence: {said!r:.900}"
    return "" if any(part in said for part in case.said) else f"another sentence: {said}"


def _judge_pixels(case: Case, pixels: np.ndarray) -> str:
    if case.right is None:
        if case.size is not None and pixels.shape[1::-1] != case.size:
            return f"{pixels.shape[1::-1]} pixels instead of {case.size}"
        return "" if case.any_pixels else "read"
    if case.any_pixels:
        return ""
    if pixels.shape != case.right.shape:
        return f"shape {pixels.shape} instead of {case.right.shape}"
    off = float(np.abs(pixels - case.right).mean())
    return f"levels differ by {off:.1f}" if off > case.off else ""


def tiny_world(folder: Path) -> dict[str, str]:
    """Train a run named tiny; the environment in which the command finds it."""
    train_tiny_run(folder / "data" / "runs", save_model(folder / "model", "clip"))
    return {**os.environ, "GEOCBM_DATA": str(folder / "data"), "OMP_NUM_THREADS": "1"}


def ask(paths: list[Path], world: dict[str, str], page: Path) -> tuple[dict[str, Any], str, int]:
    """Ask `geocbm predict` about pictures: answers by path, what it said, its exit status."""
    answers = page.with_suffix(".json")
    answers.unlink(missing_ok=True)
    command = [sys.executable, "-m", "geocbm", "predict", "--run", "tiny", "--json", str(answers), "--html", str(page)]
    command += ["--", *map(str, paths)]
    done = subprocess.run(
        command, env=world, capture_output=True, text=True, errors="replace", timeout=900, check=False
    )
    entries = json.loads(answers.read_text(encoding="utf-8")) if answers.exists() else []
    return {entry["path"]: entry for entry in entries}, done.stderr, done.returncode


def _unanswered(path: Path, found: dict[str, Any], answers: dict[str, Any], said: str) -> str:
    """How the command's answer for a picture differs from what the door says, if it does."""
    entry = answers.get(str(path))
    if "problem" not in found:
        if entry is None:
            return f"geocbm predict has no answer; {said[-300:]}"
        sound = abs(entry["lat"]) <= 90 and abs(entry["lng"]) <= 180 and entry["cells"]
        return "" if sound else f"geocbm predict answers {entry['lat']}, {entry['lng']}"
    return "" if entry is None else "geocbm predict answers"


def campaign(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Try so many pictures, every kind as often; and a few that would fill the memory, several at once."""
    world = tiny_world(folder)
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "gs").write_text(f"#!/bin/sh\ntouch '{folder}/started'\n", encoding="utf-8")
    (bin_ / "gs").chmod(0o755)
    world["PATH"] = os.environ["PATH"] = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    looker = Looker()
    tried: Counter[str] = Counter()
    waiting: list[Seen] = []
    Image.init()
    try:
        for number in range(count):
            kind = list(KINDS)[number % len(KINDS)]
            rng = random.Random(f"{seed} {kind} {tried[kind]}")
            tried[kind] += 1
            case = KINDS[kind](rng)
            name = rng.choice(NAMES).format(f"{number}.{case.suffix or 'jpg'}")
            path = folder / name
            if callable(case.content):
                case.content(path)
            else:
                path.write_bytes(case.content)
            found = looker(path)
            wrong = judge(case, found)
            if (folder / "started").exists():
                (folder / "started").unlink()
                wrong = "a program was started"
            waiting.append((kind, path, found, wrong))
            if len(waiting) == BATCH or number == count - 1:
                yield from _asked(waiting, world, folder)
                waiting = []
        if count >= 2 * len(KINDS):
            yield from _large(world, folder)
    finally:
        looker.close()


def _asked(waiting: list[Seen], world: dict[str, str], folder: Path) -> Iterator[Trial]:
    """Ask the command about pictures that the door has seen."""
    paths = [path for _, path, _, _ in waiting if not path.is_dir()]  # folders are looked into
    answers, said, status = ask(paths, world, folder / "page.html")
    bare = "Traceback" in said or "Error:" in said or status not in (0, 1)
    for kind, path, found, wrong in waiting:
        if not wrong and path in paths:
            wrong = f"exit {status}: {said[-500:]}" if bare else _unanswered(path, found, answers, said)
        if not wrong and (folder / "started").exists():
            wrong = "geocbm predict started a program"
        seen = wrong or found.get("problem") or f"{found['pixels'].shape[1]} x {found['pixels'].shape[0]} pixels"
        yield Trial(f"{kind}: {path.name!r}", not wrong, str(seen))


def _large(world: dict[str, str], folder: Path) -> Iterator[Trial]:
    """Eight pictures of 13,000 x 13,000 at once."""
    import zlib

    from tests.soak.picture_files import png

    side = 13_000
    for name, channels, colour in (("grey", 1, 0), ("colour", 3, 2), ("with transparency", 4, 6)):
        first = folder / f"large {name} 0.png"
        packer = zlib.compressobj(1)
        rows = b"".join(packer.compress(b"\0" + b"\x64" * (side * channels)) for _ in range(side)) + packer.flush()
        first.write_bytes(png(side, side, 8, colour, b"").replace(*_data(rows)))
        paths = [first]
        for number in range(1, 8):
            paths.append(folder / f"large {name} {number}.png")
            paths[-1].hardlink_to(first)
        yield _measured(f"eight at once: 13,000 x 13,000 {name}", paths, world, folder)
        for path in paths:
            path.unlink()
    Image.new("RGB", (side, side), (9, 99, 200)).save(paths[0].with_suffix(".jpg"), progressive=True)
    yield _measured("several at once: progressive JPEG", [paths[0].with_suffix(".jpg")] * 3, world, folder)


def _data(rows: bytes) -> tuple[bytes, bytes]:
    """The chunk of an empty PNG that holds its pixels, and the one to put in its place."""
    import zlib

    from tests.soak.picture_files import _chunk

    return _chunk(b"IDAT", zlib.compress(b"", 1)), _chunk(b"IDAT", rows)


def _measured(what: str, paths: list[Path], world: dict[str, str], folder: Path) -> Trial:
    """Ask about pictures in a process whose largest memory is told."""
    code = (
        "import sys; from geocbm import cli; status = cli.main(sys.argv[1:])\n"
        "most = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print('\\nstatus', status, 'kB', most)"
    )
    command = [sys.executable, "-c", code, "predict", "--run", "tiny", "--", *map(str, paths)]
    done = subprocess.run(command, env=world, capture_output=True, text=True, timeout=900, check=False)
    last = done.stdout.splitlines()[-1] if done.stdout else done.stderr[-500:]
    parts = last.split()
    held = parts[:1] == ["status"] and parts[1] == "0" and int(parts[3]) < MOST_KB
    return Trial(what, held, last)
