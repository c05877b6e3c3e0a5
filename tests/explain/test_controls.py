"""Controls on a tiny run with all its variants, and their metrics on errors that are known."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_run import STAGE1, STAGE2, TinyRun

from geocbm.explain import controls
from geocbm.explain.controls import (
    Control,
    Controls,
    ExchangedFeatures,
    exchange_rows,
    measure_controls,
    predict_exchanged,
)
from geocbm.explain.interventions import linear_cbm, trained_modes
from geocbm.explain.maps import MapModel
from geocbm.files import write_json
from geocbm.metrics import geoscore, verdict
from geocbm.models import stage1
from geocbm.run import encoding, predictions, stages
from geocbm.workbench.records import check_key, check_value


@pytest.fixture(scope="module")
def run(trained_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The tiny run with `concept_scores` and `hybrid` trained too."""
    run = trained_run.copy(tmp_path_factory.mktemp("variants"))
    files = run.files
    adapted = files.features("adapted")
    concepts = stages.predict_concepts(files, adapted)
    test = files.rows["test"]
    config = replace(STAGE2, epochs=2, score_epochs=5)
    by_mode = stages.fit_variants(files, config, ["concept_only", "concept_scores", "hybrid"], concepts, adapted, test)
    main = predictions.predict_places(files, stages.load_stage2(files), concepts, adapted, test)
    predictions.save_predictions(files.path("predictions.parquet"), files, {"both": main} | by_mode, test)
    return run


def pieces(run: TinyRun) -> tuple[MapModel, dict]:
    """What controls are measured with: features and Stage 1, and the trained heads."""
    files = run.files
    features = files.features("adapted")
    concepts = stages.predict_concepts(files, features)
    modes = trained_modes(files, features, concepts) | {"concept_scores": linear_cbm(files, features, concepts)}
    return MapModel(files, encoding.load_stage0(files)[1], features, stages.load_stage1(files)), modes


@pytest.fixture(scope="module")
def parts(run: TinyRun) -> tuple[MapModel, dict]:
    return pieces(run)


@pytest.fixture(scope="module")
def found(parts: tuple[MapModel, dict]) -> Controls:
    return measure_controls(*parts, n_resamples=30)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_an_exchange_moves_every_test_row_and_uses_each_once(n):
    run = SimpleNamespace(table=range(n + 7), pictures={"test": np.arange(5, n + 5)})
    source, test = exchange_rows(run, seed=n), run.pictures["test"]
    assert sorted(source[test]) == test.tolist() and (source[test] != test).all()
    rest = np.setdiff1d(np.arange(n + 7), test)
    assert source[rest].tolist() == rest.tolist()
    assert n < 50 or source.tolist() != exchange_rows(run, 0).tolist()


def test_every_control_that_the_heads_allow_is_measured(run, found):
    n = len(run.files.rows["test"])
    assert [control.name for control in found.controls] == [
        "random_concepts",
        "shuffled_concepts_both",
        "shuffled_concepts_concept_scores",
        "shuffled_concepts_hybrid",
        "shuffled_patches_both",
        "patch_order_both",
        "shuffled_patches_hybrid",
        "patch_order_hybrid",
    ]
    for control in found.controls:
        assert control.km.shape == ((1, n) if control.name.startswith("patch_order") else (controls.DRAWS, n))
        assert control.own_km.shape == (n,)
    assert found.residual_share.shape == (n,)
    assert found.main == "both"


def test_the_order_of_patches_changes_nothing_but_the_attention(parts, found):
    for mode in ("both", "hybrid"):
        (control,) = (one for one in found.controls if one.name == f"patch_order_{mode}")
        # A float32 coordinate is exact to about a metre.
        assert control.km[0] == pytest.approx(control.own_km, abs=0.1)
    model, modes = parts
    own = predict_exchanged(model.run, modes["both"])["attention"]
    moved = ExchangedFeatures(model.features, order_seed=0)
    turned = predict_exchanged(model.run, modes["both"], pictures=moved)["attention"]
    assert np.abs(own - turned).max() > 1e-6
    np.testing.assert_allclose(np.sort(own, axis=1), np.sort(turned, axis=1), atol=1e-5)


def test_swapped_concepts_of_the_linear_cbm_are_the_answers_of_the_other_image(parts):
    model, modes = parts
    linear, rows, test = modes["concept_scores"], exchange_rows(model.run, 0), model.run.rows["test"]
    other = np.searchsorted(test, rows[test])
    own, swapped = predict_exchanged(model.run, linear), predict_exchanged(model.run, linear, concepts_of=rows)
    np.testing.assert_allclose(swapped["lat"], own["lat"][other], atol=1e-5)
    np.testing.assert_allclose(swapped["lng"], own["lng"][other], atol=1e-5)


def test_swapping_both_sides_gives_the_answer_of_the_other_image(parts):
    model, modes = parts
    rows, test = exchange_rows(model.run, 1), model.run.rows["test"]
    other = np.searchsorted(test, rows[test])
    for mode in ("both", "hybrid"):
        own = predict_exchanged(model.run, modes[mode])
        swapped = predict_exchanged(model.run, modes[mode], rows, ExchangedFeatures(model.features, rows))
        np.testing.assert_allclose(swapped["lat"], own["lat"][other], atol=1e-4)


@pytest.mark.parametrize("bottleneck", ["mlp", "patch"])
def test_random_concepts_are_probabilities_spread_as_those_of_stage1(run, bottleneck):
    files = run.files
    adapted = files.features("adapted")
    model, _ = stages.fit_stage1(files, replace(STAGE1, bottleneck=bottleneck), adapted, name=None)
    first, second, again = controls.random_concepts(model, adapted, files.rows["train"], [0, 1, 0])
    assert first["meta_probabilities"].shape == (len(files.table), len(files.concepts.metas))
    assert first["parent_probabilities"].shape == (len(files.table), len(files.concepts.parents))
    for own in first.values():
        assert torch.allclose(own.sum(1), torch.ones(len(own)), atol=1e-5)
    assert torch.equal(first["meta_probabilities"], again["meta_probabilities"])
    assert not torch.allclose(first["meta_probabilities"], second["meta_probabilities"], atol=1e-3)
    said = stage1.predict_stage1(model, adapted.read_all("pooled"), adapted)["meta_probabilities"]
    spreads = [own.clamp_min(1e-9).log().std(0).mean() for own in (first["meta_probabilities"], said)]
    assert 0.3 < float(spreads[0] / spreads[1]) < 3


def test_random_concepts_of_sigmoids_do_not_share_one(run):
    files, adapted = run.files, run.files.features("adapted")
    single, multi = (
        stages.fit_stage1(files, replace(STAGE1, concept_target=target), adapted, name=None)[0]
        for target in ("single", "multi")
    )
    multi.load_state_dict(single.state_dict())
    one, several = (next(controls.random_concepts(each, adapted, files.rows["train"], [0])) for each in (single, multi))
    for name, own in several.items():
        torch.testing.assert_close(own.logit().softmax(-1), one[name], rtol=1e-3, atol=1e-5)
        assert (own.sum(1) - 1).abs().min() > 1e-2


def test_random_concepts_read_no_row_but_their_own(run):
    # What other splits look like must not change the scores of a row: centre and spread are of training rows.
    files = run.files
    adapted = files.features("adapted")
    model = stages.load_stage1(files)
    whole = next(iter(controls.random_concepts(model, adapted, files.rows["train"], [0])))
    exchanged = ExchangedFeatures(adapted, exchange_rows(files, 0))
    moved = next(iter(controls.random_concepts(model, exchanged, files.rows["train"], [0])))
    train, test = files.rows["train"], files.rows["test"]
    name = "meta_probabilities"
    assert torch.allclose(whole[name][train], moved[name][train], atol=1e-6)
    assert not torch.allclose(whole[name][test], moved[name][test], atol=1e-6)


def test_metrics_of_the_tiny_run(found):
    table = found.table()
    assert len(table) == len(found.controls)
    assert table["name"].tolist()[:2] == ["random concepts, concept_scores", "shuffled concepts, both"]
    assert list(found.gains) == ["both", "hybrid"]
    kept = found.metrics()
    for key, value in kept.items():
        check_value(check_key(f"control.{key}"), value)
    assert {"random_concepts.geoscore_change", "gain_both.median_km", "hybrid.residual_share"} <= set(kept)


def test_a_run_without_the_linear_cbm_trains_it_for_the_comparison(trained_run):
    found = measure_controls(*pieces(trained_run))
    assert found.controls[0].own_km is found.km["concept_scores"]
    assert np.isfinite(found.km["concept_scores"]).all()
    assert found.residual_share is None
    assert {control.name for control in found.controls[1:]} == {
        "shuffled_concepts_both", "shuffled_concepts_concept_scores", "shuffled_patches_both", "patch_order_both"
    }  # fmt: skip


N = 40


def known(
    own: float, random: float, swapped: float, patches: float, spread: float = 0.0, n_resamples: int = 20
) -> Controls:
    """Controls whose errors in km are constants, with some spread between images."""
    noise = spread * np.random.default_rng(0).uniform(-1, 1, N)

    def control(name: str, mode: str, km: float, draws: int = 2) -> Control:
        return Control(name, mode, np.full((draws, N), km) + noise, np.full(N, own))

    listed = (
        control("random_concepts", "concept_scores", random),
        control("shuffled_concepts_concept_scores", "concept_scores", swapped),
        control("shuffled_concepts_both", "both", swapped),
        control("shuffled_patches_both", "both", patches),
        Control("patch_order_both", "both", np.full((1, N), own), np.full(N, own)),
    )
    km = {"both": np.full(N, own), "concept_scores": np.full(N, own)}
    return Controls("both", listed, np.arange(N), km, np.full(N, 0.25), n_resamples)


def test_changes_by_hand():
    found = known(100.0, 300.0, 5000.0, 100.0)
    row = found.table().iloc[0]
    assert (row["own_median_km"], row["median_km"]) == (100, 300)
    lost = 5000 * (np.exp(-300 / 1492.7) - np.exp(-100 / 1492.7))
    assert row["value"] == pytest.approx(lost) == pytest.approx(geoscore(300.0) - geoscore(100.0))
    kept = found.metrics()
    assert kept["random_concepts.median_km_change"] == {"value": 200.0, "low": 200.0, "high": 200.0}
    assert kept["hybrid.residual_share"]["value"] == 0.25


@pytest.mark.parametrize(
    ("random", "spread", "said"),
    [(300.0, 10.0, "worse"), (20.0, 10.0, "better"), (100.0, 90.0, "no difference beyond noise")],
)
def test_the_verdict_on_random_directions_follows_the_figures(random, spread, said):
    changes = known(100.0, random, 5000.0, 100.0, spread, 200).changes
    assert verdict(changes["random_concepts"]["geoscore_change"], more_is_better=True) == said


def test_one_block_has_no_intervals():
    found = replace(known(100.0, 300.0, 5000.0, 100.0), blocks=np.zeros(N))
    assert np.isnan(found.table()["low"]).all()
    assert found.metrics()["random_concepts.median_km_change"] == 200.0


def test_without_two_test_images_nothing_is_exchanged(parts):
    nothing = Controls("both", (), np.zeros(1), {}, None)
    assert nothing.table().empty and nothing.metrics() == {}


def test_a_run_with_an_empty_test_split_has_no_controls(copied_run):
    model, modes = pieces(copied_run)
    splits = json.loads(copied_run.files.path("splits.json").read_text())
    splits["splits"]["val"] += splits["splits"]["test"]
    splits["splits"]["test"] = []
    write_json(copied_run.folder / "splits.json", splits)
    found = measure_controls(replace(model, run=copied_run.files), modes)
    assert found.controls == () and found.metrics() == {}
