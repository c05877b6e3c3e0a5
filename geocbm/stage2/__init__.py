"""Stage 2: where a photograph was taken, from its concept embedding asking its patches."""

from __future__ import annotations

from geocbm.stage2.config import ABLATION_MODES, SCORE_MODES, Stage2Config
from geocbm.stage2.fitting import (
    Cells,
    concept_input,
    fit_stage2,
    load_stage2,
    predict_stage2,
    residual_share,
    stage2_losses,
)
from geocbm.stage2.model import ConceptCrossAttention, Stage2CrossAttentionGeoHead, Stage2Output
from geocbm.stage2.offsets import OFFSET_DIM, decode_offsets, offset_targets

__all__ = [
    "ABLATION_MODES",
    "OFFSET_DIM",
    "SCORE_MODES",
    "Cells",
    "ConceptCrossAttention",
    "Stage2Config",
    "Stage2CrossAttentionGeoHead",
    "Stage2Output",
    "concept_input",
    "decode_offsets",
    "fit_stage2",
    "load_stage2",
    "offset_targets",
    "predict_stage2",
    "residual_share",
    "stage2_losses",
]
