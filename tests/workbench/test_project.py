"""`geocbm init`: a project outside a clone, from the clone itself or from what a wheel installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

from geocbm import cli
from geocbm.errors import MissingInputError
from geocbm.files import paths
from geocbm.workbench import project
from geocbm.workbench.profiles import profile_names, recipe_names

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("GEOCBM_ROOT", "GEOCBM_DATA", "GEOCBM_REPORTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "work"]) == 0
    return tmp_path / "work"


def test_a_project_is_whole(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = profile_names(), recipe_names()
    monkeypatch.chdir(made)
    assert paths.project_root() == made and paths.data_root() == made / "data"
    assert (profile_names(), recipe_names()) == known
    assert cli.main(["check"]) == 0
    assert cli.main(["run", "--profile", "smoke", "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 13
    names = {path.name for path in (ROOT / "notebooks").iterdir() if not path.name.startswith((".", "__"))}
    assert names == {path.name for path in (made / "notebooks").iterdir()}


def test_nothing_is_written_over(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = made / "README.md"
    notes.write_text("mine")
    for name, said in (("work", "not empty"), ("work/README.md", "is a file")):
        assert cli.main(["init", name]) == 2
        assert said in capsys.readouterr().err
    assert notes.read_text() == "mine"
    empty = made.parent / "empty"
    empty.mkdir()
    assert cli.main(["init", "empty"]) == 0 and (empty / "notebooks" / "chain.toml").is_file()


def test_a_wheel_carries_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    source = tmp_path / "source"
    for name in tracked.splitlines():
        if not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "."]
    subprocess.run([sys.executable, *build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "prefix"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if ".data/data/" in name:
                target = installed / name.partition(".data/data/")[2]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))

    class File(metadata.PackagePath):
        def locate(self) -> Path:
            return installed / Path(*PurePosixPath(self).parts[3:])

    held = [File("../../..", path.relative_to(installed).as_posix()) for path in installed.rglob("*") if path.is_file()]
    monkeypatch.setattr(project, "__file__", str(tmp_path / "site" / "geocbm" / "workbench" / "project.py"))
    monkeypatch.setattr(metadata, "files", lambda _name: held)
    project.make_project(tmp_path / "work")
    monkeypatch.undo()
    project.make_project(tmp_path / "same")
    listed = [
        sorted(path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*"))
        for name in ("work", "same")
    ]
    assert listed[0] == listed[1]


def test_without_notebooks_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "__file__", str(tmp_path / "site" / "geocbm" / "workbench" / "project.py"))
    monkeypatch.setattr(metadata, "files", lambda _name: [])
    with pytest.raises(MissingInputError, match="has no notebooks"):
        project.make_project(tmp_path / "work")
