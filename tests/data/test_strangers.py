"""Tables and pictures from strangers: nothing hangs, nothing is followed out of the folder, nothing hides in a name."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from geocbm.data import SCHEMA, image_files, load_table, read_table, save_table
from geocbm.data.images import bounds
from geocbm.data.images.photographs import open_picture, read_photograph
from geocbm.errors import BadTableError, UserError, cut_middle, printable
from geocbm.plots import contact_sheet

ROW = dict(zip(SCHEMA, ("a", "a.png", "Bollard", "Poles", "Norway", "61", "8", "n"), strict=True))


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for place in (folder, tmp_path):
        Image.new("RGB", (48, 48), (9, 99, 200)).save(place / "a.png")
    return folder


def table(home: Path, *rows: dict[str, str], **settings):
    with (home / "t.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, SCHEMA)
        writer.writeheader()
        writer.writerows({**ROW, "pano_id": str(number), **row} for number, row in enumerate(rows))
    return load_table(home / "t.csv", **settings)


def refused(home: Path, *rows: dict[str, str], **settings) -> str:
    with pytest.raises(BadTableError) as caught:
        table(home, *rows, **settings)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("check_images", [True, False])
def test_a_path_out_of_the_folder_is_followed_only_when_that_is_allowed(home, tmp_path, check_images):
    (home / "link.png").symlink_to(tmp_path / "a.png")
    (home / "far").symlink_to(tmp_path)
    (home / "inner.png").symlink_to(home / "a.png")
    paths = ["../a.png", str(tmp_path / "a.png"), "link.png", "far/a.png", "far/own/../a.png", "/etc/passwd"]
    for path in paths:
        problem = refused(home, {"image_path": path}, check_images=check_images)
        assert "outside of the table's folder" in problem and "allow_outside=true" in problem
    inside = [{"image_path": path} for path in ("a.png", str(home / "a.png"), "inner.png", "far/own/a.png", "./a.png")]
    assert len(table(home, *inside, check_images=check_images)) == 5
    assert len(table(home, *({"image_path": path} for path in paths[:5]), allow_outside=True)) == 5


def test_devices_pipes_and_sockets_are_no_pictures(home):
    os.mkfifo(home / "pipe.png")
    assert "is no file" in refused(home, {"image_path": "pipe.png"})
    for device in ("/dev/zero", "/dev/urandom"):
        assert "is no file" in refused(home, {"image_path": device}, allow_outside=True)
    os.mkfifo(home / "p.csv")
    with pytest.raises(BadTableError, match="no regular file"):
        load_table(home / "p.csv")


def test_a_slash_behind_a_picture_makes_a_folder_of_it(home):
    for path in ("a.png/", "a.png/."):
        assert "the path of a folder" in refused(home, {"image_path": path})


def test_a_file_over_the_limit_is_refused_unread(home):
    with (home / "a.png").open("r+b") as stream:
        stream.truncate(bounds.MOST_BYTES + 1)  # sparse
    assert "at most 1,024 are read" in refused(home, {})


def test_postscript_by_another_name_starts_nothing(home, tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (home / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    assert "is no picture" in refused(home, {})
    assert not (tmp_path / "started").exists()


def test_a_place_that_lies_in_its_country_once_exchanged_is_refused(home):
    problem = refused(home, {}, {"lat": "8", "lng": "61"})  # the Indian Ocean; 61 N 8 E is in Norway
    assert "look exchanged" in problem and "line 3 (Norway at 8, 61)" in problem
    assert len(table(home, {"lat": "58.5", "lng": "5"}, {"country": "Atlantis", "lat": "8", "lng": "61"})) == 2
    notices = table(home, {"lat": "-30", "lng": "140"}).attrs["notices"]
    assert len(notices) == 1 and "far from its country" in notices[0] and "line 2 (Norway at -30, 140)" in notices[0]
    near = [("Fiji", "-16.8", "-179.9"), ("Tuvalu", "-8", "-179.95"), ("Tonga", "-18", "179.95")]
    near += [("New Zealand", "-37.5", "-179.95"), ("Svalbard and Jan Mayen", "81", "40")]  # 12 degrees, 200 km
    for country, lat, lng in near:
        assert table(home, {"country": country, "lat": lat, "lng": lng}).attrs["notices"] == []


def test_what_nobody_sees_does_not_make_two_of_one_name(home, capsys):
    names = ["Bollard", "Bol\u200blard", "\u202eBollard\u2066", "Bol\u00adlard\ufeff", "\x1b\x07Bollard"]
    found = table(home, *({"meta_name": name, "image_path": "a.png"} for name in names))
    assert set(found["meta_name"]) == {"Bollard"}
    (notice,) = found.attrs["notices"]
    assert (
        notice == "meta_name: U+0007, U+001B, U+00AD, U+200B, U+202E, U+2066, U+FEFF (not to be seen) removed in 4 rows"
    )
    assert "is empty" in refused(home, {"meta_name": "\u200b"})
    said = refused(home, {"image_path": "\x1b[31m\u202egone.png"}) + capsys.readouterr().out
    assert "\x1b" not in said and "\u202e" not in said


def test_texts_of_any_length_are_cut_in_the_middle(home):
    assert cut_middle("abcdefghij", 5) == "ab…ij" and cut_middle("abcde", 5) == "abcde"
    assert len(printable("x" * 10**6)) == 200
    assert len(refused(home, {"image_path": "x" * 10**5})) < 600
    assert contact_sheet([home / "a.png"], ["W" * 10**6], width=32).size == (48, 66)


def test_threads_wait_for_one_another_before_they_decode(monkeypatch):
    monkeypatch.setattr(bounds, "MOST_AT_ONCE", 100)
    inside, most = [0], [0]

    def decode():
        with bounds.room(60):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            threading.Event().wait(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=decode) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(10)
    assert most == [1] and bounds._held == 0
    with bounds.room(1000):  # more than there is goes alone
        assert bounds._held == 1000


def test_a_picture_gives_its_memory_back(tmp_path):
    packet = PngImagePlugin.PngInfo()
    packet.add_itxt("XML:com.adobe.xmp", "<damaged")
    Image.new("RGB", (5000, 5000)).save(tmp_path / "a.png", pnginfo=packet)  # 95 MiB decoded
    code = (
        "import sys, gc; from geocbm.data.images.photographs import open_picture; gc.disable()\n"
        "kept = [open_picture(sys.argv[1], 96).size for _ in range(3)]\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmRSS')))"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc to read the memory in use from")
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 90_000


def test_the_size_is_asked_before_a_png_is_decoded_for_its_metadata(tmp_path, monkeypatch):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    monkeypatch.setattr("geocbm.data.images.photographs.MOST_WHOLE_PIXELS", 3000)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match="megapixels"):
        read_photograph(tmp_path / "a.png")


def test_narrow_pictures_are_reduced_too(tmp_path):
    Image.new("RGB", (2000, 100)).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png", 60).size == (1000, 50)  # 200,000 pixels; 16 x 60 x 60 = 57,600 and 2 x 2
    assert open_picture(tmp_path / "a.png").size == (2000, 100)


def test_a_stored_table_moves_with_its_data(home, tmp_path, monkeypatch):
    stored = []
    for name in ("one", "two"):
        monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / name))
        (tmp_path / name).mkdir()
        Image.new("RGB", (48, 48)).save(tmp_path / name / "a.png")
        save_table(table(tmp_path / name, {}), tmp_path / name / "table.parquet")
        stored.append((tmp_path / name / "table.parquet").read_bytes())
        read = read_table(tmp_path / name / "table.parquet")
        assert image_files(read) == [tmp_path / name / "a.png"]
    assert stored[0] == stored[1]
