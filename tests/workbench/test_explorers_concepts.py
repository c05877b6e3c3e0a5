"""The explorer of concepts: pictures by score, reliability, nearest prototypes, places, and what a page shows."""

from __future__ import annotations

import numpy as np
import pytest

from geocbm.run import predictions
from geocbm.workbench import explorers
from geocbm.workbench.explorers import shared
from geocbm.workbench.explorers.concepts_by_score import ConceptExplorer, SeenConcepts, map_by_concept


@pytest.fixture
def explorer(trained_run) -> ConceptExplorer:
    return ConceptExplorer(trained_run.files)


def test_pictures_of_a_concept_come_by_score(explorer):
    run, scores = explorer.run, explorer.seen.scores
    test, meta = run.rows["test"], run.concepts.concept_to_idx["red sign"]
    explorer.concept.value = meta
    assert explorer.strip.rows.tolist() == test[np.argsort(-scores[test, meta], kind="stable")].tolist()
    first = int(explorer.strip.rows[0])
    label = run.table["meta_name"].iloc[first]
    assert f"{scores[first, meta]:.1%}" in explorer.strip.pictures.value and label in explorer.strip.pictures.value
    explorer.order.value = "labelled, lowest scores"
    own = [row for row in test.tolist() if row % 6 == 2]  # red sign is the third of six metas in turn
    assert explorer.strip.rows.tolist() == sorted(own, key=lambda row: scores[row, meta])
    explorer.order.value = "another label, highest scores"
    assert set(explorer.strip.rows.tolist()) == set(test.tolist()) - set(own)
    explorer.split.value = "train"
    assert len(explorer.strip.rows) == len([row for row in run.rows["train"] if row % 6 != 2])


def test_reliability_is_counted_by_hand(trained_run):
    seen = SeenConcepts(trained_run.files)
    rows = np.array([0, 6, 1, 2])  # two red poles, a photo pole, a red sign
    red, photo = (seen.run.concepts.concept_to_idx[name] for name in ("red pole", "photo pole"))
    seen.scores = np.zeros((60, 6))
    seen.scores[[0, 1, 6, 2], [red, red, photo, photo]] = [0.9, 0.6, 0.8, 0.7]
    seen.scores[6, red] = 0.2
    line = seen.reliability(rows, [red]).iloc[0]
    assert line[["images", "recall", "precision", "by chance"]].tolist() == [2, 0.5, 0.5, 0.5]
    # By score: red, photo, red, sign. Half of the red ones are found with precision 1/1, the other half with 2/3.
    assert line["average precision"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-3)
    # Four bins of one picture each: |0.9 - 1|, |0.6 - 0|, |0.2 - 1|, |0 - 0|.
    assert line["ECE"] == pytest.approx((0.1 + 0.6 + 0.8) / 4, abs=1e-3)
    assert line["recall low"] == pytest.approx(0.095, abs=1e-3)  # Wilson's interval of 1 in 2


def test_a_nearest_prototype_leads_to_its_concept(explorer):
    with np.errstate(all="raise"):
        learned = explorer.seen.stage1.prototypes()[0].detach().numpy()
    meta = explorer.concept.value
    cosine = learned @ learned[meta]
    cosine[meta] = -2
    assert explorer.alike.options[0][1] == cosine.argmax()
    assert explorer.alike.options[0][0].startswith(f"{cosine.max():.2f} ")
    explorer.alike.index = 0
    assert explorer.concept.value == cosine.argmax() and explorer.alike.index is None
    assert f"Reliability of {explorer.run.concepts.metas[cosine.argmax()]}" in explorer.table.value


def test_the_map_is_darkest_where_the_concept_scores_high(explorer):
    trace, rows = explorer.map.figure.data[shared.POINTS], explorer.map.rows
    score = explorer.seen.scores[rows, explorer.concept.value]
    assert (np.diff(score) >= 0).all() and trace.marker.color[-1] == pytest.approx(3)
    expected = score.astype(float)
    means = {name: expected[explorer.run.country[rows] == name].mean() for name in set(explorer.run.country[rows])}
    assert f"Highest mean: {max(means, key=means.get)} " in explorer.map.says.value
    sent = {"trace_indexes": [shared.POINTS], "point_indexes": [4], "xs": [None], "ys": [None]}
    explorer.map.figure._js2py_pointsCallback = {"event_type": "plotly_click", "points": sent}
    assert explorer.strip.rows.tolist() == [rows[4]] and "Seen most: " in explorer.status.value


def test_maps_are_laid_over_pictures_where_the_bottleneck_has_them(trained_run, monkeypatch):
    explorer = ConceptExplorer(trained_run.files)
    assert explorer.maps.disabled and explorer.seen.model is None  # the tiny run has the "mlp" bottleneck
    asked = []

    class Model:
        encoder = type("Encoder", (), {"grid": (2, 2)})
        picture = staticmethod(lambda row: np.full((8, 8, 3), 200, dtype=np.uint8))

    def one_corner(_model, rows, metas):
        asked.append((rows.tolist(), metas.tolist()))
        return np.tile([1.0, 0.0, 0.0, 0.0], (len(rows), 1))

    explorer.seen.__dict__["model"] = Model
    monkeypatch.setattr("geocbm.workbench.explorers.concepts_by_score.concept_maps", one_corner)
    explorer.maps.value = True
    shown, meta = explorer.strip.rows[:8].tolist(), explorer.concept.value
    assert asked == [(shown, [meta] * len(shown))]
    picture = np.asarray(explorer.seen.pictures([0], meta)[0]).astype(int)
    assert picture[5, 5].sum() > picture[-5, -5].sum()  # more attention is lighter


def test_scores_of_another_table_are_refused(copied_run):
    from geocbm.errors import MismatchError

    files = copied_run.files
    scores = predictions.read_concept_scores(files)
    short = {name: values[:10] for name, values in scores.items()}
    predictions.save_concept_scores(files.path("concept_scores.npz"), short, files.made_from("concept_scores.npz"))
    with pytest.raises(MismatchError, match=r"has the shape \(10, 6\), its table has 60 rows"):
        SeenConcepts(files)


def test_a_page_shows_concepts_that_some_picture_is_labelled_with(trained_run, monkeypatch, capsys):
    """The highest of scores near 0 show nothing: `examples` are taken from concepts with pictures."""
    files = trained_run.files
    metas = files.concepts.metas
    labelled = np.flatnonzero(files.meta_and_parent[0] == 3)  # the only concept with test pictures
    monkeypatch.setitem(files.rows, "test", labelled)
    explorers.concepts(files, 6)
    said = capsys.readouterr().out
    assert f"Highest mean score: {metas[3]} in " in said
    assert not any(f"{name} in " in said for number, name in enumerate(metas) if number != 3)


def test_without_a_front_end_there_are_a_table_a_map_and_pictures(trained_run, capsys):
    explorers.concepts(trained_run.files, 2)
    said = capsys.readouterr().out
    assert "average precision" in said and "[figure] World map of the highest scores" in said
    seen = SeenConcepts(trained_run.files)
    fig = map_by_concept(seen, seen.run.rows["test"], [1, 4])
    assert [button.label for button in fig.layout.updatemenus[0].buttons] == [
        seen.run.concepts.metas[i] for i in (1, 4)
    ]
    assert fig.layout.updatemenus[0].buttons[1].args[0]["visible"] == [True, True, False, True]
