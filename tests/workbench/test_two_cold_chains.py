"""Two cold chains in two folders leave the same files, to the byte but for times and paths.

The chains are those of the campaigns of kills, from the table to the answers. What may differ is listed in `TIMES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from geocbm.files import sha256_file
from tests.soak.lives import RUN, names
from tests.soak.trial import PROFILE, SMALL, Project, small_project

LESS = SMALL.replace("scenes: 200", "scenes: 60").replace("bootstrap: 20", "bootstrap: 5")
"""Less of everything than the campaigns have."""

TIMED = (r"\.lock", r"reports/.*\.(ipynb|html|json)", r"data/runs/.*/stamps/\d\d\.json")
"""Files that may differ, and then in `TIMES`, paths and the digests of one another only; no other file may."""
SECONDS = r"\d+(\.\d+)? (s|min)\b"
TIMES = (
    r"[0-9a-f]{6}-\d+-\d{19}(?=$)",  # who holds a lock, and since when
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00",  # when a stage began
    rf"\b[Tt]ook {SECONDS}",
    rf"(?<=fresh · ){SECONDS}",  # how long a stage took
    r'(?<="seconds": )[\d.]+',
    r"(?<=<dt>seconds</dt><dd>)[\d.]+",
    rf"(?<=  ){SECONDS}(?=\n|\\n|<)",  # how long an epoch took
    r"encoded \d+ pictures in [\d.]+ s \([\d.]+ per second\)",
    # What of memory was free, and so how much was taken, is no more of a result than a time.
    r'(?<="peak_memory_mib": )\d+',
    r"(?<=<dt>peak memory mib</dt><dd>)\d+",
    # The times of pictures, by which a table's are told to be as they were.
    r'(?<="parameter:csv": ")[0-9a-f]{64}',
    r"(?<=parameter:csv</th><td>)[0-9a-f]{12}",
)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Project]]:
    """Two chains that came to their ends at the same time."""
    root = tmp_path_factory.mktemp("cold")
    both = small_project(root / "here"), small_project(root / "further down" / "thére")
    for project in both:
        (project.folder / "notebooks" / "params" / f"{PROFILE}.yaml").write_text(LESS)
    for project, chain in [(project, project.start(*RUN)) for project in both]:
        said = project.said(chain)
        assert said.code == 0, str(said)
    yield both


def may_differ(name: str) -> bool:
    return any(re.search(rf"{pattern}$", name) for pattern in TIMED)


def without_times(project: Project, name: str, digests: dict[str, str]) -> str:
    """Text of a file without times, without the project's folder and with names of files for their digests."""
    text = (project.folder / name).read_text(encoding="utf-8").replace(str(project.folder), "<folder>")
    for digest, file in digests.items():
        text = text.replace(digest, f"<{file}>").replace(digest[:12], f"<{file}>")
    return re.sub("|".join(TIMES), "<time>", text)


def test_two_cold_chains_leave_the_same_files(chains: tuple[Project, Project]) -> None:
    here, there = chains
    assert names(here) == names(there)
    found = {name: [sha256_file(project.folder / name) for project in chains] for name in sorted(names(here))}
    unequal = [name for name, (one, other) in found.items() if one != other]
    assert [name for name in unequal if not may_differ(name)] == []
    assert unequal  # two that are one would say nothing
    digests = [{found[name][which]: name for name in unequal} for which in (0, 1)]
    for name in unequal:
        one, other = (without_times(*each) for each in zip(chains, (name, name), digests, strict=True))
        lines = zip(one.splitlines(), other.splitlines(), strict=False)
        assert one == other, (name, [pair for pair in lines if pair[0] != pair[1]][:3])


def test_what_two_chains_leave_is_what_a_reader_of_results_needs(chains: tuple[Project, Project]) -> None:
    """Of each kind there is something, and none of it may hold a time or a path."""
    exact = [name for name in names(chains[0]) if not may_differ(name)]
    run = f"data/runs/{PROFILE}"
    for name in (
        f"{run}/table.parquet",
        f"{run}/splits.json",
        f"{run}/geocells.npz",
        *(f"{run}/stage{stage}.{kind}" for stage in (0, 1, 2) for kind in ("json", "safetensors")),
        *(f"{run}/history_stage{stage}.parquet" for stage in (0, 1, 2)),
        f"{run}/predictions.parquet",
        f"{run}/cell_scores.npz",
    ):
        assert name in exact, name
    for suffix in (".jpg", ".png", ".csv", ".float16", ".js", ".css"):
        assert any(Path(name).suffix == suffix for name in exact), suffix
    for name in exact:
        content = (chains[0].folder / name).read_bytes()
        assert str(chains[0].folder).encode() not in content, name
