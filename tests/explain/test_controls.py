"""Controls on a tiny run with all its variants, and their verdicts on errors that are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_run import STAGE1, STAGE2, TinyRun

from geocbm import analysis, pipeline
from geocbm.explain import controls
from geocbm.explain.controls import Control, Controls
from geocbm.explain.controls.measuring import _Bench, _Exchanged, derangement
from geocbm.files import write_json
from geocbm.metrics import geoscore
from geocbm.models import stage1
from geocbm.workbench.records import check_key, check_value


@pytest.fixture(scope="module")
def run(trained_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The tiny run with `concept_scores` and `hybrid` trained too."""
    run = trained_run.copy(tmp_path_factory.mktemp("variants"))
    files = run.files
    adapted = pipeline.open_features(files, "adapted", run.cache)
    concepts = pipeline.predict_concepts(files, adapted)
    test = files.rows["test"]
    config = replace(STAGE2, epochs=2, score_epochs=5)
    by_mode = {
        mode: pipeline.fit_variant(files, config, mode, concepts, adapted, test)
        for mode in ("concept_only", "concept_scores", "hybrid")
    }
    main = analysis.predict_places(files, pipeline.load_stage2(files), concepts, adapted, test)
    analysis.save_predictions(files.path("predictions.parquet"), files, {"both": main} | by_mode, test)
    return run


@pytest.fixture(scope="module")
def found(run: TinyRun) -> Controls:
    return controls.measure(run.files, run.cache, draws=2)


def test_a_derangement_moves_every_row_and_uses_each_once():
    for n in (2, 3, 50):
        other = derangement(n, seed=n)
        assert sorted(other) == list(range(n))
        assert (other != np.arange(n)).all()
    assert derangement(50, 0).tolist() != derangement(50, 1).tolist()
    with pytest.raises(ValueError, match="n is 1"):
        derangement(1, 0)


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
        assert control.km.shape == ((1, n) if control.name.startswith("patch_order") else (2, n))
        assert control.own_km.shape == (n,)
    assert found.residual_share.shape == (n,)
    assert found.main == "both"


def test_the_order_of_patches_changes_nothing_but_the_attention(run, found):
    for mode in ("both", "hybrid"):
        control = found[f"patch_order_{mode}"]
        # A float32 coordinate is exact to about a metre.
        assert control.km[0] == pytest.approx(control.own_km, abs=0.1)
    bench = _Bench(run.files, run.cache)
    own = bench.answers("both")["attention"]
    turned = bench.answers("both", pictures=_Exchanged(bench.features, order_seed=0))["attention"]
    assert np.abs(own - turned).max() > 1e-6
    np.testing.assert_allclose(np.sort(own, axis=1), np.sort(turned, axis=1), atol=1e-5)


def test_swapped_concepts_of_the_strict_bottleneck_are_the_answers_of_the_other_image(run):
    bench = _Bench(run.files, run.cache)
    other = derangement(len(bench.test), 0)
    own, swapped = bench.answers("concept_scores"), bench.answers("concept_scores", concepts_of=other)
    np.testing.assert_allclose(swapped["lat"], own["lat"][other], atol=1e-5)
    np.testing.assert_allclose(swapped["lng"], own["lng"][other], atol=1e-5)


def test_swapping_both_sides_gives_the_answer_of_the_other_image(run):
    bench = _Bench(run.files, run.cache)
    other = derangement(len(bench.test), 1)
    pictures = _Exchanged(bench.features, bench.rows_of(other))
    for mode in ("both", "hybrid"):
        own, swapped = bench.answers(mode), bench.answers(mode, concepts_of=other, pictures=pictures)
        np.testing.assert_allclose(swapped["lat"], own["lat"][other], atol=1e-4)


def test_only_test_images_are_exchanged(run):
    bench = _Bench(run.files, run.cache)
    source = bench.rows_of(derangement(len(bench.test), 0))
    assert set(source[bench.test]) == set(bench.test)
    rest = np.setdiff1d(np.arange(len(run.files.table)), bench.test)
    assert source[rest].tolist() == rest.tolist()


@pytest.mark.parametrize("bottleneck", ["mlp", "patch"])
def test_random_concepts_are_probabilities_spread_as_those_of_stage1(run, bottleneck):
    files = run.files
    adapted = pipeline.open_features(files, "adapted", run.cache)
    model, _ = pipeline.fit_stage1(files, replace(STAGE1, bottleneck=bottleneck), adapted, name=None)
    first, second, again = controls.random_concepts(model, adapted, files.rows["train"], [0, 1, 0])
    assert first["meta_probabilities"].shape == (len(files.table), len(files.concepts.metas))
    assert first["parent_probabilities"].shape == (len(files.table), len(files.concepts.parents))
    for own in first.values():
        assert torch.allclose(own.sum(1), torch.ones(len(own)), atol=1e-5)
    assert torch.equal(first["meta_probabilities"], again["meta_probabilities"])
    assert not torch.allclose(first["meta_probabilities"], second["meta_probabilities"], atol=1e-3)
    said = stage1.predict_stage1(model, adapted, np.arange(len(files.table)))["meta_probabilities"]
    spreads = [own.clamp_min(1e-9).log().std(0).mean() for own in (first["meta_probabilities"], said)]
    assert 0.3 < float(spreads[0] / spreads[1]) < 3


def test_random_concepts_read_no_row_but_their_own(run):
    # What other splits look like must not change the scores of a row: centre and spread are of training rows.
    files = run.files
    adapted = pipeline.open_features(files, "adapted", run.cache)
    model = pipeline.load_stage1(files)
    whole = next(iter(controls.random_concepts(model, adapted, files.rows["train"], [0])))
    exchanged = _Exchanged(adapted, _Bench(files, run.cache).rows_of(derangement(len(files.rows["test"]), 0)))
    exchanged.n = adapted.n
    moved = next(iter(controls.random_concepts(model, exchanged, files.rows["train"], [0])))
    train, test = files.rows["train"], files.rows["test"]
    name = "meta_probabilities"
    assert torch.allclose(whole[name][train], moved[name][train], atol=1e-6)
    assert not torch.allclose(whole[name][test], moved[name][test], atol=1e-6)


def test_the_page_on_the_tiny_run(found):
    table = controls.table(found, n=30)
    assert len(table) == len(found.controls)
    assert table["head"].tolist()[:2] == ["concept_scores", "both"]
    assert len(controls.forest_rows(found, n=30)) == len(table)
    gains = controls.gain_table(found, n=30)
    assert gains["head"].tolist() == ["both", "hybrid"]
    assert gains["residual in the logits, %"][0] == "" != gains["residual in the logits, %"][1]
    said = controls.verdicts(found, n=30)
    assert "Random directions in place of the concepts change the GeoScore" in said
    assert "The order of the patches moves no error by more than 1 km" in said
    kept = controls.records(found, n=30)
    for key, value in kept.items():
        check_value(check_key(f"control.{key}"), value)
    assert {"random_concepts.geoscore_change", "gain_both.median_km", "hybrid.residual_share"} <= set(kept)


def test_a_run_without_the_strict_bottleneck_trains_it_for_the_comparison(trained_run):
    found = controls.measure(trained_run.files, trained_run.cache, draws=1)
    assert found["random_concepts"].own_km is found.km["concept_scores"]
    assert np.isfinite(found.km["concept_scores"]).all()
    assert found.residual_share is None
    assert [control.name for control in found.controls][1:] == [
        "shuffled_concepts_both",
        "shuffled_patches_both",
        "patch_order_both",
    ]


N = 40


def known(own: float, random: float, swapped: float, patches: float, spread: float = 0.0) -> Controls:
    """Controls whose errors in km are constants, with some spread between images."""
    noise = spread * np.random.default_rng(0).uniform(-1, 1, N)

    def control(name: str, mode: str, km: float) -> Control:
        return Control(name, name, mode, np.full((2, N), km) + noise, np.full(N, own), "")

    listed = (
        control("random_concepts", "concept_scores", random),
        control("shuffled_concepts_concept_scores", "concept_scores", swapped),
        control("shuffled_concepts_both", "both", swapped),
        control("shuffled_patches_both", "both", patches),
        Control("patch_order_both", "order", "both", np.full((1, N), own), np.full(N, own), ""),
    )
    km = {"both": np.full(N, own), "concept_scores": np.full(N, own)}
    return Controls("both", listed, np.arange(N), km, np.full(N, 0.25))


def test_changes_by_hand():
    found = known(100.0, 300.0, 5000.0, 100.0)
    row = controls.table(found, n=20).iloc[0]
    assert row["median error, km"] == "100 → 300"
    assert row["change, km"] == "+200 [+200, +200]"
    lost = round(5000 * (np.exp(-300 / 1492.7) - np.exp(-100 / 1492.7)))
    assert row["change of the GeoScore"] == f"{lost:+,} [{lost:+,}, {lost:+,}]"
    assert controls.forest_rows(found, n=20)["value"][0] == pytest.approx(geoscore(300.0) - geoscore(100.0))
    kept = controls.records(found, n=20)
    assert kept["random_concepts.median_km_change"] == {"value": 200.0, "low": 200.0, "high": 200.0}
    assert kept["hybrid.residual_share"]["value"] == 0.25


@pytest.mark.parametrize(
    ("random", "spread", "said"),
    [
        (300.0, 10.0, "carry something for placing that as many random directions do not"),
        (20.0, 10.0, "they do better, and for placing images the names are decoration"),
        (100.0, 90.0, "nothing shows that the names are more than decoration"),
    ],
)
def test_the_verdict_on_random_directions_follows_the_figures(random, spread, said):
    assert said in controls.verdicts(known(100.0, random, 5000.0, 100.0, spread), n=200)


def test_the_verdict_says_how_much_random_directions_keep():
    kept = (geoscore(300.0) - geoscore(5000.0)) / (geoscore(100.0) - geoscore(5000.0))
    assert f"random directions keep {kept:.0%}" in controls.verdicts(known(100.0, 300.0, 5000.0, 100.0), n=20)
    assert "random directions keep all" in controls.verdicts(known(100.0, 50.0, 5000.0, 100.0), n=20)


@pytest.mark.parametrize(
    ("swapped", "patches", "said"),
    [
        (5000.0, 200.0, "more to the concepts than to the patches"),
        (200.0, 5000.0, "more to the patches than to the concepts"),
        (500.0, 500.0, "to both alike"),
    ],
)
def test_the_verdict_says_what_a_head_listens_to(swapped, patches, said):
    assert f"The head listens {said}" in controls.verdicts(known(100.0, 100.0, swapped, patches), n=50)


def test_a_head_that_loses_nothing_listens_to_nothing():
    """Where an exchange changes nothing beyond noise, there is nothing to be a part of, and nothing is heard."""
    said = controls.verdicts(known(100.0, 100.0, 101.0, 101.0, spread=60.0), n=200)
    assert "nothing shows that the head listens to its image at all" in said and "The head listens" not in said
    assert "random directions keep" not in said
    heard = controls.verdicts(known(100.0, 100.0, 101.0, 500.0, spread=60.0), n=200)
    assert "The head listens more to the patches" in heard


def test_a_head_that_knows_positions_is_found_out():
    found = known(100.0, 100.0, 500.0, 500.0)
    moved = replace(found["patch_order_both"], km=np.r_[np.full(3, 250.0), np.full(N - 3, 100.0)][None])
    found = replace(found, controls=(*found.controls[:-1], moved))
    assert "moves errors by more than 1 km (3 of both)" in controls.verdicts(found, n=20)


def test_one_block_has_no_intervals_and_no_verdict():
    found = replace(known(100.0, 300.0, 5000.0, 100.0), blocks=np.zeros(N))
    assert "no interval" in controls.verdicts(found, n=20)
    assert controls.table(found, n=20)["change, km"][0] == "+200 (no interval)"
    assert controls.records(found, n=20)["random_concepts.median_km_change"] == 200.0


def test_without_two_test_images_nothing_is_exchanged():
    nothing = Controls("both", (), np.zeros(1), {"both": np.zeros(1)}, None)
    assert "fewer than two images" in controls.verdicts(nothing)
    assert controls.table(nothing).empty and controls.forest_rows(nothing).empty
    assert controls.records(nothing) == {}


def test_a_run_with_an_empty_test_split_has_no_controls(copied_run):
    splits = json.loads(copied_run.files.path("splits.json").read_text())
    splits["splits"]["val"] += splits["splits"]["test"]
    splits["splits"]["test"] = []
    write_json(copied_run.folder / "splits.json", splits)
    found = controls.measure(copied_run.files, copied_run.cache)
    assert found.controls == ()
    assert "fewer than two images" in controls.verdicts(found)
