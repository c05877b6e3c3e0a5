"""Sparsity and completeness: few concepts, by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from geocbm import plots
from geocbm.errors import ParameterError
from geocbm.explain import sparsity
from geocbm.metrics import Resamples
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead


def linear_head() -> Stage2CrossAttentionGeoHead:
    """Three cells, four concepts: cell 0 by concept 0, cell 1 by concept 1, cell 2 by a little of everything."""
    head = Stage2CrossAttentionGeoHead(4, 5, 3, np.eye(3), Stage2Config(ablation_mode="concept_scores", embed_dim=8))
    with torch.no_grad():
        head.cell_head.weight.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [1.0, 1.0, 1.0, 1.0]]))
        head.cell_head.bias.zero_()
    return head


def test_effective_concepts_by_hand() -> None:
    scores = torch.tensor([[1.0, 0, 0, 0], [0.8, 0.8, 0.8, 0.8]])
    found = sparsity.effective_concepts(linear_head(), scores, np.array([0, 2]))
    assert found.counts == (1, 2, 3)  # 5 and more are too many
    assert found.named.tolist() == [0, 2] and found.all_right.all()
    assert found.gap < 1e-6
    assert found.number == pytest.approx([1, 4])  # one contribution; four equal ones
    # With one concept kept the second picture's best is 3 x 0.8 for cell 0 against 0.8 for cell 2.
    assert found.right["decision"].tolist() == [[True, False], [True, False], [True, False]]
    assert found.right["weights"][0].tolist() == [True, False]


def test_figures_of_effective_concepts() -> None:
    scores = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    cell = np.arange(30) % 3
    found = sparsity.effective_concepts(linear_head(), scores, cell)
    drawn = Resamples(np.arange(30), 100)
    share = found.kept_share(3, drawn)
    assert share["value"] == pytest.approx(found.right["decision"][2].mean() / found.all_right.mean())
    assert share["low"] <= share["value"] <= share["high"]
    assert found.average_accuracy(drawn)["value"] == found.right["weights"][2].mean()
    curves = found.curves(drawn)
    assert len(curves) == 9 and ((curves["low"] <= curves["value"]) & (curves["value"] <= curves["high"])).all()
    fig = plots.kept_concepts(curves, float(found.all_right.mean()))
    assert "with all" in fig.layout.meta["alt"] and len(fig.data) == 6


def test_effective_concepts_need_a_sum() -> None:
    head = Stage2CrossAttentionGeoHead(4, 5, 3, np.eye(3), Stage2Config(embed_dim=8))
    with pytest.raises(ParameterError, match="use 'concept_scores' or 'hybrid'"):
        sparsity.effective_concepts(head, torch.zeros(1, 4), np.zeros(1))
    with pytest.raises(ParameterError, match="takes at least 2"):
        sparsity.effective_concepts(linear_head(), torch.zeros(1, 1), np.zeros(1))


def test_completeness_by_hand() -> None:
    prior = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    full, own = np.array([1] * 9 + [0]), np.array([1] * 5 + [0] * 5)
    drawn = Resamples(np.arange(10), 200)
    ratio = sparsity.completeness_ratio(own, full, prior, drawn)
    assert ratio["value"] == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    assert ratio["low"] < ratio["value"] < ratio["high"]
    assert sparsity.completeness_ratio(full, full, prior, drawn)["value"] == 1
    assert sparsity.completeness_ratio(prior, full, prior, drawn)["value"] == 0
    assert math.isnan(sparsity.completeness_ratio(own, prior, prior, drawn)["value"])


def test_no_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="curves is empty"):
        plots.kept_concepts(pd.DataFrame(columns=["way", "count", "value", "low", "high"]), 0.5)
