"""An explanation stands beside the answer of the head that it explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geocbm import explain, pipeline
from geocbm.metrics import places_of


@pytest.fixture(scope="module")
def heads(trained_run):
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    concepts = pipeline.predict_concepts(files, features)
    strict, main = (
        explain.linear_cbm(files, features, concepts),
        explain.load_intervention_model(files, features, concepts),
    )
    return explain.modes_explained(strict, main)


def test_both_heads_are_shown_and_a_single_one_once(heads):
    assert list(heads) == ["concept_scores", "both"]
    strict = heads["concept_scores"]
    assert list(explain.modes_explained(strict, strict)) == ["concept_scores"]


def test_each_explanation_is_of_the_country_its_head_answers(trained_run, heads):
    files, rows = trained_run.files, trained_run.files.rows["test"]
    captions = explain.row_captions(files, rows.tolist())
    table = explain.answer_table(files, heads, rows.tolist(), captions)
    assert table.columns.tolist() == ["picture", "answer of concept_scores", "answer of both"]
    for mode, model in heads.items():
        for number, row in enumerate(rows.tolist()):
            why = explain.explain_country(model, row, files, captions[number])
            shown = table[f"answer of {mode}"][number]
            assert why.target == f"{shown.split(', ')[0]} for a picture of {captions[number]}"


def test_the_country_is_that_of_the_point(trained_run, heads, monkeypatch):
    files, rows = trained_run.files, trained_run.files.rows["test"]
    model = heads["both"]
    places = model.predict(rows)
    put = {"France": (48.8, 2.3), "Kenya": (-1.2, 36.8)}
    for country, (lat, lng) in put.items():
        assert places_of([lat], [lng])["country"][0] == country
        there = places._replace(lat=np.full(len(rows), lat), lng=np.full(len(rows), lng))
        monkeypatch.setattr(model, "predict", lambda rows, there=there: there)
        assert set(explain.named_countries(model, rows, files)) == {country}
    sea = places._replace(lat=np.full(len(rows), 0.0), lng=np.full(len(rows), -150.0))
    monkeypatch.setattr(model, "predict", lambda rows: sea)
    names = np.unique(files.cells.country)
    summed = [[chance[files.cells.country == name].sum() for name in names] for chance in sea.probabilities]
    assert explain.named_countries(model, rows, files).tolist() == names[np.argmax(summed, axis=1)].tolist()


def test_how_often_the_heads_agree_is_said(trained_run, heads, monkeypatch):
    files, rows = trained_run.files, trained_run.files.rows["test"]
    named = {"concept_scores": ["A", "B", "C", "D"], "both": ["A", "B", "X", "Y"]}
    by_model = {id(model): np.array(named[mode]) for mode, model in heads.items()}
    monkeypatch.setattr(explain.answered, "named_countries", lambda model, rows, files: by_model[id(model)])
    assert "the same country for 50% of 4 test pictures" in explain.agreement_sentence(files, heads, rows[:4])
    alone = {"concept_scores": heads["concept_scores"]}
    assert explain.agreement_sentence(files, alone, rows) == ""


def test_a_run_of_one_country_names_cells(trained_run, heads):
    files = trained_run.files
    cells = replace(files.cells, country=np.full(len(files.cells), "France"))
    files.__dict__["cells"] = cells
    assert all(name.startswith("cell ") for name in explain.named_countries(heads["both"], files.rows["test"], files))
