"""Concept flows: the Sankey diagram carries what it was given, no more and no less."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from geocbm import plots
from geocbm.errors import ParameterError
from geocbm.explain import interventions
from geocbm.explain.attribution import place_of_cells
from geocbm.explain.flows import concept_flows, flows_to_countries
from geocbm.run import stages

CONCEPTS = SimpleNamespace(
    metas=("red pole", "blue pole", "stop sign", "blue sign"),
    parents=("poles", "signs"),
    parent_index=np.array([0, 0, 1, 1]),
)


def test_flows_conserve_what_they_carry():
    amount = np.random.default_rng(0).random((6, 6))
    country = np.array(["A", "B", "A", "C", "A", "D"])
    flows = concept_flows(amount, country, CONCEPTS, "terms", most=2, countries=2)
    first = flows.meta_to_parent.groupby("parent")["value"].sum()
    second = flows.parent_to_country.groupby("parent")["value"].sum()
    assert first["poles"] == pytest.approx(amount[:, [0, 1, 4]].sum())
    assert first.to_dict() == pytest.approx(second.to_dict())
    by_country = flows.parent_to_country.groupby("country")["value"].sum()
    assert by_country["A"] == pytest.approx(amount[[0, 2, 4]].sum())
    assert set(by_country.index) - {"A", "other countries"} < {"B", "C", "D"} and len(by_country) == 3
    own = [name for name in flows.meta_to_parent["meta"] if not name.startswith("other concepts")]
    assert len(own) == 2
    with pytest.raises(ParameterError, match="cannot be negative"):
        concept_flows(-amount, country, CONCEPTS, "terms")


def test_the_figure_shows_shares():
    country = np.array(["A", "B"])
    sankey = plots.concept_sankey(concept_flows(np.ones((2, 6)), country, CONCEPTS, "terms"))
    assert sum(sankey.data[0].link.value) == pytest.approx(2, abs=1e-3)
    empty = concept_flows(np.zeros((2, 6)), country, CONCEPTS, "terms")
    assert "all of them are 0" in plots.concept_sankey(empty).layout.meta["alt"]


def test_exact_terms_where_the_logits_are_sums_and_probabilities_elsewhere(trained_run):
    files = trained_run.files
    features = files.features("adapted")
    concepts = stages.predict_concepts(files, features)
    test = files.rows["test"]
    for load in (interventions.linear_cbm, interventions.load_intervention_model):
        model = load(files, features, concepts)
        flows = flows_to_countries(model, test, files.cells, files.concepts)
        assert flows.meta_to_parent["value"].sum() == pytest.approx(flows.parent_to_country["value"].sum())
    assert flows.meta_to_parent["value"].sum() == pytest.approx(len(test))


def test_a_run_of_one_country_is_explained_by_cells(trained_run):
    cells = trained_run.files.cells
    one = replace(cells, country=np.full(len(cells), "France"))
    assert place_of_cells(one)[:2].tolist() == ["cell 0", "cell 1"]
    assert place_of_cells(cells).tolist() == cells.country.tolist()
