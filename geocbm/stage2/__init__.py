"""Stage 2: where a photograph was taken, from its concept embedding asking its patches."""

from __future__ import annotations

from geocbm.stage2.fitting import Cells, fit_stage2, load_stage2, offset_targets, predict_stage2, stage2_losses
from geocbm.stage2.model import (
    ABLATION_MODES,
    ConceptCrossAttention,
    Stage2Config,
    Stage2CrossAttentionGeoHead,
    Stage2Output,
    decode_offsets,
)

__all__ = [
    "ABLATION_MODES",
    "Cells",
    "ConceptCrossAttention",
    "Stage2Config",
    "Stage2CrossAttentionGeoHead",
    "Stage2Output",
    "decode_offsets",
    "fit_stage2",
    "load_stage2",
    "offset_targets",
    "predict_stage2",
    "stage2_losses",
]
