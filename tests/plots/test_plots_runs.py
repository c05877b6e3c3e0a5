"""Figures of runs and of prototypes: what they draw, and that their alt texts carry the numbers."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from geocbm import plots
from geocbm.data.concepts import ConceptVocabulary

STATUS = pd.DataFrame(
    {
        "number": ["00", "01", "02"],
        "notebook": ["00_start_here", "01_data_exploration", "02_geocells"],
        "question": ["Where?", "What?", "How?"],
        "state": ["not yet", "done", "partly"],
    }
)
VOCABULARY = ConceptVocabulary(
    ("blue sign", "red pole", "red sign"),
    ("pole", "sign"),
    {"blue sign": "sign", "red pole": "pole", "red sign": "sign"},
)


def alt(fig):
    json.loads(fig.to_json())  # a page stores it as such
    return fig.layout.meta["alt"]


def test_status_of_the_chain():
    fig = plots.chain_status(STATUS)
    assert alt(fig) == "3 notebooks in a row; 1 have run: 01."
    discs = {trace.name: trace for trace in fig.data}
    assert list(discs) == ["done", "partly", "not yet"]
    assert list(discs["done"].x) == [1]
    assert discs["done"].customdata.tolist() == [["What?"]]
    assert len({trace.marker.color for trace in discs.values()}) == 3
    empty = plots.chain_status(STATUS.assign(state="not yet"))
    assert alt(empty) == "3 notebooks in a row; 0 have run."


def test_similarity_of_prototypes_is_grouped_by_parent():
    vectors = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]])  # cosines: 0, 0.6 (blue, red sign), 0.8 (pole, red sign)
    fig = plots.prototype_similarity(vectors, VOCABULARY)
    (heat,) = fig.data
    assert list(heat.x) == ["red pole", "blue sign", "red sign"]
    np.testing.assert_allclose(np.array(heat.z), [[1, 0, 0.8], [0, 1, 0.6], [0.8, 0.6, 1]], atol=1e-9)
    words = alt(fig)
    assert "3 metas" in words
    assert "Mean within a parent 0.60, across parents 0.40." in words
    assert "Most alike: red pole and red sign (0.80)." in words
    assert len(fig.layout.shapes) == 2  # one border in each direction


def test_a_single_concept_has_no_pairs():
    fig = plots.prototype_similarity([[1.0, 2.0]], ConceptVocabulary(("pole",), ("poles",), {"pole": "poles"}))
    assert alt(fig) == "Cosine between the words of 1 meta, grouped by parent."
