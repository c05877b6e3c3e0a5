"""Interventions: edits that change what they name and nothing else, in every mode."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from geocbm.errors import ParameterError
from geocbm.explain.interventions import (
    baseline_scores,
    edited_embedding,
    move_embedding,
    predict_with_scores,
    set_scores,
)
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead

PARENTS = np.array([0, 0, 1, 1])
K = 6  # four metas, two parents


def make_head(mode: str = "concept_scores", transform: str = "log", concept_dim: int = K):
    torch.manual_seed(0)
    config = Stage2Config(ablation_mode=mode, score_transform=transform, embed_dim=16, heads=2)
    head = Stage2CrossAttentionGeoHead(concept_dim, 8, 5, torch.randn(5, 3), config)
    if config.reads_scores:
        head.standardise_by(some_scores(50, 1))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head.eval()


def make_concepts(bottleneck: str = "mlp", target: str = "single") -> Stage1ConceptModel:
    torch.manual_seed(1)
    config = Stage1Config(bottleneck=bottleneck, concept_emb_dim=32, top_patches=2, concept_target=target)
    model = Stage1ConceptModel(12, torch.randn(4, 10), torch.randn(2, 10), torch.from_numpy(PARENTS), config, 8)
    return model.eval()


def some_scores(n: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randn(n, k, generator=generator).softmax(-1) for k in (4, 2)], dim=1)


# ---- edits of scores


def test_setting_a_score_keeps_the_others():
    scores = some_scores(3)
    edited = set_scores(scores, [1], 0.9)
    assert edited[:, 1].tolist() == pytest.approx([0.9] * 3)
    assert (edited[:, [0, 2, 3, 4, 5]] == scores[:, [0, 2, 3, 4, 5]]).all()
    assert (scores == some_scores(3)).all()


def test_a_nan_leaves_a_score_as_it_is():
    scores = some_scores(2)
    edited = set_scores(scores, [0, 1], torch.tensor([float("nan"), 0.5]))
    assert (edited[:, 0] == scores[:, 0]).all() and (edited[:, 1] == 0.5).all()


def test_an_edit_to_the_same_value_changes_nothing():
    scores = some_scores(4)
    torch.testing.assert_close(set_scores(scores, [2], scores[:, [2]]), scores, rtol=0, atol=0)


def test_edits_that_cannot_be_are_refused():
    scores = some_scores(1)
    with pytest.raises(IndexError):
        set_scores(scores, [6], 0.5)


# ---- what an edit does to the answer


@pytest.mark.parametrize("transform", ["none", "sqrt", "log", "logit"])
def test_ablating_all_concepts_leaves_the_constants(transform):
    head, scores = make_head(transform=transform), some_scores(3)
    baseline = baseline_scores(head)
    ablated = set_scores(scores, range(K), baseline)
    with torch.inference_mode():
        logits = predict_with_scores(head, scores, ablated).cell_logits
    torch.testing.assert_close(logits, head.cell_head.bias.expand(3, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("transform", ["none", "log"])
def test_ablating_one_concept_takes_away_its_term_and_no_other(transform):
    head, scores = make_head(transform=transform), some_scores(3)
    terms, _ = head.concept_contributions(scores)
    ablated = set_scores(scores, [2], baseline_scores(head)[2])
    change = predict_with_scores(head, scores, ablated).cell_logits - head(scores).cell_logits
    torch.testing.assert_close(change, -terms[:, :, 2], rtol=1e-4, atol=1e-5)


def test_baseline_scores_of_other_modes_need_training_scores():
    head = make_head("concept_only", concept_dim=32)
    with pytest.raises(ParameterError, match="give train_scores"):
        baseline_scores(head)
    train = torch.tensor([[0.1, 0.9], [0.4, 0.1]])
    assert baseline_scores(head, train).tolist() == pytest.approx([0.2, 0.3])


def test_no_edit_changes_nothing_in_any_mode():
    concepts, tokens = make_concepts(), torch.randn(3, 9, 8)
    with torch.inference_mode():
        said = concepts(torch.randn(3, 12))
        scores = torch.cat([said.meta_logits.softmax(-1), said.parent_logits.softmax(-1)], dim=1)
        for mode in ("both", "concept_only", "image_only", "concept_scores", "hybrid"):
            head = make_head(mode, concept_dim=K if mode in ("concept_scores", "hybrid") else 32)
            given = scores if head.config.reads_scores else said.concept_emb
            answer = predict_with_scores(head, scores, scores.clone(), said.concept_emb, tokens, concepts)
            assert (answer.cell_logits == head(given, tokens).cell_logits).all(), mode


def test_an_edit_reaches_the_modes_that_read_concepts_and_no_other():
    concepts, tokens = make_concepts(), torch.randn(3, 9, 8)
    with torch.inference_mode():
        said = concepts(torch.randn(3, 12))
        scores = torch.cat([said.meta_logits.softmax(-1), said.parent_logits.softmax(-1)], dim=1)
        edited = set_scores(scores, [0], 0.8)
        for mode in ("both", "concept_only", "image_only", "hybrid"):
            head = make_head(mode, concept_dim=K if mode == "hybrid" else 32)
            answers = [
                predict_with_scores(head, scores, e, said.concept_emb, tokens, concepts) for e in (scores, edited)
            ]
            moved = (answers[0].cell_logits - answers[1].cell_logits).abs().max()
            assert (moved > 1e-3) == (mode != "image_only"), mode


@pytest.mark.parametrize(("given", "message"), [({}, "give concept_emb"), ({"concept_emb": 1}, "give concept_model")])
def test_a_prediction_says_what_is_missing(given, message):
    head, scores = make_head("concept_only", concept_dim=32), some_scores(2)
    given = {name: torch.randn(2, 32) for name in given}
    with pytest.raises(ParameterError, match=message):
        predict_with_scores(head, scores, scores, **given)


def test_the_embedding_of_patches_is_mixed_again_exactly():
    model = make_concepts("patch")
    with torch.inference_mode():
        said = model(torch.randn(3, 12), torch.randn(3, 9, 8))
        scores = torch.cat([said.meta_logits.softmax(-1), said.parent_logits.softmax(-1)], dim=1)
        edited = set_scores(scores, [1], 0.5)
        edited[2] = scores[2]
        moved = edited_embedding(model, said.concept_emb, scores, edited)
        share = edited[:2, :4] / edited[:2, :4].sum(1, keepdim=True)
        torch.testing.assert_close(moved[:2], share.sqrt() @ said.meta_prototypes, rtol=1e-4, atol=1e-5)
    assert (moved[2] == said.concept_emb[2]).all()


def test_sigmoid_scores_are_mixed_as_they_are():
    """Without a softmax an edit of one concept leaves the others: nothing is scaled to sum to 1."""
    model = make_concepts("patch", "multi")
    with torch.inference_mode():
        said = model(torch.randn(3, 12), torch.randn(3, 9, 8))
        scores = torch.cat([said.meta_logits.sigmoid(), said.parent_logits.sigmoid()], dim=1)
        moved = edited_embedding(model, said.concept_emb, scores, set_scores(scores, [1], 0.9))
        wanted = scores[:, :4].clone()
        wanted[:, 1] = 0.9
        torch.testing.assert_close(moved, wanted.sqrt() @ said.meta_prototypes, rtol=1e-4, atol=1e-5)


def test_an_embedding_is_moved_until_a_sigmoid_reads_the_wanted_probability():
    model = make_concepts(target="multi")
    emb = functional.normalize(torch.randn(4, 32), dim=-1)
    meta, parent = (values.detach() for values in model.prototypes())
    before = model.classify(emb, meta, parent).meta_logits.sigmoid().detach()
    moved = move_embedding(model, emb, set_scores(before, [2], 0.9), torch.tensor([2])).detach()
    after = model.classify(moved, meta, parent).meta_logits.sigmoid()
    torch.testing.assert_close(after[:, 2], torch.full((4,), 0.9), rtol=0, atol=5e-3)


def test_parents_are_no_part_of_an_embedding():
    model, scores = make_concepts(), some_scores(2)
    emb = torch.randn(2, 32)
    assert edited_embedding(model, emb, scores, set_scores(scores, [4], 0.9)) is emb


def test_an_embedding_is_moved_until_stage_1_reads_the_wanted_probability():
    model = make_concepts()
    emb = torch.randn(6, 32) * torch.tensor([[0.1], [1], [1], [1], [10], [1]])
    meta, parent = (values.detach() for values in model.prototypes())
    before = model.classify(emb, meta, parent).meta_logits.softmax(-1).detach()
    edited = set_scores(before, [2], 0.7)
    edited[:, [0, 1, 3]] *= (0.3 / edited[:, [0, 1, 3]].sum(1))[:, None]
    moved = move_embedding(model, emb, edited, torch.tensor([2])).detach()
    after = model.classify(moved, meta, parent).meta_logits.softmax(-1)
    torch.testing.assert_close(after[:, 2], torch.full((6,), 0.7), rtol=0, atol=5e-3)
    # The way is along the prototype of the edited meta and no other direction.
    way = moved - emb
    across = way - (way @ meta[2])[:, None] * meta[2]
    assert across.norm(dim=1).max() < 1e-4 * way.norm(dim=1).max()


def test_several_metas_are_held_to_their_targets_together():
    model = make_concepts()
    emb = functional.normalize(torch.randn(4, 32), dim=-1)
    target = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(4, -1)
    meta, parent = (values.detach() for values in model.prototypes())
    moved = move_embedding(model, emb, target, torch.arange(4)).detach()
    torch.testing.assert_close(model.classify(moved, meta, parent).meta_logits.softmax(-1), target, rtol=0, atol=1e-2)
