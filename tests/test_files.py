from __future__ import annotations

import stat

import pytest

from geocbm.files import atomic_path, read_json, run_command, sha256_file, sha256_text, write_json


def test_atomic_path_makes_folders_and_replaces(tmp_path):
    target = tmp_path / "a" / "b.txt"
    for text in ("one", "two"):
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent and temporary.suffix == ".txt"
            temporary.write_text(text)
        assert target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["b.txt"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "b.txt"
    target.write_text("old")

    def interrupted():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_hashes(tmp_path):
    # SHA-256 of "abc" as published in FIPS 180-2
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == sha256_text("abc") == known


def test_json_round_trip_is_sorted_and_readable(tmp_path):
    write_json(tmp_path / "x.json", {"b": [1, 2.5, None], "a": "Zürich"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.index('"a": "Zürich"') < text.index('"b"') and text.endswith("}\n")
    assert read_json(tmp_path / "x.json") == {"b": [1, 2.5, None], "a": "Zürich"}


def test_the_command_names_run_and_notebook(tmp_path):
    assert run_command(tmp_path / "runs" / "photos", "01") == "geocbm run --run photos --from 01"
