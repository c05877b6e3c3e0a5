"""Interventions against the truth: what is known, corrections, curves, and the page of a whole run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from geocbm import explain, pipeline, plots
from geocbm.errors import ParameterError
from geocbm.explain import ConceptLabels, InterventionValues
from geocbm.explain.concept_labels import intervention_values, with_parents
from geocbm.explain.intervention_curve import (
    POLICIES,
    choose_levels,
    corrected_mask,
    intervention_curve,
    policy_priority,
    steps_for,
)
from geocbm.geodesy import haversine_km

PARENTS = np.array([0, 0, 1, 1])


def some_scores(n: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randn(n, k, generator=generator).softmax(-1) for k in (4, 2)], dim=1)


# ---- the truth, and corrections to it


def test_parents_are_there_if_a_meta_is():
    metas = np.array([[True, False, False, False], [False, False, False, True]])
    assert with_parents(metas, PARENTS)[:, 4:].tolist() == [[True, False], [False, True]]


def test_levels_are_percentiles_of_pictures_that_show_a_concept():
    scores = np.linspace(0, 1, 11)[:, None]
    present = np.arange(11)[:, None] >= 5
    presence = ConceptLabels(present, np.ones_like(present))
    levels = intervention_values(scores, presence, np.arange(11), np.array([0]), 75)
    assert levels.present[0] == pytest.approx(0.5 + 0.75 * 0.5) and levels.absent[0] == pytest.approx(0.1)
    # Six pictures show it; with two of them in the chosen rows the others are asked too.
    few = intervention_values(scores, presence, np.array([0, 1, 5, 6]), np.arange(11), 75)
    assert few.present[0] == pytest.approx(levels.present[0])
    never = intervention_values(
        scores, ConceptLabels(np.zeros_like(present), presence.known), np.arange(11), np.arange(11), 50
    )
    assert np.isnan(never.present[0]) and never.absent[0] == pytest.approx(0.5)
    with pytest.raises(ParameterError, match="percentile is 5"):
        intervention_values(scores, presence, np.arange(11), np.arange(11), 5)


def test_a_correction_never_makes_a_right_score_less_sure():
    levels = InterventionValues(np.array([0.5, 0.5, np.nan]), np.array([0.1, 0.1, np.nan]), 75)
    scores = torch.tensor([[0.9, 0.2, 0.3], [0.3, 0.05, 0.3]])
    present = np.array([[True, False, True], [True, False, False]])
    told = np.ones((2, 3), dtype=bool)
    corrected = explain.correct_concepts(scores, told, present, levels)
    np.testing.assert_allclose(corrected.numpy(), [[0.9, 0.1, 0.3], [0.5, 0.05, 0.3]], rtol=1e-6)
    told[0] = False
    assert (explain.correct_concepts(scores, told, present, levels)[0] == scores[0]).all()


def test_what_is_told_first():
    present = np.array([[True, False, False, False, True, False]])
    presence = ConceptLabels(present, np.ones_like(present))
    urgent = np.array([[0.1, 0.4, 0.3, 0.2, 9.0, 9.0]])
    told = [corrected_mask(urgent, n, "concepts", presence, PARENTS)[0].tolist() for n in range(5)]
    assert told[0] == [False] * 6
    assert told[1] == [False, True, False, False, False, False]
    # Metas 2 and 3 are both known to be absent, and so is their parent; meta 0 tells that its own is there.
    assert told[3] == [False, True, True, True, False, True]
    assert told[4] == [True] * 6
    largest = corrected_mask(np.array([[0.1, 0.4, 0.3, 0.2, 0.0, 0.9]]), 1, "families", presence, PARENTS)
    assert largest[0].tolist() == [False, False, True, True, False, True]
    with pytest.raises(ParameterError, match="unit='words'"):
        corrected_mask(urgent, 1, "words", presence, PARENTS)


def test_where_only_labels_are_known_nothing_else_is_told():
    labelled = with_parents(np.array([[False, True, False, False]]), PARENTS)
    presence = ConceptLabels(labelled, labelled)
    assert not presence.complete and steps_for(presence, "concepts", PARENTS) == [0, 1]
    levels = InterventionValues(np.full(6, 0.5), np.full(6, 0.1), 75)
    urgent = policy_priority("random", some_scores(1).numpy(), presence, levels)
    told = corrected_mask(urgent, 5, "concepts", presence, PARENTS)
    assert told[0].tolist() == [False, True, False, False, True, False]


def test_urgency_follows_its_policy():
    levels = InterventionValues(np.full(6, 0.64), np.full(6, 0.01), 75)  # halfway, in logarithms: 0.08
    scores = np.array([[0.08, 0.6, 0.02, 0.3, 0.5, 0.5]])
    present = np.array([[False, True, False, False, True, False]])
    presence = ConceptLabels(present, np.ones_like(present))
    uncertain = policy_priority("uncertain", scores, presence, levels)[0]
    assert uncertain[0] == pytest.approx(0, abs=1e-6) and uncertain[:4].argmin() == 1
    error = policy_priority("error", scores, presence, levels)[0]
    assert error[3] == pytest.approx(np.log(30), abs=1e-5) and error[:4].argmax() == 3
    terms = np.array([[-5.0, 1, 2, 3, 0, 0]])
    assert policy_priority("contribution", scores, presence, levels, terms)[0].argmax() == 0
    with pytest.raises(ParameterError, match="needs the contributions"):
        policy_priority("contribution", scores, presence, levels)
    with pytest.raises(ParameterError, match="policy='luck'"):
        policy_priority("luck", scores, presence, levels)


def made_up_world(n: int = 120):
    """Pictures whose latitude is ten degrees per present meta, and a model that reads just that from the scores."""
    generator = np.random.default_rng(0)
    present = with_parents(generator.random((n, 4)) < 0.5, PARENTS)
    presence = ConceptLabels(present, np.ones_like(present))
    noisy = np.clip(np.where(present, 0.7, 0.3) + generator.normal(0, 0.3, present.shape), 0.01, 0.99)
    lat, lng = 10.0 * present[:, :4].sum(axis=1), generator.uniform(-170, 170, n)

    def locate(scores: torch.Tensor):
        return 10.0 * (scores[:, :4] > 0.5).sum(1).double().numpy(), lng

    return locate, noisy.astype(np.float32), presence, lat, lng


def test_the_curve_falls_to_zero_where_concepts_are_all_there_is():
    locate, scores, presence, lat, lng = made_up_world()
    levels = InterventionValues(np.full(6, 0.8), np.full(6, 0.2), 75)
    curve = intervention_curve(
        locate, scores, presence, levels, PARENTS, lat, lng, ("random", "uncertain", "error"), n_resamples=50
    )
    assert curve.groupby("policy")["n"].apply(list).map(tuple).unique().tolist() == [(0, 1, 2, 4)]
    ends = curve[curve["n"] == 4]
    assert (ends["median_km"] == 0).all() and (ends["geoscore"] == 5000).all()
    assert (curve[curve["n"] == 0]["geoscore"] < 4000).all()
    for _, points in curve.groupby("policy"):
        assert points["geoscore"].is_monotonic_increasing
    assert not len(explain.non_monotone_steps(curve)) and curve["change"].isna().sum() == 3
    first = curve.set_index(["policy", "n"])["geoscore"]
    assert first["error", 1] > first["random", 1]
    assert "In 3 of 3 orders no step is worse" in explain.curve_sentence(curve) and "to 0 km" in explain.curve_sentence(
        curve
    )
    assert "from " in plots.intervention_curves(curve, POLICIES).layout.meta["alt"]


def test_a_model_that_the_truth_misleads_has_setbacks():
    locate, scores, presence, lat, lng = made_up_world()

    def contrary(edited: torch.Tensor):
        north, east = locate(edited)
        return -north, east

    levels = InterventionValues(np.full(6, 0.8), np.full(6, 0.2), 75)
    far = ConceptLabels(np.ones_like(presence.present), presence.known)
    curve = intervention_curve(contrary, scores, far, levels, PARENTS, lat, lng, ("random",), n_resamples=50)
    assert len(explain.non_monotone_steps(curve)) > 0 and "In 0 of 1 orders" in explain.curve_sentence(curve)


def test_levels_are_chosen_by_the_validation_pictures():
    locate, scores, presence, lat, lng = made_up_world(60)
    rows = np.arange(60)
    levels, tried = choose_levels(locate, scores, presence, rows, rows, PARENTS, lat, lng, (50.0, 90.0))
    assert (
        tried["percentile"].tolist() == [50, 90]
        and levels.percentile == tried.loc[tried["geoscore"].idxmax(), "percentile"]
    )


# ---- a whole run


@pytest.fixture(scope="module")
def world(trained_run):
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    concepts = pipeline.predict_concepts(files, features)
    return files, features, concepts, explain.linear_cbm(files, features, concepts)


def test_a_strict_model_is_trained_where_the_run_has_none(world):
    files, _, _, model = world
    assert model.head.config.ablation_mode == "concept_scores"
    assert not files.path("stage2_concept_scores.safetensors").exists()


def test_the_page_of_a_run_that_knows_only_labels(world):
    files, features, concepts, model = world
    test = files.rows["test"]
    presence = explain.read_concept_labels(files)
    assert not presence.complete and presence.present.sum(axis=1).tolist() == [2] * len(files.table)
    levels, tried = explain.usual_levels(model, presence, files)
    assert (tried[""] == "chosen").sum() == 1 and "only the labelled concept" in explain.truth_in_words(presence)
    curve = explain.both_curves(model, presence, levels, files, test, 20)
    assert curve["n"].tolist() == [0, 1]
    left = explain.ablate_all_concepts(files, model, test, 20)
    assert left["median_km"].notna().all() and explain.constants_are_left(model)
    places = model.predict(test, model.baseline.expand(len(test), -1))
    assert np.ptp(places.lat) == 0
    modes = explain.trained_modes(files, features, concepts) | {"concept_scores": model}
    assert list(modes) == ["both", "concept_only", "concept_scores"]
    reach = explain.intervention_effect_by_mode(files, modes, presence, levels, test, 20)
    records = explain.intervention_records(curve, left, reach, levels, 0.0)
    assert records["none.median_km"]["value"] == pytest.approx(curve["median_km"].iloc[0])
    assert records["both.removed_median_km"]["value"] == pytest.approx(reach["removed_km"].iloc[0])
    assert {"removed_all.cell_acc", "concepts.random.setbacks"} <= set(records)
    assert explain.reach_in_words(reach, False).shape == (3, 4) and "prior" in explain.left_sentence(left)
    assert len(explain.curve_table(curve)) == 1 and len(explain.left_in_words(left)) == 4


def test_answers_are_those_of_the_run(world, trained_run):
    files, features, concepts, _ = world
    test = files.rows["test"]
    model = explain.load_intervention_model(files, features, concepts)
    stored = pd.read_parquet(files.path("predictions.parquet"))
    stored = stored[stored["main"]].set_index("row").loc[test]
    places = model.predict(test, chunk=4)
    assert haversine_km(places.lat, places.lng, stored["lat"], stored["lng"]).max() < 1
    again = model.predict(test, model.scores[test])
    assert (again.logits == model.predict(test).logits).all()


def test_explanations_of_pictures_add_up_or_say_that_they_need_not(world):
    files, features, concepts, model = world
    row = int(files.rows["test"][0])
    exact = explain.explain_country(model, row, files, "x")
    assert exact.method == explain.EXACT and abs(exact.gap) < 1e-4
    main = explain.load_intervention_model(files, features, concepts)
    ablated = explain.explain_country(main, row, files, "x")
    assert ablated.method == explain.BY_ABLATION and np.isfinite(ablated.terms[:6]).all()
    for flows in (explain.picture_flows(model, row, files), explain.named_flows(model, files.rows["test"], files)):
        assert flows.meta_to_parent["value"].sum() == pytest.approx(flows.parent_to_country["value"].sum())
    by_probability = explain.named_flows(main, files.rows["test"], files)
    assert by_probability.meta_to_parent["value"].sum() == pytest.approx(len(files.rows["test"]))


def test_a_run_of_one_country_is_explained_by_cells(world):
    files = world[0]
    cells = replace(files.cells, country=np.full(len(files.cells), "France"))
    assert explain.flows.place_of_cells(cells)[:2].tolist() == ["cell 0", "cell 1"]
    assert explain.flows.place_of_cells(files.cells).tolist() == files.cells.country.tolist()
