"""Settings of Stage 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geocbm.errors import ParameterError
from geocbm.models.bottlenecks import (
    BottleneckSettings,
)
from geocbm.training.settings import check_choice, check_number


@dataclass(frozen=True)
class Stage1Config(BottleneckSettings):
    """Settings of Stage 1; the defaults are the specification's.

    What Stage 0 has too is explained in `BottleneckSettings` and `TrainingSettings`.

    Attributes:
        label_smoothing: of both classification losses.
        gamma: focusing exponent of both classification losses.
        lambda_meta: weight of the focal loss over metas.
        lambda_parent: weight of the focal loss over parents.
        lambda_consistency: weight of the divergence between implied and predicted parents.
        lambda_parent_contrastive: weight of the contrast between parents within the batch.
        lambda_contrastive: weight of concept embedding against meta prototypes.
        lambda_reg: weight of the squared residuals.
        lambda_intra_parent: weight of the distances between sibling prototypes.
        lambda_semantic: weight of the soft targets on similar metas.
        lambda_meta_guided: weight of the meta among the children of its true parent; the specification's total has no
            such term, hence 0.
        intra_parent_reduction: "sum" over sibling pairs as in the specification, or "mean".
        detach_expected: keep the consistency loss from moving the metas.
        residual_std: spread of the initial residuals.
        logit_scale_init: first value of both logit scales.
        logit_scale_max: largest value they may take.
        temperature: of the prototype contrast.
        parent_temperature: of the contrast between parents.
        semantic_threshold: cosine of two metas' base prototypes from which one counts as close to the other; it is
            measured with, not trained with.
        init_from_stage0: start from Stage 0's bottleneck and prototype projection.
        monitor: validation value that decides: "meta_top1", "parent_top1" or "loss".
    """

    batch_size: int = 256
    lr: float = 3e-4
    epochs: int = 50
    label_smoothing: float = 0.2
    gamma: float = 2.0
    lambda_meta: float = 1.0
    lambda_parent: float = 0.5
    lambda_consistency: float = 0.3
    lambda_parent_contrastive: float = 0.2
    lambda_contrastive: float = 0.5
    lambda_reg: float = 0.001
    lambda_intra_parent: float = 0.01
    lambda_semantic: float = 0.15
    lambda_meta_guided: float = 0.0
    intra_parent_reduction: Literal["sum", "mean"] = "sum"
    detach_expected: bool = False
    residual_std: float = 0.01
    logit_scale_init: float = 14.0
    logit_scale_max: float = 20.0
    temperature: float = 0.07
    parent_temperature: float = 0.1
    semantic_threshold: float = 0.7
    init_from_stage0: bool = True
    patience: int = 10
    monitor: Literal["meta_top1", "parent_top1", "loss"] = "meta_top1"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("epochs", self.epochs, 1)
        for name in ("gamma", "residual_std"):
            check_number(name, getattr(self, name), 0)
        for name in ("temperature", "parent_temperature", "logit_scale_init", "logit_scale_max"):
            check_number(name, getattr(self, name), 0, above=True)
        if not -1 <= self.semantic_threshold <= 1:
            raise ParameterError(f"semantic_threshold={self.semantic_threshold!r} is no cosine; give -1 to 1")
        check_number("label_smoothing", self.label_smoothing, 0, below=1)
        check_choice("monitor", self.monitor, ("meta_top1", "parent_top1", "loss"))
        check_choice("intra_parent_reduction", self.intra_parent_reduction, ("sum", "mean"))
