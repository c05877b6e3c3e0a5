"""`geocbm predict` in a terminal: every photograph gets its lines or its sentence, and the files hold the same."""

from __future__ import annotations

import io
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from geocbm import data
from geocbm.open_data.scoring import read_predictions
from geocbm.predict import GeoCBM
from geocbm.workbench.cli import main


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
    assert first == f"{pictures[0]}: {answer.lat:.4f}, {answer.lng:.4f}, near {answer.place.words()}"
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
    monkeypatch.setattr("geocbm.photographs.MOST_BYTES", 10)
    pipe(monkeypatch, b"x" * 11)
    assert predict("-") == 1
    assert "give the name of the file" in capsys.readouterr().err


def test_requests_that_cannot_be_carried_out(predict, pictures, tmp_path, capsys):
    for words, sentence in (
        (["--top", "0"], "--top=0 names nothing; give at least 1"),
        (["--html", tmp_path], "is a folder; give the name of a file in it"),
        (["--json", tmp_path], "is a folder"),
        (["--html", "/dev/null/page.html"], "cannot be written"),
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


def test_no_bar_where_nobody_watches(predict, pictures, capsys):
    assert predict(*pictures[:3]) == 0
    assert capsys.readouterr().err == ""


def test_an_interrupted_list_leaves_no_half_file(predict, model, pictures, tmp_path, monkeypatch):
    def breaking(*_arguments, **_options):
        yield next(iter(whole([pictures[0]])))
        raise KeyboardInterrupt

    whole = model.predict_each
    monkeypatch.setattr(model, "predict_each", breaking)
    assert predict(pictures[0], "--json", tmp_path / "out" / "list.json") == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_a_photograph_of_another_kind_gets_no_promise(predict, pictures, tmp_path, capsys):
    Image.new("RGB", (48, 40)).save(tmp_path / "black.png")
    assert predict(str(pictures[0]), str(tmp_path / "black.png")) == 0
    home, black = capsys.readouterr().out.split(str(tmp_path / "black.png"))
    assert "  region: 80%" in home and "unlike" not in home
    assert "  region (not promised): 80%" in black and "note: this photograph is unlike the training pictures" in black
