"""Headline metrics come with the interval of a resampling by blocks of ground, whatever page measures them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from geocbm import metrics
from geocbm.evaluation import stage_metrics

METRICS = {
    *("meta_top1", "meta_top5", "meta_macro_recall", "semantic_close", "semantic_close_random"),
    *("parent_top1", "parent_top1_marginal", "parent_top5", "parent_macro_recall"),
}
N = 40
LAT, LNG = np.linspace(-50, 60, N), np.linspace(-170, 170, N)  # each in a block of its own
ROWS = np.arange(N)


def with_interval(figure: dict[str, float]) -> float:
    assert figure["low"] <= figure["value"] <= figure["high"]
    assert figure["low"] < figure["high"]
    return figure["value"]


def run(**values: object) -> SimpleNamespace:
    rows = {"train": ROWS[:20], "val": ROWS[20:], "test": ROWS}
    found = SimpleNamespace(lat=LAT, lng=LNG, rows=rows, pictures=rows, labelled=lambda chosen: chosen, **values)
    if "meta_and_parent" in values:  # one label of each picture
        meta = found.meta_and_parent[0]
        found.labels_at = lambda chosen: np.eye(meta.max() + 1, dtype=bool)[meta[chosen]]
        found.likeliest_label = lambda scores, chosen: meta[chosen]
    return found


def test_places_by_hand() -> None:
    lat = LAT.copy()
    lat[:10] += 90 / (6371 * np.pi / 180)  # ten answers are 90 km off
    cell = np.where(ROWS < 30, ROWS, 0)[:, None]  # a quarter names cell 0 instead of its own
    files = run(cell_label=ROWS)
    places = {"lat": lat, "lng": LNG, "cell": cell}
    figures = stage_metrics.measure_places(files, places, ROWS, 200)
    assert with_interval(figures["cell_top1"]) == 30 / 40
    assert with_interval(figures["acc_25km"]) == 30 / 40
    assert with_interval(figures["mean_km"]) == pytest.approx(90 * 10 / 40, rel=1e-6)
    assert (figures["n"], figures["n_missing"]) == (40, 0)
    kept = stage_metrics.place_records(files, {"both": places, "hybrid": places}, ROWS, 200)
    assert {"stage2.cell_top1", "stage2.country_acc", "variant.both.geoscore", "variant.hybrid.geoscore"} <= set(kept)
    assert all(isinstance(figure, dict) for figure in kept.values())
    words = stage_metrics.place_table(figures).set_index("metric")["value"]
    low, high = (100 * figures["cell_top1"][end] for end in ("low", "high"))
    assert words["cell right"] == f"75.0 % [{low:.1f}, {high:.1f}]"


def test_concepts_by_hand() -> None:
    """Four metas of two parents; every second picture is given its sibling, every eighth a stranger."""
    meta = ROWS % 4
    said = np.where(ROWS % 2 == 0, meta, meta ^ 1)
    said[::8] = 3
    # Metas 0 and 1 mean nearly the same, cosine 0.8; the others are at right angles.
    base = torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1.0], [-0.6, 0.8, 0]])
    model = SimpleNamespace(meta_base=base, config=SimpleNamespace(semantic_threshold=0.7))
    files = run(meta_and_parent=(meta, meta // 2), concepts=SimpleNamespace(parent_index=np.array([0, 0, 1, 1])))
    predicted = {"meta": np.eye(4)[said], "parent": np.eye(2)[said // 2]}
    figures = stage_metrics.measure_concepts(files, model, predicted, ROWS, 200)
    assert set(figures) == METRICS
    assert with_interval(figures["meta_top1"]) == np.mean(said == meta) == 15 / 40
    assert with_interval(figures["parent_top1"]) == np.mean(said // 2 == meta // 2) == 35 / 40
    close = (said == meta) | ((said < 2) & (meta < 2))
    assert with_interval(figures["semantic_close"]) == close.mean() == 25 / 40
    # A random answer is close in 2 of 4 cases for metas 0 and 1, else in 1 of 4.
    assert with_interval(figures["semantic_close_random"]) == pytest.approx(3 / 8)
    strict = SimpleNamespace(meta_base=base, config=SimpleNamespace(semantic_threshold=0.9))
    assert stage_metrics.measure_concepts(files, strict, predicted, ROWS, 50)["semantic_close"]["value"] == 15 / 40
    kept = metrics.recordables(figures)
    assert all(isinstance(kept[name], dict) for name in ("meta_top5", "parent_top5", "parent_macro_recall"))


def test_retrieval_and_class_means_by_hand() -> None:
    image = np.eye(N, dtype=np.float32)
    image[0] = image[1]  # the first picture looks like the second place
    model = SimpleNamespace(embed_places=lambda lat, lng: torch.eye(N))
    found = stage_metrics.measure_retrieval(run(), model, image, ROWS, 200)  # type: ignore[arg-type]
    assert with_interval(found["recall_1"]) == 39 / 40
    assert found["retrieval_km"]["value"] == 0
    assert stage_metrics.measure_retrieval(run(), model, image, ROWS[:0]) == {}  # type: ignore[arg-type]
    labels = ROWS % 2
    features = np.where(labels[:, None] == 0, [[1.0, 0.0]], [[0.0, 1.0]])
    features[20:30] = features[20:30, ::-1]  # half of the validation pictures look like the other class
    files = run(meta_and_parent=(labels, labels))
    shares = stage_metrics.measure_class_means(files, {"mine": features, "blind": np.ones((N, 2))})
    assert with_interval(shares["mine"]) == 0.5
    assert with_interval(shares["most frequent concept"]) == 0.5  # both classes are as frequent
    files.labelled = lambda chosen: chosen[chosen < 20]
    assert stage_metrics.measure_class_means(files, {"mine": features}) == {}  # no concept of validation is known
