"""Point, country and explanation of an answer agree, or a sentence says why they differ."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from geocbm import data
from geocbm.metrics.places import CountryNames, Place
from geocbm.predict import GeoCBM
from geocbm.predict.answers import answer_text, why_countries_differ
from geocbm.predict.page import PhotoPage


@pytest.fixture(scope="module")
def model(trained_run):
    return GeoCBM.load(trained_run.folder)


@pytest.fixture(scope="module")
def replies(trained_run, model):
    """Answers to pictures of the run and to others, with points in and out of the likeliest country."""
    generator = np.random.default_rng(3)
    others = [Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(12)]
    pictures = [*data.image_files(trained_run.files.table)[:24], *others]
    return list(model.predict_each(pictures, top_k=5, keep_seen=True, keep_output=True))


@pytest.fixture
def elsewhere(model, monkeypatch):
    """Makes the model answer the middle of Kenya, whatever it believes."""

    def put(lat: float, lng: float) -> None:
        from geocbm.models import stage2_inference as stage2

        def located(head, output, *others):
            n = len(output.cell_logits)
            return np.full(n, lat), np.full(n, lng)

        monkeypatch.setattr(stage2, "locate", located)

    return put


def agrees(model: GeoCBM, answer) -> None:
    likeliest = answer.countries[0][0]
    assert answer.place.country == answer.country
    if answer.country == likeliest:
        assert answer.countries_differ == ""
    else:
        assert f"by country alone {likeliest} is likelier" in answer.countries_differ
        assert (answer.country or "no country") in answer.countries_differ
        assert answer.countries_differ in answer_text("a", answer)
    assert answer.as_json()["country"] == answer.country


def test_every_answer_is_one_answer(model, replies):
    for reply in replies:
        agrees(model, reply.answer)


def test_the_explanation_is_of_the_country_of_the_point(model, replies, elsewhere):
    source = replies[0].source
    for place, country in (((-1.0, 37.0), "Kenya"), ((48.8, 2.3), "France")):
        elsewhere(*place)
        assert model.explain(source).target == country
    elsewhere(0.0, -160.0)  # in no country of the run
    assert model.explain(source).target == model.predict([source])[0].countries[0][0]


def test_the_page_shows_both_explanations_where_the_countries_differ(model, replies, elsewhere, tmp_path):
    likeliest = replies[0].answer.countries[0][0]
    other = {"Kenya": (48.8, 2.3), "France": (-1.0, 37.0)}.get(likeliest, (-1.0, 37.0))
    for place, targets in ((other, 2), (None, 1)):
        if place is None:
            place = {
                "France": (48.8, 2.3),
                "Kenya": (-1.0, 37.0),
                "Japan": (35.7, 139.6),
                "Brazil": (-23.5, -46.6),
            }.get(likeliest, (-33.9, 151.0))
        elsewhere(*place)
        (reply,) = model.predict_each([replies[0].source], keep_seen=True, keep_output=True)
        page = PhotoPage(model)
        page.add("a.jpg", reply)
        page.write(tmp_path / "page.html")
        text = re.sub(r"<script>.*?</script>", "", (tmp_path / "page.html").read_text("utf-8"), flags=re.DOTALL)
        explained = re.findall("What spoke for ([A-Za-z]+)", text)
        answer = reply.answer
        assert explained == list(dict.fromkeys([answer.country, likeliest])) and len(explained) == targets
        assert text.count("by country alone") == targets - 1  # said once, on top
        assert f"near {answer.place.label()}" in text


@pytest.mark.parametrize(
    ("country", "cell", "said"),
    [
        ("A", "A", ""),
        ("A", "B", ""),
        ("B", "B", "B, 24%, which has the most probable single cell"),
        ("B", "A", "B, 24%, beyond the border of the most probable cell"),
        ("B", "C", "B, 24%, between several likely cells, of which the most probable lies in C"),
        ("", "A", "in no country"),
        ("D", "A", "in D, where the run has no cell"),
    ],
)
def test_the_sentence_by_hand(country, cell, said):
    sentence = why_countries_differ(country, {"A": 0.4, "B": 0.24, "C": 0.36}, cell)
    assert said in sentence and ("A is likelier, 40%" in sentence) == bool(said)


def test_a_country_is_called_as_the_table_calls_it():
    names = CountryNames({"USA": "United States", "England": "United Kingdom", "Scotland": "United Kingdom"})
    assert names.country(Place("Boston", "", "United States"), "USA") == "USA"
    assert names.country(Place("Leeds", "", "United Kingdom"), "England") == "England"
    assert names.country(Place("Glasgow", "", "United Kingdom"), "Scotland") == "Scotland"
    assert names.country(Place("Lyon", "", "France"), "USA") == "France"
    assert names.country(Place(), "USA") == ""


def test_the_spelling_is_learned_from_the_places_of_the_training_photographs(copied_run):
    files = copied_run.files
    country = np.where(files.country == "Brazil", "Brasil", files.country)
    names = CountryNames.fit(files.lat, files.lng, country)
    assert names.country(Place("Santos", "", "Brazil"), "Japan") == "Brasil"
    assert names.country(Place("Lyon", "", "France"), "Japan") == "France"
