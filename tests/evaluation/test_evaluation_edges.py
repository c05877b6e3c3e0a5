"""Evaluation at its edges: no images, one image, one place, no answers, the antimeridian and the poles."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from geocbm import geocells, metrics, plots
from geocbm.evaluation import stage_metrics
from geocbm.evaluation.uncertainty import assessment, measures
from geocbm.files.stored import opened
from geocbm.metrics import readable
from geocbm.workbench.records import check_value

WORDS_OF_NO_NUMBER = re.compile(r"\b(inf|nan)\b", re.IGNORECASE)


def run_at(
    folder: Path, lat: np.ndarray, lng: np.ndarray, country: np.ndarray, test: np.ndarray, least: int = 500
) -> Any:
    """What `assess` reads of a run whose other rows are training and validation; logits prefer the true cell."""
    others = np.setdiff1d(np.arange(len(lat)), test)
    rows = {"train": others[::2], "val": others[1::2], "test": test}
    cells = geocells.build_geocells(
        *(values[rows["train"]] for values in (lat, lng, country)), min_samples_per_cell=least
    )
    label = cells.assign(lat, lng, country)
    logits = np.random.default_rng(0).normal(size=(len(lat), len(cells)))
    logits[np.arange(len(lat)), label] += 1
    np.savez(
        folder / "cell_scores.npz",
        cells_digest=cells.digest,
        **{f"{split}_rows": rows[split] for split in ("val", "test")},
        **{f"{split}_logits": logits[rows[split]].astype(np.float16) for split in ("val", "test")},
    )
    places = {"lat": lat, "lng": lng, "country": country, "cell_label": label}
    return SimpleNamespace(
        run="edge",
        cells=cells,
        rows=rows,
        pictures=rows,
        need=lambda name: folder / name,
        path=lambda name: folder / name,
        remedy=lambda name: "",
        opened=lambda name: opened(folder / name, ""),
        **places,
    )


def assessed(files: Any, off: float = 0.1) -> tuple[assessment.Assessment, measures.UncertaintyMetrics]:
    """The assessment when every answer lies `off` degrees south or north of the truth, and its metrics."""
    lat, lng = files.lat[files.rows["test"]], files.lng[files.rows["test"]]
    found = assessment.assess(files, lat - np.sign(lat) * off, lng, n_resamples=50)
    return found, measures.measure(found)


def check_words_and_records(found: assessment.Assessment, measured: measures.UncertaintyMetrics) -> None:
    """No table shows a number that is none, no record is infinite, and every answer lies on the sphere."""
    tables = [measured.coverage, measured.points, measured.named]
    for table in tables:
        shown = readable(table)
        texts = [column for column in shown if isinstance(shown[column].iloc[0], str)]
        assert not WORDS_OF_NO_NUMBER.search(shown[texts].to_string())
    for key, value in measures.records(measured).items():
        check_value(f"sure.{key}", value)
    for lat, lng in found.points.values():
        assert (np.abs(lat) <= 90).all() and (np.abs(lng) <= 180).all()
    assert not WORDS_OF_NO_NUMBER.search(plots.risk_coverage(measures.risk_curves(found)).layout.meta["alt"])


def test_one_country_one_cell_across_the_antimeridian(tmp_path):
    generator = np.random.default_rng(0)
    lat = -17 + generator.uniform(-1.5, 1.5, 60)
    lng = (180 + generator.uniform(-1.5, 1.5, 60) + 180) % 360 - 180  # both sides of 180 degrees
    assert (lng > 179).any() and (lng < -179).any()
    files = run_at(tmp_path, lat, lng, np.full(60, "Fiji"), np.arange(20))
    assert len(files.cells) == 1
    found, figures = assessed(files)
    check_words_and_records(found, figures)
    # Answers in the middle of the cell are within its reach, not half the Earth away.
    for name in found.points:
        assert found.km(name).max() < 350
    assert found.expected_km.max() < 350
    assert figures.calibration.loc["raw", "nll"] == pytest.approx(0, abs=1e-9)
    country = figures.named.set_index("level").loc["country"]
    assert country["single"] == 1 and 0 < country["single_low"] < 1  # twenty images are not certainty


def test_both_poles(tmp_path):
    generator = np.random.default_rng(0)
    south = np.arange(80) // 2 % 2 == 0
    lat = np.where(south, -1.0, 1.0) * generator.uniform(89.0, 89.99, 80)
    files = run_at(tmp_path, lat, generator.uniform(-180, 180, 80), np.where(south, "South", "North"), np.arange(30))
    found, figures = assessed(files)
    check_words_and_records(found, figures)
    right = found.right
    assert right.any()
    assert found.km("mode")[right].max() < 250  # a cell round a pole is small, whatever its longitudes are
    assert all((np.abs(lat) > 88).all() for lat, _ in found.points.values())
    assert metrics.error_km([89.99], [0], [89.99], [180])[0] == pytest.approx(0.02 * 6371 * np.pi / 180, rel=1e-6)


def test_one_image_and_one_block_have_no_interval(tmp_path):
    generator = np.random.default_rng(1)
    lat, lng = 45 + generator.uniform(-4, 4, 90), 5 + generator.uniform(-4, 4, 90)
    lat[:8], lng[:8] = 45.02, 5.02
    for test in (np.arange(1), np.arange(8)):
        files = run_at(tmp_path, lat, lng, np.full(90, "France"), test, least=10)
        found, figures = assessed(files)
        check_words_and_records(found, figures)
        assert figures.points["geoscore_low"].isna().all()
        assert all(not isinstance(value, dict) for value in measures.records(figures).values())


def test_missing_answers_are_counted_and_written_in_words():
    lat, lng = np.array([10.0, 20.0, 30.0, 40.0] * 3), np.arange(12.0)
    half_lat = np.array([10.0, np.nan, np.nan, np.nan] * 3)
    figures = metrics.geolocation_metrics(half_lat, lng, lat, lng) | {"cell_top1": 0.0, "country_acc": 0.25}
    words = stage_metrics.place_table(figures).set_index("metric")["value"]
    assert words["median error"] == "no answer" and words["images without an answer"] == "9"


def test_a_class_without_test_images_is_left_out_of_macro_recall():
    logits, meta = np.eye(5)[[0, 0, 1, 2]], np.array([0, 0, 1, 1])  # metas 2, 3 and 4 have no image
    drawn = metrics.Resamples([0, 1, 2, 3])
    found = metrics.concept_intervals(logits, meta, drawn, logits, np.arange(5), np.eye(5))
    assert found["meta_macro_recall"]["value"] == (1 + 1 / 2) / 2


def test_pages_without_test_images_have_nothing_to_keep(copied_run):
    files = copied_run.files
    rows = np.zeros(0, dtype=np.int64)
    places = {"lat": np.zeros(0), "lng": np.zeros(0), "cell": np.zeros((0, 1), int)}
    assert stage_metrics.measure_places(files, places, rows) == {}
    assert stage_metrics.place_records(files, {"both": places}, rows) == {}
    assert stage_metrics.place_table({}).empty and stage_metrics.mode_table(files, {"both": places}, rows).empty
    assert stage_metrics.measure_concepts(files, None, {}, rows) == {}  # type: ignore[arg-type]
    assert stage_metrics.concept_table(files, {}, rows).empty


def test_records_of_places_have_the_names_others_read(trained_run):
    files = trained_run.files
    rows = files.rows["test"]
    places = {"lat": files.lat[rows], "lng": files.lng[rows], "cell": files.cell_label[rows][:, None]}
    nowhere = places | {"lat": np.full(len(rows), np.nan)}
    kept = stage_metrics.place_records(files, {"both": places, "concept_only": nowhere}, rows)
    value = {key: figure["value"] if isinstance(figure, dict) else figure for key, figure in kept.items()}
    assert (value["stage2.median_km"], value["stage2.cell_top1"], value["stage2.country_acc"]) == (0, 1, 1)
    assert value["variant.both.geoscore"] == 5000
    assert value["variant.concept_only.geoscore"] == 0 and "variant.concept_only.median_km" not in kept
