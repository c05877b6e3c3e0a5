"""`geocbm predict --parquet FOLDER/`: a table for each range of photographs, answered once, here or by workers."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pyarrow.dataset as dataset
import pytest

from geocbm import data
from geocbm.cli import main
from geocbm.data.public.scoring import read_predictions
from geocbm.errors import MismatchError, MissingInputError
from geocbm.predict import GeoCBM, shards
from geocbm.predict.inputs import PredictRequest

NAMES = [f"{number}.jpg" for number in range(10)]


@pytest.fixture
def place(trained_run, tmp_path, monkeypatch):
    """A working folder with ten photographs, one of which cannot be read; ranges have four."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "named").symlink_to(trained_run.folder)
    (tmp_path / "photos").mkdir()
    for name, file in zip(NAMES, data.image_files(trained_run.files.table), strict=False):
        shutil.copy(file, tmp_path / "photos" / name)
    (tmp_path / "photos" / "5b.jpg").touch()
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path))
    monkeypatch.setattr(shards, "RANGE", 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def loaded(trained_run, monkeypatch):
    """The run is loaded once."""
    model = GeoCBM.load(trained_run.folder)
    monkeypatch.setattr(GeoCBM, "load", lambda run: model)
    return model


def predict(*words: object) -> int:
    return main(["predict", "photos", "--run", "named", *map(str, words)])


def table(folder) -> pd.DataFrame:
    return dataset.dataset(sorted(folder.glob("*.parquet"))).to_table().to_pandas()


def test_each_range_is_a_table_and_what_is_there_is_kept(place, loaded, capsys, monkeypatch):
    assert predict("--parquet", "out/") == 1  # one has no answer
    printed = capsys.readouterr()
    assert [line.rpartition(": ")[2] for line in printed.out.splitlines()] == ["4 answers", "3 answers", "3 answers"]
    assert printed.err.count("5b.jpg' is empty (0 bytes)") == 1
    first = table(place / "out")
    assert first["photo"].tolist() == NAMES and first["path"].tolist() == [f"photos/{name}" for name in NAMES]
    summary = json.loads((place / "out" / "summary.json").read_text())
    assert (summary["photographs"], summary["answered"], len(summary["failed"])) == (11, 10, 1)
    answers = loaded.predict([place / "photos" / name for name in NAMES[:4]])
    assert first["lat"][:4].tolist() == pytest.approx([answer.lat for answer in answers], abs=1e-6)
    scored = read_predictions(place / "out")
    assert list(scored) == NAMES and scored["3.jpg"] == (first["lat"][3], first["lng"][3])

    lost = sorted((place / "out").glob("*.parquet"))[1]
    lost.unlink()
    asked = []
    whole = loaded.predict_each
    monkeypatch.setattr(loaded, "predict_each", lambda photos, *more: asked.extend(photos) or whole(photos, *more))
    assert predict("--parquet", "out") == 1  # a folder that is there needs no slash
    assert "7 of 11 photographs were answered before" in capsys.readouterr().err
    assert [path.name for path in asked] == ["4.jpg", "5.jpg", "5b.jpg", "6.jpg"] and lost.is_file()
    pd.testing.assert_frame_equal(table(place / "out"), first)

    shutil.copy(place / "photos" / "0.jpg", place / "photos" / "8.jpg")  # another picture by this name
    asked.clear()
    assert predict("--parquet", "out/") == 1
    assert [path.name for path in asked] == ["5b.jpg", "8.jpg"]
    again = table(place / "out").set_index("photo")
    assert sorted(again.index) == NAMES
    assert again["lat"]["8.jpg"] == pytest.approx(again["lat"]["0.jpg"], abs=1e-2)


def test_tables_of_something_else_are_refused(place, loaded, capsys):
    assert predict("--parquet", "out/") == 1
    capsys.readouterr()
    assert predict("--parquet", "out/", "--top", 2) == 2
    assert "holds answers of --top 5 (run 'named'); give another file" in capsys.readouterr().err
    (place / "own").mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(place / "own" / "a.parquet")
    assert predict("--parquet", "own/") == 2
    assert "a.parquet is no table of answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--engine", "loky:2"], "--engine=loky:2 answers in ranges; give --parquet FOLDER/"),
        (["--engine", "loky:2", "--parquet", "a.parquet"], "--engine=loky:2 answers in ranges; give --parquet FOLDER/"),
        (["--engine", "spark://a", "--parquet", "out/"], "--engine=spark://a is no engine; give loky:N"),
        (["--json", "-", "--parquet", "out/"], "--parquet out/ takes no --json beside it"),
        (["--html", "a.html", "--parquet", "out/"], "--parquet out/ takes no --html beside it"),
        (["-", "--parquet", "out/"], "- is a picture for one process"),
    ],
)
def test_what_does_not_go_together_is_refused(place, words, sentence, capsys):
    assert predict(*words) == 2
    assert sentence in capsys.readouterr().err


def test_workers_answer_what_one_process_answers(place, capsys):
    assert predict("--parquet", "here/") == 1
    assert predict("--parquet", "there/", "--engine", "loky:2") == 1
    assert capsys.readouterr().err.count("5b.jpg' is empty (0 bytes)") == 2
    here, there = table(place / "here"), table(place / "there")
    assert there["photo"].tolist() == NAMES and here["key"].tolist() == there["key"].tolist()
    for name in ("lat", "lng"):  # the number of threads may change the last digits
        assert here[name].tolist() == pytest.approx(there[name].tolist(), abs=1e-2)


def test_a_worker_with_another_disk_or_model_says_so(place, trained_run, loaded):
    request = PredictRequest(["photos"], shards=place / "out")
    job = shards.ShardJob(request, trained_run.folder, place, {"model": "another"})
    with pytest.raises(MissingInputError, match=r"does not see .*out; put it on a disk that all workers share"):
        shards.answer_range(job, 0, [("photos/0.jpg", "key")])
    (place / "out").mkdir()
    with pytest.raises(MismatchError, match="loads another model from"):
        shards.answer_range(job, 0, [("photos/0.jpg", "key")])
