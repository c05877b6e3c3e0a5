"""`geocbm predict` in two processes that belong together: each photograph once, in order, and nothing lost with one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from launching import launch

from geocbm import data
from geocbm.data.public.scoring import read_predictions
from geocbm.predict import GeoCBM

SCRIPT = """
import os, signal, sys
from geocbm.cli import main
words = sys.argv[1:]
if words[0] == "die" :
    words = words[1:]
    from geocbm.predict import GeoCBM, command
    command.ROUND = 2
    whole = GeoCBM.predict_each
    def dying(self, photographs, *arguments, **options):
        for number, reply in enumerate(whole(self, photographs, *arguments, **options)):
            if os.environ["RANK"] == "1" and number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield reply
    GeoCBM.predict_each = dying
sys.exit(main(words))
"""


@pytest.fixture(scope="module")
def place(trained_run, tmp_path_factory) -> Path:
    """A folder with the run, a program and nine photographs, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "data" / "runs").mkdir(parents=True)
    (folder / "data" / "runs" / "named").symlink_to(trained_run.folder)
    (folder / "script.py").write_text(SCRIPT)
    (folder / "photos").mkdir()
    for number, file in enumerate(data.image_files(trained_run.files.table)[:8]):
        shutil.copy(file, folder / "photos" / f"{number}.jpg")
    (folder / "photos" / "5b.jpg").touch()
    return folder


def run(place: Path, *words: object):
    return launch(place / "script.py", *map(str, words), "--run", "named", data=place / "data")


def test_each_photograph_is_answered_once_and_in_order(place, trained_run):
    out = place / "lines.jsonl"
    first, second = run(
        place, "predict", place / "photos", "--json", out, "--parquet", place / "a.parquet", "--html", place / "a.html"
    )
    assert (first.returncode, second.returncode) == (1, 1), first.stderr + second.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    names = [f"{number}.jpg" for number in range(8)]
    assert [line["photo"] for line in lines] == names
    assert list(read_predictions(place / "a.parquet")) == names
    model = GeoCBM.load(trained_run.folder)
    for line, answer in zip(lines, model.predict([place / "photos" / name for name in names]), strict=True):
        assert (line["lat"], line["lng"]) == pytest.approx((answer.lat, answer.lng), abs=1e-2)
    heads = [line.split(":")[0] for line in first.stdout.splitlines() if not line.startswith(" ")]
    assert [Path(head).name for head in heads] == names and second.stdout == ""
    assert (first.stderr + second.stderr).count("5b.jpg' is empty (0 bytes)") == 1
    assert (place / "a.html").read_text().count('class="photo"') == 9
    summary = json.loads((place / "lines.summary.json").read_text())
    assert (summary["photographs"], summary["answered"], len(summary["failed"])) == (9, 8, 1)
    assert not list(place.glob("*.partial"))


def test_a_process_that_dies_ends_the_others_and_nothing_is_lost(place):
    out = place / "list.json"
    first, second = run(place, "die", "predict", place / "photos", "--json", out)
    assert (first.returncode, second.returncode) == (2, -9)
    (sentence,) = [line for line in first.stderr.splitlines() if "another of the processes has ended" in line]
    assert sentence.startswith("geocbm: ") and "Traceback" not in first.stderr and not out.exists()
    left = [json.loads(line)["photo"] for line in (place / "list.json.partial").read_text().splitlines()]
    assert left == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    first, second = run(place, "predict", place / "photos", "--json", out)
    assert (first.returncode, second.returncode) == (1, 1), first.stderr + second.stderr
    assert f"{len(left)} of 9 photographs were answered before" in first.stderr
    assert [entry["photo"] for entry in json.loads(out.read_text())] == [f"{number}.jpg" for number in range(8)]
    assert not list(place.glob("list.json.*"))


def test_without_a_file_the_words_come_once(place):
    first, second = run(place, "predict", place / "photos" / "0.jpg", place / "photos" / "1.jpg", "--json", "-")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert [entry["photo"] for entry in json.loads(first.stdout)] == ["0.jpg", "1.jpg"] and second.stdout == ""
