"""The README's table is written from the metrics of a run."""

from __future__ import annotations

import pytest

from geocbm.errors import MissingInputError
from geocbm.files import write_json
from tools import readme_table as readme


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


METRICS = {
    "baseline.linear_probe.median_km": interval(466.6, 378, 567),
    "baseline.linear_probe.country_acc": interval(0.64, 0.602, 0.681),
    "baseline.linear_probe.geoscore": interval(2974.2, 2807, 3125),
    "baseline.linear_probe.meta_top1": 0.325,
    "baseline.linear_probe.strongest": 1.0,
    "decode.linear_probe.center.chosen": 0.0,
    "decode.linear_probe.center.geoscore": interval(2842, 2700, 2990),
    "decode.linear_probe.expected_places.chosen": 1.0,
    "decode.linear_probe.expected_places.geoscore": interval(2974.2, 2807, 3125),
    "stage1.meta_top1": interval(0.704, 0.671, 0.737),
    "stage2.median_km": interval(454, 372, 529),
    "stage2.geoscore": interval(3014, 2860, 3146),
    "baseline.country_centroid.median_km": interval(292, 247, 343),
    "over_baseline.median_km_change": interval(-13, -84, 40),
    "over_baseline.geoscore_change": interval(120, 20, 230),
}


def test_rows_are_those_of_the_metrics_in_the_order_of_the_readme() -> None:
    lines = readme.method_table(METRICS).splitlines()
    assert lines[0].startswith("| method | place answered | median error, km | country right, % | GeoScore |")
    assert lines[2] == (
        "| linear probe on the frozen backbone | expected score, training places | 467 [378, 567] | 64.0 [60.2, 68.1] "
        "| 2,974 [2,807, 3,125] | 32.5 |"
    )
    assert lines[3] == "| **Stage 1** |  |  |  |  | **70.4 [67.1, 73.7]** |"
    assert lines[4] == "| **Stage 2** |  | **454 [372, 529]** |  | **3,014 [2,860, 3,146]** |  |"
    assert lines[5] == (
        "| *Stage 2 minus the strongest baseline (linear probe on the frozen backbone), paired* | | "
        "*-13 [-84, +40]* |  | *+120 [+20, +230]* |  |"
    )
    assert lines[6] == "| oracle: told the country |  | 292 [247, 343] | told |  |  |"
    assert len(lines) == 7


def test_the_mode_of_the_bold_row_has_no_row_of_its_own() -> None:
    places = {name: METRICS[f"stage2.{name}"] for name in ("median_km", "geoscore")}
    main = {f"variant.hybrid.{name}": value for name, value in places.items()}
    other = {f"variant.both.{name}": value for name, value in places.items()} | {"variant.both.median_km": 480.0}
    lines = readme.method_table(METRICS | main | other).splitlines()
    assert [line for line in lines if "`hybrid`" in line] == []
    assert [line for line in lines if "`both`" in line] == ["| Stage 2, `both` |  | 480 |  | 3,014 [2,860, 3,146] |  |"]


def test_the_sentence_follows_the_intervals() -> None:
    assert readme.sentence(METRICS) == (
        "Stage 2 against the linear probe: no difference in median error beyond noise; GeoScore better beyond noise."
    )
    worse = METRICS | {"over_baseline.geoscore_change": interval(-120, -230, -20)}
    assert "GeoScore worse beyond noise" in readme.sentence(worse)
    assert readme.sentence({}) == ""


def test_the_command_prints_a_run_or_says_what_is_missing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("GEOCBM_REPORTS", str(tmp_path))
    with pytest.raises(MissingInputError, match="geocbm run --profile demo"):
        readme.main(["demo"])
    (tmp_path / "demo").mkdir()
    write_json(tmp_path / "demo" / "metrics.json", METRICS)
    readme.main([])
    assert "| **Stage 2** |" in capsys.readouterr().out


def test_a_difference_that_rounds_to_nothing_is_no_minus_zero() -> None:
    same = METRICS | {"over_baseline.median_km_change": interval(-0.28, -60, 71)}
    assert "*+0 [-60, +71]*" in readme.method_table(same)
