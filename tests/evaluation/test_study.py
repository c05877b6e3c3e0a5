from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_run import STAGE1, STAGE2

from geocbm.evaluation import ablation_study as study
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import Stage2Config
from geocbm.workbench.records import check_key

OTHER = {
    "04": {"bottleneck": "patch", "lr": 0.01, "dropout": 0.0, "intra_parent_reduction": "mean"},
    "05": {"offset_kind": "tangent", "lambda_offset": 0.5, "lr": 0.001, "smooth_km": 100.0},
}


def test_trials_change_one_thing_at_a_time():
    trials = study.make_trials(Stage1Config(), Stage2Config(), OTHER, "mine")
    by_name = {trial.name: trial for trial in trials}
    assert len(by_name) == len(trials)
    assert list(by_name) == [
        "this run", "mode concept_only", "mode image_only", "mode concept_scores", "mode hybrid",
        "intra_parent_reduction=mean", "offset_kind=tangent", "training as there", "smooth_km=100.0", "recipe mine",
        "bottleneck patch", "bottleneck transformer",
    ]  # fmt: skip
    assert by_name["mode hybrid"].stage2 == Stage2Config(ablation_mode="hybrid")
    # The other recipe's bottleneck comes with its training, and is no option a second time.
    assert by_name["bottleneck patch"].stage1 == Stage1Config(bottleneck="patch", lr=0.01, dropout=0.0)
    assert by_name["offset_kind=tangent"].stage2 == Stage2Config(offset_kind="tangent", lambda_offset=0.5)
    assert by_name["training as there"].stage2 == Stage2Config(lr=0.001)
    assert by_name["recipe mine"].stage1.bottleneck == "patch" and by_name["recipe mine"].stage2.smooth_km == 100


def measured(change: float, n: int = 300, seeds: int = 3) -> pd.DataFrame:
    """Two trials on the same photographs, the second's error that much larger."""
    generator = np.random.default_rng(0)
    parts = []
    base = 150 + generator.gamma(2.0, 300.0, n)
    for trial, kind, more in (("this run", "run", 0.0), ("smooth_km=100", "option", change)):
        for seed in range(seeds):
            km = base + more + generator.normal(0, 1, n)
            part = pd.DataFrame({"row": np.arange(n), "km": km, "meta_right": km < 500, "cell_right": km < 400})
            parts.append(part.assign(trial=trial, kind=kind, seed=seed))
    return pd.concat(parts, ignore_index=True)


class Places:
    lat = np.random.default_rng(1).uniform(-60, 60, 300)
    lng = np.random.default_rng(2).uniform(-180, 180, 300)


@pytest.mark.parametrize(
    ("change", "verdict"), [(100.0, "worse"), (-100.0, "better"), (0.0, "no difference beyond noise")]
)
def test_a_verdict_needs_an_interval_without_zero(change, verdict):
    summary = study.summarise(measured(change), Places(), n_resamples=200)
    row = summary[(summary["trial"] == "smooth_km=100") & (summary["figure"] == "median_km")].iloc[0]
    assert row["verdict"] == verdict
    assert row["change"] == pytest.approx(change, abs=5)
    assert row["low"] <= row["value"] <= row["high"]
    table = study.printable(summary)
    assert list(table["trial"]) == ["this run", "smooth_km=100"]
    assert table["median error against this run"].tolist() == ["", verdict]
    drawn = study.changes(summary, "median_km")
    assert drawn["name"].tolist() == ["smooth_km=100"]
    assert study.records(summary)["smooth_km_100.median_km"]["value"] == row["value"]


def test_a_study_of_a_run_is_kept_and_shown_again_for_the_same_settings_only(copied_run, tmp_path):
    files, recipe = copied_run.files, tmp_path / "mine.yaml"
    recipe.write_text('"04": {intra_parent_reduction: mean}\n"05": {offset_kind: latlng}\n')
    features = files.features("adapted")
    small = replace(STAGE2, score_epochs=2)
    said: list[str] = []
    assert study.study(files, features, small, recipe, []).empty
    assert study.study(files, features, small, "", [0]).empty
    before = {path.name for path in Path(copied_run.folder).iterdir()}
    fresh = study.study(files, features, small, recipe, [0, 1], 50, said.append)
    names = ["this run", "mode concept_only", "mode image_only", "mode concept_scores", "mode hybrid",
             "intra_parent_reduction=mean", "offset_kind=latlng", "recipe mine", "bottleneck patch",
             "bottleneck transformer"]  # fmt: skip
    assert fresh["trial"].unique().tolist() == names
    assert len(said) == 2 * len(names)
    assert {path.name for path in Path(copied_run.folder).iterdir()} - before == {"study.parquet"}
    for key in study.records(fresh.replace("mode hybrid", "mode concept_scores, smooth_km=100.0")):
        check_key(f"study.{key}")
    again = study.study(files, features, small, recipe, [], 50)
    pd.testing.assert_frame_equal(fresh, again)
    assert study.study(files, features, replace(small, lr=0.5), recipe, []).empty
    # An interrupted study goes on with what is missing, and ends with the same figures.
    path = files.path("study.parquet")
    stored = pd.read_parquet(path)
    stored[(stored["trial"] != "mode hybrid") | (stored["seed"] == 0)].to_parquet(path)
    assert "mode hybrid" not in study.study(files, features, small, recipe, [], 50)["trial"].tolist()
    said.clear()
    resumed = study.study(files, features, small, recipe, [0, 1], 50, said.append)
    assert len(said) == 1 and said[0].startswith("mode hybrid, seed 1")
    pd.testing.assert_frame_equal(fresh, resumed)
    assert STAGE1.bottleneck == "mlp"
