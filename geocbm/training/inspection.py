"""One step taken apart: the terms of a loss on a batch, and how much gradient each part of a model receives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    import pandas as pd


def loss_terms(terms: Mapping[str, Tensor], settings: Any) -> pd.DataFrame:
    """Terms of a loss with their weights, and what each adds to the sum.

    Weights are the fields `lambda_<term>` of `settings`, NaN where there is none; columns `value`, `weight`, `share`.
    """
    import pandas as pd

    rows = {}
    for name, value in terms.items():
        weight = 1.0 if name == "loss" else float(getattr(settings, f"lambda_{name}", float("nan")))
        rows[name] = {"value": value.item(), "weight": weight, "share": weight * value.item()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("term")


def gradient_norms(model: nn.Module) -> pd.DataFrame:
    """Parameters of each part of a model, those that train, and the norm of their gradient after a backward pass.

    Columns are `parameters`, `trained` (numbers of weights) and `gradient` (Euclidean norm, NaN where nothing trains),
    by the first part of the parameters' names.
    """
    import pandas as pd

    rows: dict[str, dict[str, float]] = {}
    for name, parameter in model.named_parameters():
        row = rows.setdefault(name.split(".")[0], {"parameters": 0, "trained": 0, "square": 0.0})
        row["parameters"] += parameter.numel()
        row["trained"] += parameter.numel() if parameter.requires_grad else 0
        row["square"] += float(parameter.grad.square().sum()) if parameter.grad is not None else 0.0
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")
    frame["gradient"] = frame.pop("square").pow(0.5).where(frame["trained"] > 0)
    return frame.astype({"parameters": int, "trained": int})
