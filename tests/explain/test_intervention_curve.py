"""Interventions against the truth: what is known, corrections, policies, curves, and those of a whole run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from geocbm import plots
from geocbm.errors import ParameterError
from geocbm.explain import attribution, interventions
from geocbm.explain.ablation import ablate_all_concepts, ablation_metrics, intervention_effect_by_mode
from geocbm.explain.concept_labels import (
    ConceptLabels,
    InterventionValues,
    intervention_values,
    read_concept_labels,
    with_parents,
)
from geocbm.explain.intervention_curve import (
    POLICIES,
    Cases,
    choose_values,
    corrected_mask,
    curve_metrics,
    intervention_curve,
    policy_priority,
    steps_for,
)
from geocbm.explain.interventions import correct_concepts, trained_modes
from geocbm.geodesy import haversine_km

PARENTS = np.array([0, 0, 1, 1])


def some_cases(scores, present, known=None, contribution=None) -> Cases:
    labels = ConceptLabels(present, np.ones_like(present) if known is None else known)
    nowhere = np.zeros(len(scores))
    return Cases(scores, labels, PARENTS, nowhere, nowhere, lambda edited: (nowhere, nowhere), contribution)


# ---- the truth, and corrections to it


def test_parents_are_there_if_a_meta_is():
    metas = np.array([[True, False, False, False], [False, False, False, True]])
    assert with_parents(metas, PARENTS)[:, 4:].tolist() == [[True, False], [False, True]]


def test_values_are_percentiles_of_pictures_that_show_a_concept():
    scores = np.linspace(0, 1, 11)[:, None]
    present = np.arange(11)[:, None] >= 5
    labels = ConceptLabels(present, np.ones_like(present))
    values = intervention_values(scores, labels, np.arange(11), np.array([0]), 75)
    assert values.present[0] == pytest.approx(0.5 + 0.75 * 0.5) and values.absent[0] == pytest.approx(0.1)
    # Six pictures show it; with two of them in the chosen rows the others are asked too.
    few = intervention_values(scores, labels, np.array([0, 1, 5, 6]), np.arange(11), 75)
    assert few.present[0] == pytest.approx(values.present[0])
    never = intervention_values(
        scores, ConceptLabels(np.zeros_like(present), labels.known), np.arange(11), np.arange(11), 50
    )
    assert np.isnan(never.present[0]) and never.absent[0] == pytest.approx(0.5)


def test_a_correction_never_makes_a_right_score_less_sure():
    values = InterventionValues(np.array([0.5, 0.5, np.nan]), np.array([0.1, 0.1, np.nan]), 75)
    scores = torch.tensor([[0.9, 0.2, 0.3], [0.3, 0.05, 0.3]])
    present = np.array([[True, False, True], [True, False, False]])
    told = np.ones((2, 3), dtype=bool)
    corrected = correct_concepts(scores, told, present, values)
    np.testing.assert_allclose(corrected.numpy(), [[0.9, 0.1, 0.3], [0.5, 0.05, 0.3]], rtol=1e-6)
    told[0] = False
    assert (correct_concepts(scores, told, present, values)[0] == scores[0]).all()


def test_what_is_corrected_first():
    present = np.array([[True, False, False, False, True, False]])
    cases = some_cases(np.full((1, 6), 0.5), present)
    priority = np.array([[0.1, 0.4, 0.3, 0.2, 9.0, 9.0]])
    corrected = [corrected_mask(priority, n, "concepts", cases)[0].tolist() for n in range(5)]
    assert corrected[0] == [False] * 6
    assert corrected[1] == [False, True, False, False, False, False]
    # Metas 2 and 3 are both known to be absent, and so is their parent; meta 0 tells that its own is there.
    assert corrected[3] == [False, True, True, True, False, True]
    assert corrected[4] == [True] * 6
    largest = corrected_mask(np.array([[0.1, 0.4, 0.3, 0.2, 0.0, 0.9]]), 1, "families", cases)
    assert largest[0].tolist() == [False, False, True, True, False, True]


def test_where_only_labels_are_known_nothing_else_is_corrected():
    labelled = with_parents(np.array([[False, True, False, False]]), PARENTS)
    cases = some_cases(np.full((1, 6), 0.3), labelled, labelled)
    assert not cases.labels.complete and steps_for(cases, "concepts") == [0, 1]
    values = InterventionValues(np.full(6, 0.5), np.full(6, 0.1), 75)
    priority = policy_priority(POLICIES["random"], cases, values)
    corrected = corrected_mask(priority, 5, "concepts", cases)
    assert corrected[0].tolist() == [False, True, False, False, True, False]


def test_priorities_follow_their_policy():
    values = InterventionValues(np.full(6, 0.64), np.full(6, 0.01), 75)  # halfway, in logarithms: 0.08
    scores = np.array([[0.08, 0.6, 0.02, 0.3, 0.5, 0.5]])
    cases = some_cases(scores, np.array([[False, True, False, False, True, False]]))
    uncertain = policy_priority(POLICIES["uncertain"], cases, values)[0]
    assert uncertain[0] == pytest.approx(0, abs=1e-6) and uncertain[:4].argmin() == 1
    error = policy_priority(POLICIES["error"], cases, values)[0]
    assert error[3] == pytest.approx(np.log(30), abs=1e-5) and error[:4].argmax() == 3
    with pytest.raises(ParameterError, match="needs the contributions"):
        policy_priority(POLICIES["contribution"], cases, values)
    cases = replace(cases, contribution=np.array([[-5.0, 1, 2, 3, 0, 0]]))
    assert policy_priority(POLICIES["contribution"], cases, values)[0].argmax() == 0


def made_up_world(n: int = 120) -> Cases:
    """Pictures whose latitude is ten degrees per present meta, and a model that reads just that from the scores."""
    generator = np.random.default_rng(0)
    present = with_parents(generator.random((n, 4)) < 0.5, PARENTS)
    noisy = np.clip(np.where(present, 0.7, 0.3) + generator.normal(0, 0.3, present.shape), 0.01, 0.99)
    lat, lng = 10.0 * present[:, :4].sum(axis=1), generator.uniform(-170, 170, n)

    def locate(scores: torch.Tensor):
        return 10.0 * (scores[:, :4] > 0.5).sum(1).double().numpy(), lng

    labels = ConceptLabels(present, np.ones_like(present))
    return Cases(noisy.astype(np.float32), labels, PARENTS, lat, lng, locate)


VALUES = InterventionValues(np.full(6, 0.8), np.full(6, 0.2), 75)


def test_the_curve_falls_to_zero_where_concepts_are_all_there_is():
    policies = {name: POLICIES[name] for name in ("random", "uncertain", "error")}
    curve = intervention_curve(made_up_world(), VALUES, policies, n_resamples=50)
    assert curve.groupby("policy")["n"].apply(list).map(tuple).unique().tolist() == [(0, 1, 2, 4)]
    ends = curve[curve["n"] == 4]
    assert (ends["median_km"] == 0).all() and (ends["geoscore"] == 5000).all()
    assert (curve[curve["n"] == 0]["geoscore"] < 4000).all()
    for _, points in curve.groupby("policy"):
        assert points["geoscore"].is_monotonic_increasing
    assert curve["change"].isna().sum() == 3
    first = curve.set_index(["policy", "n"])["geoscore"]
    assert first["error", 1] > first["random", 1]
    kept = curve_metrics(curve)
    assert all(kept[f"concepts.{policy}.setbacks"] == 0 for policy in curve["policy"].unique())
    random = curve.loc[curve["policy"] == "random", "geoscore"]
    assert kept["concepts.random.mean_geoscore"] == pytest.approx(random.mean())
    assert "from " in plots.intervention_curves(curve, {}).layout.meta["alt"]


def test_a_policy_of_ones_own_is_a_function():
    asked = []

    def rarest_first(cases, values, generator):
        asked.append(generator.random())
        return -np.broadcast_to(cases.labels.present.mean(axis=0), cases.scores.shape)

    curve = intervention_curve(made_up_world(), VALUES, {"mine": rarest_first}, n_resamples=20, seed=3)
    assert curve["policy"].unique().tolist() == ["mine"] and curve["median_km"].iloc[-1] == 0
    assert asked == [np.random.default_rng(3).random()], "asked once, with a generator of the seed"
    with pytest.raises(ParameterError, match="give a priority each"):
        policy_priority(lambda cases, values, generator: np.zeros(3), made_up_world(), VALUES)


def test_a_model_that_the_truth_misleads_has_non_monotone_steps():
    world = made_up_world()

    def contrary(edited: torch.Tensor):
        north, east = world.locate(edited)
        return -north, east

    far = ConceptLabels(np.ones_like(world.labels.present), world.labels.known)
    misled = replace(world, locate=contrary, labels=far)
    curve = intervention_curve(misled, VALUES, {"random": POLICIES["random"]}, n_resamples=50)
    assert curve_metrics(curve)["concepts.random.setbacks"] == (curve["change_high"] < 0).sum() > 0


def test_values_are_chosen_by_the_validation_pictures():
    world, rows = made_up_world(60), np.arange(60)
    candidates = [intervention_values(world.scores, world.labels, rows, rows, p) for p in (50.0, 90.0)]
    values, tried = choose_values(world, candidates)
    assert tried["percentile"].tolist() == [50, 90]
    assert values.percentile == tried.loc[tried["geoscore"].idxmax(), "percentile"]


# ---- a whole run


@pytest.fixture(scope="module")
def world(trained_run, features, concepts, linear):
    return trained_run.files, features, concepts, linear


def test_a_linear_cbm_is_trained_where_the_run_has_none(world):
    files, _, _, model = world
    assert model.head.config.ablation_mode == "concept_scores"
    assert not files.path("stage2_concept_scores.safetensors").exists()


def test_metrics_of_a_run_that_knows_only_labels(world):
    files, features, concepts, model = world
    test = files.rows["test"]
    labels = read_concept_labels(files)
    assert not labels.complete and labels.present.sum(axis=1).tolist() == [2] * len(files.table)
    values = intervention_values(model.scores.numpy(), labels, files.rows["val"], files.rows["train"])
    cases = Cases.of_run(files, model, labels, test)
    curve = intervention_curve(cases, values, {"random": POLICIES["random"]}, n_resamples=20)
    assert curve["n"].tolist() == [0, 1]
    ablated = ablate_all_concepts(files, model, test, 20)
    assert ablated["median_km"].notna().all() and ablated["cell_acc"].isna().tolist() == [False] * 3 + [True]
    places = model.predict(test, model.baseline.expand(len(test), -1))
    assert np.ptp(places.lat) == 0
    modes = trained_modes(files, features, concepts) | {"concept_scores": model}
    assert list(modes) == ["both", "concept_only", "concept_scores"]
    effect = intervention_effect_by_mode(files, modes, labels, values, test, 20)
    metrics = curve_metrics(curve) | ablation_metrics(ablated, effect)
    assert metrics["none.median_km"]["value"] == pytest.approx(curve["median_km"].iloc[0])
    assert metrics["both.removed_median_km"]["value"] == pytest.approx(effect["removed_km"].iloc[0])
    assert {"removed_all.cell_acc", "concepts.random.setbacks", "prior.median_km"} <= set(metrics)
    assert metrics["removed_all.falls_to_prior"] in (0, 1)


def test_answers_are_those_of_the_run(world, trained_run):
    files, features, concepts, _ = world
    test = files.rows["test"]
    model = interventions.load_intervention_model(files, features, concepts)
    stored = pd.read_parquet(files.path("predictions.parquet"))
    stored = stored[stored["main"]].set_index("row").loc[test]
    places = model.predict(test, chunk=4)
    assert haversine_km(places.lat, places.lng, stored["lat"], stored["lng"]).max() < 1
    again = model.predict(test, model.scores[test])
    assert (again.logits == model.predict(test).logits).all()


def test_explanations_of_pictures_add_up_or_say_that_they_need_not(world):
    files, features, concepts, model = world
    row = int(files.rows["test"][0])
    exact = attribution.explain_country(model, row, files, "x")
    assert exact.method == attribution.EXACT and abs(exact.gap) < 1e-4
    main = interventions.load_intervention_model(files, features, concepts)
    by_ablation = attribution.explain_country(main, row, files, "x")
    assert by_ablation.method == attribution.BY_ABLATION and np.isfinite(by_ablation.terms[:6]).all()
