"""A country that no stage has seen, through all stages and the whole evaluation."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tiny_run

from geocbm import plots
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation import metrics_by_place as breakdown
from geocbm.evaluation import proximity
from geocbm.evaluation.baselines import Task, linear, neighbours
from geocbm.evaluation.uncertainty import assessment
from geocbm.geodesy import haversine_km

OUT = "Japan"


@pytest.fixture(scope="module")
def run(tmp_path_factory, folders):
    """A run without Japan, half of whose pictures are labelled with a concept of its own."""
    write = tiny_run.write_pictures

    def with_own_concept(folder, **_given):
        csv = write(folder)
        table = pd.read_csv(csv, keep_default_na=False)
        own = table["country"].eq(OUT) & table["parent_concept"].eq("pole")
        table.loc[own, "meta_name"] = "torii"
        table.to_csv(csv, index=False)
        return csv

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_run, "write_pictures", with_own_concept)
        return tiny_run.train_tiny_run(tmp_path_factory.mktemp("out"), folders("clip"), "leave_country_out", OUT)


@pytest.fixture(scope="module")
def places(run):
    return evaluation.main_predictions(run.files)


@pytest.fixture(scope="module")
def found(run, places):
    return assessment.assess(run.files, places["lat"].to_numpy(), places["lng"].to_numpy())


@pytest.fixture(scope="module")
def answers(run):
    """Methods that need no gallery."""
    files = run.files
    vanilla = files.features("vanilla").read_all("pooled").numpy()
    asked = (neighbours.NearestNeighbour(), linear.LinearProbe())
    return [Task.of(files).answer(one, vanilla) for one in asked] + evaluation.stage_answers(files)


def test_test_is_the_country_and_nothing_else_has_seen_it(run):
    files = run.files
    assert set(files.country[files.rows["test"]]) == {OUT} and len(files.rows["test"]) == 12
    for name in ("train", "val", "pretrain_train", "pretrain_val"):
        assert len(files.rows[name]) and OUT not in files.country[files.rows[name]]
    assert OUT not in files.cells.country
    stored = json.loads(files.path("splits.json").read_text())
    assert stored["kind"] == "leave_country_out" and stored["settings"]["held_out_country"] == OUT


def test_photographs_of_the_country_get_the_nearest_cell_anywhere(run):
    files, test = run.files, run.files.rows["test"]
    centre_lat, centre_lng = files.cells.latlng
    km = haversine_km(files.lat[test][:, None], files.lng[test][:, None], centre_lat[None], centre_lng[None])
    assert files.cell_label[test].tolist() == km.argmin(axis=1).tolist()
    assert set(files.cells.country[files.cell_label[test]]) == {"Australia"}  # the nearest city of the other four


def test_no_answer_lies_in_the_country(run, places, answers, found):
    assert np.isfinite(places[["lat", "lng"]].to_numpy()).all()
    named = breakdown.geocode(evaluation.TruePlaces(run.files, 30), answers)
    figures = breakdown.level_metrics(named)
    assert set(figures) == set(breakdown.METHODS)
    assert all(own["country_acc"]["value"] == own["region_acc"]["value"] == 0 for own in figures.values())
    assert not found.named["country"]["single"].any() and not found.named["country"]["summed"].any()
    table = breakdown.by_place(named)
    assert table["place"].tolist() == [OUT] and (table["median_km"] > 5000).all()
    assert breakdown.confusions(named)["images"].sum() == 12
    assert "1 row, a country each" in plots.place_breakdown(table).layout.meta["alt"]


def test_the_table_of_all_methods_can_be_measured(run, answers):
    table = evaluation.measure(evaluation.TruePlaces(run.files, 30), answers).set_index("name")
    assert (table.loc[["stage2", "nearest_neighbour", "linear_probe"], "country_acc"] == 0).all()
    assert table["median_km"].dropna().gt(5000).all() and table.loc["stage1", "meta_top1"] >= 0


def test_regions_are_measured_against_the_nearest_cell_abroad(found):
    assert [one.coverage for one in found.regions] == [0.8, 0.9, 0.95]
    assert all(np.isfinite(one.area_km2).all() and len(one.cells) == 12 for one in found.regions)


def test_memory_of_a_road_is_out_of_the_question(run, answers):
    files = run.files
    assert proximity.split_kind(files) == "leave_country_out"
    named, nearest = breakdown.geocode(evaluation.TruePlaces(files, 30), answers), proximity.nearest_train_km(files)
    near = proximity.by_distance(nearest, {"Stage 2": named.km["stage2"]}, named.draws)
    assert near["bin"].tolist() == ["200 km and more"]
    left = proximity.without_near(nearest, {"Stage 2": named.km["stage2"]}, named.draws)
    assert left["left"].tolist() == [12, 12] and (left["geoscore_change"] == 0).all()


def test_a_concept_of_that_country_alone_is_never_learned(run):
    files = run.files
    metas = files.table["meta_name"].to_numpy()
    assert set(files.concepts.metas) == {*tiny_run.PARENT_OF, "torii"}
    assert set(metas[files.rows["train"]]) == set(tiny_run.PARENT_OF) and "torii" in metas[files.rows["test"]]
    with np.load(files.path("concept_scores.npz")) as scores:
        assert np.isfinite(scores["meta"]).all() and scores["meta"].shape[1] == 7
