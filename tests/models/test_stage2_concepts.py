"""The modes that read probabilities of concepts: exact sums, and a residual on top of what is frozen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_stage2 import head, world  # noqa: F401  (a fixture)
from torch import nn

from geocbm.errors import ParameterError
from geocbm.models.loading import load_stage2
from geocbm.models.stage2 import Stage2Config
from geocbm.models.stage2_inference import concept_input, predict_stage2

SMALL = {"embed_dim": 32, "heads": 4}


def scores_of(label, n_concepts=5):
    """Probabilities that tell the label most of the time."""
    raw = torch.randn(len(label), n_concepts, generator=torch.Generator().manual_seed(3))
    raw[:, :3] += 3 * torch.eye(3)[label]
    return raw.softmax(-1)


@pytest.mark.parametrize("transform", ["none", "sqrt", "log"])
@pytest.mark.parametrize("mode", ["concept_scores", "hybrid", "averaged"])
def test_contributions_add_up_to_the_logits(mode, transform):
    kind = {"ablation_mode": "hybrid", "hybrid_residual": "averaged"} if mode == "averaged" else {"ablation_mode": mode}
    model = head(concept_dim=5, score_transform=transform, **kind).eval()
    scores, tokens = scores_of(np.arange(40) % 3), torch.randn(40, 9, 20)
    model.standardise_by(scores)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            for parameter in part.parameters():
                nn.init.normal_(parameter)
    output = model(scores, tokens)
    terms, constant = model.concept_contributions(scores)
    assert terms.shape == (40, 3, 5)
    residual = 0.0 if mode == "concept_scores" else output.residual_logits
    torch.testing.assert_close(terms.sum(-1) + constant + residual, output.cell_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms.mean(0), torch.zeros(3, 5), rtol=0, atol=1e-4)  # against the average picture


def test_an_edit_of_one_concept_moves_its_own_term_alone():
    model = head(concept_dim=5, ablation_mode="concept_scores").eval()
    nn.init.normal_(model.cell_head.weight)
    scores = scores_of(np.arange(6) % 3)
    model.standardise_by(scores)
    edited = scores.clone()
    edited[:, 2] = 0.0
    moved = model.concept_contributions(edited)[0] - model.concept_contributions(scores)[0]
    assert moved[:, :, [0, 1, 3, 4]].abs().max() == 0
    logits = model(edited).cell_logits - model(scores).cell_logits
    torch.testing.assert_close(moved[:, :, 2], logits, rtol=1e-4, atol=1e-5)


def test_contributions_are_refused_where_logits_are_no_sum():
    with pytest.raises(ParameterError, match="ablation_mode='both' has no contributions"):
        head().concept_contributions(torch.rand(2, 32))


def test_a_constant_concept_does_not_divide_by_zero():
    model = head(concept_dim=5, ablation_mode="concept_scores")
    model.standardise_by(torch.full((4, 5), 0.2))
    assert torch.isfinite(model(torch.rand(2, 5)).cell_logits).all()


def test_hybrid_keeps_the_linear_part_and_the_residual_adds_what_patches_know(world, tmp_path):  # noqa: F811
    # The concepts do not tell one cell from another here; the patches do.
    scores = torch.full((150, 4), 0.25) + 0.01 * torch.rand(150, 4, generator=torch.Generator().manual_seed(1))
    said, path = [], tmp_path / "stage2.safetensors"
    options = {"epochs": 10, "batch_size": 16, "lr": 2e-3, "score_epochs": 5} | SMALL
    world = replace(world, concept_emb=scores, report=said.append)
    alone, _ = replace(world, config=Stage2Config(ablation_mode="concept_scores", **options)).fit()
    hybrid, result = replace(world, config=Stage2Config(ablation_mode="hybrid", **options)).fit(path)
    assert torch.equal(alone.cell_head.weight, hybrid.cell_head.weight)
    assert torch.equal(alone.offset_head.bias, hybrid.offset_head.bias)
    assert torch.equal(alone.score_mean, hybrid.score_mean)
    rows = np.arange(110, 150)
    truth = world.cell_label[rows]
    answers = {
        name: predict_stage2(model, scores, world.tokens, rows)
        for name, model in (("alone", alone), ("hybrid", load_stage2(path)))
    }
    accuracy = {name: float((said["cell"][:, 0] == truth).mean()) for name, said in answers.items()}
    assert accuracy["alone"] < 0.6 < 0.9 < accuracy["hybrid"]
    assert "residual_share" not in answers["alone"]
    share = answers["hybrid"]["residual_share"]
    assert (share >= 0).all() and (share <= 1).all() and share.mean() > 0.5
    assert result.best["residual_share"] > 0.5 > result.initial["residual_share"]


def test_concept_scores_learn_places_from_telling_concepts(world):  # noqa: F811
    scores = scores_of(world.cell_label)
    options = {"batch_size": 16, "score_epochs": 40} | SMALL
    for transform in ("none", "sqrt", "log"):
        config = Stage2Config(ablation_mode="concept_scores", score_transform=transform, score_lr=0.03, **options)
        _, result = replace(world, config=config, concept_emb=scores).fit()
        assert result.best["cell_top1"] > 0.75


def test_what_a_mode_reads_of_the_concepts():
    said = {
        "concept_emb": torch.zeros(2, 7),
        "meta_probabilities": torch.full((2, 3), 1 / 3),
        "parent_probabilities": torch.full((2, 2), 0.5),
    }
    assert concept_input(Stage2Config(), said) is said["concept_emb"]
    for mode in ("concept_scores", "hybrid"):
        read = concept_input(Stage2Config(ablation_mode=mode), said)
        assert read.tolist() == [pytest.approx([1 / 3] * 3 + [0.5] * 2)] * 2


@pytest.mark.parametrize("per_cell_offsets", [False, True])
def test_an_averaged_residual_is_trained_by_itself_and_the_answer_is_the_mean(world, tmp_path, per_cell_offsets):  # noqa: F811
    scores = scores_of(np.arange(150) % 3, 4)
    options = {"epochs": 2, "batch_size": 16, "score_epochs": 5, "per_cell_offsets": per_cell_offsets} | SMALL
    world = replace(world, concept_emb=scores, report=lambda _: None)
    alone, _ = replace(world, config=Stage2Config(ablation_mode="concept_scores", **options)).fit()
    averaged = Stage2Config(ablation_mode="hybrid", hybrid_residual="averaged", **options)
    path = tmp_path / "stage2.safetensors"
    model, result = replace(world, config=averaged).fit(path)
    rows = np.arange(110, 150)
    tokens = torch.as_tensor(world.tokens[rows]).float()
    with torch.no_grad():
        output, concepts = model(scores[rows], tokens), alone(scores[rows])
    learned = output.as_learned
    torch.testing.assert_close(output.cell_logits, (concepts.cell_logits + learned.cell_logits) / 2)
    torch.testing.assert_close(output.residual_logits, learned.cell_logits / 2)
    first = torch.zeros(len(rows), dtype=torch.long)
    mean = (concepts.offsets_at(first) + learned.offsets_at(first)) / 2
    torch.testing.assert_close(output.offsets_at(first), mean)
    assert learned.per_row == output.per_row == ("learned_logits", "learned_offsets")
    assert torch.equal(load_stage2(path)(scores[rows], tokens).cell_logits, output.cell_logits)
    # The loss is that of the residual alone: what the concepts say does not move it.
    assert result.best["loss"] > 0
    model.cell_head.bias.data += 7.0
    torch.testing.assert_close(model(scores[rows], tokens).as_learned.cell_logits, learned.cell_logits)


def test_an_average_of_two_heads_begins_where_both_can_learn():
    added = head(concept_dim=5, ablation_mode="hybrid")
    averaged = head(concept_dim=5, ablation_mode="hybrid", hybrid_residual="averaged")
    assert added.residual_cell_head.weight.abs().max() == 0  # the answer begins as that of the concepts
    assert averaged.residual_cell_head.weight.abs().max() > 0
    assert {"feed_forward", "gate", "fusion"} <= {name for name, _ in averaged.named_children()}
