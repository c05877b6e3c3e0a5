"""The explorer of one's own photograph, and the game: a file, its answer; a guess, its points and the model's."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from geocbm.data import image_files
from geocbm.errors import ParameterError
from geocbm.evaluation.methods import main_predictions
from geocbm.geodesy import haversine_km
from geocbm.metrics import geoguessr_points
from geocbm.predict import GeoCBM
from geocbm.workbench import explorers
from geocbm.workbench.explorers.answered_pictures import answered
from geocbm.workbench.explorers.guessing_game import MODEL, TRUTH, YOU, Game, GuessExplorer, guess_map
from geocbm.workbench.explorers.own_photograph import PhotographExplorer


def photograph(colour=(200, 30, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(stream, "JPEG")
    return stream.getvalue()


def drop(explorer: PhotographExplorer, content: bytes, name: str, size: int = 1000) -> None:
    """Send a file as the browser does, in parts."""
    for begin in range(0, max(len(content), 1), size):
        told = {"name": name, "begin": begin, "whole": begin + size >= len(content)}
        explorer.drop._handle_custom_msg(told, [memoryview(content[begin : begin + size])])


def model_figures(explorer: PhotographExplorer, content: bytes) -> list:
    """The figures of an answer, made anew."""
    return explorer.answer(content, "any.jpg")[1]


@pytest.fixture(scope="module")
def model(trained_run) -> GeoCBM:
    return GeoCBM.load(trained_run.folder)


@pytest.fixture
def explorer(model) -> PhotographExplorer:
    return PhotographExplorer(model)


def test_an_uploaded_file_is_answered_with_reasons(explorer, model):
    content = photograph()
    drop(explorer, content, "beach.jpg", size=100)
    (answer,) = model.predict([Image.open(io.BytesIO(content))])
    assert "beach.jpg" in explorer.page.value and answer.cells[0].country in explorer.page.value
    assert explorer.page.value.count("<img") >= 1 and answer.concepts[0][0] in explorer.page.value
    world, reasons = explorer.figures.children
    assert "Map with the answer" in world.layout.meta["alt"] and "contribution" in reasons.layout.meta["alt"].lower()
    explorer.drop._handle_custom_msg({"name": "half.jpg", "begin": 0, "whole": False}, [memoryview(content[:99])])
    assert "half.jpg" not in explorer.page.value
    drop(explorer, photograph((20, 20, 240)), "sea.jpg")  # the half is forgotten
    assert "sea.jpg" in explorer.page.value and "beach.jpg" not in explorer.page.value
    drawn, (made, _) = explorer.figures.children[0], model_figures(explorer, photograph((20, 20, 240)))
    assert drawn is world and drawn.layout.meta["alt"] == made.layout.meta["alt"]
    for old, new in zip(drawn.data, made.data, strict=True):
        assert old.to_plotly_json()["name"] == new.to_plotly_json()["name"]
        np.testing.assert_allclose(np.asarray(old.lat, float), np.asarray(new.lat, float))


def test_what_takes_its_time_is_announced_and_the_last_answer_is_gone_meanwhile(explorer, monkeypatch):
    seen = []

    def answer(_content, _name):
        seen.append((explorer.page.value, explorer.figures.layout.visibility))
        return "the answer", []

    monkeypatch.setattr(explorer, "answer", answer)
    drop(explorer, b"content", "<b>beach.jpg")
    ((words, visibility),) = seen
    assert 'role="status"' in words and "Reading" in words and "&lt;b&gt;beach.jpg" in words and visibility == "hidden"
    assert explorer.page.value == "the answer"


@pytest.mark.parametrize(
    ("name", "content"),
    [("<b>notes</b>.txt", b"not a picture"), ("evil\x1b[31m.jpg", b"not a picture"), ("empty.jpg", b"")],
)
def test_what_is_no_picture_is_refused_in_one_harmless_sentence(explorer, name, content):
    drop(explorer, content, name)
    assert explorer.page.value.startswith('<p role="alert">') and explorer.figures.children == ()
    assert "<b>" not in explorer.page.value and "\x1b" not in explorer.page.value
    drop(explorer, photograph(), "good.jpg")
    assert "good.jpg" in explorer.page.value and len(explorer.figures.children) == 2


def test_a_page_shows_the_answer_for_a_picture_of_the_run(trained_run, capsys):
    explorers.photograph(trained_run.files)
    said = capsys.readouterr().out
    assert "a picture of the test split" in said and said.count("[figure] ") == 2


def test_without_a_test_picture_the_example_is_another_one(trained_run, model, capsys):
    run = trained_run.files
    run.__dict__["rows"] = run.rows | {"test": run.rows["test"][:0]}
    explorers.photograph(run, model)
    assert "a picture of the val split" in capsys.readouterr().out


def test_both_guesses_are_scored(trained_run):
    run = trained_run.files
    game = Game(run, seed=1)
    assert sorted(game.rows) == sorted(run.rows["test"]) and game.rows.tolist() == Game(run, 1).rows.tolist()
    row = game.row
    assert game.guess(float(run.lat[row]), float(run.lng[row])) == pytest.approx(0, abs=1e-6)
    place = main_predictions(run).set_index("row").loc[row]
    km = float(haversine_km(place["lat"], place["lng"], run.lat[row], run.lng[row]))
    assert game.played == [(0.0, pytest.approx(km, rel=1e-6))] and game.totals == (5000, int(geoguessr_points(km)))
    game.next()
    assert game.row == game.rows[1] != row
    away = game.guess(-float(run.lat[game.row]), float(run.lng[game.row]) - 180)  # the other side of the world
    assert away == pytest.approx(np.pi * 6371, rel=1e-3)  # 0 points
    assert game.totals == (5000, sum(int(geoguessr_points(model)) for _, model in game.played))
    for _ in range(len(game.rows) - 1):
        game.next()
    assert game.row == row  # after the last picture the first comes again


def test_a_click_or_typed_degrees_are_the_guess_and_the_truth_comes_after(trained_run):
    explorer = GuessExplorer(Game(trained_run.files))
    grid = next(number for number, trace in enumerate(explorer.map.data) if trace.name == "grid")
    sent = {"trace_indexes": [grid], "point_indexes": [[4, 7]], "xs": [12.25], "ys": [48.75]}
    explorer.map._js2py_pointsCallback = {"event_type": "plotly_click", "points": sent}
    assert explorer.place == (48.75, 12.25)

    def pins() -> dict[str, tuple[float, float]]:
        return {dot.name: (dot.yanchor, dot.xanchor) for dot in explorer.map.layout.shapes if dot.type == "circle"}

    def lines() -> list[tuple[tuple[float, float], tuple[float, float]]]:
        return [((line.y0, line.x0), (line.y1, line.x1)) for line in explorer.map.layout.shapes if line.type == "line"]

    assert pins() == {YOU: (48.75, 12.25)}
    explorer.lng.value = 20.0
    assert pins() == {YOU: (48.75, 20.0)} and not lines()
    explorer.button.click()
    assert pins() == {YOU: (48.75, 20.0), **explorer.game.places} and set(pins()) == {YOU, TRUTH, MODEL}
    assert lines() == [(pins()[YOU], pins()[TRUTH]), (pins()[MODEL], pins()[TRUTH])]
    assert explorer.button.disabled and "After 1 round" in explorer.status.value
    explorer.lat.value = 1.0  # the guess is given
    assert pins()[YOU] == (48.75, 20.0)
    picture = explorer.picture.value
    explorer.next.click()
    assert pins() == {} and explorer.picture.value != picture and not explorer.button.disabled


def test_the_map_of_guesses_takes_clicks_everywhere():
    grid = next(trace for trace in guess_map("x").data if trace.name == "grid")
    picture = Image.open(io.BytesIO(base64.b64decode(grid.source.partition(",")[2])))
    for first, step, count, end in ((grid.x0, grid.dx, picture.width, 180), (grid.y0, grid.dy, picture.height, 90)):
        assert step == 0.5 and first - step / 2 == -end and first + (count - 0.5) * step == end


def test_the_map_of_guesses_has_nothing_that_takes_its_time_at_each_change():
    """The browser compares and copies each array of a live figure at each change; of a grid's cells for 150 ms."""
    assert len(guess_map("x").to_json()) < 250_000


def test_a_run_without_a_test_picture_is_refused(trained_run, monkeypatch):
    run = trained_run.files
    monkeypatch.setattr("geocbm.workbench.explorers.guessing_game.answered", lambda run: answered(run)[:0])
    with pytest.raises(ParameterError, match="has no test picture to guess"):
        Game(run)


def test_a_page_unfolds_three_places(trained_run, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("geocbm.workbench.html.put", lambda page, plain: shown.append(page))
    explorers.guess(trained_run.files)
    assert shown[0].count("<details>") == 3 and shown[0].count("<img") == 3
    files = image_files(trained_run.files.table)
    assert not any(str(file) in shown[0] for file in files)  # the name of a file might tell its place
