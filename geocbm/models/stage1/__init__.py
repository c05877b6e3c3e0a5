"""Stage 1: concepts recognised by their similarity to text prototypes that may move a little."""

from __future__ import annotations

from geocbm.models.stage1.config import Stage1Config
from geocbm.models.stage1.fitting import fit_stage1, load_stage1, predict_stage1
from geocbm.models.stage1.model import Stage1ConceptModel, Stage1Output, stage1_losses

__all__ = [
    "Stage1ConceptModel",
    "Stage1Config",
    "Stage1Output",
    "fit_stage1",
    "load_stage1",
    "predict_stage1",
    "stage1_losses",
]
