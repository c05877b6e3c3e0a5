"""A chain in a campaign: how far it is, which processes it has, whether its files are whole and as they were."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
from PIL import Image
from safetensors import safe_open

from geocbm.files import sha256_file
from tests.soak.trial import PROFILE, ROOT, Project, Said, has_traceback, small_project, two_pages

RUN = ("run", "--profile", PROFILE)
RENDERING = "rendering"
_STAGE = re.compile(r"^\[(--|\d\d\w?)\] (.*)$", re.MULTILINE)
_LEFTOVERS = re.compile(
    r"(geocbm-[0-9a-f]{6}-\d+-\w+|\..+\.[0-9a-f]{6}-\d+-\w{8}(\..*)?|\..*\.running\.ipynb|tmp.*\.json)"
)
_EXACT = (".safetensors", ".npz", ".npy", ".float16")
"""Suffixes of files that two runs have to the byte; tables and JSON of a run may hold times."""


def under_way(project: Project) -> str:
    """The stage that the newest command of a project is at; empty before the first."""
    said = _STAGE.findall((project.folder / "out").read_text())
    if not said:
        return ""
    number, rest = said[-1]
    last = re.findall(r'notebook = "([^_]+)_', (project.folder / "notebooks" / "chain.toml").read_text())[-1]
    return RENDERING if number == last and not rest.endswith("running ... ") else number


def timeline(project: Project) -> tuple[Said, list[tuple[str, float, float]]]:
    """Run the chain without a disturbance; also each stage with when it began and how many seconds it took."""
    began = time.monotonic()
    chain = project.start(*RUN)
    starts: list[tuple[str, float]] = [("", 0.0)]
    while chain.poll() is None:
        if (now := under_way(project)) != starts[-1][0]:
            starts.append((now, time.monotonic() - began))
        time.sleep(0.05)
    ends = [start for _, start in starts[1:]] + [time.monotonic() - began]
    return project.said(chain), [(name, start, end - start) for (name, start), end in zip(starts, ends, strict=True)]


def undisturbed(folder: Path, small: bool) -> tuple[Project, list[tuple[str, float, float]]]:
    """A chain that came to its end, and its timeline; campaigns that are run together share it."""
    place, times = folder / "undisturbed", folder / "undisturbed.json"
    if times.is_file():
        return Project(place), [tuple(each) for each in json.loads(times.read_text())]
    whole = two_pages(place) if small else small_project(place)
    said, stages = timeline(whole)
    if said.code != 0:
        raise AssertionError(f"nobody disturbed the chain: {said}")
    times.write_text(json.dumps(stages))
    return whole, stages


def processes(project: Project) -> list[psutil.Process]:
    """All processes that work for a project, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            own = process.environ().get("GEOCBM_ROOT") == str(project.folder)
            if own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def unlike(said: Said, codes: set[int]) -> list[str]:
    """What a command that was ended should not have said."""
    wrong = [] if said.code in codes else [f"exit {said.code} is none of {sorted(codes)}: {said.sentence}"]
    if 0 < said.code < 128 and not said.sentence.startswith("geocbm: "):
        wrong.append(f"exit {said.code} without a sentence: {said.err[-200:]}")
    # Before the first line of the package an interrupt is answered by Python itself.
    if has_traceback(said.err) and f"{ROOT}/geocbm" in said.err:
        wrong.append(f"a bare traceback: {said.err[-600:]}")
    return wrong


def survivors(project: Project, patience: float = 15.0) -> list[str]:
    """Processes that are still there after some seconds; they are ended then, and named."""
    end = time.monotonic() + patience
    while (alive := processes(project)) and time.monotonic() < end:
        time.sleep(0.1)
    named = []
    for process in alive:
        with suppress(psutil.Error):
            named.append(" ".join(process.cmdline())[-120:])
            process.kill()
    return named


def leftovers(project: Project) -> dict[str, int]:
    """Files that only a process under way, or one that was killed, has; each with when it was changed."""
    found = [
        *project.scratch.iterdir(),
        *(path for root in (project.data, project.reports) for path in root.rglob("*")),
    ]
    left = [path for path in found if _LEFTOVERS.fullmatch(path.name)]
    return {str(path.relative_to(project.folder)): path.lstat().st_mtime_ns for path in left}


def _read_tensors(file: Path) -> None:
    with safe_open(file, "numpy") as stored:
        for name in stored.keys():  # noqa: SIM118
            stored.get_tensor(name)


def _read_arrays(file: Path) -> None:
    with np.load(file) as stored:
        assert all(stored[name] is not None for name in stored.files)


def _read_page(file: Path) -> None:
    assert file.read_text(encoding="utf-8").rstrip().endswith("</html>"), "the page is cut off"


def _read_picture(file: Path) -> None:
    Image.open(io.BytesIO(file.read_bytes())).load()


_READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda file: json.loads(file.read_text(encoding="utf-8")),
    ".ipynb": lambda file: nbformat.validate(nbformat.read(file, as_version=4)),
    ".safetensors": _read_tensors,
    ".npz": _read_arrays,
    ".npy": np.load,
    ".parquet": pd.read_parquet,
    ".html": _read_page,
    ".png": _read_picture,
    ".jpg": _read_picture,
}


def broken(project: Project) -> list[str]:
    """Files of runs, worlds and reports that are not whole, each read by the library that knows its kind."""
    wrong = []
    for root in (project.data, project.reports):
        for file in sorted(root.rglob("*")):
            reader = _READERS.get(file.suffix)
            # A store that is under way tells so by a counter; a world that is under way has no table yet.
            if reader is None or not file.is_file() or _LEFTOVERS.fullmatch(file.name) or "images" in file.parts:
                continue
            try:
                reader(file)
            except Exception as problem:  # six libraries, and each has errors of its own
                wrong.append(f"{file.relative_to(project.folder)}: {problem}"[:200])
    return wrong


def names(project: Project) -> set[str]:
    """Names of all files of data and reports."""
    found = (path for root in (project.data, project.reports) for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(project.folder)) for path in found}


def exact(project: Project) -> dict[str, str]:
    """Digests of what must be the same to the byte: the metrics, the weights, the arrays and the feature stores."""
    metrics = project.reports / PROFILE / "metrics.json"
    found = [metrics, *(path for path in project.data.rglob("*") if path.suffix in _EXACT)]
    return {str(path.relative_to(project.folder)): sha256_file(path) for path in found if path.is_file()}


def differences(project: Project, whole: Project) -> list[str]:
    """What tells a project from one that nobody disturbed: names of files, and bytes of those that have no times."""
    here, there = names(project), names(whole)
    found = [f"{name} is left over" for name in sorted(here - there)]
    found += [f"{name} is missing" for name in sorted(there - here)]
    own, other = exact(project), exact(whole)
    found += [f"{name} has other bytes" for name in sorted(own) if name in other and own[name] != other[name]]
    return found + [f"{name} is left in the temporary folder" for name in sorted(leftovers(project))]
