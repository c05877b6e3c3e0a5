"""Examples: which pictures are shown one by one, and which training pictures beside them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.evaluation.methods import main_predictions
from geocbm.explain.examples import example_rows, similar_rows

if TYPE_CHECKING:
    from tiny_run import TinyRun


def test_examples_are_the_nearest_and_the_farthest_of_the_sure(trained_run: TinyRun) -> None:
    files = trained_run.files
    meta = files.meta_and_parent[0]
    rows = np.unique(meta, return_index=True)[1][:6]  # six concepts
    places = pd.DataFrame(
        {
            "row": rows,
            "confidence": [0.9, 0.8, 0.7, 0.6, 0.1, 0.1],
            "true_lat": 0.0,
            "true_lng": 0.0,
            "lat": [3.0, 1.0, 4.0, 2.0, 0.0, 80.0],
            "lng": 0.0,
        }
    )
    assert example_rows(files, places, 4) == [rows[i] for i in (1, 2, 3, 0)]


def test_examples_show_each_concept_once_while_there_are_others(trained_run: TinyRun) -> None:
    files = trained_run.files
    places = main_predictions(files)
    chosen = example_rows(files, places, 3)
    assert len(chosen) == 3 and len({files.table["meta_name"].iloc[row] for row in chosen}) == 3
    assert set(chosen) <= set(files.rows["test"].tolist())
    assert len(example_rows(files, places, 1000)) == len(places)


def test_similar_pictures_are_of_the_concept_and_of_other_panoramas() -> None:
    pooled = np.array([[1.0, 0], [2, 0.1], [0, 1], [1, 0.2], [3, 0], [1, 0.05], [1, 0]])
    table = pd.DataFrame({"pano_id": ["a", "b", "c", "d", "a", "b", "e"]})
    run = SimpleNamespace(
        table=table, pictures={"train": np.arange(1, 7)}, meta_and_parent=(np.array([7, 7, 7, 7, 7, 7, 8]),)
    )
    # 4 is the same panorama as the picture, 5 the same as 1, and 6 shows another concept.
    assert similar_rows(run, pooled, 0, 7, 3).tolist() == [1, 3, 2]
