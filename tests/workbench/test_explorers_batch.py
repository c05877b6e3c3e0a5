"""The explorer of one batch: what a stage reads, the terms of its loss, and the gradients they send back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geocbm.errors import ParameterError
from geocbm.models import losses
from geocbm.workbench import explorers
from geocbm.workbench.explorers.training_step import TRAINED, UNTRAINED, BatchExplorer, TrainingStep

STAGES = ("stage0", "stage1", "stage2")


@pytest.fixture(scope="module")
def steps(trained_run) -> dict[str, TrainingStep]:
    return {stage: TrainingStep(trained_run.files, stage) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_the_weighted_terms_add_up_to_the_loss(steps, stage):
    step = steps[stage]
    read = step.read(step.draw("val" if stage != "stage0" else "pretrain_val", 8, 0))
    terms, parts = step.measure(read, TRAINED)
    weighted = terms.drop(index="loss")["share"].dropna().sum()
    assert weighted == pytest.approx(terms.loc["loss", "value"], rel=1e-4)
    assert parts["gradient"].max() > 0 and (parts.loc[parts["trained"] == 0, "gradient"] == 0).all()


def test_the_gradient_is_that_of_the_chosen_term_alone(steps):
    step = steps["stage2"]
    read = step.read(step.draw("val", 6, 3))
    _, parts = step.measure(read, TRAINED, "cell")
    model = step.prepared.model
    model.zero_grad()
    output = model(read["concept_emb"], read["patch_tokens"])
    torch.nn.functional.cross_entropy(output.cell_logits, read["cell_label"]).backward()
    by_hand = sum(float(p.grad.square().sum()) for p in model.cell_head.parameters()) ** 0.5
    smoothed = step.prepared.settings
    assert getattr(smoothed, "cell_smoothing_km", 0) or parts.loc["cell_head", "gradient"] == pytest.approx(by_hand)
    assert parts.loc["offset_head", "gradient"] == 0  # the cells know nothing of offsets


def test_first_weights_are_those_before_training(steps):
    step = steps["stage1"]
    read = step.read(step.draw("train", 12, 0))
    before, after = (step.measure(read, weights)[0] for weights in (UNTRAINED, TRAINED))
    assert before.loc["loss", "value"] != after.loc["loss", "value"]
    step.measure(read, UNTRAINED)
    logits = step.prepared.model(read["pooled"]).meta_logits
    settings = step.prepared.settings
    labels = torch.as_tensor(step.run.meta_and_parent[0][step.run.rows["train"]])
    alpha = losses.inverse_frequency(labels, logits.shape[1])
    expected = losses.focal_loss(logits, read["concept_idx"], settings.gamma, alpha, settings.label_smoothing)
    assert before.loc["meta", "value"] == pytest.approx(expected.item(), rel=1e-4)


def test_controls_change_the_batch_and_the_bars(steps):
    explorer = BatchExplorer(steps["stage2"])
    rows, bars = explorer.batch["row"].tolist(), [trace.x for trace in explorer.bars.data]
    assert set(rows) <= set(explorer.step.run.rows["val"].tolist()) and rows == sorted(rows)
    explorer.split.value, explorer.size.value = "train", 4
    assert len(explorer.batch["row"]) == 4 and set(explorer.batch["row"].tolist()) <= set(
        explorer.step.run.rows["train"].tolist()
    )
    assert explorer.pictures.value.count("<img") == 4 and "4 pictures of train" in explorer.bars.layout.title.text
    assert [trace.x for trace in explorer.bars.data] != bars
    label = explorer.step.run.table["meta_name"].iloc[int(explorer.batch["row"][0])]
    assert f"({label})" in explorer.tables.value and "(4, 16, 16)" in explorer.tables.value
    drawn = explorer.batch["row"].tolist()
    explorer.draw.value = 1
    assert explorer.batch["row"].tolist() != drawn
    explorer.term.value = "offset"
    assert explorer.bars.data[1].y[0] and "largest in" in explorer.status.value


def test_an_unknown_stage_is_refused(trained_run):
    with pytest.raises(ParameterError, match="stage='stage3'"):
        TrainingStep(trained_run.files, "stage3")


@pytest.mark.parametrize("stage", STAGES)
def test_a_page_has_the_step_as_a_figure(trained_run, stage, capsys):
    before = np.random.get_state()[1].copy()
    explorers.batch(trained_run.files, stage)
    assert "[figure] Bars of the" in capsys.readouterr().out
    assert (np.random.get_state()[1] == before).all()  # what a notebook draws next stays the same


@pytest.mark.parametrize("stage", STAGES)
def test_a_split_without_pictures_is_not_offered(trained_run, stage, capsys):
    run = trained_run.files
    run.__dict__["rows"] = run.rows | {name: run.rows[name][:0] for name in ("val", "pretrain_val")}
    explorer = BatchExplorer(TrainingStep(run, stage))
    assert explorer.split.options == (("pretrain_train",) if stage == "stage0" else ("train",))
    explorers.batch(run, stage)
    assert "[figure] Bars of the" in capsys.readouterr().out
