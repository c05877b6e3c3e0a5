"""Attribution: terms that add up, odds worked out by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from geocbm import plots
from geocbm.errors import ParameterError
from geocbm.explain import attribution
from geocbm.explain.attribution import (
    BY_ABLATION,
    EXACT,
    Target,
    concept_flows,
    country_terms,
    country_weights,
    explain_country,
    explain_scores,
    flows_to_countries,
    named_countries,
    place_of_cells,
    weighted_terms,
)
from geocbm.explain.interventions import baseline_scores, load_intervention_model
from geocbm.metrics import places_of
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead

N_METAS, N_PARENTS, N_CELLS, WIDTH = 4, 2, 5, 16
PARENTS = np.array([0, 0, 1, 1])
NAMES = ("red pole", "blue pole", "stop sign", "blue sign", "poles", "signs")
COUNTRY = np.array(["A", "A", "B", "C", "C"])
VOCABULARY = SimpleNamespace(metas=NAMES[:N_METAS], parents=NAMES[N_METAS:], parent_index=PARENTS)


def make_head(mode: str = "concept_scores", transform: str = "log") -> Stage2CrossAttentionGeoHead:
    """A head with random weights, standardised by random scores."""
    torch.manual_seed(0)
    config = Stage2Config(ablation_mode=mode, score_transform=transform, embed_dim=16, heads=2)
    head = Stage2CrossAttentionGeoHead(N_METAS + N_PARENTS, WIDTH, N_CELLS, torch.randn(N_CELLS, 3), config)
    head.standardise_by(some_scores(50, 1))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head.eval()


def some_scores(n: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    metas, parents = (torch.randn(n, k, generator=generator).softmax(-1) for k in (N_METAS, N_PARENTS))
    return torch.cat([metas, parents], dim=1)


def target(inside: np.ndarray, odds: bool = True, place: str = "a place") -> Target:
    return Target(place, inside, odds, NAMES[:N_METAS], NAMES[N_METAS:])


def test_log_odds_of_two_cells_by_hand():
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    weights, spread, odds = country_weights(logits, torch.tensor([True, True, False]))
    share = math.exp(1) / (math.exp(1) + math.exp(2))
    assert weights[0].tolist() == pytest.approx([share, 1 - share, -1])
    assert spread.item() == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share))
    assert odds.item() == pytest.approx(math.log(math.exp(1) + math.exp(2)))
    assert (weights[0] @ logits[0].double() + spread).item() == pytest.approx(odds.item())


def test_log_odds_are_those_of_the_probability():
    logits = torch.randn(20, N_CELLS, generator=torch.Generator().manual_seed(3)) * 4
    inside = torch.tensor([True, False, True, False, False])
    chance = logits.double().softmax(-1)[:, inside].sum(-1)
    torch.testing.assert_close(country_weights(logits, inside)[2], (chance / (1 - chance)).log())


@pytest.mark.parametrize("inside", [[False] * 3, [True] * 3])
def test_odds_need_cells_on_both_sides(inside):
    with pytest.raises(ParameterError, match="both sides"):
        country_weights(torch.zeros(1, 3), torch.tensor(inside))


@pytest.mark.parametrize("transform", ["none", "sqrt", "log"])
@pytest.mark.parametrize("mode", ["concept_scores", "hybrid"])
@pytest.mark.parametrize("inside", [COUNTRY == "A", COUNTRY == "B"])
def test_contributions_add_up(mode, transform, inside):
    head, scores, tokens = make_head(mode, transform), some_scores(1), torch.randn(1, 9, WIDTH)
    one = explain_scores(head, scores, target(inside, odds=inside.sum() > 1), tokens)
    with torch.inference_mode():
        logits = head(scores, tokens).cell_logits[0]
    chance = logits.double().softmax(-1)[torch.from_numpy(inside)].sum()
    expected = logits[2] if inside.sum() == 1 else (chance / (1 - chance)).log()
    assert one.method == EXACT and one.quantity == ("logit" if inside.sum() == 1 else "log odds")
    assert one.total == pytest.approx(float(expected), abs=1e-5)
    assert abs(one.gap) < 1e-4
    assert ("patches" in one.others) == (mode == "hybrid")


def test_a_country_of_one_cell_has_odds_when_asked():
    head, scores = make_head(), some_scores(1)
    one = explain_scores(head, scores, target(COUNTRY == "B"))
    with torch.inference_mode():
        chance = head(scores).cell_logits[0].double().softmax(-1)[2]
    assert one.quantity == "log odds" and one.total == pytest.approx(float((chance / (1 - chance)).log()), abs=1e-6)
    assert abs(one.gap) < 1e-4
    with pytest.raises(ParameterError, match="names 2 cells"):
        explain_scores(head, scores, target(COUNTRY == "A", odds=False))


def test_terms_are_slopes_times_standardised_scores():
    head, scores = make_head("concept_scores", "none"), some_scores(1).requires_grad_()
    logits = head(scores).cell_logits
    inside = torch.from_numpy(COUNTRY == "A")
    odds = logits[:, inside].logsumexp(-1) - logits[:, ~inside].logsumexp(-1)
    slope = torch.autograd.grad(odds.sum(), scores)[0]
    terms = weighted_terms(head, scores.detach(), country_weights(logits.detach(), inside)[0])[0]
    expected = slope * (scores.detach() - head.score_mean)
    torch.testing.assert_close(terms.float(), expected, rtol=1e-3, atol=1e-4)


def test_other_modes_are_explained_by_ablation():
    head = make_head("concept_scores")
    embedding = Stage2CrossAttentionGeoHead(
        8, WIDTH, N_CELLS, torch.randn(N_CELLS, 3), Stage2Config(ablation_mode="concept_only", embed_dim=16, heads=2)
    )
    scores, neutral = some_scores(1), baseline_scores(head)
    with pytest.raises(ParameterError, match="by ablation; give answer and baseline"):
        explain_scores(embedding, scores, target(COUNTRY == "A"))
    # The answers of a linear head: what is lost without a concept is then its exact term.
    one = explain_scores(
        embedding, scores, target(COUNTRY == "B", odds=False), answer=lambda edited: head(edited), baseline=neutral
    )
    exact = explain_scores(head, scores, target(COUNTRY == "B", odds=False))
    assert one.method == BY_ABLATION
    np.testing.assert_allclose(one.terms[:N_METAS], exact.terms[:N_METAS], atol=1e-5)
    assert np.isnan(one.terms[N_METAS:]).all()
    assert set(one.largest(9)["kind"]) == {"meta"}


def test_the_largest_terms_and_the_rest_sum_to_all():
    one = explain_scores(make_head(), some_scores(1), target(COUNTRY == "A"))
    rows = one.largest(2)
    assert rows["name"].tolist()[2] == "4 further concepts"
    assert rows["term"].sum() == pytest.approx(one.total, abs=1e-4)
    assert abs(rows["term"].iloc[0]) >= abs(rows["term"].iloc[1])


def test_country_terms_explain_the_named_country():
    head, scores = make_head(), some_scores(7)
    with torch.inference_mode():
        logits = head(scores).cell_logits
    named, terms = country_terms(head, scores, logits, COUNTRY)
    chance = logits.double().softmax(-1).numpy()
    sums = np.stack([chance[:, name == COUNTRY].sum(1) for name in ("A", "B", "C")], axis=1)
    assert named.tolist() == [("A", "B", "C")[i] for i in sums.argmax(1)]
    one = explain_scores(head, scores[[4]], target(named[4] == COUNTRY))
    np.testing.assert_allclose(terms[4], one.terms, atol=1e-6)
    with pytest.raises(ParameterError, match="all cells lie in A"):
        country_terms(head, scores, logits, np.full(N_CELLS, "A"))


def test_figures_say_what_they_show():
    head, scores = make_head(), some_scores(3)
    ones = [explain_scores(head, scores[[i]], target(COUNTRY == "A", place=f"A {i}")) for i in range(2)]
    fig = plots.contribution_bars(ones)
    assert (
        len(fig.data) == 2
        and "exact" in fig.layout.meta["alt"]
        and ones[0].largest(3)["name"][0] in fig.layout.meta["alt"]
    )
    shown = sum(fig.data[0].x)
    assert shown == pytest.approx(ones[0].total, abs=5e-3)


@pytest.mark.parametrize("mode", ["concept_scores", "hybrid"])
@pytest.mark.parametrize("odds", [True, False])
def test_terms_of_several_views_add_up_to_the_pooled_answer(mode, odds):
    head, scores = make_head(mode), some_scores(3)
    tokens = torch.randn(3, 9, WIDTH, generator=torch.Generator().manual_seed(7))
    inside = COUNTRY == "C" if odds else np.arange(N_CELLS) == 1
    question = target(inside, odds)
    one = explain_scores(head, scores, question, tokens)
    with torch.inference_mode():
        shares = head(scores, tokens).cell_logits.double().softmax(-1)
    pooled = shares.log().mean(0).softmax(-1)[torch.from_numpy(inside)].sum()
    if odds:
        assert one.total == pytest.approx(float((pooled / (1 - pooled)).log()), abs=1e-5)
    assert one.method == EXACT and abs(one.gap) < 1e-4
    # Several times the same view is that view.
    single = explain_scores(head, scores[:1], question, tokens[:1])
    same = explain_scores(head, scores[:1].repeat(4, 1), question, tokens[:1].repeat(4, 1, 1))
    np.testing.assert_allclose(same.terms, single.terms, atol=1e-5)
    assert same.total == pytest.approx(single.total, abs=1e-5) and same.others.keys() == single.others.keys()


@pytest.fixture(scope="module")
def heads(trained_run, features, concepts, linear):
    return [linear, load_intervention_model(trained_run.files, features, concepts)]


def test_each_explanation_is_of_the_country_its_head_answers(trained_run, heads):
    files, rows = trained_run.files, trained_run.files.rows["test"][:3]
    for model in heads:
        named = named_countries(model, rows, files)
        for country, row in zip(named, rows, strict=True):
            why = explain_country(model, int(row), files, "a red pole")
            assert why.target == f"{country} for a picture of a red pole" and why.quantity == "log odds"


def test_the_country_is_that_of_the_point(trained_run, heads, monkeypatch):
    files, rows = trained_run.files, trained_run.files.rows["test"]
    model = heads[1]
    places = model.predict(rows)
    put = {"France": (48.8, 2.3), "Kenya": (-1.2, 36.8)}
    for country, (lat, lng) in put.items():
        assert places_of([lat], [lng])["country"][0] == country
        there = places._replace(lat=np.full(len(rows), lat), lng=np.full(len(rows), lng))
        monkeypatch.setattr(model, "predict", lambda rows, there=there: there)
        assert set(named_countries(model, rows, files)) == {country}
    sea = places._replace(lat=np.full(len(rows), 0.0), lng=np.full(len(rows), -150.0))
    monkeypatch.setattr(model, "predict", lambda rows: sea)
    names = np.unique(files.cells.country)
    summed = [[chance[files.cells.country == name].sum() for name in names] for chance in sea.probabilities]
    assert named_countries(model, rows, files).tolist() == names[np.argmax(summed, axis=1)].tolist()


def test_a_run_of_one_country_names_cells(trained_run, heads):
    files = trained_run.files
    files.__dict__["cells"] = replace(files.cells, country=np.full(len(files.cells), "France"))
    assert all(name.startswith("cell ") for name in named_countries(heads[1], files.rows["test"], files))


def test_flows_conserve_what_they_carry(monkeypatch):
    monkeypatch.setattr(attribution, "FLOW_CONCEPTS", 2)
    monkeypatch.setattr(attribution, "FLOW_COUNTRIES", 2)
    amount = np.random.default_rng(0).random((6, 6))
    country = np.array(["A", "B", "A", "C", "A", "D"])
    flows = concept_flows(amount, country, VOCABULARY, "terms")
    first = flows.meta_to_parent.groupby("parent")["value"].sum()
    second = flows.parent_to_country.groupby("parent")["value"].sum()
    assert first["poles"] == pytest.approx(amount[:, [0, 1, 4]].sum())
    assert first.to_dict() == pytest.approx(second.to_dict())
    by_country = flows.parent_to_country.groupby("country")["value"].sum()
    assert by_country["A"] == pytest.approx(amount[[0, 2, 4]].sum())
    assert set(by_country.index) - {"A", "other countries"} < {"B", "C", "D"} and len(by_country) == 3
    own = [name for name in flows.meta_to_parent["meta"] if not name.startswith("other concepts")]
    assert len(own) == 2


def test_the_figure_shows_shares():
    country = np.array(["A", "B"])
    sankey = plots.concept_sankey(concept_flows(np.ones((2, 6)), country, VOCABULARY, "terms"))
    assert sum(sankey.data[0].link.value) == pytest.approx(2, abs=1e-3)
    empty = concept_flows(np.zeros((2, 6)), country, VOCABULARY, "terms")
    assert "all of them are 0" in plots.concept_sankey(empty).layout.meta["alt"]


def test_exact_terms_where_the_logits_are_sums_and_probabilities_elsewhere(trained_run, heads):
    files, test = trained_run.files, trained_run.files.rows["test"]
    for model in heads:
        flows = flows_to_countries(model, test, files.cells, files.concepts)
        assert flows.meta_to_parent["value"].sum() == pytest.approx(flows.parent_to_country["value"].sum())
    assert flows.meta_to_parent["value"].sum() == pytest.approx(len(test))


def test_a_run_of_one_country_is_explained_by_cells(trained_run):
    cells = trained_run.files.cells
    one = replace(cells, country=np.full(len(cells), "France"))
    assert place_of_cells(one)[:2].tolist() == ["cell 0", "cell 1"]
    assert place_of_cells(cells).tolist() == cells.country.tolist()
