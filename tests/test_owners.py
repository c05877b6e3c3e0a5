"""Whose files are: locks of runs, what dead processes leave behind, and what a full or a closed disk is told as."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from geocbm.errors import MismatchError, NoSpaceError, ParameterError, UnwritableError
from geocbm.files import atomic_path, is_full, owners, paths, said_when_full, write_json


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    folder = paths.run_folder("tiny")
    folder.mkdir(parents=True)
    return folder


def in_a_process(code: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


WRITE = "from geocbm.files import write_json; import sys, os; write_json({file!r}, 1)"


def test_whoever_holds_the_lock_writes_and_so_do_those_who_work_for_it(run: Path) -> None:
    with owners.only_one(run / owners.LOCK, "the run"):
        write_json(run / "own.json", 1)
        assert in_a_process(WRITE.format(file=str(run / "records/child.json"))).returncode == 0
        stranger = in_a_process(f"import os; os.environ.pop('GEOCBM_HELD'); {WRITE.format(file=str(run / 'by_hand'))}")
    assert stranger.returncode == 1 and "MismatchError: by_hand is not written" in stranger.stderr
    assert sorted(path.name for path in run.iterdir()) == [owners.LOCK, "own.json", "records"]
    assert in_a_process(WRITE.format(file=str(run / "by_hand"))).returncode == 0  # nobody makes the run


def test_an_orphan_writes_nothing_once_another_process_makes_the_run(run: Path) -> None:
    write_json(run / "stage1.json", "new")
    with owners.only_one(run / owners.LOCK, "the run"):
        orphaned = dict(os.environ)
    with owners.only_one(run / owners.LOCK, "the run"):
        for name in (run / "stage1.json", run.parent / "elsewhere.json"):
            code = WRITE.format(file=str(name))
            orphan = subprocess.run(
                [sys.executable, "-c", code], env=orphaned, capture_output=True, text=True, timeout=60
            )
            assert "another process has taken over" in orphan.stderr
    assert (run / "stage1.json").read_text() == '"new"\n' and not (run.parent / "elsewhere.json").exists()
    assert not list(run.glob(".stage1*"))


def test_a_lock_that_was_removed_with_its_run_stops_whoever_made_it(run: Path) -> None:
    with owners.only_one(run / owners.LOCK, "the run"):
        (run / owners.LOCK).unlink()
        with pytest.raises(MismatchError):
            write_json(run / "own.json", 1)


def test_the_lock_is_for_one_and_is_given_back(run: Path) -> None:
    lock = run / owners.LOCK
    refused = pytest.raises(ParameterError, match="another process")
    with owners.only_one(lock, "the run"), refused, owners.only_one(lock, "the run"):
        raise AssertionError("two at once")
    with owners.only_one(lock, "the run"):
        pass


def test_only_what_dead_processes_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    folder = tmp_path / "run"
    folder.mkdir()
    code = (
        "import os, sys, tempfile; from geocbm.files import owners, atomic_path\n"
        f"tempfile.tempdir = {str(tmp_path / 'scratch')!r}\n"
        "place = owners.scratch_folder(); place.__enter__(); open(place.name + '/tmpabc.json', 'w').close()\n"
        f"block = atomic_path({str(folder / 'stage1.safetensors')!r}); block.__enter__(); os._exit(9)\n"
    )
    assert in_a_process(code).returncode == 9
    assert len(list(folder.glob(".stage1.*.safetensors"))) == 1 and len(list((tmp_path / "scratch").iterdir())) == 1
    other = f".stage1.{'0' * 6}-{os.getpid()}-abcdefgh.safetensors"  # of another machine, on a shared disk
    for name in ("stage1.safetensors", ".hidden.json", ".lock", other, "geocbm-notes"):
        (folder / name).write_text("kept")
    with atomic_path(folder / "mine.json") as mine, owners.scratch_folder() as place:
        owners.remove_leftovers(folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [mine.name, "stage1.safetensors", ".hidden.json", ".lock", other, "geocbm-notes"]
        )
        assert [str(path) for path in (tmp_path / "scratch").iterdir()] == [place]


def test_a_number_that_another_process_has_got_since_is_no_sign_of_life(tmp_path: Path) -> None:
    left = tmp_path / f".a.{owners.owner()}abcdefgh.json"
    left.write_text("")
    owners.remove_leftovers(tmp_path)
    assert left.exists()
    os.utime(left, (1e9, 1e9))  # older than this process
    owners.remove_leftovers(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        OSError("Not enough free space to write 4096 bytes"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_sentence_whoever_meets_it(tmp_path: Path, problem: Exception) -> None:
    (tmp_path / "a.bin").write_bytes(b"whole")
    told = pytest.raises(NoSpaceError, match=f"{tmp_path} is full: a.bin needs at least 5 bytes, .*same command again")
    with told, atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise problem
    assert is_full(problem) and (tmp_path / "a.bin").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a.bin"):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), said_when_full(tmp_path / "a.bin"):
        (tmp_path / "absent").read_text()


def test_what_the_disk_cannot_hold_is_not_begun(tmp_path: Path) -> None:
    told = pytest.raises(NoSpaceError, match=r"needs at least 1,000,000,000,000\.00 MB")
    with told, atomic_path(tmp_path / "a", 10**18):
        raise AssertionError("begun")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_of_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableError, match=r"cannot be written into .*file"):
        write_json(tmp_path / "file" / "a.json", 1)


def test_a_disk_that_was_closed_meanwhile_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path, *_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, closed)
    with pytest.raises(UnwritableError, match=f"a.json cannot be written into {tmp_path} "):
        write_json(tmp_path / "a.json", 1)


def test_small_sizes_are_told_in_bytes(tmp_path: Path) -> None:
    told = pytest.raises(
        NoSpaceError, match=r"a needs at least 58 bytes, .* are free|a needs at least 58 bytes, a quota"
    )
    with told, atomic_path(tmp_path / "a", 58):
        raise OSError(errno.ENOSPC, "No space left on device")
