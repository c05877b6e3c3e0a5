"""What a notebook's cell adds: a loss and a bottleneck of one's own, trained through `training.fit`."""

from __future__ import annotations

import pytest
import torch
from tiny_run import STAGE1
from torch import Tensor, nn
from torch.nn import functional

from geocbm import training
from geocbm.errors import ParameterError
from geocbm.models.loading import load_stage1
from geocbm.models.stage1 import Stage1ConceptModel
from geocbm.models.stage_losses import Stage1Loss
from geocbm.run import encoding
from geocbm.training import TrainingSettings


@pytest.fixture
def parts(trained_run):
    """Loaders of the tiny run, and what Stage 1 is built of."""
    files = trained_run.files
    train, val = (files.loader(split, columns=("pooled", "patch_tokens")) for split in ("train", "val"))
    base = encoding.read_prototypes(files)
    batch = next(iter(train))
    widths = batch["pooled"].shape[1], batch["patch_tokens"].shape[2]
    return train, val, (base["meta"], base["parent"], torch.as_tensor(files.concepts.parent_index)), widths


def test_a_loss_of_ones_own_is_a_function(parts):
    train, val, concepts, (in_dim, token_dim) = parts
    model = Stage1ConceptModel(in_dim, *concepts, STAGE1, token_dim)

    def hinge(output, batch):
        return {"loss": functional.multi_margin_loss(output.meta_logits, batch["concept_idx"])}

    history = training.fit(model, hinge, train, val, STAGE1, report=lambda line: None).history
    assert {"train_loss", "val_loss", "val_meta_top1"} <= set(history) and "train_meta" not in history


class MeanOfPatches(nn.Module):
    """Embeds the mean patch beside the pooled features."""

    needs_tokens = True

    def __init__(self, in_dim: int, token_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_dim + token_dim, out_dim)

    def forward(self, pooled: Tensor, patch_tokens: Tensor) -> Tensor:
        return self.layer(torch.cat([pooled, patch_tokens.mean(1).to(pooled)], dim=1))


def test_a_bottleneck_of_ones_own_is_a_module(parts, tmp_path):
    train, val, concepts, (in_dim, token_dim) = parts

    def bottleneck():
        return MeanOfPatches(in_dim, token_dim, STAGE1.concept_emb_dim)

    model = Stage1ConceptModel(in_dim, *concepts, STAGE1, token_dim, bottleneck())
    assert model.needs_tokens and not model.has_maps
    checkpoint = training.Checkpoint(tmp_path / "stage1.safetensors", model.description)
    before = model.bottleneck.layer.weight.clone()
    training.fit(model, Stage1Loss(model), train, val, STAGE1, checkpoint, report=lambda line: None)
    assert not torch.equal(model.bottleneck.layer.weight, before)
    again, batch = load_stage1(tmp_path / "stage1.safetensors", bottleneck()), next(iter(val))
    given = batch["pooled"], batch["patch_tokens"]
    torch.testing.assert_close(again(*given).meta_logits, model(*given).meta_logits)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (lambda output: {"meta": output.meta_logits.mean()}, "entries 'meta'"),
        (lambda output: output.meta_logits.mean(), "gave Tensor"),
        (lambda output: None, "gave NoneType"),
        (lambda output: {"loss": 1.0}, "'loss' is no scalar tensor"),
        (lambda output: {"loss": output.meta_logits.mean(1)}, "'loss' is no scalar tensor"),
    ],
)
def test_what_is_no_loss_is_said(parts, terms, said):
    train, val, concepts, (in_dim, token_dim) = parts
    model = Stage1ConceptModel(in_dim, *concepts, None, token_dim)
    for epochs in (0, 1):  # found by the first look at validation, before anything is trained
        with pytest.raises(ParameterError, match=f"{said}.*scalar tensors"):
            training.fit(model, lambda output, batch: terms(output), train, val, TrainingSettings(epochs=epochs))
