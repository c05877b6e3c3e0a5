"""One step taken apart: terms with weights, and gradients by part."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from geocbm.training import gradient_norms, loss_terms


def test_terms_have_their_weights_and_shares() -> None:
    terms = {"loss": torch.tensor(2.5), "cell": torch.tensor(2.0), "offset": torch.tensor(0.1)}
    table = loss_terms(terms, SimpleNamespace(lambda_cell=1.0, lambda_offset=5.0))
    assert table.loc["offset"].tolist() == pytest.approx([0.1, 5.0, 0.5])
    assert table.loc["loss", "share"] == 2.5


def test_gradients_by_part_and_frozen_parts_without() -> None:
    model = nn.ModuleDict({"trunk": nn.Linear(3, 2), "head": nn.Linear(2, 1, bias=False)})
    model["trunk"].requires_grad_(False)
    hidden = model["trunk"](torch.ones(1, 3))
    model["head"](hidden).sum().backward()
    table = gradient_norms(model)
    assert table["parameters"].to_dict() == {"trunk": 8, "head": 2}
    assert table["trained"].to_dict() == {"trunk": 0, "head": 2}
    assert table.loc["head", "gradient"] == pytest.approx(float(hidden.norm()))
    assert table["gradient"].isna().to_dict() == {"trunk": True, "head": False}
