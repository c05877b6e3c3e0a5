"""Places named right, country by country: values worked out by hand, and what the geocoder does not know."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from resampled import place_accuracy

from geocbm import metrics
from geocbm.errors import ParameterError
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation import metrics_by_place as breakdown
from geocbm.evaluation.baselines.base import Prediction
from geocbm.metrics import metric

PARIS, LYON, TOKYO, OSAKA = (48.86, 2.35), (45.76, 4.84), (35.69, 139.69), (34.69, 135.50)


def found(true, stage2, country=None, **others):
    """`Geocoded` of places given as pairs; None is no answer."""

    def columns(places):
        pairs = [(np.nan, np.nan) if place is None else place for place in places]
        return np.array(pairs, dtype=float).reshape(-1, 2).T

    country = ["here"] * len(true) if country is None else country
    answers = {name: tuple(columns(places)) for name, places in {"stage2": stage2, **others}.items()}
    lat, lng = columns(true)
    drawn = metrics.Resamples(metrics.spatial_blocks(lat, lng) if len(true) else [0], 50)
    truth = SimpleNamespace(labels=SimpleNamespace(country=np.array(country, dtype=str)), lat=lat, lng=lng, draws=drawn)
    return breakdown.geocode(truth, [Prediction(name, *points) for name, points in answers.items()])


@pytest.fixture
def four():
    return found(
        [PARIS, PARIS, LYON, TOKYO],
        [PARIS, LYON, None, OSAKA],
        country=["France", "France", "France", "Japan"],
        linear_probe=[TOKYO, TOKYO, LYON, TOKYO],
    )


def test_levels_are_nested(four):
    assert four.right("stage2", "country").tolist() == [True, True, False, True]
    assert four.right("stage2", "region").tolist() == [True, False, False, False]
    assert four.right("stage2", "city").tolist() == [True, False, False, False]
    assert four.right("linear_probe", "city").tolist() == [False, False, True, True]


def test_shares_are_those_of_the_metrics(four):
    figures = breakdown.level_metrics(four)["stage2"]
    lat, lng = np.array([PARIS, LYON, (np.nan, np.nan), OSAKA]).T
    expected = place_accuracy(lat, lng, *np.array([PARIS, PARIS, LYON, TOKYO]).T)
    assert {name: entry["value"] for name, entry in figures.items()} == expected
    assert all(np.isnan(figure["low"]) for figure in figures.values())  # three blocks are too few to resample


def test_intervals_are_nested_as_the_levels_are():
    places = [PARIS, LYON, TOKYO, OSAKA, (52.52, 13.4), (40.42, -3.7), (51.5, -0.13), (41.9, 12.5), (59.33, 18.07)]
    figures = breakdown.level_metrics(found(places, [*places[:4], *[PARIS] * 5]))["stage2"]
    for wide, narrow in zip(figures.values(), list(figures.values())[1:], strict=False):
        assert (
            0 <= narrow["low"] <= wide["low"] <= wide["value"] <= wide["high"] <= 1 and narrow["high"] <= wide["high"]
        )


def test_a_region_of_the_same_name_in_another_country_is_wrong():
    one = found([PARIS, PARIS], [PARIS, TOKYO])
    answered = one.answered["stage2"]
    answered["region"] = one.true["region"]
    assert one.right("stage2", "region").tolist() == [True, False]


def test_metrics_to_keep(four):
    kept = breakdown.records(four)
    assert set(kept) == {
        f"{name}_acc"
        for name in ("stage2.region", "stage2.city", "baseline.linear_probe.region", "baseline.linear_probe.city")
    }
    assert kept["stage2.region_acc"] == 0.25 and kept["baseline.linear_probe.city_acc"] == 0.5


def test_a_place_without_a_name_is_a_miss_and_is_counted():
    one = found([PARIS, TOKYO], [PARIS, TOKYO])
    assert set(one.unnamed.values()) == {0} and one.elsewhere == 0  # "here" is no known country
    assert found([PARIS, TOKYO], [PARIS, TOKYO], country=["France", "South Korea"]).elsewhere == 1
    for frame in (one.true, one.answered["stage2"]):
        frame.loc[1, ["country", "region", "city"]] = ""
    assert one.right("stage2", "country").tolist() == [True, False]
    assert one.unnamed == {"country": 1, "region": 1, "city": 1}
    assert breakdown.confusions(one).empty


def test_across_the_antimeridian():
    # Suva lies in Fiji whichever turn the longitude is written in, and Taveuni is a few hundred km to the east.
    one = found([(-18.14, 178.44), (-16.85, -179.97)], [(-18.14, 178.44 - 360), (-16.85, 180.03)])
    assert one.right("stage2", "city").all()
    assert one.km["stage2"] == pytest.approx([0, 0], abs=1e-6)


def test_by_country_pools_what_is_rare():
    true = [PARIS] * 6 + [TOKYO] * 2 + [LYON]
    answers = [PARIS] * 3 + [TOKYO] * 3 + [TOKYO, None] + [LYON]
    one = found(true, answers, country=["France"] * 6 + ["Japan"] * 2 + ["Elsewhere"])
    table = breakdown.by_place(one, "country")
    assert table["place"].tolist() == ["France", "2 countries with fewer than 5 images each"]
    assert table["n"].tolist() == [6, 3] and table["pooled"].tolist() == [1, 2]
    assert table["right"].tolist() == pytest.approx([0.5, 2 / 3])
    assert table["median_km"].tolist()[1] == 0  # of 0, 0 and no answer
    # one block of ground is one piece of evidence
    assert table.loc[0, ["median_km_low", "right_high"]].isna().all()
    alone = breakdown.by_place(found(true[:7], answers[:7], ["France"] * 6 + ["Japan"]))
    assert alone["place"].tolist()[-1] == "1 country with fewer than 5 images"


def test_by_region_names_the_country_too(four, monkeypatch):
    monkeypatch.setattr(breakdown, "FEWEST", 1)
    table = breakdown.by_place(four, "region")
    assert table["place"].tolist()[0].startswith("France, ") and table["n"].tolist() == [2, 1, 1]
    with pytest.raises(ParameterError, match="level is 'city'; choose"):
        breakdown.by_place(four, "city")


def test_all_wrong_is_not_certain():
    true = [PARIS, LYON, (43.30, 5.37), (47.22, -1.55), (44.84, -0.58), (50.63, 3.06), (48.57, 7.75), (43.6, 1.44)]
    wrong = breakdown.by_place(found(true, [TOKYO] * 8, ["France"] * 8)).iloc[0]
    assert wrong["right"] == wrong["right_low"] == 0
    assert wrong["right_high"] == pytest.approx(1 - 0.025 ** (1 / 8))  # Clopper and Pearson, 0 of 8 blocks
    right = breakdown.by_place(found(true, true, ["France"] * 8)).iloc[0]
    assert right["right"] == right["right_high"] == 1
    assert right["right_low"] == pytest.approx(0.025 ** (1 / 8))


def test_confusions_by_hand():
    one = found([PARIS] * 4 + [TOKYO] * 2, [TOKYO, TOKYO, OSAKA, PARIS, PARIS, None])
    pairs = breakdown.confusions(one)
    assert pairs[["country", "answered", "images"]].to_numpy().tolist() == [
        ["France", "Japan", 3],
        ["Japan", "(no answer)", 1],
        ["Japan", "France", 1],
    ]
    assert pairs["of all"].tolist() == [4, 2, 2]  # a share of one image would look like a rate
    assert pairs["median_km"].iloc[0] == pytest.approx(9712, rel=0.01) and np.isinf(pairs["median_km"].iloc[1])


def test_nothing_to_break_down():
    one = found([], [])
    assert breakdown.level_metrics(one) == {} == breakdown.records(one)
    for table in (breakdown.by_place(one), breakdown.confusions(one)):
        assert table.empty and len(table.columns) > 3


def test_a_run_is_looked_up_by_its_own_rows(trained_run):
    from geocbm.evaluation.baselines import Prediction

    files = trained_run.files
    test = files.rows["test"]
    answers = [
        *evaluation.stage_answers(files),
        Prediction("nearest_neighbour", files.lat[test], files.lng[test]),
        Prediction("chance", files.lat[test], files.lng[test]),
    ]
    one = breakdown.geocode(evaluation.TruePlaces(files, 20), answers)
    assert list(one.answered) == ["stage2", "nearest_neighbour"]  # in the order of the methods; no probe, no chance
    assert one.right("nearest_neighbour", "city").all() and one.country.tolist() == files.country[test].tolist()


def test_metrics_of_stage2_join_distances_and_levels(trained_run):
    files = trained_run.files
    places = evaluation.main_predictions(files)
    found = breakdown.geocode(evaluation.TruePlaces(files, 20), evaluation.stage_answers(files))
    figures = breakdown.stage2_metrics(places, found)
    assert {"median_km", "geoscore", "acc_25km", "country_acc", "region_acc", "city_acc"} <= set(figures)
    assert figures["region_acc"]["value"] == found.right("stage2", "region").mean()
    assert breakdown.stage2_metrics(places[:0], found) == {}


def test_by_continent_and_world_region(monkeypatch):
    monkeypatch.setattr(breakdown, "FEWEST", 2)
    berlin, sea = (52.52, 13.4), (0.0, -30.0)
    one = found([PARIS, LYON, TOKYO, OSAKA, sea], [berlin, TOKYO, TOKYO, PARIS, sea])
    table = breakdown.by_place(one, "continent")
    assert table["place"].tolist() == ["Asia", "Europe", "1 continent with fewer than 2 images"]
    assert table["right"].tolist() == [0.5, 0.5, 0] and table["country_acc"].tolist() == [0.5, 0, 0]
    assert table.loc[1, "geoscore"] == pytest.approx(metrics.geoscore(one.km["stage2"][:2]).mean())
    regions = breakdown.by_place(one, "world_region")
    assert regions["place"].tolist() == ["Eastern Asia", "Western Europe", "1 world region with fewer than 2 images"]
    kept = breakdown.records(one)
    assert kept["continent.Europe.n"] == 2 and kept["continent.Asia.country_acc"] == 0.5
    assert kept["continent.Asia.median_km"] == pytest.approx(one.km["stage2"][2:4].mean())
    assert metric("continent.North_America.median_km").label == "median error, North America"
