"""A metric's unit comes from its key: the same value under another key is written otherwise."""

import numpy as np
import pandas as pd
import pytest

from geocbm.metrics import columns_of, entry_of, interval_frame, readable, table
from geocbm.metrics.table import HIGHER, KM, LOWER, NUMBER, RATE, TABLE, Metric, known, metric


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("stage2.country_acc", 0.634, "63.4 %"),
        ("stage2.median_km", 0.634, "0.6 km"),
        ("stage2.median_km", 412.4, "412 km"),
        ("stage2.geoscore", 0.634, "1"),
        ("stage2.acc_25km", 0.5, "50.0 %"),
        ("epoch.anchor", 0.108, "0.108"),  # a loss between 0 and 1 is no rate
        ("epoch.recall_5", 0.108, "10.8 %"),
        ("epoch.mean_ap", 0.108, "10.8 %"),
        ("epoch.retrieval_km", 0.9, "0.9 km"),
        ("truth.stability_map", 0.9, "0.9"),
        ("truth.completeness_country", 1.1, "110.0 %"),  # a rate above 1 stays one
        ("control.concepts_swapped.geoscore_change", -812.0, "−812"),
        ("control.gain_both.median_km", -12.0, "−12 km"),
        ("truth.deletion_gain", 0.05, "+5.0 percentage points"),
        ("sure.area_90_km2", 1234567.0, "1,234,567 km²"),
        ("intervene.prior.log_loss", 3.42, "3.420 nats"),
        ("somebody.elses", 0.5, "0.5"),
    ],
)
def test_the_key_decides_the_unit(key: str, value: float, text: str) -> None:
    assert metric(key).text(value) == text


def test_an_unknown_key_is_a_plain_number_under_its_own_name() -> None:
    found = metric("somebody.elses")
    assert (found.label, found.unit, found.better) == ("somebody.elses", NUMBER, 0)
    assert not known("somebody.elses")


@pytest.mark.parametrize(
    ("key", "unit", "better"),
    [
        ("stage1.parent_top5", RATE, HIGHER),
        ("stage1.parent_macro_recall", RATE, HIGHER),
        ("stage1.semantic_close_random", RATE, 0),
        ("decode.mode.median_km", KM, LOWER),
        ("baseline.linear_probe.decode_expected.median_km", KM, LOWER),
        ("study.as_in_this_run.meta_top1", RATE, HIGHER),
        ("recipe.seed.country_acc", RATE, HIGHER),
    ],
)
def test_a_quantity_means_the_same_under_every_prefix(key: str, unit: object, better: int) -> None:
    assert (metric(key).unit, metric(key).better) == (unit, better)


def test_labels_say_whose_the_value_is() -> None:
    assert metric("baseline.nearest_neighbour.median_km").label == "median error, nearest neighbour"
    assert metric("stage2.median_km").axis == "median error, km"
    assert metric("stage0.recall_5").axis == "own place among the first 5 (held out from Stage 0), %"


def test_an_entry_is_written_with_its_interval() -> None:
    assert metric("stage2.median_km").entry({"value": 412.0, "low": 380.2, "high": 447.0}) == "412 km [380, 447]"
    assert metric("stage2.country_acc").interval({"value": 0.5, "low": 0.4, "high": 0.6}) == "40.0 to 60.0 %"
    assert metric("stage2.country_acc").interval(0.5) == ""


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    assert metric("stage2.country_acc").as_change.write(-0.0001) == "0.0"


def test_no_row_is_hidden_by_one_before_it() -> None:
    for row in TABLE:
        key = row.key.replace("**.", "other.").replace("*", "x")
        assert metric(key).unit == row.unit and metric(key).better == row.better, row.key


def test_a_table_of_numbers_is_shown_with_labels_units_and_intervals() -> None:
    found = {"value": 412.3, "low": 380.0, "high": np.inf}
    numbers = pd.DataFrame([{"place": "Chile", "hits": 0.5} | columns_of("median_km", found)])
    assert entry_of(numbers.to_dict("records")[0], "median_km") == found
    shown = readable(numbers, {"place": "country", "hits": metric("stage2.country_acc")})
    assert shown.to_dict("records") == [
        {"country": "Chile", "country right, %": "50.0", "median error, km": "412 [380, no answer]"}
    ]


def test_metrics_by_name_become_a_table() -> None:
    frame = interval_frame({"chance": {"median_km": {"value": 8000.0, "low": 7000.0, "high": 9000.0}}}, "method")
    assert readable(frame).to_dict("records") == [{"method": "chance", "median error, km": "8,000 [7,000, 9,000]"}]


def test_a_new_metric_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Metric("**.rural_acc", "rural road right", RATE, HIGHER)
    monkeypatch.setattr(table, "TABLE", (row, *TABLE))
    table._find.cache_clear()
    assert metric("stage2.rural_acc").entry({"value": 0.5, "low": 0.4, "high": 0.6}) == "50.0 % [40.0, 60.0]"
    assert list(readable(pd.DataFrame({"rural_acc": [0.5]}))) == ["rural road right, %"]
    table._find.cache_clear()
