"""`geocbm predict` in a terminal: every photograph gets its lines or its sentence, and the files hold the same."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as parquet
import pytest
from camera_files import HEIC, dng
from PIL import Image

from geocbm import data
from geocbm.cli import main
from geocbm.data.public.scoring import read_predictions
from geocbm.errors import UserError
from geocbm.metrics.places import Place
from geocbm.predict import GeoCBM, journal
from geocbm.predict.inputs import PhotoFolder


@pytest.fixture(scope="module")
def model(trained_run):
    return GeoCBM.load(trained_run.folder)


@pytest.fixture
def pictures(trained_run):
    return data.image_files(trained_run.files.table)


@pytest.fixture
def predict(trained_run, model, tmp_path, monkeypatch):
    """Call the command for the trained run, which is loaded once for all tests."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "named").symlink_to(trained_run.folder)
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path))
    monkeypatch.setattr(GeoCBM, "load", lambda run: model)
    return lambda *words: main(["predict", "--run", "named", *map(str, words)])


def pipe(monkeypatch, content: bytes, terminal: bool = False) -> None:
    stream = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stream)


def test_a_photograph_in_words(predict, model, pictures, capsys):
    (answer,) = model.predict(pictures[0], top_k=2)
    assert predict(pictures[0], "--top", 2) == 0
    printed = capsys.readouterr()
    first, places, countries, region, concepts = printed.out.splitlines()
    assert first == f"{pictures[0]}: {answer.lat:.4f}, {answer.lng:.4f}, near {answer.place.label()}"
    best = answer.cells[0]
    assert places.startswith(f"  places: {best.country} {best.calibrated:.0%} (around {best.place.town}")
    assert places.count("cell ") == 2 and countries.startswith(f"  countries: {answer.countries[0][0]} ")
    assert region.startswith("  region: 80% in ") and region.count("km²") == 3
    assert concepts.startswith(f"  concepts: {answer.concepts[0][0]} ")
    assert printed.err == ""


def test_what_cannot_be_read_gets_a_sentence_and_the_others_are_answered(predict, pictures, tmp_path, capsys):
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "nothing").mkdir()
    Image.open(pictures[1]).convert("CMYK").save(tmp_path / "cmyk.jpg")
    cut = pictures[2].read_bytes()[:-200]
    (tmp_path / "cut.jpg").write_bytes(cut)
    names = [tmp_path / name for name in ("zero.jpg", "text.jpg", "cmyk.jpg", "cut.jpg", "nothing", "gone.jpg")]
    assert predict(*names, pictures[0], "--json", tmp_path / "out.json") == 1
    printed = capsys.readouterr()
    problems = printed.err.splitlines()
    assert len(problems) == 5 and all(line.startswith("geocbm: ") for line in problems)
    for words in ("is empty (0 bytes)", "is no picture", "is cut off", "holds no picture", "does not exist"):
        assert words in printed.err
    assert "note: its colours are CMYK" in printed.out
    content = json.loads((tmp_path / "out.json").read_text())
    assert [entry["photo"] for entry in content] == ["cmyk.jpg", pictures[0].name]


def test_nothing_to_answer_is_no_success(predict, tmp_path, capsys):
    assert predict(tmp_path / "gone.jpg") == 1
    assert predict(tmp_path) == 1
    assert "holds no picture" in capsys.readouterr().err


def test_a_folder_and_names_that_occur_twice(predict, pictures, tmp_path, capsys):
    for folder, picture in (("a", pictures[0]), ("b", pictures[1])):
        (tmp_path / folder).mkdir()
        shutil.copy(picture, tmp_path / folder / "same.jpg")
    assert predict(tmp_path / "a", tmp_path / "b", "--json", tmp_path / "deep" / "out.json") == 0
    content = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert [entry["photo"] for entry in content] == ["same.jpg", "same.jpg"]
    assert [entry["path"] for entry in content] == [str(tmp_path / folder / "same.jpg") for folder in "ab"]
    assert str(tmp_path / "b" / "same.jpg") in capsys.readouterr().out


def test_answers_can_be_scored(predict, pictures, tmp_path, capsys):
    assert predict(pictures[0], pictures[1], "--json", tmp_path / "out.json") == 0
    assert set(read_predictions(tmp_path / "out.json")) == {pictures[0].name, pictures[1].name}


def test_standard_input(predict, pictures, monkeypatch, capsys):
    pipe(monkeypatch, pictures[0].read_bytes())
    assert predict("-", "-") == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("-: ") and "name - once" in printed.err
    pipe(monkeypatch, b"")
    assert predict("-") == 1
    assert capsys.readouterr().err == "geocbm: standard input is empty (0 bytes); fetch it again\n"
    pipe(monkeypatch, b"", terminal=True)
    assert predict("-") == 1
    assert "pipe one into geocbm predict -" in capsys.readouterr().err
    monkeypatch.setattr("geocbm.predict.inputs.MOST_BYTES", 10)
    pipe(monkeypatch, b"x" * 11)
    assert predict("-") == 1
    assert "give the name of the file" in capsys.readouterr().err


def test_requests_that_cannot_be_carried_out(predict, pictures, tmp_path, capsys):
    for words, sentence in (
        (["--top", "0"], "--top=0 names nothing; give at least 1"),
        (["--html", tmp_path], "is a folder; give the name of a file in it"),
        (["--json", tmp_path], "is a folder"),
        (["--html", "/dev/null/page.html"], "cannot be written"),
        (["--html", "-"], "standard output takes --json only"),
        (["--parquet", "-"], "standard output takes --json only"),
        (["--json", "/dev/null"], "is no file"),
        (["--run", "absent"], "stage2.safetensors of run 'absent' does not exist yet; make it with: geocbm run"),
    ):
        assert predict(pictures[0], *words) == 2
        printed = capsys.readouterr()
        assert sentence in printed.err and printed.out == ""


def test_a_name_cannot_steer_the_terminal(predict, pictures, tmp_path, capsys):
    shutil.copy(pictures[0], tmp_path / "a\x1b[31mb\n.jpg")
    assert predict(tmp_path / "a\x1b[31mb\n.jpg") == 0
    out = capsys.readouterr().out
    assert "a?[31mb?.jpg: " in out and "\x1b" not in out


def test_a_name_of_any_length_is_one_sentence(predict, capsys):
    assert predict("n" * 6000) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "File name too long" in said and len(said) < 600


def test_no_bar_where_nobody_watches(predict, pictures, capsys):
    assert predict(*pictures[:3]) == 0
    assert capsys.readouterr().err == ""


def interrupt_after(model, monkeypatch, count):
    """Let the model answer so many photographs and then be interrupted, once; returns the number it was asked for."""
    asked = []
    whole = GeoCBM.predict_each.__get__(model)

    def breaking(photographs, *arguments, **options):
        for number, reply in enumerate(whole(photographs, *arguments, **options)):
            if number == count:
                raise KeyboardInterrupt
            asked.append(reply.source)
            yield reply

    monkeypatch.setattr(model, "predict_each", breaking)
    return asked


@pytest.mark.parametrize("name", ["list.json", "lines.jsonl", "table.parquet"])
def test_an_interrupted_command_goes_on_where_it_stopped(predict, model, pictures, tmp_path, monkeypatch, capsys, name):
    out = tmp_path / "out" / name
    option = "--parquet" if name.endswith("parquet") else "--json"
    given = pictures[:6]
    with monkeypatch.context() as patch:
        assert len(interrupt_after(model, patch, 4)) == 0
        assert predict(*given, option, out) == 130
    journal = out if name == "lines.jsonl" else out.with_name(out.name + ".partial")
    assert [file.name for file in out.parent.iterdir()] == [journal.name]  # and no half file
    assert len(journal.read_text().splitlines()) == 4
    assert "4 answers are kept in" in capsys.readouterr().err
    with journal.open("ab") as stream:  # killed in the middle of a line
        stream.write(b'{"attention": [[0.1')
    with monkeypatch.context() as patch:
        asked = interrupt_after(model, patch, 99)
        assert predict(*given, option, out) == 0
        assert asked == [str(picture) for picture in given[4:]]
    printed = capsys.readouterr()
    assert "4 of 6 photographs were answered before" in printed.err
    assert printed.out.count("\n  places: ") == 2
    places = read_predictions(out)
    whole = tmp_path / "whole.json"
    assert predict(*given, "--json", whole) == 0
    assert list(places) == list(read_predictions(whole)) == [picture.name for picture in given]
    for name_, place in read_predictions(whole).items():
        assert places[name_] == pytest.approx(place, abs=1e-3)
    assert not list(out.parent.glob("*.partial"))


def test_lines_grow_and_what_changed_is_answered_again(predict, model, pictures, tmp_path, monkeypatch):
    out, photo = tmp_path / "lines.jsonl", tmp_path / "photo.jpg"
    shutil.copy(pictures[0], photo)
    assert predict(photo, pictures[1], "--json", out) == 0
    before = out.read_bytes()
    with monkeypatch.context() as patch:
        asked = interrupt_after(model, patch, 99)
        assert predict(photo, pictures[1], "--json", out) == 0
        assert asked == [] and out.read_bytes() == before
        shutil.copy(pictures[2], photo)
        os.utime(photo, ns=(1, 1))
        assert predict(photo, pictures[1], pictures[3], "--json", out) == 0
        assert asked == [str(photo), str(pictures[3])]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["photo"] for line in lines] == [pictures[1].name, "photo.jpg", pictures[3].name]
    (expected,) = model.predict(pictures[2])
    assert lines[1]["lat"] == pytest.approx(expected.lat, abs=1e-3)


def test_answers_of_another_model_are_not_mixed_in(predict, model, pictures, tmp_path, monkeypatch, capsys):
    out = tmp_path / "lines.jsonl"
    assert predict(pictures[0], "--json", out) == 0
    before = out.read_bytes()
    assert predict(pictures[1], "--top", 2, "--json", out) == 2
    assert "holds answers of --top 5" in capsys.readouterr().err
    monkeypatch.setattr(GeoCBM, "digest", lambda model: "another")
    assert predict(pictures[1], "--json", out) == 2
    assert "holds answers of another model" in capsys.readouterr().err
    for content in ("no answers\n", '[\n{"photo": "a"}\n]\n', '{"photo": "a", "lat": 1}', '{"photo": "a"}\n{"photo'):
        out.write_text(content)
        assert predict(pictures[1], "--json", out) == 2
        assert "line 1 of" in capsys.readouterr().err and out.read_text() == content  # and nothing of it is lost
    out.write_bytes(before)
    assert predict(pictures[0], "--json", tmp_path / "a.parquet") == 2
    assert "give it as --parquet" in capsys.readouterr().err


def test_a_file_that_another_command_writes_is_left_alone(predict, pictures, tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "lines.jsonl"
    with out.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert predict(pictures[0], "--json", out) == 2
    assert "is being written by another geocbm predict" in capsys.readouterr().err and out.read_bytes() == b""


def test_a_disk_that_is_full_keeps_what_was_written(predict, pictures, tmp_path, monkeypatch, capsys):
    out = tmp_path / "lines.jsonl"
    assert predict(pictures[0], "--json", out) == 0
    monkeypatch.setattr(journal, "hold_lock", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert predict(pictures[1], "--json", out) == 2
    assert "No space left on device" in capsys.readouterr().err and len(out.read_text().splitlines()) == 1


def test_a_dash_is_standard_output(predict, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jpg").touch()
    assert predict(pictures[0], tmp_path / "empty.jpg", pictures[1], "--json", "-") == 1
    printed = capsys.readouterr()
    assert [entry["photo"] for entry in json.loads(printed.out)] == [pictures[0].name, pictures[1].name]
    assert "is empty" in printed.err and not (tmp_path / "-").exists()
    assert predict(tmp_path / "empty.jpg", "--json", "-") == 1
    assert json.loads(capsys.readouterr().out) == []


def test_an_interrupted_list_on_standard_output_is_closed(predict, model, pictures, monkeypatch, capsys):
    interrupt_after(model, monkeypatch, 2)
    assert predict(*pictures[:5], "--json", "-") == 130
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_attention_is_left_out_unless_asked_for_and_points_go_with_the_list(predict, pictures, tmp_path):
    assert predict(*pictures[:2], "--json", tmp_path / "a.json", "--out", tmp_path / "a.geojson") == 0
    entries = json.loads((tmp_path / "a.json").read_text())
    assert not any({"attention", "concept_maps"} & set(entry) for entry in entries)
    points = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [each["geometry"]["coordinates"] for each in points] == [[entry["lng"], entry["lat"]] for entry in entries]


def test_a_table_holds_what_the_list_holds(predict, model, pictures, tmp_path):
    files = ("--json", tmp_path / "a.json", "--parquet", tmp_path / "a.parquet")
    assert predict(*pictures[:3], *files, "--attention") == 0
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    entries = json.loads((tmp_path / "a.json").read_text())
    assert len(rows) == len(entries) == 3
    for row, entry in zip(rows, entries, strict=True):
        assert (row["path"], row["lat"], row["lng"]) == (entry["path"], entry["lat"], entry["lng"])
        assert [[one["name"], one["probability"]] for one in row["concepts"]] == entry["concepts"]
        assert row["cells"][0]["place"]["town"] == entry["cells"][0]["place"]["town"]
        np.testing.assert_allclose(row["attention"], entry["attention"])
    assert read_predictions(tmp_path / "a.parquet") == read_predictions(tmp_path / "a.json")


def test_the_summary_names_what_was_left_out(predict, pictures, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(pictures[0], folder / "a.jpg")
    (folder / "clip.mov").touch()
    (folder / "b.HIF").write_bytes(HEIC)
    (folder / "c.nef").write_bytes(dng(version=False))
    (folder / "d.jpg").touch()
    assert predict(folder, "--json", tmp_path / "out.json") == 1
    printed = capsys.readouterr()
    assert "left out of" in printed.err and "1 .mov (clip.mov)" in printed.err
    assert "camera's raw file" in printed.out and "own coordinates (10.5000, -20.0000)" in printed.out
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert (summary["photographs"], summary["answered"], summary["run"]) == (4, 3, "named")
    assert summary["left_out"] == [{"folder": str(folder), "counts": {".mov": 1}, "names": ["clip.mov"]}]
    (failed,) = summary["failed"]
    assert failed["path"] == str(folder / "d.jpg") and "is empty" in failed["problem"]


def test_a_page_of_photographs_that_were_answered_before(predict, pictures, tmp_path):
    out = tmp_path / "lines.jsonl"
    assert predict(*pictures[:3], "--json", out) == 0
    before = out.read_bytes()
    assert predict(*pictures[:3], "--json", out, "--html", tmp_path / "page.html") == 0
    assert out.read_bytes() == before and (tmp_path / "page.html").read_text().count('class="photo"') == 3


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437"])
def test_any_console_can_be_written_to(predict, model, pictures, encoding, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    whole = model._answer
    place = Place("Muğla", "Οία", "Türkiye")
    monkeypatch.setattr(
        model, "_answer", lambda *given: [(replace(one, place=place), output) for one, output in whole(*given)]
    )
    monkeypatch.setattr(sys, "stdout", console)
    assert predict(pictures[0]) == 0
    console.flush()
    assert "Mu\\u011fla" in console.buffer.getvalue().decode(encoding)


def test_a_terminated_command_keeps_what_it_has(trained_run, pictures, tmp_path):
    """The real thing: a process of its own, ended from outside, and started again."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "named").symlink_to(trained_run.folder)
    many = tmp_path / "many"
    many.mkdir()
    for number in range(400):
        shutil.copy(pictures[number % 20], many / f"{number:03}.jpg")
    out = tmp_path / "lines.jsonl"
    words = [sys.executable, "-m", "geocbm", "predict", str(many), "--run", "named", "--json", str(out)]
    environment = os.environ | {"GEOCBM_DATA": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "cp1252"}
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = len(out.read_bytes().splitlines()) if out.exists() else 0
        running = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while running.poll() is None and (not out.exists() or len(out.read_bytes().splitlines()) < before + 40):
            time.sleep(0.05)
        running.send_signal(number)
        said = running.communicate(timeout=60)[1]
        assert running.returncode in (128 + signal.SIGTERM, -signal.SIGKILL) and "Traceback" not in said
    last = subprocess.run(words, env=environment, capture_output=True, timeout=120)
    assert last.returncode == 0, last.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["photo"] for line in lines] == [f"{number:03}.jpg" for number in range(400)]
    assert b"photographs were answered before" in last.stderr


def test_a_folder_gives_its_photographs_by_name_and_names_the_rest(tmp_path):
    taken = ["a.png", "b.JPG", "c.heic", "d.HIF", "e.ppm", "f.NEF", "g.dng", "h.j2k"]
    for name in (*taken, "notes.txt", ".hidden", "clip.mov", "b.xmp", "z.MOV", "._b.JPG", "README"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    found = PhotoFolder.look_into(tmp_path)
    assert [file.name for file in found.photographs] == taken
    assert sorted(found.left_out) == sorted(
        ["notes.txt", ".hidden", "clip.mov", "b.xmp", "z.MOV", "._b.JPG", "README", "folder.jpg/"]
    )
    counts = {kind: len(names) for kind, names in found.by_kind().items()}
    assert counts == {".mov": 2, ".txt": 1, "folder": 1, "hidden": 2, "sidecar": 1, "without suffix": 1}
    assert "2 .mov (clip.mov, z.MOV)" in found.remark() and "1 folder (folder.jpg/)" in found.remark()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.png").touch()
    assert PhotoFolder.look_into(tmp_path / "plain").remark() == ""
    with pytest.raises(UserError, match=r"holds no picture, and .* name a folder with files such as \.jpg"):
        PhotoFolder.look_into(tmp_path / "folder.jpg")
    (tmp_path / "folder.jpg" / "clip.mov").touch()
    with pytest.raises(UserError, match=r"holds no picture \(left out .*: 1 \.mov \(clip\.mov\)\)"):
        PhotoFolder.look_into(tmp_path / "folder.jpg")
    with pytest.raises(UserError, match="cannot be read"):
        PhotoFolder.look_into(tmp_path / "gone")
