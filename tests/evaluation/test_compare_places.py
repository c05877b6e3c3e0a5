"""Where runs differ, what they confuse, and runs of several seeds: counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from run_files import LAT, LNG, METAS, N, write_run

from geocbm.errors import ParameterError
from geocbm.evaluation.compare_runs import places as places_of_change
from geocbm.evaluation.compare_runs.load_runs import ComparedRun, read_runs
from geocbm.evaluation.compare_runs.places import (
    _judged,
    concept_changes,
    confusion_changes,
    country_gains,
    gain_by_region,
    top_changes,
)
from geocbm.evaluation.compare_runs.seeds import (
    group_difference_table,
    group_differences,
    pooled,
    pooled_table,
    seed_groups,
)

HALF = np.arange(N) % 2 == 0


def read(root, *names):
    return read_runs(root / "reports", root / "runs", names)


@pytest.fixture
def pair(tmp_path):
    """Two runs whose answers the tests replace."""
    write_run(tmp_path, "own")
    write_run(tmp_path, "other")
    return read(tmp_path, "own", "other")


def changed(run: ComparedRun, **columns) -> ComparedRun:
    return ComparedRun(run.name, stages=run.stages, images=run.answers.assign(**columns), metas=run.metas)


def test_gains_are_averaged_where_images_lie(pair, monkeypatch):
    one, other = pair
    far = np.arange(N) < 2
    places = {"true_lat": np.where(far, 0.0, LAT), "true_lng": np.where(far, [179.9, *[-179.9] * (N - 1)], LNG)}
    one = changed(one, geoscore=1000.0, true_country="Fiji", **places)
    other = changed(other, geoscore=np.where(far, [1200.0] + [1600.0] * (N - 1), 900.0), true_country="Fiji", **places)
    monkeypatch.setattr(places_of_change, "REGION_KM", 20_000)
    table = gain_by_region(one, other)
    assert table["images"].sum() == N
    assert (table["gain"] * table["images"]).sum() == pytest.approx(200 + 600 - 100 * (N - 2))
    monkeypatch.setattr(places_of_change, "REGION_KM", 100)
    small = gain_by_region(one, other)
    west, east = small[small["lng"] < -179], small[small["lng"] > 179]
    assert (west["gain"].tolist(), east["gain"].tolist()) == ([600], [200])
    one_country = small.iloc[0]
    assert (one_country["country"], one_country["images"]) == ("Fiji", 1)


def test_a_country_counts_only_beyond_noise_of_all_countries(pair, monkeypatch):
    one, other = pair
    country = np.array(["Chile", "Japan", "Kenya"])[np.minimum(np.arange(N) // 25, 2)]  # 25, 25 and 10 images
    noise = np.random.default_rng(0).normal(0, 300, N)
    one = changed(one, geoscore=2000.0, true_country=country)
    other = changed(other, geoscore=2000 + noise + np.where(country == "Japan", -1000, 0), true_country=country)
    table = country_gains(one, other, n=500)
    assert table["country"].iloc[0] == "Japan"
    assert table.set_index("country")["better"].to_dict() == {"Japan": -1, "Chile": 0, "Kenya": 0}
    assert table["images"].sum() == N
    monkeypatch.setattr(places_of_change, "MOST_SHOWN", 2)
    top = top_changes({"other": table})
    assert top["verdict"].tolist()[0] == "worse" and len(top) == 2
    assert top["first"].iloc[0] == pytest.approx(2000, abs=1)
    monkeypatch.setattr(places_of_change, "FEWEST", 11)
    assert country_gains(one, other)["country"].tolist() == ["Japan", "Chile"]


def test_confusions_are_counted_on_the_images_on_which_the_runs_disagree(pair):
    one, other = pair
    truth = np.where(np.arange(N) < 30, "Chile", "Japan")
    # Chile for Peru: 12 images of the first run, of which 2 of the other, too; Japan is left to both.
    before = np.where(np.arange(N) < 12, "Peru", truth)
    after = np.where(np.arange(N) < 2, "Peru", truth)
    after[-1] = ""
    table = confusion_changes(
        changed(one, true_country=truth, answered=before), changed(other, true_country=truth, answered=after)
    )
    assert table["answered"].tolist() == ["Peru", "(no answer)"]
    assert table.iloc[0][["first", "this", "better"]].tolist() == [12, 2, 1]
    assert table["chance"].tolist() == [pytest.approx(2 * 0.5**10), 1]  # ten coins that all fall on one side
    assert top_changes({"other": table})["first"].tolist() == [12, 0]


def test_concepts_gained_and_lost(pair):
    one, other = pair
    pole = one.answers.index.get_level_values("meta_name") == "pole"
    number = np.cumsum(pole) * pole  # 1 to 20 among the poles
    before, after = (number > 0) & (number <= 4), (number > 2) & (number <= 16)
    table = concept_changes(
        changed(one, meta_right=before.astype(float)), changed(other, meta_right=after.astype(float))
    )
    row = table.iloc[0]
    assert row[["concept", "images", "first", "this", "gained", "lost"]].tolist() == ["pole", 20, 4, 14, 12, 2]
    assert row["chance"] == pytest.approx(2 * (1 + 14 + 91) * 0.5**14)  # at most two of fourteen
    assert table["better"].tolist() == [1, 0, 0]
    top = top_changes({"other": table}).head(1)
    assert top.iloc[0].tolist() == ["other", "pole", 20, 4, 14, 12, 2, "better"]
    assert top_changes({"other": table[:0]}).empty


def test_holms_rule_counts_only_what_could_have_shown_a_difference():
    one, other = np.array([10, 8, 5, 0, 3]), np.array([0, 0, 0, 0, 3])
    alone = np.array([2 * 0.5**10, 2 * 0.5**8, 1.0])  # the last one is an even split of six
    table = pd.DataFrame({"name": list("abcde"), "first": one, "this": other})
    judged = _judged(table, table["first"], table["this"], ["name"]).set_index("name")
    np.testing.assert_allclose(judged["chance"][list("abcde")], [3 * alone[0], 2 * alone[1], 1, 1, 1])
    none = table.iloc[:0]
    assert _judged(none, none["first"], none["this"], ["name"]).empty


def test_without_common_images_nothing_is_placed(tmp_path):
    write_run(tmp_path, "own")
    write_run(tmp_path, "other", pano_id=[f"q{number}" for number in range(N)])
    own, other, new = read(tmp_path, "own", "other", "new")
    for run in (other, new):
        for find in (
            gain_by_region,
            country_gains,
            confusion_changes,
            concept_changes,
        ):
            with pytest.raises(ParameterError, match="other test images"):
                find(own, run)


@pytest.fixture
def seeds(tmp_path):
    generator = np.random.default_rng(0)
    for option, shift in (("mlp", 0.0), ("patch", -4.0)):
        for seed in (0, 1, 2):
            changes = {f"{stage}.seed": seed for stage in ("03", "04", "05")} | {"04.bottleneck": option}
            write_run(tmp_path, f"{option}{seed}", generator.uniform(5, 15, N) + shift + seed / 10, settings=changes)
    write_run(tmp_path, "alone", settings={"05.ablation_mode": "hybrid"})
    return tmp_path


def test_runs_are_gathered_by_what_they_have_in_common_apart_from_seeds(seeds):
    runs = read(seeds, "mlp2", "patch0", "alone", "mlp0", "patch1", "mlp1", "new")
    groups = seed_groups(runs)
    assert [[run.name for run in group.runs] for group in groups] == [
        ["mlp0", "mlp1", "mlp2"],
        ["patch0", "patch1"],
        ["alone"],
    ]
    assert groups[0].seeds == ("0", "1", "2")


def test_runs_come_in_the_order_of_their_seeds_as_numbers(tmp_path):
    for seed in (10, 2, 100, 1):
        write_run(tmp_path, f"of{seed}", settings={"04.seed": seed, "05.seed": seed, "03.seed": seed})
    (group,) = seed_groups(read(tmp_path, "of10", "of2", "of100", "of1"))
    assert group.seeds == ("1", "2", "10", "100")
    assert [run.name for run in group.runs] == ["of1", "of2", "of10", "of100"]


def test_a_run_of_another_split_is_no_other_seed(tmp_path):
    write_run(tmp_path, "one")
    write_run(tmp_path, "split", settings={"01.seed": 1})
    write_run(tmp_path, "images", settings={"05.seed": 1}, pano_id=[f"q{number}" for number in range(N)])
    write_run(tmp_path, "again")
    groups = seed_groups(read(tmp_path, "one", "split", "images", "again"))
    assert [len(group.runs) for group in groups] == [1, 1, 1]  # the last one has the seed of the first


def test_seeds_of_the_stages_are_written_out_where_they_differ(tmp_path):
    write_run(tmp_path, "one")
    write_run(tmp_path, "two", settings={"04.seed": 1, "02.seed": 3})
    (group,) = seed_groups(read(tmp_path, "one", "two"))
    assert group.seeds == ("0", "0/1/0 (cells 3)")
    assert group.name == "one and 1 more"


def test_mean_and_spread_over_seeds(seeds):
    runs = read(seeds, "mlp0", "mlp1", "mlp2", "alone")
    table = pooled(seed_groups(runs), n=300)
    assert set(table["group"]) == {"mlp0 and 2 more"}
    row = table.set_index("metric").loc["stage2.median_km"]
    single = [float(np.median(run.answers["km"])) for run in runs[:3]]
    assert row["value"] == pytest.approx(np.mean(single))
    assert row["spread"] == pytest.approx(np.std(single, ddof=1))
    assert (row["least"], row["most"]) == (pytest.approx(min(single)), pytest.approx(max(single)))
    assert row["low"] < row["value"] < row["high"]
    words = pooled_table(table).set_index("metric").loc["median error"]
    assert words["from worst to best"] == f"{max(single):,.0f} to {min(single):,.0f}"
    assert pooled(seed_groups(runs[3:])).empty


def test_groups_are_compared_over_the_seeds_they_share(seeds):
    runs = read(seeds, "mlp0", "mlp1", "mlp2", "patch1", "patch2", "alone")
    table = group_differences(seed_groups(runs), n=300)
    row = table.set_index("metric").loc["stage2.median_km"]
    medians = {run.name: float(np.median(run.answers["km"])) for run in runs}
    expected = (medians["patch1"] + medians["patch2"] - medians["mlp1"] - medians["mlp2"]) / 2
    assert row["value"] == pytest.approx(expected)
    assert (row["seeds"], row["verdict"]) == (2, "better")
    assert table.set_index("metric").loc["stage1.meta_top1", "verdict"] == "no difference beyond noise"
    words = group_difference_table(table)
    assert words["runs"].iloc[0] == "patch1 and 1 more against mlp0 and 2 more"
    assert group_differences(seed_groups(read(seeds, "mlp0", "mlp1", "patch2", "patch0"))).empty


def test_a_different_order_of_images_does_not_matter_to_seeds(seeds):
    runs = read(seeds, "mlp0", "mlp1", "patch0", "patch1")
    mixed = [
        ComparedRun(run.name, stages=run.stages, images=run.answers.sample(frac=1, random_state=3), metas=METAS)
        for run in runs[1:]
    ]
    tables = [group_differences(seed_groups(each), n=100) for each in (runs, [runs[0], *mixed])]
    pd.testing.assert_frame_equal(*tables)
