"""Every ablation mode as the main mode of a run, from training to the comparison of runs and to a photograph's page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from notebook_cells import run_notebook

from geocbm.cli import main
from geocbm.files import paths, read_json, write_json
from geocbm.models.stage2_config import ABLATION_MODES
from geocbm_atlas.dataset import write_atlas

pytestmark = [pytest.mark.chain, pytest.mark.filterwarnings("ignore:The number of unique classes")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small world and the first four notebooks on it; the environment leads to it."""
    root = tmp_path_factory.mktemp("modes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOCBM_DATA", str(root / "data"))
        patch.setenv("GEOCBM_REPORTS", str(root / "reports"))
        table = write_atlas(root / "world", 160, seed=0, size=96)
        run_notebook("01_data_exploration", run="base", csv=str(table))
        run_notebook("02_geocells", run="base", min_samples_per_cell=30)
        run_notebook("03_stage0_pretraining", run="base", epochs=1, batch_size=64)
        run_notebook("04_stage1_concepts", run="base", epochs=2)
        yield root


@pytest.mark.parametrize(("mode", "tokens"), [*((mode, "all") for mode in ABLATION_MODES), ("both", "top-k")])
def test_every_mode_passes_the_whole_chain_as_the_main_mode(base: Path, mode: str, tokens: str) -> None:
    run = f"{mode}-{tokens}"
    shutil.copytree(paths.run_folder("base"), paths.run_folder(run))
    few = {"run": run, "bootstrap": 20}
    if tokens == "top-k":  # no tokens are stored but those that are kept
        features = paths.run_folder(run) / "features.json"
        content = read_json(features)
        content["encoders"]["max_cache_gb"] = 0.001
        for kind in ("vanilla", "adapted"):
            content[kind]["folder"] = ""
        write_json(features, content)
        run_notebook("04_stage1_concepts", run=run, epochs=2, bottleneck="patch")
    # No variants: nothing may rest on a head of another mode.
    stage2 = run_notebook(
        "05_stage2_geolocation",
        **few,
        ablation_mode=mode,
        variants=[],
        epochs=1,
        score_epochs=5,
        examples=2,
        options={"tokens": tokens, "tokens_kept": 9},
    )
    assert stage2["model"].config.ablation_mode == mode
    run_notebook("06_evaluation", **few, own_baseline=True)
    run_notebook("06b_uncertainty", **few, own_confidence=True)
    run_notebook("07_interpretability", **few, examples=1, pictures=2, own_map=True)
    run_notebook("07b_trust", **few, discovered_steps=20)
    run_notebook("08_interventions", **few, examples=1, exchanges=2)
    run_notebook("09_field_guide", run=run, min_samples=5, countries=3, concepts=3)
    run_notebook("10_compare_runs", **few, runs=[run])
    predictions = pd.read_parquet(paths.run_folder(run) / "predictions.parquet")
    assert set(predictions.loc[predictions["main"], "mode"]) == {mode}
    metrics = json.loads((paths.report_folder(run) / "metrics.json").read_text())
    assert {"stage2.median_km", f"variant.{mode}.median_km", "sure.ece"} <= set(metrics)
    page, photograph = base / f"{run}.html", next((base / "world" / "images").iterdir())
    assert main(["predict", str(photograph), "--run", run, "--html", str(page)]) == 0
    assert page.stat().st_size > 10_000


def test_what_only_changes_a_page_trains_nothing(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(paths.run_folder("base"), paths.run_folder("again"))
    stage1 = {"run": "again", "epochs": 3}
    stage2 = stage1 | {"epochs": 1, "variants": ["concept_only", "concept_scores"], "score_epochs": 5}

    def trained() -> tuple[int, int]:
        """How many trainings began and how many were taken over, by the lines on the pages."""
        said = capsys.readouterr().out
        return said.count("epoch 1/"), said.count("trained before with the same settings")

    for name, parameters, heads in (("04_stage1_concepts", stage1, 1), ("05_stage2_geolocation", stage2, 3)):
        capsys.readouterr()
        run_notebook(name, **parameters)
        began, taken = trained()
        assert began + taken == heads and began > 0
        run_notebook(name, **parameters, bootstrap=30, examples=1)
        assert trained() == (0, heads)
        run_notebook(name, **parameters, weight_decay=0.3) if name[:2] == "05" else run_notebook(
            name, **parameters, options={"weight_decay": 0.3}
        )
        assert trained()[0] == heads
